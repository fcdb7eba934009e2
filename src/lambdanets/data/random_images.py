"""Random pixels, to measure speed without a data set."""

from typing import Any

import torch
from torch.utils.data import TensorDataset

from lambdanets.data.module import ImageData


class RandomImages(ImageData):
    """Random pixels with random labels, held in memory.

    Args:
        size: number of training images; the validation and the test split each have a fifth as many.
        image_size: side of the square images.
        num_classes: number of classes.
        **options: options of `ImageData`.
    """

    def __init__(self, *, size: int = 2560, image_size: int = 32, num_classes: int = 10, **options: Any) -> None:
        super().__init__(channels=3, image_size=(image_size,) * 2, mean=[0.5] * 3, std=[0.29] * 3, **options)
        self.size = size
        self.classes = [str(label) for label in range(num_classes)]

    def load_fit_splits(self) -> tuple[TensorDataset, TensorDataset]:
        return self.make_split(self.size, 0), self.make_split(self.size // 5, 1)

    def load_test_split(self) -> TensorDataset:
        return self.make_split(self.size // 5, 2)

    def make_split(self, size: int, split: int) -> TensorDataset:
        """Draw a split of that many images; 0, 1 and 2 are training, validation and test."""
        generator = torch.Generator().manual_seed(3 * self.split_seed + split)
        images = torch.randint(256, (size, 3, *self.image_size), generator=generator, dtype=torch.uint8)
        return TensorDataset(images, torch.randint(len(self.classes), (size,), generator=generator))
