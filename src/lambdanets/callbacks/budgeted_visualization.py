"""Looks into a network that are taken as often as they cost little."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.tensorboard import SummaryWriter

from lambdanets.models import ResNet


class BudgetedVisualization(pl.Callback, ABC):
    """Writes into TensorBoard at the end of training, and at the end of a validation whenever time allows.

    Time allows where what this callback has taken so far, and will take now, is less than a share of the time since
    training began: a picture that costs 50 ms is drawn every ten seconds with a share of 0.5 %, and once, at its end,
    in a run of some seconds; a network whose pictures take longer has fewer. Only the first process draws, from the
    first batch of the last validation; nothing that it does has a part in the training.

    A look of its own defines `draw`.

    Args:
        time_budget: of the training's time that may be spent.
    """

    # Seconds that the first look is expected to take.
    GUESS = 0.1

    def __init__(self, time_budget: float = 0.005) -> None:
        self.time_budget = time_budget
        self.start = 0.0
        self.spent = 0.0
        self.last = self.GUESS
        self.drawn_at: int | None = None
        self.batch: Any = None

    @abstractmethod
    def draw(self, writer: SummaryWriter, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Writes what there is to see at this step. The task is in evaluation mode, without gradients."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self.batch = batch

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and self.spent + self.last <= self.time_budget * (
            time.perf_counter() - self.start
        ):
            self.look(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.drawn_at != trainer.global_step:
            self.look(trainer, pl_module)
        self.batch = None

    def look(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        writer = writer_of(trainer)
        if writer is None or self.batch is None or any(isinstance(module, FSDPModule) for module in task.modules()):
            return
        begun = time.perf_counter()
        with evaluating(task), torch.no_grad(), trainer.precision_plugin.forward_context():
            self.draw(writer, trainer, task)
        self.last = time.perf_counter() - begun
        self.spent += self.last
        self.drawn_at = trainer.global_step

    def images(self, count: int) -> Tensor | None:
        """Some images of the validation, (B, C, H, W), or None where they are not of one size."""
        images = self.batch[0]
        return images[:count] if isinstance(images, Tensor) and images.ndim == 4 and len(images) else None


def writer_of(trainer: pl.Trainer) -> SummaryWriter | None:
    """TensorBoard's writer, in the first process."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return loggers[0].experiment if loggers and trainer.is_global_zero else None


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In evaluation mode for a while; each part is then as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def skeleton(task: pl.LightningModule) -> ResNet | None:
    """The ResNet in a task's model, or None."""
    return next((module for module in task.modules() if isinstance(module, ResNet)), None)
