"""A training in two ways: as job=fit runs it, and in a bare PyTorch loop."""

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch.nn import functional as F

from lambdanets.callbacks import GradientNorms
from lambdanets.callbacks.timed_visualization import Occasional
from lambdanets.config import experiments
from lambdanets.config.build import build_data, build_task
from lambdanets.data import ImageData
from lambdanets.jobs.fit import prepare
from lambdanets.runs import provenance
from lambdanets.tasks.optimizers import parameter_groups
from lambdanets.tasks.schedule import warmup_cosine


class Loop:
    """Epochs of one config.

    Args:
        overrides: the config's, beyond the defaults.
    """

    def __init__(self, overrides: list[str]) -> None:
        self.overrides = overrides

    @cached_property
    def config(self) -> DictConfig:
        return experiments.variant([*self.overrides, "trainer.max_epochs=2", "trainer.enable_progress_bar=false"])

    @cached_property
    def data(self) -> ImageData:
        data = build_data(self.config)
        data.prepare_data()
        data.setup("fit")
        return data

    @property
    def steps(self) -> int:
        return len(self.data.train_dataloader())

    def ours(self) -> float:
        """Seconds of the second epoch of a run."""
        with tempfile.TemporaryDirectory() as folder:
            provenance.record(Path(folder), self.config)
            training = prepare(self.config, Path(folder))
            clock = Clock()
            training.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
            training.trainer.fit(training.task, datamodule=training.data)
        return clock.times[-1] - clock.times[-2]

    def whole(self, callbacks: str) -> tuple[float, float]:
        """Seconds of a training with these callbacks, from its start to its end, and those in the looks among them."""
        config = experiments.variant([*self.overrides, f"callbacks={callbacks}", "trainer.enable_progress_bar=false"])
        with tempfile.TemporaryDirectory() as folder:
            provenance.record(Path(folder), config)
            training = prepare(config, Path(folder))
            looks = [found for found in training.trainer.callbacks if isinstance(found, Occasional | GradientNorms)]  # type: ignore[attr-defined]
            watch = Stopwatch(looks)
            start = time.perf_counter()
            training.trainer.fit(training.task, datamodule=training.data)
            return time.perf_counter() - start, watch.seconds

    def bare(self) -> float:
        """Seconds of one epoch."""
        data, config = self.data, self.config
        task: Any = build_task(config, data, data.classes)
        device = torch.device("cuda" if torch.cuda.is_available() and config.trainer.accelerator != "cpu" else "cpu")
        model = task.model.to(device).train()
        optimizer = task.optimizer(parameter_groups(model, decay_norm_and_bias=task.decay_norm_and_bias))
        loader, smoothing = data.train_dataloader(), task.label_smoothing
        schedule = warmup_cosine(optimizer, warmup_steps=1, total_steps=2 * len(loader))
        start = time.perf_counter()
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            images, labels = data.augment.normalised(
                data.normalise(data.augment.batch(images)), labels, classes=len(data.classes)
            )
            loss = F.cross_entropy(model(images), labels, label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        right = torch.zeros((), dtype=torch.long, device=device)
        with torch.no_grad():
            for images, labels in data.val_dataloader():
                logits = model(data.normalise(images.to(device, non_blocking=True)))
                right += (logits.argmax(-1) == labels.to(device)).sum()
        right.item()
        return time.perf_counter() - start


class Clock(pl.Callback):
    """The times at which epochs begin, and the last one ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.now(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.now(pl_module)

    def now(self, pl_module: pl.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self.times.append(time.perf_counter())


class Stopwatch:
    """The seconds that some callbacks take, in all of their hooks together."""

    def __init__(self, callbacks: Sequence[pl.Callback]) -> None:
        self.seconds = 0.0
        for callback in callbacks:
            for name in dir(type(callback)):
                if name.startswith("on_") and getattr(type(callback), name) is not getattr(pl.Callback, name, None):
                    setattr(callback, name, self.timed(getattr(callback, name)))

    def timed(self, hook: Callable[..., None]) -> Callable[..., None]:
        def measured(*args: Any, **kwargs: Any) -> None:
            start = time.perf_counter()
            hook(*args, **kwargs)
            self.seconds += time.perf_counter() - start

        return measured
