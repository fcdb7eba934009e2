"""COCO's average precision of boxes and masks, over all processes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torchmetrics.detection import MeanAveragePrecision
from typing_extensions import override

from lambdanets.data.masks import Rle, import_mask_api
from lambdanets.tasks.predictions import ImagePrediction

# Our names of COCO's twelve scores, by torchmetrics' names.
SCORE_NAMES = {
    "map": "ap",
    "map_50": "ap50",
    "map_75": "ap75",
    "map_small": "ap_small",
    "map_medium": "ap_medium",
    "map_large": "ap_large",
    "mar_1": "ar1",
    "mar_10": "ar10",
    "mar_100": "ar100",
    "mar_small": "ar_small",
    "mar_medium": "ar_medium",
    "mar_large": "ar_large",
}
SMALLEST_AREA = 1e-9  # pixels
IOU_TYPES = {"bbox": "box", "segm": "mask"}


class AveragePrecision(MeanAveragePrecision):
    """Metric with the scores of pycocotools on any number of processes, by torchmetrics and faster-coco-eval.

    It differs from torchmetrics' MeanAveragePrecision in four points:

    - Thresholds are exact. Rounded to 32 bits, a recall of exactly 0.1 would be on the wrong side of 0.1.
    - Images are sorted by id, and each counts once. The order of arrival would decide between equal scores.
    - All images are gathered at once, with encoded masks. Image by image, processes with different numbers of images
      would wait for each other forever.
    - An object whose annotated area is 0 is a small one. torchmetrics would take the mask's area.
    """

    image_id: list[int]

    def __init__(self) -> None:
        import_mask_api()
        super().__init__(
            iou_type=("bbox", "segm"),
            iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
            rec_thresholds=np.linspace(0.0, 1.0, 101).tolist(),
            backend="faster_coco_eval",
        )
        self.add_state("image_id", default=[], dist_reduce_fx=None)

    @override
    def update(self, predictions: list[ImagePrediction], targets: list[dict[str, Any]]) -> None:  # type: ignore[override]
        """Add images.

        Args:
            predictions: the detected objects of each image.
            targets: the annotated objects of each image, as `Coco` returns them in evaluation.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            self.image_id.append(target["image_id"])
            self.detection_box.append(prediction.boxes)
            self.detection_scores.append(prediction.scores)
            self.detection_labels.append(prediction.labels)
            self.detection_mask.append(to_torchmetrics_masks(prediction.masks))  # type: ignore[arg-type]
            self.groundtruth_box.append(target["boxes"].cpu())
            self.groundtruth_labels.append(target["labels"].cpu())
            self.groundtruth_crowds.append(target["iscrowd"].cpu())
            self.groundtruth_area.append(target["area"].cpu().clamp(min=SMALLEST_AREA))
            self.groundtruth_mask.append(to_torchmetrics_masks(target["masks"]))  # type: ignore[arg-type]

    @override
    def compute(self) -> dict[str, torch.Tensor]:
        """Return box_ap, box_ap50, …, mask_ar_large: from 0 to 1, or −1 without objects to detect."""
        scores = compute_sorted(super().compute, self)
        return {
            f"{prefix}_{score}": scores[f"{iou_type}_{name}"]
            for iou_type, prefix in IOU_TYPES.items()
            for name, score in SCORE_NAMES.items()
        }

    @override
    def _sync_dist(self, dist_sync_fn: Callable[..., Any] | None = None, process_group: Any | None = None) -> None:
        gathered: list[Any] = [None] * dist.get_world_size(process_group)
        dist.all_gather_object(gathered, {name: getattr(self, name) for name in self._reductions}, process_group)
        for name in self._reductions:
            setattr(self, name, [value for states in gathered for value in states[name]])

    @override
    def _apply(self, fn: Callable[..., Any]) -> torch.nn.Module:  # type: ignore[override]
        return self  # the states stay on the CPU in 64 bits when the model is moved or cast


def compute_sorted(compute: Callable[[], dict[str, Any]], metric: AveragePrecision) -> dict[str, Any]:
    """Call `compute` while the metric's images are sorted by id, each one once."""
    order = sorted({image_id: index for index, image_id in enumerate(metric.image_id)}.items())
    states = {name: getattr(metric, name) for name in metric._reductions}
    try:
        for name, values in states.items():
            setattr(metric, name, [values[index] for _, index in order])
        return compute()
    finally:
        for name, values in states.items():
            setattr(metric, name, values)


def to_torchmetrics_masks(masks: list[Rle]) -> tuple[tuple[tuple[int, int], bytes], ...]:
    """Convert run-length encodings to the form in which torchmetrics stores them."""
    return tuple((tuple(mask["size"]), mask["counts"]) for mask in masks)
