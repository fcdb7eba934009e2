"""Image classification."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from lambdanets.errors import UserError
from lambdanets.models import MaskRCNN
from lambdanets.tasks.task import Task

# A confusion matrix of more classes would take more memory than a network, on each process.
MOST_CONFUSED_CLASSES = 2000


class Classification(Task):
    """Cross entropy with label smoothing; top-1 and top-5 accuracy over whole splits and all processes.

    Logs train/loss, train/top1, and loss, top1 and top5 below val/ and test/. With fewer than five classes, top5 counts
    all of them.

    Args:
        model: (B, C, H, W) → (B, num_classes).
        num_classes: number of classes.
        label_smoothing: fraction of the target spread over all classes, in training only.
        **options: as `Task`.

    Raises:
        UserError: the model is not a classifier, or there is only one class.
    """

    MONITOR = "val/top1"
    SCORES = ("test/top1", "test/top5", "val/top1")
    SCORE_TITLES: ClassVar = {"top1": "top-1", "top5": "top-5"}

    def __init__(
        self,
        model: nn.Module,
        *,
        num_classes: int,
        label_smoothing: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        if isinstance(model, MaskRCNN):
            raise UserError("model=mask_rcnn is a detector and gives no class of an image: use task=detection with it.")
        if num_classes < 2:
            raise UserError(f"The data have {num_classes} class, and a classifier needs two or more: add another one.")
        self.label_smoothing = label_smoothing
        top5 = min(5, num_classes)
        self.train_top1 = MulticlassAccuracy(num_classes, average="micro")
        metrics = MetricCollection(
            {
                "loss": MeanMetric(),
                "top1": MulticlassAccuracy(num_classes, average="micro"),
                "top5": MulticlassAccuracy(num_classes, average="micro", top_k=top5),
            },
            compute_groups=False,
        )
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        self.val_confusion = MulticlassConfusionMatrix(num_classes) if num_classes <= MOST_CONFUSED_CLASSES else None

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = self.loss(logits, labels)
        self.train_top1.update(logits, labels.argmax(-1) if labels.ndim > 1 else labels)
        self.log("train/loss", loss, sync_dist=True)
        self.log("train/top1", self.train_top1, on_step=False, on_epoch=True)
        return loss

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the training loss, a scalar.

        Args:
            logits: (B, num_classes).
            labels: (B,), or (B, num_classes) after mixup or cutmix.
        """
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluate(batch, self.val_metrics, *([] if self.val_confusion is None else [self.val_confusion]))
        self.log_dict(self.val_metrics, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        if self.val_confusion is not None:
            self.confusion = self.val_confusion.compute().cpu()
            self.val_confusion.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluate(batch, self.test_metrics)
        self.log_dict(self.test_metrics)

    def evaluate(self, batch: tuple[Tensor, Tensor], *scores: MetricCollection | Metric) -> None:
        images, labels = batch
        if not len(labels):  # every image of the batch was corrupt, or other processes have one more
            self.join_fsdp()
            return
        logits = self(images).float()
        metrics = [m for score in scores for m in (score.values() if isinstance(score, MetricCollection) else [score])]
        for metric in metrics:
            if isinstance(metric, MeanMetric):
                metric.update(F.cross_entropy(logits, labels), weight=len(labels))
            else:
                metric.update(logits, labels)

    def join_fsdp(self) -> None:
        """Take part in a pass of the other processes: with FSDP, each pass gathers weights from all."""
        if isinstance(self.model, FSDPModule):
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            self(torch.zeros(1, data.channels, *data.image_size, device=self.device))

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int = 0) -> Tensor:
        """Return the class probabilities: (B, C, H, W) → (B, num_classes)."""
        images, _ = batch
        return self(images).float().softmax(-1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the counts of the epoch's training accuracy, over all processes."""
        metric = self.train_top1
        metric.sync()
        checkpoint["train_top1"] = {name: torch.as_tensor(value).clone() for name, value in metric.metric_state.items()}
        if metric._is_synced:
            metric.unsync()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("train_top1", {})
        if state and self.global_rank == 0:  # one process restores the counts of all
            self.train_top1._update_count = 1
            for name, value in state.items():
                setattr(self.train_top1, name, value.to(self.device))
