"""Masks in COCO's run-length encoding, {"size": [H, W], "counts": bytes}, by means of faster-coco-eval."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lambdanets.errors import UserError

Rle = dict[str, Any]


def import_mask_api() -> Any:
    """Import faster-coco-eval's functions on masks.

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
    """Encode masks: (N, H, W) boolean or uint8 → N run-length encodings."""
    if not len(masks):
        return []
    columns = np.asfortranarray(masks.to(torch.uint8).permute(1, 2, 0).cpu().numpy())
    return import_mask_api().encode(columns)


def decode(masks: list[Rle], size: tuple[int, int]) -> Tensor:
    """Decode masks: N run-length encodings → (N, H, W) uint8.

    Args:
        masks: the encodings.
        size: (H, W) of the result if there are no masks.
    """
    if not masks:
        return torch.zeros(0, *size, dtype=torch.uint8)
    return torch.from_numpy(np.ascontiguousarray(import_mask_api().decode(masks).transpose(2, 0, 1)))


def to_rle(segmentation: Any, size: tuple[int, int]) -> Rle:
    """Convert a mask of an annotation file to a run-length encoding.

    Args:
        segmentation: polygons, or a run-length encoding with counts as a list or as a string.
        size: (H, W) of the image.
    """
    if isinstance(segmentation, list):
        return import_mask_api().merge(import_mask_api().frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return import_mask_api().frPyObjects(segmentation, *size)
    counts = segmentation["counts"]
    return {"size": list(size), "counts": counts.encode() if isinstance(counts, str) else counts}


def find_segmentation_error(segmentation: Any, size: tuple[int, int]) -> str | None:
    """Return what is wrong with the mask of an annotation, or None.

    Args:
        segmentation: the mask as in the annotation file.
        size: (H, W) of the image.
    """
    match segmentation:
        case []:
            return "it has no mask"
        case [*polygons] if all(isinstance(polygon, list) for polygon in polygons):
            if any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
                return "a polygon of its mask has fewer than three corners"
            return None
        case {"size": [height, width], "counts": list() | str()}:
            if (height, width) != size:
                return f"its mask has {height}×{width} pixels, but the image has {size[0]}×{size[1]}"
            return None
    return "its mask is neither polygons nor a run-length encoding"
