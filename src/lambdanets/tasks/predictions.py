"""Objects that a detector has found, in the pixels of the image's file."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from lambdanets.data.masks import Rle, encode

# Pixels of masks that are laid out at once; a photograph of a hundred objects would else take gigabytes.
MASK_PIXELS_PER_CHUNK = 2**25


class ImagePrediction(NamedTuple):
    """What was found in an image, most certain first.

    Args:
        image_id: COCO's number of the image.
        size: (H, W) of its file.
        boxes: (N, 4) float64 as x, y, width, height.
        scores: (N,) from 0 to 1.
        labels: (N,) from 1 on.
        masks: of the whole image, run-length encoded.
    """

    image_id: int
    size: tuple[int, int]
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: list[Rle]


def rescale_predictions(
    detections: dict[str, Tensor], shown: tuple[int, int], size: tuple[int, int], image_id: int, least: float = 0.0
) -> ImagePrediction:
    """A detector's output for the image that it was shown, in terms of the image in the file.

    Args:
        detections: as `MaskRCNN` gives it.
        shown: (H, W) of the image that it was shown.
        size: (H, W) of the image in the file.
        image_id: its number.
        least: the score from which on an object is kept.
    """
    kept = detections["scores"] >= least
    ratios = [to / side for to, side in zip(size, shown, strict=True)]
    scale = torch.tensor(ratios, dtype=torch.float64).flip(0).repeat(2)
    corners = detections["boxes"][kept].cpu().double() * scale
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    masks: list[Rle] = []
    count = max(1, MASK_PIXELS_PER_CHUNK // (size[0] * size[1]))
    small = detections["masks"][kept].float().cpu()
    for part, place in zip(small.split(count), corners.float().split(count), strict=True):
        if len(part):
            masks += encode(paste_masks_in_image(part, place, size)[:, 0] > 0.5)
    return ImagePrediction(
        image_id, size, boxes, detections["scores"][kept].double().cpu(), detections["labels"][kept].cpu(), masks
    )


def coco_results(found: list[ImagePrediction], category_ids: list[int]) -> dict[str, list[dict[str, Any]]]:
    """Lists in COCO's format of results: "boxes" and "masks".

    They are two, since COCO's tools take an object's size from its box where an entry has one, and so would judge
    masks of other sizes as small, medium and large than by their own area.

    Args:
        found: of all images.
        category_ids: COCO's ids of the classes.
    """
    results: dict[str, list[dict[str, Any]]] = {"boxes": [], "masks": []}
    for image in found:
        rows = zip(image.labels.tolist(), image.scores.tolist(), image.boxes.tolist(), image.masks, strict=True)
        for label, score, box, mask in rows:
            entry = {"image_id": image.image_id, "category_id": category_ids[label - 1], "score": score}
            counts = mask["counts"].decode()
            results["boxes"].append({**entry, "bbox": box})
            results["masks"].append({**entry, "segmentation": {"size": list(mask["size"]), "counts": counts}})
    return results
