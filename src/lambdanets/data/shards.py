"""Images packed in tar files, as WebDataset reads them, with an index beside each."""

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from lambdanets.atomic import atomic_path, atomic_write
from lambdanets.errors import UserError

CLASSES = "classes.json"


class Member(NamedTuple):
    """Where an image lies.

    Args:
        name: of the image, as it was called before it was packed.
        label: its class.
        shard: file name of its tar file.
        offset: of its first byte there.
        size: bytes.
    """

    name: str
    label: int
    shard: str
    offset: int
    size: int


def write_shards(folder: Path, split: str, samples: Iterable[tuple[str, int]], *, shard_bytes: int) -> int:
    """Packs a split as <split>-000000.tar and so on, each member <key>.jpg (or so) beside <key>.cls, its class.

    A shard and its index, <split>-000000.json, come to their names when they are whole; those of an earlier call that
    was interrupted are replaced.

    Args:
        folder: where to.
        split: its name.
        samples: (path, label) pairs.
        shard_bytes: bytes after which a new shard begins.

    Returns:
        The number of shards.
    """
    number = 0
    for group in grouped(samples, shard_bytes):
        stem = f"{split}-{number:06d}"
        members = []
        with atomic_path(folder / f"{stem}.tar") as temporary:
            with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
                for position, (path, label) in enumerate(group):
                    key, raw = f"{number:06d}{position:06d}", Path(path).read_bytes()
                    add(tar, f"{key}.cls", str(label).encode())
                    add(tar, f"{key}{Path(path).suffix.lower()}", raw)
                    assert tar.fileobj is not None
                    padded = -(-len(raw) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    members.append([path, label, tar.offset - padded, len(raw)])
            atomic_write(folder / f"{stem}.json", json.dumps(members))
        number += 1
    for left in folder.glob(f"{split}-*.tar"):
        if int(left.stem.rpartition("-")[2]) >= number:
            left.unlink()
            left.with_suffix(".json").unlink(missing_ok=True)
    return number


def grouped(samples: Iterable[tuple[str, int]], shard_bytes: int) -> Iterator[list[tuple[str, int]]]:
    group: list[tuple[str, int]] = []
    total = 0
    for path, label in samples:
        group.append((path, label))
        total += os.path.getsize(path)
        if total >= shard_bytes:
            yield group
            group, total = [], 0
    if group:
        yield group


def add(tar: tarfile.TarFile, name: str, raw: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(raw)
    tar.addfile(info, io.BytesIO(raw))


def read_index(folder: Path, split: str) -> list[Member]:
    """All images of a split.

    Raises:
        UserError: there are none, or a shard is missing or cut off.
    """
    shards = sorted(folder.glob(f"{split}-*.json"))
    if not shards:
        raise UserError(f"'{folder}' holds no shards {split}-*.tar with their index: write them with job=pack.")
    members = []
    for index in shards:
        shard, found = index.with_suffix(".tar"), json.loads(index.read_text())
        if not shard.is_file() or shard.stat().st_size < found[-1][2] + found[-1][3]:
            raise UserError(f"The shard '{shard}' is missing or cut off: copy it again, or write it with job=pack.")
        members += [Member(name, label, shard.name, offset, size) for name, label, offset, size in found]
    return members
