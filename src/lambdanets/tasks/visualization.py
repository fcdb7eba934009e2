"""Objects drawn onto their images."""

import colorsys

import torch
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from lambdanets.data.masks import Rle, decode


def draw_objects(
    image: Tensor,
    boxes: Tensor,
    masks: list[Rle],
    labels: list[int],
    classes: list[str],
    scores: list[float] | None = None,
) -> Tensor:
    """Draw masks, boxes and class names onto an image.

    Args:
        image: (3, H, W) uint8.
        boxes: (N, 4) as x, y, width, height.
        masks: N masks.
        labels: N labels from 1 on; a class has the same color in all images.
        classes: names of the classes.
        scores: N scores to print after the names, or None.

    Returns:
        (3, H, W) uint8.
    """
    if not labels:
        return image
    height, width = image.shape[1:]
    colors = [class_color(label) for label in labels]
    picture = draw_segmentation_masks(image, decode(masks, (height, width)).bool(), alpha=0.5, colors=colors)
    names = [classes[label - 1] for label in labels]
    if scores is not None:
        names = [f"{name} {score:.0%}" for name, score in zip(names, scores, strict=True)]
    corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    corners = torch.minimum(corners.round().clamp(min=0), torch.tensor([width - 1, height - 1] * 2))
    line_width = max(1, round(max(height, width) / 400))
    return draw_bounding_boxes(picture, corners, names, colors, width=line_width)


def class_color(label: int) -> tuple[int, int, int]:
    """Return the RGB color of a class; the golden ratio gives neighboring labels distant hues."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
