"""Object detection and instance segmentation."""

import json
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torchvision.transforms.v2 import functional as F

from lambdanets.atomic import atomic_write
from lambdanets.errors import UserError
from lambdanets.models import MaskRCNN
from lambdanets.tasks.average_precision import AveragePrecision
from lambdanets.tasks.predictions import ImagePrediction, coco_results, rescale_predictions
from lambdanets.tasks.task import Task
from lambdanets.tasks.visualization import draw_objects

Batch = tuple[list[Tensor], list[dict[str, Any]]]


class Detection(Task):
    """Mask R-CNN's losses; COCO's average precision and recall of boxes and masks over whole splits, all processes
    together.

    Logs train/loss and its five parts, and box_ap, box_ap50, box_ap75, box_ap_small, _medium, _large, box_ar1, 10, 100,
    box_ar_small, _medium, _large, and the same of masks, below val/ and test/: from 0 to 1, −1 where nothing is there
    to be found. A test writes what was found as COCO results, boxes.json and masks.json.

    Args:
        model: `MaskRCNN`.
        num_classes: number of classes, without the background.
        pictures: images of each validation that are put into TensorBoard, what is there above what was found.
        picture_score: the score from which on an object is drawn.
        **options: as `Task`.

    Raises:
        UserError: the model is not a detector.
    """

    NAME = "detection"
    MONITOR = "val/box_ap"
    SCORES = ("test/box_ap", "test/mask_ap", "val/box_ap", "val/mask_ap")

    model: MaskRCNN

    def __init__(
        self, model: nn.Module, *, num_classes: int, pictures: int = 4, picture_score: float = 0.5, **options: Any
    ) -> None:
        if not isinstance(model, MaskRCNN):
            raise UserError(f"task=detection needs model=mask_rcnn; {type(model).__name__} finds no objects.")
        super().__init__(model, **options)
        self.pictures = pictures
        self.picture_score = picture_score
        self.val_ap = AveragePrecision()
        self.test_ap = AveragePrecision()
        self.found: list[ImagePrediction] = []

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Each image by itself, so that what is found doesn't depend on its neighbours, through padding."""
        return [self.model([image])[0] for image in self.as_many(images)][: len(images)]

    def as_many(self, images: list[Tensor]) -> list[Tensor]:
        """Under FSDP, where each pass gathers weights from all processes, empty images too until all have as many."""
        if not isinstance(self.model, FSDPModule):
            return images
        most = torch.tensor(len(images), device=self.device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        side = self.model.divisor
        return images + [torch.zeros(3, side, side, device=self.device)] * (int(most) - len(images))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        losses = self.model(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        options: dict[str, Any] = {"sync_dist": True, "batch_size": len(images)}
        self.log("train/loss", loss, prog_bar=True, **options)
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, **options)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        found = self.evaluate(batch, self.val_ap)
        before = batch_idx * self.batch_size
        if self.trainer.is_global_zero and before < self.pictures:
            for place, (image, truth, objects) in enumerate(zip(*batch, found, strict=True), before):
                if place < self.pictures:
                    self.show(f"val/image {place + 1}", image, truth, objects)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.scores(self.val_ap, "val/"))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.found += self.evaluate(batch, self.test_ap)

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.scores(self.test_ap, "test/"))
        found = self.of_all_processes(self.found)
        self.found = []
        if self.trainer.is_global_zero:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            write_results(Path(self.trainer.default_root_dir), found, data.category_ids)

    def scores(self, metric: AveragePrecision, prefix: str) -> dict[str, Tensor]:
        """The metric's numbers, the same in all processes; and begins it anew."""
        numbers = {f"{prefix}{name}": value.to(self.device) for name, value in metric.compute().items()}
        metric.reset()
        return numbers

    def of_all_processes(self, found: list[ImagePrediction]) -> list[ImagePrediction]:
        """In the order of images, each once."""
        gathered: list[Any] = [found]
        if self.trainer.world_size > 1:
            gathered = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, found)
        return list({image.image_id: image for part in gathered for image in part}.values())

    def evaluate(self, batch: Batch, metric: AveragePrecision) -> list[ImagePrediction]:
        found = self.predict_step(batch)
        metric.update(found, batch[1])
        return found

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> list[ImagePrediction]:
        """What is in each image: images (3, h, w), targets with image_id and size."""
        images, targets = batch
        return [
            rescale_predictions(objects, (image.shape[1], image.shape[2]), target["size"], target["image_id"])
            for image, target, objects in zip(images, targets, self(images), strict=True)
        ]

    def show(self, tag: str, image: Tensor, truth: dict[str, Any], objects: ImagePrediction) -> None:
        """Puts an image into TensorBoard: what is there above what was found."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        loggers = [logger for logger in self.loggers if isinstance(logger, TensorBoardLogger)]
        if not loggers:
            return
        picture = F.resize(data.denormalize(image), list(objects.size), antialias=True)
        there = draw_objects(picture, truth["boxes"].cpu(), truth["masks"], truth["labels"].tolist(), data.classes)
        sure = int((objects.scores >= self.picture_score).sum())
        seen = draw_objects(
            picture,
            objects.boxes[:sure],
            objects.masks[:sure],
            objects.labels[:sure].tolist(),
            data.classes,
            objects.scores[:sure].tolist(),
        )
        for logger in loggers:
            logger.experiment.add_image(tag, torch.cat([there, seen], 1), self.global_step)


def write_results(folder: Path, found: list[ImagePrediction], category_ids: list[int]) -> None:
    """Writes COCO results: boxes.json and masks.json."""
    for name, entries in coco_results(found, category_ids).items():
        atomic_write(folder / f"{name}.json", json.dumps(entries))
