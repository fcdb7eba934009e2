"""Large-scale jitter, crop and flip of a detector's training images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


class ScaleJitter(v2.ScaleJitter):
    """torchvision's, with at least one pixel for the shorter side of an image of any shape."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = super().make_params(flat_inputs)["size"]
        return {"size": (max(1, height), max(1, width))}


class Jitter:
    """Large-scale jitter (Ghiasi et al. 2021) of an image and its objects: resize, crop to at most a square, flip.

    Args:
        side: side of the square in pixels; at scale 1, the image is resized to just fit into it.
        scale: smallest and largest scale.
        flip: probability of a horizontal flip.
    """

    def __init__(self, side: int, *, scale: Sequence[float] = (0.1, 2.0), flip: float = 0.5) -> None:
        self.side = side
        self.resize = ScaleJitter((side, side), (scale[0], scale[1]), antialias=True)
        self.flip = v2.RandomHorizontalFlip(flip)
        # Rounding may move the edge of a box outside of the image; clamping first prevents that it is removed.
        self.clean = v2.Compose([v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1)])

    def __call__(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Transform an image and its objects.

        Objects outside of the crop, or smaller than a pixel, are removed. The box of a cut object encloses the part
        that remains.

        Args:
            image: (3, h, w) uint8.
            target: "boxes", "masks" and "labels" of the objects, the first two as tv_tensors.

        Returns:
            The image, (3, H, W) with H and W up to side, and its target.
        """
        image, target = self.resize(tv_tensors.Image(image), target)
        image, target = self.crop(image, target)
        image, target = self.clean(*self.flip(image, target))
        visible = target["masks"].flatten(1).any(1).bool()
        return image.as_subclass(Tensor), {name: value.as_subclass(Tensor)[visible] for name, value in target.items()}

    def crop(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Crop at random to at most side × side."""
        height, width = image.shape[1:]
        if max(height, width) <= self.side:
            return image, target
        size = min(height, self.side), min(width, self.side)
        top, left = (
            int(torch.randint(whole - part + 1, ())) for whole, part in zip((height, width), size, strict=True)
        )
        image, masks = (F.crop(x, top, left, *size) for x in (image, target["masks"]))
        visible = masks.flatten(1).any(1).bool()  # masks_to_boxes fails for an empty mask
        masks = tv_tensors.Mask(masks[visible])
        corners = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])  # its last row and column are inclusive
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=size)
        return image, {"boxes": boxes, "masks": masks, "labels": target["labels"][visible]}
