"""A folder with one subfolder of images per class."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from lambdanets.data.files import DecodeThen, ImageFiles, Photo, Sample, load_into_memory
from lambdanets.data.gpu_decoder import Encode, EncodedBatch, EncodedPhoto, check_decoder, decode_batch
from lambdanets.data.image_names import EXTENSIONS, find_files, is_folder, is_hidden, list_folders, sort_paths
from lambdanets.data.module import ImageData
from lambdanets.data.random_crop import RandomCrop
from lambdanets.data.split import split_indices
from lambdanets.errors import UserError, printable

log = logging.getLogger(__name__)
MAX_NAMED = 5  # files in a message


class ImageFolder(ImageData):
    """Images as `root/train/<class>/*`, `root/val/<class>/*`, `root/test/<class>/*`.

    Without `val/`, a seeded part of `train/` is the validation split; without `test/`, a run has no test score. A split
    that fits into memory_gib is decoded once and held in memory; a larger one is streamed by worker processes.

    A class is a folder with images in it or below it; links to folders are followed. Hidden files and folders, such as
    `.ipynb_checkpoints`, don't count, and a warning names the other files that are not read. Images are upright by
    their EXIF orientation.

    Args:
        root: the folder.
        image_size: side of the square images that are made of the files.
        crop_ratio: in evaluation, side of the central crop divided by the image's shorter side.
        val_size: size of the validation split if there is no `val/`, as a fraction of the training images (below 1) or
            as a number of images.
        memory_gib: size of a decoded split, in GiB, up to which it is held in memory; 0 always streams.
        decoder: "cpu", by the worker processes; or "cuda", streamed JPEGs by the GPU of the training, in batches.
        **options: options of `ImageData`.
    """

    TRAIN: ClassVar[str] = "train"
    VAL: ClassVar[str | None] = "val"
    TEST: ClassVar[str] = "test"
    # ImageNet's training images; in common use for photographs in general.
    MEAN = (0.485, 0.456, 0.406)
    STD = (0.229, 0.224, 0.225)

    def __init__(
        self,
        *,
        root: str,
        image_size: int = 224,
        crop_ratio: float = 1.0,
        val_size: float | int = 0.1,
        memory_gib: float = 1.0,
        decoder: str = "cpu",
        **options: Any,
    ) -> None:
        super().__init__(channels=3, image_size=(image_size, image_size), mean=self.MEAN, std=self.STD, **options)
        self.root = Path(root)
        self.crop_ratio = crop_ratio
        self.val_size = val_size
        self.memory_gib = memory_gib
        self.decoder = decoder
        self.test_samples: list[Sample] | None = None
        check_decoder(decoder, self.corrupt.max_fraction)

    @property
    def has_test(self) -> bool:
        return self.has_split(self.TEST)

    def has_split(self, split: str) -> bool:
        return (self.root / split).is_dir()

    def count_classes(self) -> int:
        folder = self.root / self.TRAIN
        return len(class_folders(folder)) if folder.is_dir() else 0

    def preprocess(self, image: Tensor) -> Tensor:
        side = round(self.image_size[0] / self.crop_ratio)
        image = cut_middle(image)
        return v2.functional.center_crop(v2.functional.resize(image, [side], antialias=True), list(self.image_size))

    def setup(self, stage: str) -> None:
        """Load the splits of a stage, once.

        Raises:
            UserError: a folder is missing or empty, a class has no training folder, or an image can't be decoded.
        """
        self.read_classes()
        super().setup(stage)

    def read_classes(self) -> None:
        """Name the classes after the training folders."""
        if not self.classes:
            self.classes = list_classes(self.root, self.TRAIN)

    def restore_classes(self, trained: Sequence[str]) -> None:
        """Take the classes of a run for which hidden folders and folders without images were classes too."""
        self.read_classes()
        former = [name for name in trained if name not in self.classes and (self.root / self.TRAIN / name).is_dir()]
        if former and sorted([*self.classes, *former]) == list(trained):
            self.classes = list(trained)

    def check_test_split(self) -> None:
        if self.has_test:
            self.list_test_samples()

    def load_test_split(self) -> Dataset[Any]:
        return self.load_split(self.list_test_samples(), DecodeThen(self.preprocess))

    def list_test_samples(self) -> list[Sample]:
        """Return the samples of the test split, which is listed once."""
        if self.test_samples is None:
            self.test_samples = self.list_samples(self.TEST)
        return self.test_samples

    def load_fit_splits(self) -> tuple[Dataset[Any], Dataset[Any]]:
        train = self.list_samples(self.TRAIN)
        if self.VAL and self.has_split(self.VAL):
            val = self.list_samples(self.VAL)
        else:
            train_indices, val_indices = split_indices(len(train), self.val_size, self.split_seed)
            train, val = [train[i] for i in train_indices.tolist()], [train[i] for i in val_indices.tolist()]
        preprocess = DecodeThen(self.preprocess)
        transform = preprocess if self.fits_in_memory(train) else self.augment.make_crop(self.image_size)
        return self.load_split(train, transform), self.load_split(val, preprocess)

    def list_samples(self, split: str) -> list[Sample]:
        """Return paths and labels of a split, ordered by class and path; log the files that are not read.

        Raises:
            UserError: a folder can't be read, or has images of an unknown class.
        """
        if unknown := sorted(set(list_classes(self.root, split)) - set(self.classes)):
            if not self.has_split(self.TRAIN):
                raise UserError(
                    f"'{self.root / split}' has the class folder {', '.join(unknown)}, which is none of the classes "
                    f"that the model was trained on: {', '.join(self.classes[:20])}. Rename or remove the folder."
                )
            raise UserError(
                f"'{self.root / split}' has the class folder {', '.join(unknown)}, which is missing in "
                f"'{self.root / self.TRAIN}': add training images of the class, or remove the folder."
            )
        labels = {name: label for label, name in enumerate(self.classes)}
        samples: list[Sample] = []
        skipped = [entry.path for entry in os.scandir(self.root / split) if not is_folder(entry)]
        for folder in list_folders(self.root / split):
            files = list(find_files(self.root / split / folder))
            images = sort_paths(file.path for file in files if file.is_image)
            samples += [(path, labels[printable(folder)]) for path in images]
            skipped += [file.path for file in files if not file.is_image]
            if not images:
                skipped.append(os.path.join(self.root, split, folder))
        log_skipped_files(self.root / split, sorted(path for path in skipped if not is_hidden(os.path.basename(path))))
        return samples

    def fits_in_memory(self, samples: list[Sample]) -> bool:
        height, width = self.image_size
        return len(samples) * self.channels * height * width <= self.memory_gib * 2**30

    def load_split(self, samples: list[Sample], transform: Callable[[Photo], Any]) -> Dataset[Any]:
        if self.fits_in_memory(samples):
            return load_into_memory(self.make_files(samples, transform), num_workers=self.num_workers)
        if self.decoder == "cuda":
            transform = Encode(transform if isinstance(transform, RandomCrop) else None)
        return self.make_files(samples, transform)

    def collate(self, items: list[Any]) -> Any:
        if not (items and isinstance(items[0][0], EncodedPhoto)):  # decoded already, as those of job=predict are
            return super().collate(items)
        photos, labels = zip(*items, strict=True)
        return EncodedBatch.of(photos), torch.tensor(labels)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to the device, and decode it there with decoder="cuda".

        Raises:
            UserError: the device is no GPU, or a photo is damaged.
        """
        images, labels = batch
        if isinstance(images, EncodedBatch):
            if device.type != "cuda":
                raise UserError(
                    f"data.decoder=cuda needs a GPU, but the training runs on {device}: set data.decoder=cpu."
                )
            images = decode_batch(images, device, self.augment.make_crop(self.image_size), self.preprocess)
        return super().transfer_batch_to_device((images, labels), device, dataloader_idx)

    def make_files(self, samples: list[Sample], transform: Callable[[Photo], Any]) -> ImageFiles:
        return ImageFiles(samples, transform, self.corrupt)


