"""The random resized crop of encoded photos."""

import math

import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from lambdanets.data.files import Photo


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
        blank = torch.empty(1, height, width, device="meta")
        top, left, rows, columns = RandomResizedCrop.get_params(blank, self.scale, self.ratio)
        min_size = (
            math.ceil(self.image_size[0] * height / rows),
            math.ceil(self.image_size[1] * width / columns),
        )
        image = photo.decode(min_size)
        y, x = image.shape[1] / height, image.shape[2] / width
        top, left, rows, columns = round(top * y), round(left * x), max(round(rows * y), 1), max(round(columns * x), 1)
        return F.resized_crop(image, top, left, rows, columns, list(self.image_size), antialias=True)
