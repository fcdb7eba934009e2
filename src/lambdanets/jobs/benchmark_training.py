"""A training, timed as job=fit runs it and in a bare PyTorch loop."""

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn import functional as F

from lambdanets.callbacks import GradientNorms
from lambdanets.callbacks.budgeted_visualization import BudgetedVisualization
from lambdanets.config import experiments
from lambdanets.config.build import build_data, build_task
from lambdanets.data import ImageData
from lambdanets.errors import UserError
from lambdanets.jobs.fit import build_training
from lambdanets.models.memory_format import lay_out_convolutions
from lambdanets.runs import provenance
from lambdanets.tasks.optimizers import create_optimizer, parameter_groups
from lambdanets.tasks.schedule import warmup_cosine

# Keys of a training that the bare loop ignores.
UNCOMPARED: dict[str, float | None] = {  # with the values that change nothing; of batches, 1.0 is all and 1 is one
    "trainer.limit_train_batches": 1.0,
    "trainer.limit_val_batches": 1.0,
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": None,
    "recipe.ema_decay": None,
}


class TrainingTimer:
    """Timer of the training of one config.

    Args:
        overrides: the config's overrides of the defaults.
    """

    EPOCHS = 2  # the first one warms up caches and allocators

    def __init__(self, overrides: list[str]) -> None:
        self.overrides = [*overrides, "trainer.enable_progress_bar=false"]

    @cached_property
    def config(self) -> DictConfig:
        return experiments.compose_config([*self.overrides, f"trainer.max_epochs={self.EPOCHS}"])

    @cached_property
    def data(self) -> ImageData:
        data = build_data(self.config)
        data.prepare_data()
        data.setup("fit")
        return data

    @property
    def steps(self) -> int:
        return len(self.data.train_dataloader())

    def epoch_seconds(self) -> float:
        """Return the seconds of the last epoch of a run, with its validation."""
        clock = EpochClock()
        train(self.config, lambda trainer: trainer.callbacks.append(clock))
        return clock.times[-1] - clock.times[-2]

    def bare_loop_epoch_seconds(self) -> float:
        """Return the seconds of one epoch, with its validation, in a bare PyTorch loop."""
        accelerated = torch.cuda.is_available() and self.config.trainer.accelerator != "cpu"
        task = build_task(self.config, self.data, self.data.classes)
        device = torch.device("cuda" if accelerated else "cpu")
        precision = self.config.trainer.precision
        if precision not in ("32-true", "bf16-mixed"):
            raise UserError(f"trainer.precision={precision} can't be compared: set 32-true or bf16-mixed.")
        for key, neutral in UNCOMPARED.items():
            value = OmegaConf.select(self.config, key)
            if value is not None and (value, type(value)) != (neutral, type(neutral)):
                raise UserError(f"{key}={value} can't be compared, since the bare loop hasn't got it: leave it out.")
        autocast = precision == "bf16-mixed"
        return train_bare_epoch(task, self.data, device, epochs=self.EPOCHS, autocast=autocast).seconds

    def training_seconds(self, callbacks: str) -> tuple[float, float]:
        """Time a whole training, with its validations and checkpoints.

        Args:
            callbacks: choice of the config group `callbacks`.

        Returns:
            The seconds of the training, and the seconds of them inside of visualizations and `GradientNorms`.
        """
        config = experiments.compose_config([*self.overrides, f"callbacks={callbacks}"])
        timer = HookTimer()

        def watch(trainer: Any) -> None:
            timer.watch([c for c in trainer.callbacks if isinstance(c, BudgetedVisualization | GradientNorms)])

        return train(config, watch), timer.seconds


def train(config: DictConfig, prepare_trainer: Callable[[Any], None]) -> float:
    """Train in a temporary folder.

    Args:
        config: resolved.
        prepare_trainer: called with the trainer before training starts.

    Returns:
        The seconds of the training, without the time to prepare it.
    """
    with tempfile.TemporaryDirectory() as folder:
        provenance.record_start(Path(folder), config)
        training = build_training(config, Path(folder))
        prepare_trainer(training.trainer)
        start = time.perf_counter()
        training.trainer.fit(training.task, datamodule=training.data)
        return time.perf_counter() - start


class BareEpoch(NamedTuple):
    """Results of an epoch in a bare PyTorch loop.

    Args:
        seconds: of training and validation.
        losses: (steps,), the training loss of each step.
        val_top1: accuracy on the validation split, from 0 to 1.
    """

    seconds: float
    losses: Tensor
    val_top1: float


def train_bare_epoch(
    task: Any, data: ImageData, device: torch.device, *, epochs: int, autocast: bool = False
) -> BareEpoch:
    """Train a classifier for its first epoch without Lightning, and validate it.

    The loop does the work of the task: the same batches, augmentation, loss, optimizer and schedule. It logs and saves
    nothing.

    Args:
        task: a `Classification`, whose model is trained in place.
        data: set up, with its splits in memory.
        device: where the model is trained.
        epochs: length of the learning-rate schedule.
        autocast: compute in bfloat16 by autocast.
    """
    model = task.model.to(device).train()
    if device.type == "cuda":
        lay_out_convolutions(model)
    optimizer = create_optimizer(task.optimizer, parameter_groups(model, decay_norm_and_bias=task.decay_norm_and_bias))
    if task.lr_batch is not None:
        for group in optimizer.param_groups:
            group["lr"] *= task.batch_size / task.lr_batch
    loader = data.train_dataloader()
    schedule = warmup_cosine(
        optimizer,
        warmup_steps=round(min(task.warmup_epochs, epochs / 2) * len(loader)),
        total_steps=epochs * len(loader),
        final_steps=round(min(task.final_epochs, epochs / 2) * len(loader)),
    )
    losses = []
    start = time.perf_counter()
    for images, labels in loader:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        images, labels = data.augment.augment_normalized(
            data.normalize(data.augment.augment_pixels(images)), labels, num_classes=len(data.classes)
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(images), labels, label_smoothing=task.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    model.eval()
    correct = torch.zeros((), dtype=torch.long, device=device)
    count = 0
    with torch.no_grad():
        for images, labels in data.val_dataloader():
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                logits = model(data.normalize(images.to(device, non_blocking=True)))
            correct += (logits.argmax(-1) == labels.to(device)).sum()
            count += len(labels)
    val_top1 = correct.item() / count  # waits for the device
    return BareEpoch(time.perf_counter() - start, torch.stack(losses).cpu(), val_top1)


class EpochClock(pl.Callback):
    """Times at which the epochs begin and the last one ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.record(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.record(pl_module)

    def record(self, pl_module: pl.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self.times.append(time.perf_counter())


class HookTimer:
    """Sum of the seconds that callbacks take in all their hooks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, callbacks: Sequence[pl.Callback]) -> None:
        """Wrap the hooks that these callbacks define."""
        for callback in callbacks:
            for name in dir(type(callback)):
                if name.startswith("on_") and getattr(type(callback), name) is not getattr(pl.Callback, name, None):
                    setattr(callback, name, self.time_hook(getattr(callback, name)))

    def time_hook(self, hook: Callable[..., None]) -> Callable[..., None]:
        def timed_hook(*args: Any, **kwargs: Any) -> None:
            start = time.perf_counter()
            hook(*args, **kwargs)
            self.seconds += time.perf_counter() - start

        return timed_hook
