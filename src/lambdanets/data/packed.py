"""Images in shards, for network disks that are slow with many small files."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from lambdanets.data.corrupt import Corrupt
from lambdanets.data.files import ImageFiles, Photo
from lambdanets.data.imagefolder import ImageFolder
from lambdanets.data.shards import CLASSES, Member, read_index
from lambdanets.errors import UserError


class Packed(ImageFolder):
    """What `job=pack` wrote of an image folder: `root/classes.json` and the shards of train, val and test.

    An image is read by its place in its shard, so that the order of images, a resumed run and the shares of several
    processes are as they are for files. Arguments as `ImageFolder`.
    """

    def count_classes(self) -> int:
        return len(json.loads(self.index.read_text())) if self.index.is_file() else 0

    @property
    def index(self) -> Path:
        return self.root / CLASSES

    def read_classes(self) -> None:
        """Raises UserError: the folder isn't one that job=pack wrote."""
        if not self.index.is_file():
            raise UserError(
                f"'{self.root}' holds no {CLASSES}: data.root must name a folder that job=pack wrote; images in "
                "folders are data=imagefolder."
            )
        self.classes = json.loads(self.index.read_text())

    def scan(self, split: str) -> list[Any]:
        return read_index(self.root, split)

    def has_split(self, split: str) -> bool:
        return any(self.root.glob(f"{split}-*.json"))

    def files(self, samples: list[Any], transform: Callable[[Photo], Tensor]) -> ImageFiles:
        return PackedFiles(self.root, samples, transform, self.corrupt)


class PackedFiles(ImageFiles):
    """As `ImageFiles`, out of a folder's shards."""

    def __init__(
        self,
        folder: Path,
        members: list[Member],
        transform: Callable[[Photo], Tensor],
        corrupt: Corrupt | None = None,
    ) -> None:
        super().__init__([(member.name, member.label) for member in members], transform, corrupt)
        self.folder = folder
        self.members = members
        self.open: dict[str, int] = {}

    def raw(self, index: int) -> bytes:
        member = self.members[index]
        if member.shard not in self.open:
            self.open[member.shard] = os.open(self.folder / member.shard, os.O_RDONLY)
        return os.pread(self.open[member.shard], member.size, member.offset)
