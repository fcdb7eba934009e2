"""Visualizations that run only while their total time stays within a budget."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.tensorboard import SummaryWriter

from lambdanets.callbacks.moving_average import MovingAverage
from lambdanets.models import ResNet


class BudgetedVisualization(pl.Callback, ABC):
    """Base class of callbacks that write to TensorBoard after a validation when time allows, and after training.

    Time allows it when the seconds that this callback has spent, plus those of its last visualization, are below a
    fraction of the training's time so far. With a fraction of 0.5 %, a visualization that costs 50 ms is written every
    ten seconds, and a run of a few seconds has one, at its end. Only rank 0 draws, from images of the last validation.
    They come from all of its batches, since a split in class folders begins with many images of one class. Training
    is not affected: modes, gradients and random states stay as they were.

    Subclasses define `draw`.

    Args:
        time_budget: fraction of the training's time to spend at most.
        count: validation images to draw from.
    """

    # Seconds that the first visualization is expected to take.
    FIRST_COST_GUESS = 0.1

    def __init__(self, time_budget: float = 0.005, count: int = 1) -> None:
        self.time_budget = time_budget
        self.count = count
        self.start_time = 0.0
        self.spent_seconds = 0.0
        self.last_cost = self.FIRST_COST_GUESS
        self.last_step: int | None = None
        self.validated = False
        self.images: list[Tensor] = []
        self.labels: list[Tensor] = []

    @abstractmethod
    def draw(self, writer: SummaryWriter, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Write the visualizations of this step. The task is in evaluation mode, and gradients are disabled."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start_time = time.perf_counter()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self.validated, self.images, self.labels = True, [], []
        images, labels = batch[0], batch[1] if len(batch) > 1 else None
        if not isinstance(images, Tensor) or images.ndim != 4:
            return
        batches = int(trainer.num_val_batches[dataloader_idx])
        wanted = sum(number * batches // self.count == batch_idx for number in range(self.count))
        chosen = min(wanted, len(images))
        for index in range(chosen):
            position = index * len(images) // chosen
            self.images.append(images[position].clone())
            if isinstance(labels, Tensor):
                self.labels.append(labels[position].clone())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        budget_seconds = self.time_budget * (time.perf_counter() - self.start_time)
        if not trainer.sanity_checking and self.spent_seconds + self.last_cost <= budget_seconds:
            self.render(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.last_step != trainer.global_step:
            self.render(trainer, pl_module)
        self.images, self.labels = [], []

    def render(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Draw once and record the cost; do nothing on other ranks, without TensorBoard, or under FSDP."""
        writer = find_writer(trainer)
        # Under FSDP a forward pass gathers weights from all processes, and only rank 0 draws.
        if writer is None or not self.validated or any(isinstance(module, FSDPModule) for module in task.modules()):
            return
        start = time.perf_counter()
        with ExitStack() as stack:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, MovingAverage):  # the weights that are validated
                    stack.enter_context(callback.averages(task))
            for context in (evaluation_mode(task), torch.no_grad(), trainer.precision_plugin.forward_context()):
                stack.enter_context(context)
            self.draw(writer, trainer, task)
        self.last_cost = time.perf_counter() - start
        self.spent_seconds += self.last_cost
        self.last_step = trainer.global_step

    def validation_images(self) -> Tensor | None:
        """Return up to `count` validation images, (B, C, H, W), or None if their sizes differ."""
        sizes = {image.shape for image in self.images}
        return torch.stack(self.images) if len(sizes) == 1 else None


def find_writer(trainer: pl.Trainer) -> SummaryWriter | None:
    """Return TensorBoard's writer, or None on other ranks than 0 and without TensorBoard."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return loggers[0].experiment if loggers and trainer.is_global_zero else None


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Set a module to evaluation mode, and restore the mode of each submodule on exit."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training


def find_resnet(task: pl.LightningModule) -> ResNet | None:
    """Return the ResNet in a task's model, or None."""
    return next((module for module in task.modules() if isinstance(module, ResNet)), None)
