"""The random resized crop of encoded photos."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from lambdanets.data.files import Photo


class Box(NamedTuple):
    """A part of a photo, in pixels."""

    top: int
    left: int
    rows: int
    columns: int


class RandomCrop:
    """A random part of a photo, resized: Photo → (3, H, W) uint8 (Szegedy et al. 2015).

    The part is drawn before the photo is decoded, so that a large JPEG can be decoded at a lower resolution.

    Args:
        image_size: (H, W) of the result.
        scale: smallest and largest fraction of the photo's area.
        ratio: smallest and largest ratio of width to height.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        *,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        self.image_size = image_size
        self.scale = list(scale)
        self.ratio = list(ratio)

    def __call__(self, photo: Photo) -> Tensor:
        height, width = photo.size
        box = self.draw(photo.size)
        min_size = (
            math.ceil(self.image_size[0] * height / box.rows),
            math.ceil(self.image_size[1] * width / box.columns),
        )
        image = photo.decode(min_size)
        y, x = image.shape[1] / height, image.shape[2] / width
        top, left, rows, columns = (
            round(box.top * y),
            round(box.left * x),
            max(round(box.rows * y), 1),
            max(round(box.columns * x), 1),
        )
        return self.cut(image, Box(top, left, rows, columns))

    def draw(self, size: tuple[int, int]) -> Box:
        """Draw a part of a photo of that size, (H, W)."""
        return Box(*RandomResizedCrop.get_params(torch.empty(1, *size, device="meta"), self.scale, self.ratio))

    def cut(self, image: Tensor, box: Box) -> Tensor:
        """Cut out a part and resize it: (3, h, w) uint8 → (3, H, W) uint8."""
        return F.resized_crop(image, *box, list(self.image_size), antialias=True)
