"""Masks in COCO's run-length encoding: {"size": [H, W], "counts": bytes}, by faster-coco-eval."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lambdanets.errors import UserError

Rle = dict[str, Any]


def import_mask_api() -> Any:
    """faster-coco-eval's functions on masks.

    Raises:
        UserError: it is not installed.
    """
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise UserError(
            f"Object detection needs faster-coco-eval, which is not installed ({error}): pip install -e '.[coco]'."
        ) from error
    return mask


def encode(masks: Tensor) -> list[Rle]:
    """(N, H, W) boolean or uint8 → N run-length encodings."""
    if not len(masks):
        return []
    columns = np.asfortranarray(masks.to(torch.uint8).permute(1, 2, 0).cpu().numpy())
    return import_mask_api().encode(columns)


def decode(masks: list[Rle], size: tuple[int, int]) -> Tensor:
    """N run-length encodings → (N, H, W) uint8.

    Args:
        masks: the encodings.
        size: (H, W), which they don't tell where there are none.
    """
    if not masks:
        return torch.zeros(0, *size, dtype=torch.uint8)
    return torch.from_numpy(np.ascontiguousarray(import_mask_api().decode(masks).transpose(2, 0, 1)))


def to_rle(segmentation: Any, size: tuple[int, int]) -> Rle:
    """Any of COCO's forms of a mask as a run-length encoding: polygons, counts as numbers, counts as text.

    Args:
        segmentation: as in an annotation.
        size: (H, W) of its image.
    """
    if isinstance(segmentation, list):
        return import_mask_api().merge(import_mask_api().frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return import_mask_api().frPyObjects(segmentation, *size)
    counts = segmentation["counts"]
    return {"size": list(size), "counts": counts.encode() if isinstance(counts, str) else counts}


def wrong_segmentation(segmentation: Any, size: tuple[int, int]) -> str | None:
    """What is wrong with an annotation's mask, or None."""
    match segmentation:
        case []:
            return "it has no mask"
        case [*polygons] if all(isinstance(polygon, list) for polygon in polygons):
            if any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
                return "a polygon of its mask has fewer than three corners"
            return None
        case {"size": [height, width], "counts": list() | str()}:
            if (height, width) != size:
                return f"its mask is of {height}×{width} pixels and its image of {size[0]}×{size[1]}"
            return None
    return "its mask is neither polygons nor a run-length encoding"
