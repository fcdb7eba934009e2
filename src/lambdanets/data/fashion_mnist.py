"""Fashion-MNIST (Xiao et al. 2017)."""

from typing import Any

from torchvision import datasets

from lambdanets.data.downloads import DownloadedImages


class FashionMNIST(DownloadedImages):
    """70,000 gray images of clothes, 28×28 pixels, in 10 classes. Takes the options of `DownloadedImages`."""

    SOURCE = datasets.FashionMNIST

    def __init__(self, **options: Any) -> None:
        super().__init__(channels=1, image_size=(28, 28), mean=[0.286], std=[0.353], **options)
