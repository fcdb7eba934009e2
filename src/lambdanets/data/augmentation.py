"""Augmentation of training images."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lambdanets.data.rand_augment import BatchRandAugment, mixed, random_erasing
from lambdanets.data.random_crop import RandomCrop


@dataclass(frozen=True)
class Augmentation:
    """What a recipe does to training images; the numbers are a recipe's, the two ways to crop are the data's.

    All but the crop out of a file is done a batch at a time on the device that trains.

    Args:
        crop_padding: sets held in memory: pixels of zeros around an image, out of which a random crop is cut.
        crop_scale: sets read from files: least and largest share of an image's area that a random resized crop keeps.
        flip: mirror half of the images from left to right.
        rand_augment: RandAugment's arguments (Cubuk et al. 2020), such as {num_ops: 2, magnitude: 15}, or None.
        erasing: share of the images that lose a rectangle (Zhong et al. 2020).
        mixup: MixUp's alpha (Zhang et al. 2018), 0 for none.
        cutmix: CutMix's alpha (Yun et al. 2019), 0 for none; with both, each batch has one of them.
    """

    crop_padding: int = 0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = False
    rand_augment: dict[str, int] | None = None
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def augment_pixels(self, images: Tensor, *, cropped: bool = False) -> Tensor:
        """Augments pixels: (B, C, H, W) uint8 → the same.

        Args:
            images: the batch.
            cropped: whether its images are random crops already.
        """
        if self.flip:
            mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(mirrored, images.flip(-1), images)
        if self.crop_padding and not cropped:
            images = random_crops(images, self.crop_padding)
        if self.rand_augment:
            images = BatchRandAugment(**self.rand_augment)(images)
        return images

    def augment_normalized(self, images: Tensor, labels: Tensor, *, classes: int) -> tuple[Tensor, Tensor]:
        """Augments what is normalized already: erases and mixes.

        Args:
            images: (B, C, H, W) float32.
            labels: (B,) int64.
            classes: their number.

        Returns:
            The images, and the labels, as shares, (B, classes), where images are mixed.
        """
        if self.erasing:
            images = random_erasing(images, self.erasing)
        if self.mixup or self.cutmix:
            images, labels = mixed(images, labels, classes=classes, mixup=self.mixup, cutmix=self.cutmix)
        return images, labels

    def make_crop(self, image_size: tuple[int, int]) -> RandomCrop:
        """The random crop out of a photo of any size."""
        return RandomCrop(image_size, scale=self.crop_scale)


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
