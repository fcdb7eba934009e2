"""ImageNet (ILSVRC 2012)."""

from typing import Any, ClassVar

from lambdanets.data.imagefolder import ImageFolder


class ImageNet(ImageFolder):
    """ImageNet in its usual layout, `root/train/<wnid>/*.JPEG` and `root/val/<wnid>/*.JPEG`.

    The 50,000 images of `val/`, on which papers report their results, are the test split, read once at the end. Models
    are selected on images held out of `train/`.

    Args:
        val_size: training images to hold out, as a number or as a fraction below 1.
        crop_ratio: as in `ImageFolder`.
        **options: other options of `ImageFolder`.
    """

    VAL: ClassVar[str | None] = None
    TEST: ClassVar[str] = "val"

    def __init__(self, *, val_size: float | int = 10_000, crop_ratio: float = 0.875, **options: Any) -> None:
        super().__init__(val_size=val_size, crop_ratio=crop_ratio, **options)
