"""Any folder of class folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import make_dataset
from torchvision.transforms import v2

from lambdanets.data.files import EXTENSIONS, DecodeThen, ImageFiles, Photo, Sample, read_all
from lambdanets.data.module import ImageData
from lambdanets.data.split import seeded_split
from lambdanets.errors import UserError


class ImageFolder(ImageData):
    """Images as `root/train/<class>/*`, `root/val/<class>/*`, `root/test/<class>/*`.

    Without `val/`, a seeded part of `train/` is for validation; without `test/`, a run ends without a test score. A set
    that is small when decoded is decoded once and held in memory, a larger one is streamed through workers.

    Args:
        root: the folder.
        image_size: images become squares of this side.
        crop_ratio: in evaluation, the side of the central crop as a share of the image's shorter side.
        val_size: share of the training images, or their number, for validation where there is no `val/`.
        memory_gib: size in GiB up to which the decoded training set is held in memory; 0 always streams.
        **options: as `ImageData`.
    """

    TRAIN: ClassVar[str] = "train"
    VAL: ClassVar[str | None] = "val"
    TEST: ClassVar[str] = "test"
    # Means over ImageNet's training images, used for photographs in general.
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
        **options: Any,
    ) -> None:
        super().__init__(channels=3, image_size=(image_size, image_size), mean=self.MEAN, std=self.STD, **options)
        self.root = Path(root)
        self.crop_ratio = crop_ratio
        self.val_size = val_size
        self.memory_gib = memory_gib

    @property
    def has_test(self) -> bool:
        return self.has_split(self.TEST)

    def has_split(self, split: str) -> bool:
        """Is there such a split?"""
        return (self.root / split).is_dir()

    def count_classes(self) -> int:
        folder = self.root / self.TRAIN
        return sum(entry.is_dir() for entry in folder.iterdir()) if folder.is_dir() else 0

    def preprocess(self, image: Tensor) -> Tensor:
        side = round(self.image_size[0] / self.crop_ratio)
        return v2.functional.center_crop(v2.functional.resize(image, [side], antialias=True), list(self.image_size))

    def setup(self, stage: str) -> None:
        """Reads the splits of a stage, once.

        Raises:
            UserError: a folder is missing or empty, a class in it has no training folder, an image can't be decoded.
        """
        self.read_classes()
        super().setup(stage)

    def read_classes(self) -> None:
        """Names the classes by the training folders."""
        if not self.classes:
            self.classes = class_names(self.root, self.TRAIN)

    def load_test_split(self) -> Dataset[Any]:
        return self.dataset(self.scan(self.TEST), DecodeThen(self.preprocess))

    def load_fit_splits(self) -> tuple[Dataset[Any], Dataset[Any]]:
        train = self.scan(self.TRAIN)
        if self.VAL and self.has_split(self.VAL):
            val = self.scan(self.VAL)
        else:
            kept, held_out = seeded_split(len(train), self.val_size, self.split_seed)
            train, val = [train[i] for i in kept.tolist()], [train[i] for i in held_out.tolist()]
        fitted = DecodeThen(self.preprocess) if self.fits_memory(train) else self.augment.make_crop(self.image_size)
        return self.dataset(train, fitted), self.dataset(val, DecodeThen(self.preprocess))

    def scan(self, split: str) -> list[Sample]:
        """Paths and labels of a split, in the order of their names."""
        if unknown := sorted(set(class_names(self.root, split)) - set(self.classes)):
            raise UserError(
                f"'{self.root / split}' has the class folder {', '.join(unknown)}, which '{self.root / self.TRAIN}' "
                "lacks: a class must have training images; add or remove the folder."
            )
        labels = {name: label for label, name in enumerate(self.classes)}
        return make_dataset(str(self.root / split), labels, extensions=EXTENSIONS, allow_empty=True)

    def fits_memory(self, samples: list[Sample]) -> bool:
        height, width = self.image_size
        return len(samples) * self.channels * height * width <= self.memory_gib * 2**30

    def dataset(self, samples: list[Sample], transform: Callable[[Photo], Tensor]) -> Dataset[Any]:
        files = self.files(samples, transform)
        return read_all(files, num_workers=self.num_workers) if self.fits_memory(samples) else files

    def files(self, samples: list[Sample], transform: Callable[[Photo], Tensor]) -> ImageFiles:
        return ImageFiles(samples, transform, self.corrupt)


def class_names(root: Path, split: str) -> list[str]:
    """The class folders of a split, sorted.

    Raises:
        UserError: the folder is missing, has no class folders, or has no images in them.
    """
    folder = root / split
    if not folder.is_dir():
        missing = root if not root.is_dir() else folder
        raise UserError(
            f"There is no folder '{missing}': data.root must name a folder with {split}/<class>/ folders of images."
        )
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not any(path.suffix.lower() in EXTENSIONS for name in names for path in (folder / name).rglob("*")):
        raise UserError(f"'{folder}' holds no images: it must have a folder of images for each class.")
    return names
