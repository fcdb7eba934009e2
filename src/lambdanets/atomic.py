"""Atomic writing of files: complete or absent, whenever the process or the machine stops."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

ZIP_MAGIC = b"PK\x03\x04"
# The checksum is the comment at the end of the zip archive that torch.save writes: one file, readable everywhere.
CHECKSUM_LABEL = b"lambdanets sha256 "
COMMENT_BYTES = len(CHECKSUM_LABEL) + 64


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; sync that file and rename it to `path` when the context ends.

    After an exception the temporary file is removed, and an earlier file at `path` stays as it was.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # may be a hard link to a file in use, left by a process of the same id
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_open(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears as `path` when the context ends. Raises as `atomic_path`."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write or replace a whole file; text as UTF-8. Raises as `atomic_path`."""
    with atomic_open(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def atomic_link(source: Path, path: Path) -> None:
    """Give a file a second name, replacing what had it; a copy on file systems without hard links."""
    with atomic_path(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def atomic_copy(source: Path, path: Path) -> None:
    """Copy a file; a later change of one of the two leaves the other as it is."""
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)


class HashingWriter:
    """A binary file for torch.save that appends the SHA-256 of the zip archive as the archive's comment.

    Args:
        file: file to write to. The last two bytes, the length of the empty comment, are held back until `close`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.hash = hashlib.sha256()
        self.tail = b""
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) < 2:
            view, self.tail = memoryview(self.tail + bytes(view)), b""
        self.write_through(self.tail)
        self.write_through(view[:-2])
        self.tail = bytes(view[-2:])
        return len(data)

    def write_through(self, data: bytes | memoryview) -> None:
        self.hash.update(data)
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """End the archive with its checksum."""
        comment = CHECKSUM_LABEL + self.hash.hexdigest().encode()
        self.file.write(COMMENT_BYTES.to_bytes(2, "little") + comment)


def write_archive(path: Path, save: Callable[[Any], None]) -> None:
    """Write a zip archive with its checksum.

    Args:
        path: path of the archive.
        save: function that writes the archive to a file-like object, as torch.save does.

    Raises:
        OSError: the file cannot be written; an earlier file at `path` stays as it was.
    """
    with atomic_open(path) as file:
        writer = HashingWriter(file)
        try:
            save(writer)
        except RuntimeError:
            if writer.error is not None:  # torch hides the cause of a failed write
                raise writer.error from None
            raise
        writer.close()


def corruption(path: Path) -> str | None:
    """Return the reason why an archive is corrupt, or None. An archive without a checksum passes.

    A file is read once, however often its reason is asked for, as long as it does not change.
    """
    stat = path.stat()
    return find_corruption(path, stat.st_size, stat.st_mtime_ns)


@cache
def find_corruption(path: Path, size: int, mtime_ns: int) -> str | None:
    """Return the reason why an archive of that size and time of modification is corrupt, or None."""
    archive_bytes = size - COMMENT_BYTES - 2
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            return "not a zip archive"
        file.seek(max(archive_bytes, 0))
        end = file.read()
        if end[2 : 2 + len(CHECKSUM_LABEL)] != CHECKSUM_LABEL:
            return None
        file.seek(0)
        checksum, remaining = hashlib.sha256(), archive_bytes
        while remaining and (chunk := file.read(min(remaining, 1 << 22))):
            checksum.update(chunk)
            remaining -= len(chunk)
    return None if checksum.hexdigest().encode() == end[-64:] else "checksum mismatch"


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, where the file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary_files(folder: Path) -> None:
    """Remove temporary checkpoint files left by a process that was killed while it wrote."""
    for file in folder.glob(".*.ckpt*"):
        file.unlink(missing_ok=True)
