"""Handwritten digits: 1,797 scans of 8×8 pixels that come with scikit-learn."""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import TensorDataset

from lambdanets.data.module import ImageData
from lambdanets.data.split import split_indices


class Digits(ImageData):
    """The test part of UCI's Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998); needs no download.

    The set has no official split. A fixed fifth of the images is the test split; validation images are cut from the
    rest.

    Args:
        val_size: size of the validation split, as a fraction of the images that are not test images (below 1) or as a
            number of images.
        **options: options of `ImageData`.
    """

    TEST_FRACTION = 0.2

    def __init__(self, *, val_size: float | int = 0.1, **options: Any) -> None:
        super().__init__(channels=1, image_size=(8, 8), mean=[0.305], std=[0.376], **options)
        self.val_size = val_size
        self.classes = [str(digit) for digit in range(10)]

    def load_fit_splits(self) -> tuple[TensorDataset, TensorDataset]:
        images, labels = load_scans()
        rest, _ = split_indices(len(images), self.TEST_FRACTION, seed=0)
        train, val = (rest[part] for part in split_indices(len(rest), self.val_size, self.split_seed))
        return TensorDataset(images[train], labels[train]), TensorDataset(images[val], labels[val])

    def load_test_split(self) -> TensorDataset:
        images, labels = load_scans()
        _, test = split_indices(len(images), self.TEST_FRACTION, seed=0)
        return TensorDataset(images[test], labels[test])


def load_scans() -> tuple[Tensor, Tensor]:
    """Return all images, (1797, 1, 8, 8) uint8 scaled from 0…16 to 0…255, and their labels, (1797,) int64."""
    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    return images, torch.from_numpy(digits.target).long()
