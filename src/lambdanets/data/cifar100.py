"""CIFAR-100."""

from typing import Any

from torchvision import datasets

from lambdanets.data.downloads import DownloadedImages


class CIFAR100(DownloadedImages):
    """60,000 photographs, 32×32, 100 classes (Krizhevsky 2009); arguments as `DownloadedImages`."""

    SOURCE = datasets.CIFAR100

    def __init__(self, **options: Any) -> None:
        super().__init__(
            channels=3,
            image_size=(32, 32),
            mean=[0.507, 0.487, 0.441],
            std=[0.267, 0.256, 0.276],
            **options,
        )
