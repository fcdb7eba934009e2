"""What all tasks share: an optimiser with a schedule, and sharding."""

from collections.abc import Callable
from typing import ClassVar

import pytorch_lightning as pl
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import Optimizer

from lambdanets.models.resnet import Bottleneck
from lambdanets.tasks.optimizers import parameter_groups
from lambdanets.tasks.schedule import warmup_cosine


class Task(pl.LightningModule):
    """A model with what trains it.

    A task of its own sets NAME, as the data modules know it, MONITOR, the validation score that chooses checkpoints
    (the higher the better), and SCORES, those that TensorBoard sorts runs by.

    Args:
        model: what is trained.
        optimizer: from parameter groups to an optimiser; its learning rate is the peak.
        batch_size: images a batch and process.
        lr_batch: images in the batch that the learning rate is stated for; the rate of a run grows linearly with its
            global batch (Goyal et al. 2017). None takes the rate as it stands.
        warmup_epochs: epochs of linear warm-up, fractions allowed.
        decay_norm_and_bias: weight decay on norms and biases too.
    """

    NAME: ClassVar[str]
    MONITOR: ClassVar[str]
    SCORES: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Callable[..., Optimizer],
        batch_size: int,
        lr_batch: int | None = None,
        warmup_epochs: float = 0.0,
        decay_norm_and_bias: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.lr_batch = lr_batch
        self.warmup_epochs = warmup_epochs
        self.decay_norm_and_bias = decay_norm_and_bias

    def configure_model(self) -> None:
        """Under trainer=fsdp, shards the model's blocks, then the rest of it, over the processes (FSDP2)."""
        if self.device_mesh is not None and not isinstance(self.model, FSDPModule):
            mesh = self.device_mesh["data_parallel"]
            for block in self.model.modules():
                if isinstance(block, Bottleneck):
                    fully_shard(block, mesh=mesh)
            fully_shard(self.model, mesh=mesh)

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
