"""Handwritten digits: 1,797 scans of 8×8 pixels that come with scikit-learn."""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import TensorDataset

from lambdanets.data.module import ImageData
from lambdanets.data.split import seeded_split


class Digits(ImageData):
    """The test part of UCI's Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998); works offline.

    The set has no official split. A fifth is the test split, always the same one; `val_size` of the rest is for
    validation.

    Args:
        val_size: share of the other images, or their number.
        **options: as `ImageData`.
    """

    TEST_SHARE = 0.2

    def __init__(self, *, val_size: float | int = 0.1, **options: Any) -> None:
        super().__init__(channels=1, image_size=(8, 8), mean=[0.305], std=[0.376], **options)
        self.val_size = val_size
        self.classes = [str(digit) for digit in range(10)]

    def load_fit_splits(self) -> tuple[TensorDataset, TensorDataset]:
        images, labels = scans()
        rest, _ = seeded_split(len(images), self.TEST_SHARE, seed=0)
        kept, held_out = seeded_split(len(rest), self.val_size, self.split_seed)
        train, val = rest[kept], rest[held_out]
        return TensorDataset(images[train], labels[train]), TensorDataset(images[val], labels[val])

    def load_test_split(self) -> TensorDataset:
        images, labels = scans()
        _, test = seeded_split(len(images), self.TEST_SHARE, seed=0)
        return TensorDataset(images[test], labels[test])


def scans() -> tuple[Tensor, Tensor]:
    """All images, (1797, 1, 8, 8) uint8 on the scale to 255, and their digits."""
    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    return images, torch.from_numpy(digits.target).long()
