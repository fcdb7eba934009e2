"""Images in shards, for network disks that are slow with many small files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lambdanets.data.corrupt import CorruptImages
from lambdanets.data.files import ImageFiles, Photo
from lambdanets.data.imagefolder import ImageFolder
from lambdanets.data.shards import CLASSES_FILE, PackedImage, list_files, read_index, read_json, read_manifest
from lambdanets.errors import UserError, printable


class Packed(ImageFolder):
    """An image folder packed by `job=pack`: `root/classes.json`, `root/shards.json` and the shards of its splits.

    An image is read by its position in its shard, so that the order of images, resuming, and the parts of several
    processes are the same as with files. Takes the arguments of `ImageFolder`.
    """

    def count_classes(self) -> int:
        file = self.root / CLASSES_FILE
        return len(read_json(file)) if file.is_file() else 0

    def read_classes(self) -> None:
        """Read the names of the classes.

        Raises:
            UserError: the folder was not written by job=pack, or is damaged.
        """
        file = self.root / CLASSES_FILE
        if not file.is_file():
            raise UserError(
                f"'{self.root}' has no {CLASSES_FILE}: data.root must name a folder that job=pack wrote. For images "
                "in class folders use data=imagefolder."
            )
        self.classes = read_json(file)

    def list_samples(self, split: str) -> list[Any]:
        return read_index(self.root, split)

    def has_split(self, split: str) -> bool:
        manifest = read_manifest(self.root)
        return bool(list_files(self.root, split, ".json")) if manifest is None else split in manifest

    def make_files(self, samples: list[Any], transform: Callable[[Photo], Any]) -> ImageFiles:
        return PackedFiles(self.root, samples, transform, self.corrupt)


class PackedFiles(ImageFiles):
    """The images of a folder's shards; otherwise as `ImageFiles`."""

    def __init__(
        self,
        folder: Path,
        images: list[PackedImage],
        transform: Callable[[Photo], Any],
        corrupt: CorruptImages | None = None,
    ) -> None:
        super().__init__([(image.name, image.label) for image in images], transform, corrupt)
        self.folder = folder
        self.images = images
        self.descriptors: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"descriptors": {}}  # they are those of one process

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("descriptors", {}).values():
            os.close(descriptor)

    def read_raw(self, index: int) -> bytes:
        """Return the encoded image.

        Raises:
            UserError: its shard can't be read.
        """
        image = self.images[index]
        try:
            if image.shard not in self.descriptors:
                self.descriptors[image.shard] = os.open(self.folder / image.shard, os.O_RDONLY)
            return os.pread(self.descriptors[image.shard], image.size, image.offset)
        except OSError as error:
            raise UserError(
                f"The image '{printable(image.name)}' can't be read from '{self.folder / image.shard}' "
                f"({error.strerror}): check the disk, and that the folder is complete."
            ) from error
