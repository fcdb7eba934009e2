"""Tensors as pictures: a few operations each, since a plotting library would take longer than a training step."""

from math import ceil

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor

GREEN, RED, BLUE = (0, 110, 30), (190, 0, 0), (20, 60, 160)


def diverging(values: Tensor) -> Tensor:
    """Blue below zero, white at zero, red above: (…, H, W) → (…, 3, H, W) from 0 to 1, the largest value in full."""
    values = values.float()
    values = values / values.abs().amax().clamp(min=1e-12)
    above, below = values.clamp(min=0), (-values).clamp(min=0)
    return torch.stack([1 - 0.9 * below, 1 - 0.8 * above - 0.7 * below, 1 - 0.9 * above], -3).clamp(0, 1)


def rising(values: Tensor) -> Tensor:
    """White at zero, dark blue at the largest value: (…, H, W) of no value below zero → (…, 3, H, W) from 0 to 1."""
    values = values.float() / values.float().amax().clamp(min=1e-12)
    return torch.stack([1 - 0.95 * values, 1 - 0.75 * values, 1 - 0.4 * values], -3).clamp(0, 1)


def enlarged(pictures: Tensor, side: int) -> Tensor:
    """(…, 3, H, W), every pixel so many times as large that a picture has at least about that many on a side."""
    factor = max(1, round(side / max(pictures.shape[-2:])))
    return pictures.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def tiles(pictures: Tensor, columns: int, *, gap: int = 3) -> Tensor:
    """Side by side: (N, 3, H, W) → (3, rows · (H + gap), columns · (W + gap))."""
    rows = ceil(len(pictures) / columns)
    padded = F.pad(pictures, (0, gap, 0, gap), value=0.6)
    blank = padded.new_full((rows * columns - len(pictures), *padded.shape[1:]), 0.6)
    padded = torch.cat([padded, blank]).unflatten(0, (rows, columns))
    return padded.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def captioned(pictures: Tensor, captions: list[tuple[str, tuple[int, int, int]]]) -> Tensor:
    """Each with a line of text below it: (N, 3, H, W) uint8 → (N, 3, H + 14, W) uint8.

    Args:
        pictures: of one size.
        captions: a text and its colour for each.
    """
    strips = []
    for text, colour in captions:
        strip = Image.new("RGB", (pictures.shape[-1], 14), "white")
        ImageDraw.Draw(strip).text((1, 1), text, fill=colour)
        strips.append(pil_to_tensor(strip))
    return torch.cat([pictures, torch.stack(strips)], -2)


def matrix(values: Tensor, names: list[str]) -> Tensor:
    """A square matrix from 0 on, rows named on the left and columns below: (N, N) → (3, H, W) uint8."""
    count = len(values)
    named = count <= 30
    picture = (255 * enlarged(rising(values), 24 * count if named else 480)).round().to(torch.uint8)
    if not named:
        return picture
    width = 6 * max(len(name) for name in names) + 6
    image = Image.new("RGB", (picture.shape[2] + width, picture.shape[1] + 14), "white")
    image.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), (width, 0))
    pen, cell = ImageDraw.Draw(image), picture.shape[1] // count
    for place, name in enumerate(names):
        pen.text((2, place * cell + cell // 2 - 6), name, fill="black")
        pen.text((width + place * cell + 2, picture.shape[1] + 1), name[: cell // 6], fill="black")
    return pil_to_tensor(image)
