"""Augmentation of training images."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2


@dataclass(frozen=True)
class Augmentation:
    """What a recipe does to training images; the numbers are a recipe's, the two ways to apply them are the data's.

    Args:
        crop_padding: sets held in memory: pixels of zeros around an image, out of which a random crop is cut.
        crop_scale: sets read from files: least and largest share of an image's area that a random resized crop keeps.
        flip: mirror half of the images from left to right.
        rand_augment: RandAugment's arguments (Cubuk et al. 2020), such as {num_ops: 2, magnitude: 15}, or None.
    """

    crop_padding: int = 0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = False
    rand_augment: dict[str, int] | None = None

    def batch(self, images: Tensor) -> Tensor:
        """Augments a batch on the device where it lies: (B, C, H, W) uint8 → the same."""
        if self.flip:
            mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(mirrored, images.flip(-1), images)
        if self.crop_padding:
            images = random_crops(images, self.crop_padding)
        if self.rand_augment:
            augment = v2.RandAugment(**self.rand_augment)
            images = torch.stack([augment(image) for image in images])
        return images

    def one(self, image_size: tuple[int, int]) -> v2.Transform:
        """The transform of a single image of any size: (C, H, W) uint8 → (C, *image_size)."""
        steps: list[v2.Transform] = [v2.RandomResizedCrop(image_size, scale=self.crop_scale, antialias=True)]
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.rand_augment:
            steps.append(v2.RandAugment(**self.rand_augment))
        return v2.Compose(steps)


def random_crops(images: Tensor, padding: int) -> Tensor:
    """Cuts from each image, padded by zeros on all sides, a window of its own size at a place of its own."""
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, batch, 1), device=images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    image = torch.arange(batch, device=images.device).view(batch, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, channels, 1, 1)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
