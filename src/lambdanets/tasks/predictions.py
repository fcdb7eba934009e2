"""Detected objects in the pixels of the image file, and their files in COCO's format."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lambdanets.atomic import atomic_write
from lambdanets.data.masks import Rle, decode, encode

# Mask pixels pasted at once: all masks of a photograph with a hundred objects would take gigabytes.
MASK_PIXELS_PER_CHUNK = 2**25


class ImagePrediction(NamedTuple):
    """The objects detected in an image, by falling score.

    Args:
        image_id: COCO's id of the image.
        size: (H, W) of the image file.
        boxes: (N, 4) float64 as x, y, width, height.
        scores: (N,) from 0 to 1.
        labels: (N,) from 1 on.
        masks: N masks of the whole image, run-length encoded.
    """

    image_id: int
    size: tuple[int, int]
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: list[Rle]

    def above(self, threshold: float) -> "ImagePrediction":
        """Return the objects with at least that score."""
        count = int((self.scores >= threshold).sum())
        return self._replace(
            boxes=self.boxes[:count],
            scores=self.scores[:count],
            labels=self.labels[:count],
            masks=self.masks[:count],
        )


class DetectedObject(NamedTuple):
    """An object in an image.

    Args:
        name: of its class.
        score: from 0 to 1.
        box: x, y, width and height in pixels of the image.
        mask: (H, W) bool, of the whole image.
    """

    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: Tensor


def name_objects(prediction: ImagePrediction, classes: Sequence[str]) -> list[DetectedObject]:
    """Return the objects of a prediction one by one, with the names of their classes."""
    masks = decode(prediction.masks, prediction.size).bool()
    columns = zip(prediction.labels.tolist(), prediction.scores.tolist(), prediction.boxes.tolist(), masks, strict=True)
    return [DetectedObject(classes[label - 1], score, tuple(box), mask) for label, score, box, mask in columns]


def rescale_predictions(
    detections: dict[str, Tensor], input_size: tuple[int, int], size: tuple[int, int], image_id: int
) -> ImagePrediction:
    """Map detections from the resized input back to the original image.

    Args:
        detections: output of `MaskRCNN` for one image.
        input_size: (H, W) of the resized input.
        size: (H, W) of the image file.
        image_id: COCO's id of the image.
    """
    ratios = [side / input_side for side, input_side in zip(size, input_size, strict=True)]
    scale = torch.tensor(ratios, dtype=torch.float64).flip(0).repeat(2)
    corners = detections["boxes"].cpu().double() * scale
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    masks: list[Rle] = []
    count = max(1, MASK_PIXELS_PER_CHUNK // (size[0] * size[1]))
    box_masks = detections["masks"][:, 0].double().cpu()
    for chunk, chunk_corners in zip(box_masks.split(count), corners.split(count), strict=True):
        if len(chunk):
            masks += encode(paste_masks(chunk, chunk_corners, size))
    return ImagePrediction(
        image_id, size, boxes, detections["scores"].double().cpu(), detections["labels"].cpu(), masks
    )


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Paste the masks of boxes into an image, where their probability is above one half at a pixel's center.

    Bilinear between the centers of a mask's cells, and 0 outside of them. torchvision's function makes masks half a
    pixel larger on all sides.

    Args:
        masks: (N, h, w), the probability of the object at each cell of its box.
        boxes: (N, 4) as x, y, x, y.
        size: (H, W) of the image.

    Returns:
        (N, H, W) bool.
    """
    pasted = torch.zeros(len(masks), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom), image in zip(masks, boxes.tolist(), pasted, strict=True):
        rows, row_weights = interpolation_weights(top, bottom, size[0], mask.shape[0])
        columns, column_weights = interpolation_weights(left, right, size[1], mask.shape[1])
        image[rows, columns] = (row_weights @ mask.to(row_weights.dtype) @ column_weights.T) > 0.5
    return pasted


def interpolation_weights(start: float, end: float, side: int, cells: int) -> tuple[slice, Tensor]:
    """Return the pixels of an axis in an interval, and the weights of the interval's cells at their centers.

    Args:
        start: of the interval, in pixels.
        end: of the interval.
        side: pixels of the axis.
        cells: equal parts of the interval.

    Returns:
        The range of the pixels, and (pixels, cells) weights: linear between the centers of cells.
    """
    first, last = max(math.floor(start), 0), min(math.ceil(end), side)
    pixels = torch.arange(first, max(last, first), dtype=torch.float64)
    positions = (pixels + 0.5 - start) * (cells / max(end - start, 1e-6)) - 0.5
    distances = (positions[:, None] - torch.arange(cells, dtype=torch.float64)).abs()
    return slice(first, max(last, first)), (1 - distances).clamp(min=0)


def coco_results(predictions: Sequence[ImagePrediction], category_ids: list[int]) -> dict[str, list[dict[str, Any]]]:
    """Convert predictions to COCO's format of results: the lists "boxes" and "masks".

    There are two lists, since COCO's tools take an object's size from the box where an entry has one, and would then
    not sort masks into small, medium and large by their own area.

    Args:
        predictions: one per image.
        category_ids: COCO's ids of the classes.
    """
    results: dict[str, list[dict[str, Any]]] = {"boxes": [], "masks": []}
    for image in predictions:
        objects = zip(image.labels.tolist(), image.scores.tolist(), image.boxes.tolist(), image.masks, strict=True)
        for label, score, box, mask in objects:
            entry = {"image_id": image.image_id, "category_id": category_ids[label - 1], "score": score}
            counts = mask["counts"].decode()
            results["boxes"].append({**entry, "bbox": box})
            results["masks"].append({**entry, "segmentation": {"size": list(mask["size"]), "counts": counts}})
    return results


def write_coco_results(folder: Path, predictions: Sequence[ImagePrediction], category_ids: list[int]) -> None:
    """Write COCO results: boxes.json and masks.json."""
    for name, entries in coco_results(predictions, category_ids).items():
        atomic_write(folder / f"{name}.json", json.dumps(entries))
