"""Files that are whole or not there, whenever the process or the machine stops."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

# The checksum is the comment at the end of the zip archive that torch.save writes: one file, readable everywhere.
LABEL = b"lambdanets sha256 "
COMMENT = len(LABEL) + 64


class Sink:
    """A file that torch.save writes to, hashed on the way; its last two bytes, the comment's length, are held back."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sum = hashlib.sha256()
        self.tail = b""
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) < 2:
            view, self.tail = memoryview(self.tail + bytes(view)), b""
        self.put(self.tail)
        self.put(view[:-2])
        self.tail = bytes(view[-2:])
        return len(data)

    def put(self, data: bytes | memoryview) -> None:
        self.sum.update(data)
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """Ends the archive with its checksum."""
        self.file.write(COMMENT.to_bytes(2, "little") + LABEL + self.sum.hexdigest().encode())


def write_archive(path: Path, save: Callable[[Any], None]) -> None:
    """Writes a zip archive with its checksum: to a temporary name, to the disk, then to its name.

    Args:
        path: of the archive.
        save: writes it to a file-like object, as torch.save does.

    Raises:
        OSError: it can't be written, for a full disk say; what was there before is there still.
    """
    with replacing(path) as file:
        sink = Sink(file)
        try:
            save(sink)
        except RuntimeError:
            if sink.error is not None:  # torch tells only that writing failed
                raise sink.error from None
            raise
        sink.close()


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file in the same way. Raises OSError as `write_archive`."""
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when it is complete and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def damage(path: Path) -> str | None:
    """What is wrong with an archive's bytes, or None; one without a checksum is taken as it is."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return "it isn't an archive"
        file.seek(max(size - COMMENT - 2, 0))
        end = file.read()
        if end[2 : 2 + len(LABEL)] != LABEL:
            return None
        file.seek(0)
        total, left = hashlib.sha256(), size - COMMENT - 2
        while left and (chunk := file.read(min(left, 1 << 22))):
            total.update(chunk)
            left -= len(chunk)
    return None if total.hexdigest().encode() == end[-64:] else "its checksum is another"


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk, where the system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems can't
    finally:
        os.close(handle)


def clear_leavings(folder: Path) -> None:
    """Removes temporary files of a process that was killed while it wrote."""
    for left in folder.glob(".*.ckpt*"):
        left.unlink(missing_ok=True)
