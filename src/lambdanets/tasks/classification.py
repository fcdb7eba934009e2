"""Image classification."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lambdanets.models.bottleneck import Bottleneck
from lambdanets.tasks.optimizers import parameter_groups
from lambdanets.tasks.schedule import warmup_cosine


class Classification(pl.LightningModule):
    """Cross entropy with label smoothing; top-1 and top-5 accuracy over whole splits, all processes together.

    Logs train/loss, train/top1, and loss, top1 and top5 below val/ and test/. With fewer than five classes, top5 counts
    all of them.

    Args:
        model: (B, C, H, W) → (B, num_classes).
        num_classes: number of classes.
        optimizer: from parameter groups to an optimiser; its learning rate is the peak.
        batch_size: images a batch and process.
        lr_batch: images in the batch that the learning rate is stated for; the rate of a run grows linearly with its
            global batch (Goyal et al. 2017). None takes the rate as it stands.
        warmup_epochs: epochs of linear warm-up, fractions allowed.
        label_smoothing: share of the target spread over all classes, in training only.
        decay_norm_and_bias: weight decay on norms and biases too.
    """

    MONITOR = "val/top1"

    def __init__(
        self,
        model: nn.Module,
        *,
        num_classes: int,
        optimizer: Callable[..., Optimizer],
        batch_size: int,
        lr_batch: int | None = None,
        warmup_epochs: float = 0.0,
        label_smoothing: float = 0.0,
        decay_norm_and_bias: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.lr_batch = lr_batch
        self.warmup_epochs = warmup_epochs
        self.label_smoothing = label_smoothing
        self.decay_norm_and_bias = decay_norm_and_bias
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

    def configure_model(self) -> None:
        """Under trainer=fsdp, shards the model's blocks, then the rest of it, over the processes (FSDP2)."""
        if self.device_mesh is not None and not isinstance(self.model, FSDPModule):
            mesh = self.device_mesh["data_parallel"]
            for block in self.model.modules():
                if isinstance(block, Bottleneck):
                    fully_shard(block, mesh=mesh)
            fully_shard(self.model, mesh=mesh)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.train_top1(logits, labels.argmax(-1) if labels.ndim > 1 else labels)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        self.log("train/top1", self.train_top1, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluate(batch, self.val_metrics)
        self.log_dict(self.val_metrics, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluate(batch, self.test_metrics)
        self.log_dict(self.test_metrics)

    def evaluate(self, batch: tuple[Tensor, Tensor], metrics: MetricCollection) -> None:
        images, labels = batch
        if not len(labels):  # all of the batch's images were corrupt
            return
        logits = self(images).float()
        for name, metric in metrics.items(keep_base=True):
            if name == "loss":
                metric.update(F.cross_entropy(logits, labels), weight=len(labels))
            else:
                metric.update(logits, labels)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int = 0) -> Tensor:
        """Class probabilities: (B, C, H, W) → (B, num_classes)."""
        images, _ = batch
        return self(images).float().softmax(-1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the epoch's training accuracy has counted so far, in all processes."""
        metric = self.train_top1
        metric.sync()
        checkpoint["train_top1"] = {name: torch.as_tensor(value).clone() for name, value in metric.metric_state.items()}
        if metric._is_synced:
            metric.unsync()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("train_top1", {})
        if state and self.global_rank == 0:  # the counts of all processes come back in one
            self.train_top1._update_count = 1
            for name, value in state.items():
                setattr(self.train_top1, name, value.to(self.device))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer(parameter_groups(self.model, decay_norm_and_bias=self.decay_norm_and_bias))
        if self.lr_batch is not None:
            global_batch = self.batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches
            for group in optimizer.param_groups:
                group["lr"] *= global_batch / self.lr_batch
        total_steps = int(self.trainer.estimated_stepping_batches)
        epochs = self.trainer.max_epochs or 1
        schedule = warmup_cosine(
            optimizer,
            warmup_steps=round(min(self.warmup_epochs, epochs / 2) * total_steps / epochs),
            total_steps=total_steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
