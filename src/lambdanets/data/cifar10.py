"""CIFAR-10."""

from typing import Any

from torchvision import datasets

from lambdanets.data.downloads import DownloadedImages


class CIFAR10(DownloadedImages):
    """60,000 photographs, 32×32, 10 classes (Krizhevsky 2009); arguments as `DownloadedImages`."""

    SOURCE = datasets.CIFAR10

    def __init__(self, **options: Any) -> None:
        super().__init__(
            channels=3,
            image_size=(32, 32),
            mean=[0.491, 0.482, 0.447],
            std=[0.247, 0.243, 0.262],
            **options,
        )
