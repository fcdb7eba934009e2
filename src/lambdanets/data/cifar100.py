"""CIFAR-100 (Krizhevsky 2009)."""

from typing import Any

from torchvision import datasets

from lambdanets.data.downloads import DownloadedImages


class CIFAR100(DownloadedImages):
    """CIFAR-100: 60,000 photographs of 32×32 pixels in 100 classes. Takes the options of `DownloadedImages`."""

    SOURCE = datasets.CIFAR100

    def __init__(self, **options: Any) -> None:
        super().__init__(
            channels=3,
            image_size=(32, 32),
            mean=[0.507, 0.487, 0.441],
            std=[0.267, 0.256, 0.276],
            **options,
        )
