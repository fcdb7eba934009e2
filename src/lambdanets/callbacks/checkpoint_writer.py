"""Which checkpoints are kept, and when they are written."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from lambdanets.atomic import atomic_link, remove_temporary_files, sync_folder

BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"


class CheckpointWriter(pl.Callback):
    """Keeps last.ckpt, previous.ckpt, the one before it, and best.ckpt; of epochs with an equal score, the later one.

    On a small validation split many epochs share the highest score, and the first of them was reached by chance, long
    before the learning rate has come down.

    A checkpoint is written when all that belongs to its steps has been logged, so that a run which goes on from it
    logs each step once: before the next batch, before the next epoch, and at the end. It comes before an averaging
    callback in the trainer's list, whose last act is to replace the weights that were trained.

    Args:
        folder: where the checkpoints go.
        monitor: logged score, the higher the better.
        every_n_steps: optimiser steps between checkpoints within an epoch, or None for none.
        every_minutes: minutes between them, or None.
    """

    LOOK = 20  # batches between two looks at the clock, which all processes must agree on

    def __init__(
        self, folder: Path, monitor: str, *, every_n_steps: int | None = None, every_minutes: float | None = 10.0
    ) -> None:
        self.folder = folder
        self.monitor = monitor
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.best_score: float | None = None
        self.score: float | None = None
        self.saved_step = -1
        self.saved_at = time.monotonic()
        self.begun: str | None = None

    @property
    def state_key(self) -> str:
        return "Checkpoints"  # this class's name in the checkpoints of version 0.1.0

    @property
    def best(self) -> Path:
        return self.folder / BEST

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved_step = trainer.global_step
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_temporary_files(self.folder)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        score = trainer.callback_metrics.get(self.monitor)
        self.score = score.item() if isinstance(score, Tensor) else None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch and trainer.global_step > self.saved_step:
            self.save(trainer, begun="epoch_progress")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        between_steps = batch_idx and batch_idx % trainer.accumulate_grad_batches == 0
        if between_steps and trainer.global_step > self.saved_step and self.due(trainer, batch_idx):
            self.save(trainer, begun="epoch_loop.batch_progress")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > self.saved_step or self.score is not None:
            self.save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # All processes stop for a signal at the same step. After any other exception one can't rely on the others.
        stopped = isinstance(exception, SIGTERMException) and trainer.training
        if stopped and trainer.global_step > self.saved_step:
            self.save(trainer)

    def due(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            return True
        if self.every_minutes is None or batch_idx % self.LOOK:
            return False
        late = time.monotonic() - self.saved_at > 60 * self.every_minutes
        return trainer.strategy.broadcast(late) if trainer.world_size > 1 else late

    def save(self, trainer: pl.Trainer, *, begun: str | None = None) -> None:
        """Writes last.ckpt, and best.ckpt if the latest score is the best so far.

        Args:
            trainer: whose state is saved.
            begun: the progress of Lightning's loops that is already ahead by one, for what has begun but not happened.
        """
        for logger in trainer.loggers:
            logger.save()
        self.begun = begun
        is_best = self.score is not None and (self.best_score is None or self.score >= self.best_score)
        if is_best:
            self.best_score = self.score
        fresh = self.folder / ".fresh.ckpt"
        trainer.save_checkpoint(fresh)
        if trainer.is_global_zero:
            last = self.folder / LAST
            if is_best or (self.score is None and self.best_score is None):
                atomic_link(fresh, self.best)
            if last.is_file():
                last.replace(self.folder / PREVIOUS)
            fresh.replace(last)
            sync_folder(self.folder)
        trainer.strategy.barrier("checkpoint")  # the others may read it next
        self.score = None
        self.saved_step, self.saved_at = trainer.global_step, time.monotonic()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.begun is not None:
            progress = checkpoint["loops"]["fit_loop"][self.begun]
            for counts in (progress["total"], progress["current"]):
                counts["ready"] -= 1

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]
