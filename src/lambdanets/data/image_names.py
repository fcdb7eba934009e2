"""Names in folders: the rule for image files, and for files and folders that don't count."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lambdanets.errors import UserError

EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".bmp",
    ".webp",
    ".avif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".gif",
)
# Folders of thumbnails and metadata that Synology's and Apple's systems add.
SYSTEM_FOLDERS = ("@eaDir", "__MACOSX")


class FoundFile(NamedTuple):
    """A file below a folder, or a link without a target."""

    path: str
    is_image: bool


def is_hidden(name: str) -> bool:
    """Return whether a file or folder doesn't count: hidden ones such as .ipynb_checkpoints, and a system's own."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def has_image_extension(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def raise_unreadable(error: OSError) -> None:
    """Raise the error for a folder that can't be listed.

    Raises:
        UserError: always.
    """
    raise UserError(
        f"The folder '{error.filename}' can't be read ({error.strerror}): check the disk and the folder's permissions."
    ) from error


def find_files(folder: str | Path, on_error: Callable[[OSError], None] = raise_unreadable) -> Iterator[FoundFile]:
    """Iterate over the files of a folder and below it, in no order; hidden ones don't count.

    Links to folders are followed, except for those that lead back to a folder around them. A file is an image by its
    extension; a broken link may be one, but not a folder, pipe or device.

    Args:
        folder: the folder.
        on_error: called for a folder that can't be listed; if it returns, the others are listed.
    """
    parents = {*Path(os.path.realpath(folder)).parents, *Path(os.path.abspath(folder)).parents}
    stack = [(str(folder), frozenset(identify(parent) for parent in parents))]
    while stack:
        path, ancestors = stack.pop()
        key = identify(path)
        if key in ancestors:
            continue
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    if is_folder(entry):
                        stack.append((entry.path, ancestors | {key}))
                    else:
                        regular = entry.is_symlink() or entry.is_file()
                        yield FoundFile(entry.path, regular and has_image_extension(entry.name))
        except OSError as error:
            on_error(error)


def identify(path: str | Path) -> tuple[int, int] | None:
    """Return the device and number of a folder, the same by whichever path it is reached; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Return whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def list_folders(folder: str | Path) -> list[str]:
    """Return the names of the folders in a folder, sorted; hidden ones don't count.

    Raises:
        UserError: the folder can't be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if is_folder(entry) and not is_hidden(entry.name))
    except OSError as error:
        raise_unreadable(error)
        raise


def sort_paths(paths: Iterator[str]) -> list[str]:
    """Sort by folder, then by name, as torchvision's ImageFolder does."""
    return sorted(paths, key=os.path.split)
