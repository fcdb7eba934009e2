"""Masks in COCO's run-length encoding, {"size": [H, W], "counts": bytes}, by means of faster-coco-eval."""

from collections.abc import Sequence
from math import isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lambdanets.errors import UserError

Rle = dict[str, Any]
NUMBERS = {int, float}  # a set of types, in which bool is not an int
# Of the characters of compressed counts, "P" to "o" announce another one, "0" to "O" end a number.
CHARACTERS = bytes(range(ord("0"), ord("o") + 1))
NOT_A_MASK = "its mask is neither polygons nor a run-length encoding"


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
    """Convert a mask of an annotation file, without errors, to a run-length encoding.

    Args:
        segmentation: polygons, or a run-length encoding with counts as a list or as a string.
        size: (H, W) of the image.
    """
    if isinstance(segmentation, list):
        return import_mask_api().merge(import_mask_api().frPyObjects(segmentation, *size))
    counts = segmentation["counts"]
    if isinstance(counts, list):
        return import_mask_api().frPyObjects({"size": list(size), "counts": counts}, *size)
    return {"size": list(size), "counts": counts.encode()}


def find_segmentation_error(segmentation: Any, size: tuple[int, int], box: Sequence[float]) -> str | None:
    """Return what is wrong with the mask of an annotation, or None.

    Args:
        segmentation: the mask as in the annotation file.
        size: (H, W) of the image.
        box: x, y, width, height of the object.
    """
    if isinstance(segmentation, list):
        if not segmentation:
            return "it has no mask"
        return next(filter(None, (find_polygon_error(polygon, size, box) for polygon in segmentation)), None)
    match segmentation:
        case {"size": [height, width], "counts": list() | str()}:
            if (height, width) != size:
                return f"its mask has {height!r:.20}×{width!r:.20} pixels, but its image has {size[0]}×{size[1]}"
            return find_counts_error(segmentation["counts"], size)
    return NOT_A_MASK


def find_polygon_error(polygon: Any, size: tuple[int, int], box: Sequence[float]) -> str | None:
    """Return what is wrong with a polygon, x, y, x, y, …, of a mask, or None.

    Corners may lie outside of the image, by at most its side: the mask is the part inside.

    Args:
        polygon: one of the polygons of the annotation file.
        size: (H, W) of the image.
        box: x, y, width, height of the object.
    """
    if not isinstance(polygon, list):
        return NOT_A_MASK
    if len(polygon) < 6 or len(polygon) % 2:
        return "a polygon of its mask has fewer than three corners, or an x without a y"
    if not {*map(type, polygon)} <= NUMBERS:
        return "a polygon of its mask has a corner that is not two numbers"
    xs, ys = polygon[::2], polygon[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    height, width = size
    near = -width <= left and right <= 2 * width and -height <= top and bottom <= 2 * height
    # Comparisons with NaN in the first place are false; NaN in any other place is only in the sum.
    if not near or isnan(sum(polygon)):
        return f"a polygon of its mask is far outside of its image of {width}×{height} pixels, or not finite"
    if right <= 0 or left >= width or bottom <= 0 or top >= height:
        return f"a polygon of its mask lies outside of its image of {width}×{height} pixels"
    # Both are rounded, by up to a pixel.
    x, y, box_width, box_height = box
    if left > x + box_width + 1 or right < x - 1 or top > y + box_height + 1 or bottom < y - 1:
        return f"a polygon of its mask lies outside of its box {list(box)}"
    return None


def find_counts_error(counts: list[Any] | str, size: tuple[int, int]) -> str | None:
    """Return what is wrong with the counts of a run-length encoding for an image of that size (H, W), or None."""
    runs = uncompress(counts, size) if isinstance(counts, str) else counts
    if not runs or not {*map(type, runs)} <= {int} or min(runs) < 0:
        return "the counts of its mask are damaged: they must be whole numbers from 0 on"
    if sum(runs) != size[0] * size[1]:
        return f"the counts of its mask don't add up to the {size[0]}×{size[1]} pixels of its image"
    if not any(runs[1::2]):
        return "its mask is empty"
    return None


def uncompress(counts: str, size: tuple[int, int]) -> list[int]:
    """Return the lengths of the runs of a compressed run-length encoding; of a damaged one there are none."""
    encoded = counts.encode(errors="surrogatepass")
    if encoded.translate(None, CHARACTERS) or not b"0" <= encoded[-1:] <= b"O":
        return []
    try:
        return import_mask_api()._mask.toUncompressedRLE([{"size": list(size), "counts": encoded}])[0]["counts"]
    except (RuntimeError, ValueError):
        return []
