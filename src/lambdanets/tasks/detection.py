"""Object detection and instance segmentation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torchvision.transforms.v2 import functional as F
from typing_extensions import override

from lambdanets.errors import UserError
from lambdanets.models import MaskRCNN
from lambdanets.tasks.average_precision import AveragePrecision
from lambdanets.tasks.object_predictions import write_object_predictions
from lambdanets.tasks.predictions import ImagePrediction, name_objects, rescale_predictions, write_coco_results
from lambdanets.tasks.task import ScoreTable, Task
from lambdanets.tasks.visualization import draw_objects

Batch = tuple[list[Tensor], list[dict[str, Any]]]


class Detection(Task):
    """Mask R-CNN's losses, and COCO's average precision and recall of boxes and masks.

    Scores are of whole splits, over all processes. Logs train/loss and its five parts, and box_ap, box_ap50, box_ap75,
    box_ap_small, _medium, _large, box_ar1, 10, 100, box_ar_small, _medium, _large, and the same of masks, below val/
    and test/: from 0 to 1, or −1 without any such object in the data. A test writes the detected objects as COCO
    results, boxes.json and masks.json.

    Args:
        model: `MaskRCNN`.
        num_classes: number of classes, without the background.
        pictures: images of each validation that are drawn into TensorBoard, the true objects above the detected ones.
        picture_score: the lowest score of an object that is drawn.
        **options: as `Task`.

    Raises:
        UserError: the model is not a detector.
    """

    MONITOR = "val/box_ap"
    SCORES = ("test/box_ap", "test/mask_ap", "val/box_ap", "val/mask_ap")
    SCORE_TITLES: ClassVar = {"box_ap": "box AP", "mask_ap": "mask AP"}
    SCORE_TABLE = ScoreTable(
        "Average precision by overlap and by size of objects",
        {
            "box AP": ("box_ap",),
            "box 50 / 75": ("box_ap50", "box_ap75"),
            "box s / m / l": ("box_ap_small", "box_ap_medium", "box_ap_large"),
            "mask AP": ("mask_ap",),
            "mask 50 / 75": ("mask_ap50", "mask_ap75"),
            "mask s / m / l": ("mask_ap_small", "mask_ap_medium", "mask_ap_large"),
        },
        ("AP: COCO's, in percent, over overlaps of 50 to 95 %; at 50 and 75 %; of small, medium and large objects.",),
    )
    DATA_TASK = "detection"
    PUBLISHED_ON = "COCO"
    PIPELINE_TAG = "object-detection"
    STATIC_SHAPES = False
    NO_GRAPH = "the work of a detector depends on the objects in the image"

    model: MaskRCNN

    def __init__(
        self, model: nn.Module, *, num_classes: int, pictures: int = 4, picture_score: float = 0.5, **options: Any
    ) -> None:
        if not isinstance(model, MaskRCNN):
            raise UserError(f"task=detection needs model=mask_rcnn, and {type(model).__name__} is not a detector.")
        super().__init__(model, **options)
        self.pictures = pictures
        self.picture_score = picture_score
        self.val_ap = AveragePrecision()
        self.test_ap = AveragePrecision()
        self.test_predictions: list[ImagePrediction] = []

    @override
    def setup(self, stage: str) -> None:
        """Check that the boxes of objects keep their precision.

        Raises:
            UserError: the trainer converts them to half precision.
        """
        precision = str(self.trainer.precision)
        if stage != "predict" and precision in ("16-true", "bf16-true"):
            mixed = precision.replace("true", "mixed")
            raise UserError(f"trainer.precision={precision} would round boxes to several pixels: set {mixed}.")

    @override
    @classmethod
    def interpret(cls, outputs: Any, classes: Sequence[str], *, top: int, **options: Any) -> Any:
        """Return the objects in one image, a list of `DetectedObject` by falling score."""
        inputs, size = options["inputs"], options["size"]
        prediction = rescale_predictions(outputs[0], (inputs.shape[1], inputs.shape[2]), size, image_id=1)
        return name_objects(prediction.above(options["threshold"]), classes)

    @override
    def write_predictions(
        self,
        files: Sequence[Path],
        predictions: Sequence[Any],
        folder: Path,
        *,
        labels: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> dict[str, float]:
        return write_object_predictions(
            files,
            predictions,
            folder,
            classes=labels["classes"],
            category_ids=labels["category_ids"],
            threshold=options["threshold"],
        )

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Detect the objects in each image by itself: in a batch, padding would make them depend on the neighbors."""
        return [self.model([image])[0] for image in self.pad_for_fsdp(images)][: len(images)]

    def pad_for_fsdp(self, images: list[Tensor]) -> list[Tensor]:
        """Append empty images until all processes have as many: with FSDP, each pass gathers weights from all."""
        if not isinstance(self.model, FSDPModule):
            return images
        count = torch.tensor(len(images), device=self.device)
        torch.distributed.all_reduce(count, torch.distributed.ReduceOp.MAX)
        side = self.model.divisor
        return images + [torch.zeros(3, side, side, device=self.device)] * (int(count) - len(images))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        losses = self.model(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        options: dict[str, Any] = {"sync_dist": True, "batch_size": len(images)}
        self.log("train/loss", loss, **options)
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, **options)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        predictions = self.evaluate(batch, self.val_ap)
        first = batch_idx * self.batch_size
        if self.trainer.is_global_zero and first < self.pictures:
            for index, (image, target, prediction) in enumerate(zip(*batch, predictions, strict=True), first):
                if index < self.pictures:
                    self.log_picture(f"val/image {index + 1}", image, target, prediction)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.compute_scores(self.val_ap, "val/"))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.test_predictions += self.evaluate(batch, self.test_ap)

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.compute_scores(self.test_ap, "test/"))
        predictions = self.gather(self.test_predictions)
        self.test_predictions = []
        if self.trainer.is_global_zero:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            write_coco_results(Path(self.trainer.default_root_dir), predictions, data.category_ids)

    def compute_scores(self, metric: AveragePrecision, prefix: str) -> dict[str, Tensor]:
        """Compute a metric's scores over all processes, and reset it."""
        scores = {f"{prefix}{name}": value.to(self.device) for name, value in metric.compute().items()}
        metric.reset()
        return scores

    def gather(self, predictions: list[ImagePrediction]) -> list[ImagePrediction]:
        """Gather the predictions of all processes, each image once."""
        parts: list[Any] = [predictions]
        if self.trainer.world_size > 1:
            parts = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, predictions)
        return list({prediction.image_id: prediction for part in parts for prediction in part}.values())

    def evaluate(self, batch: Batch, metric: AveragePrecision) -> list[ImagePrediction]:
        predictions = self.predict_step(batch)
        metric.update(predictions, batch[1])
        return predictions

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> list[ImagePrediction]:
        """Detect the objects in images (3, h, w), whose targets have the image_id and the size of the file."""
        images, targets = batch
        return [
            rescale_predictions(objects, (image.shape[1], image.shape[2]), target["size"], target["image_id"])
            for image, target, objects in zip(images, targets, self(images), strict=True)
        ]

    def log_picture(self, tag: str, image: Tensor, target: dict[str, Any], prediction: ImagePrediction) -> None:
        """Draw the true objects of an image above the detected ones in TensorBoard."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        loggers = [logger for logger in self.loggers if isinstance(logger, TensorBoardLogger)]
        if not loggers:
            return
        picture = F.resize(data.denormalize(image), list(prediction.size), antialias=True)
        labels = target["labels"].tolist()
        true_objects = draw_objects(picture, target["boxes"].cpu(), target["masks"], labels, data.classes)
        sure = prediction.above(self.picture_score)
        detected = draw_objects(
            picture, sure.boxes, sure.masks, sure.labels.tolist(), data.classes, sure.scores.tolist()
        )
        for logger in loggers:
            logger.experiment.add_image(tag, torch.cat([true_objects, detected], 1), self.global_step)
