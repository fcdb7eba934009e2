"""Tensors as images by a few tensor operations, since a plotting library takes longer than a training step."""

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor
from torchvision.utils import make_grid

GREEN, RED = (0, 110, 30), (190, 0, 0)
CAPTION_HEIGHT = 14
MAX_NAMED_CLASSES = 30  # with more of them, the names on a matrix would overlap
CELL_SIDE = 24
CHARACTER_WIDTH = 6  # of Pillow's default font


def to_diverging_colors(values: Tensor) -> Tensor:
    """Color values blue below zero, white at zero and red above, at full strength for the largest absolute value.

    Args:
        values: (..., H, W).

    Returns:
        (..., 3, H, W), from 0 to 1.
    """
    values = values.float()
    values = values / values.abs().amax().clamp(min=1e-12)
    above, below = values.clamp(min=0), (-values).clamp(min=0)
    return torch.stack([1 - 0.9 * below, 1 - 0.8 * above - 0.7 * below, 1 - 0.9 * above], -3).clamp(0, 1)


def to_sequential_colors(values: Tensor) -> Tensor:
    """Color values from white at zero to dark blue at the largest one.

    Args:
        values: (..., H, W), not negative.

    Returns:
        (..., 3, H, W), from 0 to 1.
    """
    values = values.float() / values.float().amax().clamp(min=1e-12)
    return torch.stack([1 - 0.95 * values, 1 - 0.75 * values, 1 - 0.4 * values], -3).clamp(0, 1)


def enlarge(images: Tensor, side: int) -> Tensor:
    """Repeat pixels by a whole factor, so that the longer side of the images comes close to a length.

    Args:
        images: (..., H, W).
        side: pixels.
    """
    factor = max(1, round(side / max(images.shape[-2:])))
    return images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def tile_images(images: Tensor, columns: int) -> Tensor:
    """Lay out images from 0 to 1 in a grid with gray lines: (N, 3, H, W) → (3, H', W')."""
    return make_grid(images, nrow=columns, padding=3, pad_value=0.6)


def add_captions(images: Tensor, captions: list[tuple[str, tuple[int, int, int]]]) -> Tensor:
    """Add a line of text below each image.

    Args:
        images: (N, 3, H, W) uint8.
        captions: N texts, each with its RGB color.

    Returns:
        (N, 3, H + CAPTION_HEIGHT, W) uint8.
    """
    strips = []
    for text, color in captions:
        strip = Image.new("RGB", (images.shape[-1], CAPTION_HEIGHT), "white")
        ImageDraw.Draw(strip).text((1, 1), text, fill=color)
        strips.append(pil_to_tensor(strip))
    return torch.cat([images, torch.stack(strips)], -2)


def draw_matrix(values: Tensor, names: list[str]) -> Tensor:
    """Draw a square matrix with the names of its rows and columns, as long as they are few.

    Args:
        values: (N, N), not negative.
        names: N names.

    Returns:
        (3, H, W) uint8.
    """
    count = len(values)
    has_names = count <= MAX_NAMED_CLASSES
    colors = enlarge(to_sequential_colors(values), CELL_SIDE * count if has_names else 480)
    matrix = (255 * colors).round().to(torch.uint8)
    if not has_names:
        return matrix
    side, cell = matrix.shape[1], matrix.shape[1] // count
    left = CHARACTER_WIDTH * max(len(name) for name in names) + CHARACTER_WIDTH
    image = Image.new("RGB", (left + side, side + CAPTION_HEIGHT), "white")
    image.paste(Image.fromarray(matrix.permute(1, 2, 0).numpy()), (left, 0))
    draw = ImageDraw.Draw(image)
    for index, name in enumerate(names):
        draw.text((2, index * cell + cell // 2 - 6), name, fill="black")
        draw.text((left + index * cell + 2, side + 1), name[: cell // CHARACTER_WIDTH], fill="black")
    return pil_to_tensor(image)
