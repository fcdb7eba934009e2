"""What happens to a training image of a detector: large-scale jitter, crop and flip."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


class Jitter:
    """Scale jitter (Ghiasi et al. 2021): an image and its objects, resized, cropped to at most a square, flipped.

    Args:
        side: of the square that an image is fitted into at scale 1.
        scale: least and largest scale.
        flip: probability of a horizontal flip.
    """

    def __init__(self, side: int, *, scale: Sequence[float] = (0.1, 2.0), flip: float = 0.5) -> None:
        self.side = side
        self.resize = v2.ScaleJitter((side, side), (scale[0], scale[1]), antialias=True)
        self.flip = v2.RandomHorizontalFlip(flip)
        # Rounding may put a border box a little outside, which is no reason to lose it.
        self.clean = v2.Compose([v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1)])

    def __call__(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """(3, h, w) uint8 with boxes, masks and labels of its objects → the same of (3, H, W), H and W up to side.

        Objects that are cut off, or smaller than a pixel, are left out; of the others, the box is that of what is left.
        """
        image, target = self.resize(tv_tensors.Image(image), target)
        image, target = self.cropped(image, target)
        image, target = self.clean(*self.flip(image, target))
        seen = target["masks"].flatten(1).any(1).bool()
        return image.as_subclass(Tensor), {name: value.as_subclass(Tensor)[seen] for name, value in target.items()}

    def cropped(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        height, width = image.shape[1:]
        if max(height, width) <= self.side:
            return image, target
        size = min(height, self.side), min(width, self.side)
        top, left = (
            int(torch.randint(whole - part + 1, ())) for whole, part in zip((height, width), size, strict=True)
        )
        image, masks = (F.crop(x, top, left, *size) for x in (image, target["masks"]))
        kept = masks.flatten(1).any(1).bool()  # else there is no box around it
        masks = tv_tensors.Mask(masks[kept])
        corners = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])  # of the last pixel, whose far side ends the box
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=size)
        return image, {"boxes": boxes, "masks": masks, "labels": target["labels"][kept]}
