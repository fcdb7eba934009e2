"""Augmentation of training images."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lambdanets.data.batch_transforms import AsynchronousConstants, BatchRandAugment, erase_rectangles, mix_images
from lambdanets.data.random_crop import RandomCrop
from lambdanets.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of a recipe.

    Photos are cropped while they are decoded, by worker processes; everything else is done a batch at a time, on the
    training device. The kind of data set decides which of the two crops is used.

    Args:
        crop_padding: for sets held in memory: zeros to pad on each side before a crop of the original size is cut out.
        crop_scale: for sets read from files: smallest and largest fraction of an image's area that a random resized
            crop covers.
        flip: mirror half of the images horizontally.
        rand_augment: RandAugment's arguments (Cubuk et al. 2020), such as {num_ops: 2, magnitude: 15}, or None.
        erasing: probability that a rectangle of an image is erased (Zhong et al. 2020).
        mixup: MixUp's alpha (Zhang et al. 2018), 0 for no MixUp.
        cutmix: CutMix's alpha (Yun et al. 2019), 0 for no CutMix; with both, each batch gets one of them at random.

    Raises:
        UserError: a value is out of its range.
    """

    crop_padding: int = 0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = False
    rand_augment: dict[str, int] | None = None
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        scale = list(self.crop_scale or (1.0, 1.0))  # null leaves out what it is the value of
        rand_augment = BatchRandAugment(**(self.rand_augment or {}))
        ranges = {
            "crop_padding": ((self.crop_padding or 0) >= 0, "0 or more pixels"),
            "crop_scale": (
                len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1,
                "a smallest and a largest fraction of the area, such as [0.08, 1.0]",
            ),
            "rand_augment": (
                rand_augment.num_ops >= 0 and 0 <= rand_augment.magnitude < rand_augment.num_magnitude_bins,
                f"a number of operations and a magnitude from 0 to {rand_augment.num_magnitude_bins - 1}",
            ),
            "erasing": (0 <= (self.erasing or 0) <= 1, "a probability from 0 to 1"),
            "mixup": ((self.mixup or 0) >= 0, "an alpha of 0 or more"),
            "cutmix": ((self.cutmix or 0) >= 0, "an alpha of 0 or more"),
        }
        for name, (is_valid, expected) in ranges.items():
            if not is_valid:
                raise UserError(f"recipe.augment.{name}={getattr(self, name)} is out of range: set {expected}.")

    def augment_pixels(self, images: Tensor, *, cropped: bool = False) -> Tensor:
        """Flip, crop and apply RandAugment: (B, C, H, W) uint8 → (B, C, H, W) uint8.

        Args:
            images: the batch.
            cropped: True if the images are random crops already.
        """
        if self.flip:
            mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(mirrored, images.flip(-1), images)
        if self.crop_padding and not cropped:
            images = pad_and_crop(images, self.crop_padding)
        if self.rand_augment:
            with AsynchronousConstants():
                images = BatchRandAugment(**self.rand_augment)(images)
        return images

    def augment_normalized(self, images: Tensor, labels: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor]:
        """Erase rectangles and mix images, after normalization.

        Args:
            images: (B, C, H, W) float, normalized.
            labels: (B,) int64.
            num_classes: number of classes.

        Returns:
            The images, and the labels: (B,), or (B, num_classes) probabilities if images are mixed.
        """
        if self.erasing:
            images = erase_rectangles(images, self.erasing)
        if self.mixup or self.cutmix:
            images, labels = mix_images(images, labels, num_classes=num_classes, mixup=self.mixup, cutmix=self.cutmix)
        return images, labels

    def make_crop(self, image_size: tuple[int, int]) -> RandomCrop:
        """Return the random resized crop of photos to image_size, (H, W)."""
        return RandomCrop(image_size, scale=self.crop_scale or (1.0, 1.0))


def pad_and_crop(images: Tensor, padding: int) -> Tensor:
    """Pad images with zeros on all sides and crop each at its own random position: (B, C, H, W) → (B, C, H, W)."""
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, batch, 1), device=images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    image = torch.arange(batch, device=images.device).view(batch, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, channels, 1, 1)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
