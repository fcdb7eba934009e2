"""Images packed in tar files in WebDataset's format, each with an index."""

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from lambdanets.atomic import atomic_path, atomic_write
from lambdanets.data.files import read_file
from lambdanets.errors import UserError

CLASSES_FILE = "classes.json"


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
    call are replaced.

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
    for shard in folder.glob(f"{split}-*.tar"):
        if int(shard.stem.rpartition("-")[2]) >= num_shards:
            shard.unlink()
            shard.with_suffix(".json").unlink(missing_ok=True)
    return num_shards


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
        UserError: there are no shards of the split, or a shard is missing or truncated.
    """
    files = sorted(folder.glob(f"{split}-*.json"))
    if not files:
        raise UserError(f"'{folder}' has no shards {split}-*.tar with their indexes: write them with job=pack.")
    images = []
    for file in files:
        shard, index = file.with_suffix(".tar"), json.loads(file.read_text())
        if not shard.is_file() or shard.stat().st_size < index[-1][2] + index[-1][3]:
            raise UserError(f"The shard '{shard}' is missing or truncated: copy it again, or write it with job=pack.")
        images += [PackedImage(name, label, shard.name, offset, size) for name, label, offset, size in index]
    return images
