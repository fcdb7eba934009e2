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

# COCO's twelve numbers: ours by torchmetrics' name.
NUMBERS = {
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
KINDS = {"bbox": "box", "segm": "mask"}


class AveragePrecision(MeanAveragePrecision):
    """torchmetrics' MeanAveragePrecision by faster-coco-eval: pycocotools' numbers, on any number of processes.

    torchmetrics rounds thresholds to 32 bits, which moves a recall of exactly 0.1 to the other side of 0.1, orders
    images by their arrival, which decides between equal scores, and gathers image by image, which waits for ever when
    one process has an image more. Here thresholds are exact, images are in the order of their ids, each counts once,
    and masks stay encoded.
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
    def update(self, found: list[ImagePrediction], truths: list[dict[str, Any]]) -> None:  # type: ignore[override]
        """Adds images.

        Args:
            found: the objects that were found in them.
            truths: what is there, as `Coco` says it in evaluation.
        """
        for image, truth in zip(found, truths, strict=True):
            self.image_id.append(truth["image_id"])
            self.detection_box.append(image.boxes)
            self.detection_scores.append(image.scores)
            self.detection_labels.append(image.labels)
            self.detection_mask.append(encodings(image.masks))  # type: ignore[arg-type]
            self.groundtruth_box.append(truth["boxes"].cpu())
            self.groundtruth_labels.append(truth["labels"].cpu())
            self.groundtruth_crowds.append(truth["iscrowd"].cpu())
            self.groundtruth_area.append(truth["area"].cpu())
            self.groundtruth_mask.append(encodings(truth["masks"]))  # type: ignore[arg-type]

    @override
    def compute(self) -> dict[str, torch.Tensor]:
        """Of boxes and masks: box_ap, box_ap50, …, mask_ar_large; from 0 to 1, or −1 where there is nothing to find."""
        numbers = of_all_images(super().compute, self)
        return {f"{KINDS[kind]}_{NUMBERS[name]}": numbers[f"{kind}_{name}"] for kind in KINDS for name in NUMBERS}

    @override
    def _sync_dist(self, dist_sync_fn: Callable[..., Any] | None = None, process_group: Any | None = None) -> None:
        gathered: list[Any] = [None] * dist.get_world_size(process_group)
        dist.all_gather_object(gathered, {name: getattr(self, name) for name in self._reductions}, process_group)
        for name in self._reductions:
            setattr(self, name, [value for states in gathered for value in states[name]])

    @override
    def _apply(self, fn: Callable[..., Any]) -> torch.nn.Module:  # type: ignore[override]
        return self  # the states are on the CPU and of 64 bits, wherever the model goes


def of_all_images(compute: Callable[[], dict[str, Any]], metric: AveragePrecision) -> dict[str, Any]:
    """What is computed when the metric's images are in order, each once."""
    order = sorted({number: place for place, number in enumerate(metric.image_id)}.items())
    states = {name: getattr(metric, name) for name in metric._reductions}
    try:
        for name, values in states.items():
            setattr(metric, name, [values[place] for _, place in order])
        return compute()
    finally:
        for name, values in states.items():
            setattr(metric, name, values)


def encodings(masks: list[Rle]) -> tuple[tuple[tuple[int, int], bytes], ...]:
    """Masks as torchmetrics keeps them."""
    return tuple((tuple(mask["size"]), mask["counts"]) for mask in masks)
