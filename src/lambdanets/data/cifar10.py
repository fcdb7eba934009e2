"""CIFAR-10 (Krizhevsky 2009)."""

from typing import Any

from torchvision import datasets

from lambdanets.data.downloads import DownloadedImages


class CIFAR10(DownloadedImages):
    """CIFAR-10: 60,000 photographs of 32×32 pixels in 10 classes. Takes the options of `DownloadedImages`."""

    SOURCE = datasets.CIFAR10

    def __init__(self, **options: Any) -> None:
        super().__init__(
            channels=3,
            image_size=(32, 32),
            mean=[0.491, 0.482, 0.447],
            std=[0.247, 0.243, 0.262],
            **options,
        )
