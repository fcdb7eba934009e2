"""Images packed in tar files in WebDataset's format, each with an index."""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lambdanets.atomic import atomic_path, atomic_write
from lambdanets.data.files import read_file
from lambdanets.data.image_names import is_hidden
from lambdanets.errors import UserError, printable

CLASSES_FILE = "classes.json"
# The numbers of shards and images of each split; folders of earlier versions have none.
MANIFEST_FILE = "shards.json"
SHARD_NAME = re.compile(r"(train|val|test)-\d{6}\.(tar|json)")


class PackedImage(NamedTuple):
    """The position of an image in a shard.

    Args:
        name: path of the image before it was packed.
        label: class of the image.
        shard: file name of the tar file.
        offset: position of the image's first byte in it.
        size: number of bytes.
    """

    name: str
    label: int
    shard: str
    offset: int
    size: int


def write_shards(folder: Path, split: str, samples: Iterable[tuple[str, int]], *, shard_bytes: int) -> int:
    """Pack a split into <split>-000000.tar and so on; <key>.jpg (or .png, …) has its class in <key>.cls.

    Each shard has an index, <split>-000000.json. Both get their names only when they are complete. Shards of an earlier
    call are replaced or removed; other files stay.

    Args:
        folder: folder of the shards.
        split: name of the split.
        samples: (path, label) pairs.
        shard_bytes: size of a shard; the image that reaches it is the shard's last one.

    Returns:
        The number of shards.

    Raises:
        UserError: a file can't be read.
    """
    num_shards = 0
    for group in group_by_size(samples, shard_bytes):
        stem = f"{split}-{num_shards:06d}"
        index = []
        with atomic_path(folder / f"{stem}.tar") as temporary:
            with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
                for position, (path, label) in enumerate(group):
                    key, raw = f"{num_shards:06d}{position:06d}", read_file(path)
                    add_file(tar, f"{key}.cls", str(label).encode())
                    add_file(tar, f"{key}{Path(path).suffix.lower()}", raw)
                    padded_size = -(-len(raw) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    index.append([path, label, tar.offset - padded_size, len(raw)])
            atomic_write(folder / f"{stem}.json", json.dumps(index))
        num_shards += 1
    for index_file in list_files(folder, split, ".json"):
        if shard_number(index_file) >= num_shards:
            index_file.with_suffix(".tar").unlink(missing_ok=True)
            index_file.unlink()
    return num_shards


def check_output(folder: Path) -> None:
    """Check that a folder is empty or holds nothing but an earlier packing, which may be incomplete.

    Raises:
        UserError: it holds another file or folder.
    """
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    own = {name for name in names if SHARD_NAME.fullmatch(name)}
    if any(name.endswith(".json") for name in own):  # a shard on its own has another origin
        own |= {CLASSES_FILE, MANIFEST_FILE}
    else:
        own = set()
    if foreign := sorted(name for name in names - own if not is_hidden(name)):
        raise UserError(
            f"'{folder}' holds '{printable(foreign[0])}', which job=pack didn't write: set job.output_dir to a new or "
            "empty folder."
        )


def list_files(folder: Path, split: str, suffix: str) -> list[Path]:
    """Return the shards of a split, or their indexes, in their order."""
    return sorted(folder.glob(f"{split}-{'[0-9]' * 6}{suffix}"))


def shard_number(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])


def group_by_size(samples: Iterable[tuple[str, int]], group_bytes: int) -> Iterator[list[tuple[str, int]]]:
    """Yield consecutive samples whose files together reach group_bytes; the last group may be smaller."""
    group: list[tuple[str, int]] = []
    total = 0
    for path, label in samples:
        group.append((path, label))
        total += file_size(path)
        if total >= group_bytes:
            yield group
            group, total = [], 0
    if group:
        yield group


def file_size(path: str) -> int:
    """Return the size of an image file in bytes.

    Raises:
        UserError: the file is missing or can't be read.
    """
    try:
        return os.path.getsize(path)
    except OSError:
        return len(read_file(path))  # raises the error that names the reason


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def read_index(folder: Path, split: str) -> list[PackedImage]:
    """Return the images of a split in the order of its shards.

    Raises:
        UserError: there are no shards of the split, or some are missing, truncated or from another packing.
    """
    manifest = read_manifest(folder)
    files = {*list_files(folder, split, ".json"), *list_files(folder, split, ".tar")}
    if manifest is None:  # of an earlier version: the last shards may be missing
        num_shards = max(map(shard_number, files), default=-1) + 1
    else:
        num_shards = manifest.get(split, {}).get("shards", 0)
    if not num_shards:
        raise UserError(f"'{folder}' has no shards {split}-*.tar with their indexes: write them with job=pack.")
    indexes = [folder / f"{split}-{number:06d}.json" for number in range(num_shards)]
    num_complete = sum({index, index.with_suffix(".tar")} <= files for index in indexes)
    if num_complete < num_shards:
        raise UserError(
            f"{num_complete} of the {num_shards} shards of {split} are in '{folder}': copy the folder again, or write "
            "it with job=pack."
        )
    images = [image for index in indexes for image in read_shard_index(index)]
    if manifest is not None and len(images) != manifest[split]["images"]:
        raise UserError(
            f"The shards of {split} in '{folder}' hold {len(images)} images, and its {MANIFEST_FILE} counts "
            f"{manifest[split]['images']}: copy the folder again, or write it with job=pack."
        )
    return images


def read_shard_index(file: Path) -> list[PackedImage]:
    """Return the images of a shard from its index.

    Raises:
        UserError: the index is damaged, or the shard truncated.
    """
    shard = file.with_suffix(".tar")
    images = [PackedImage(name, label, shard.name, offset, size) for name, label, offset, size in read_json(file)]
    if shard.stat().st_size < images[-1].offset + images[-1].size:
        raise UserError(f"The shard '{shard}' is truncated: copy it again, or write it with job=pack.")
    return images


def read_manifest(folder: Path) -> dict[str, dict[str, int]] | None:
    """Return the numbers of shards and images of each split, or None in a folder of an earlier version.

    Raises:
        UserError: the file is damaged.
    """
    file = folder / MANIFEST_FILE
    return read_json(file) if file.is_file() else None


def read_json(file: Path) -> Any:
    """Return the content of a file that job=pack wrote.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"'{file}' is damaged: copy the folder again, or write it with job=pack.") from error
