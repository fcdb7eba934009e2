"""Handwritten digits: 1,797 scans of 8×8 pixels that come with scikit-learn."""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from lambdanets.data.module import ImageData
from lambdanets.data.split import seeded_split


class Digits(ImageData):
    """The test part of UCI's Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998); works offline.

    The set has no official split. A fifth is the test split, always the same one; `val_share` of the rest is for
    validation.

    Args:
        val_share: share of the other images, or their number.
        **options: as `ImageData`.
    """

    TEST_SHARE = 0.2

    def __init__(self, *, val_share: float | int = 0.1, **options: Any) -> None:
        super().__init__(channels=1, image_size=(8, 8), mean=[0.305], std=[0.376], **options)
        self.val_share = val_share
        self.classes = [str(digit) for digit in range(10)]

    def setup(self, stage: str) -> None:
        scans = load_digits()
        images = torch.from_numpy(scans.images * (255 / 16)).round().to(torch.uint8)[:, None]
        labels = torch.from_numpy(scans.target).long()
        rest, test = seeded_split(len(images), self.TEST_SHARE, seed=0)
        if stage == "test":
            self.test_set = TensorDataset(images[test], labels[test])
            return
        kept, held_out = seeded_split(len(rest), self.val_share, self.split_seed)
        train, val = rest[kept], rest[held_out]
        self.train_set = TensorDataset(images[train], labels[train])
        self.val_set = TensorDataset(images[val], labels[val])