def cut_middle(image: Tensor, max_ratio: int = 16) -> Tensor:
    """Cut an image to its middle along a side that is more than max_ratio times the other: (C, H, W) → (C, h, w).

    Resized by its shorter side, such an image would take any amount of memory, for a central crop that shows little
    of it.
    """
    height, width = image.shape[-2:]
    longest = max_ratio * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return image[..., top : height - top, left : width - left]


def list_classes(root: Path, split: str) -> list[str]:
    """Return the names of a split's classes, sorted.

    Raises:
        UserError: the split's folder is missing, can't be read, or has no images in class folders.
    """
    folder = root / split
    if not folder.is_dir():
        missing = root if not root.is_dir() else folder
        raise UserError(
            f"There is no folder '{missing}': data.root must name a folder with images in {split}/<class>/."
        )
    names = [printable(name) for name in class_folders(folder)]
    if not names:
        if any(file.is_image for file in find_files(folder)):
            raise UserError(
                f"The images in '{folder}' are in no class folders: give each class a folder of its images, or move a "
                "folder of unlabeled images away."
            )
        raise UserError(f"'{folder}' has no images: it must have one folder of images per class.")
    return sorted(names)


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders with images in them or below them."""
    return [name for name in list_folders(folder) if any(file.is_image for file in find_files(folder / name))]


@rank_zero_only
def log_skipped_files(folder: Path, skipped: list[str], images: str = "files in class folders") -> None:
    """Log the files that are not read, and the folders without images, in one warning.

    Args:
        folder: the folder that they are in.
        skipped: their paths.
        images: the files that count as images if their names end as they should.
    """
    if skipped:
        log.warning(
            "%d files or folders in '%s' are not used: %s. Images are %s whose names end in %s.",
            len(skipped),
            printable(str(folder)),
            name_some(folder, skipped),
            images,
            ", ".join(EXTENSIONS),
        )


def name_some(folder: Path, paths: list[str]) -> str:
    """Return the names of the first paths in a folder, and the number of the others."""
    names = [f"'{printable(os.path.relpath(path, folder))}'" for path in paths[:MAX_NAMED]]
    return ", ".join([*names, *[f"and {len(paths) - MAX_NAMED} more"] * (len(paths) > MAX_NAMED)])
