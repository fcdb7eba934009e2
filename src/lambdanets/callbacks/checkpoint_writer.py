"""Checkpoints: the files of a run, and when they are written."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from lambdanets.atomic import atomic_link, remove_temporary_files, sync_folder

BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"


class CheckpointWriter(pl.Callback):
    """Write last.ckpt, rename the one before it to previous.ckpt, and link the best one as best.ckpt.

    Of epochs with equal scores, the later one is the best: on a small validation split many epochs share the highest
    score, and the first of them reached it by chance, long before the learning rate has come down.

    A checkpoint is written when everything that belongs to its steps has been logged, so that a resumed run logs each
    step once: before the next batch, before the next epoch, and at the end. In the trainer's list this callback comes
    before an averaging callback, whose last hook replaces the trained weights.

    Args:
        folder: folder of the checkpoints.
        monitor: name of the logged score that chooses the best checkpoint; higher is better.
        every_n_steps: optimizer steps between checkpoints within an epoch, or None.
        every_minutes: minutes between checkpoints within an epoch, or None.
    """

    # Batches between two checks of the clock, on which all processes must agree.
    CHECK_EVERY_BATCHES = 20

    def __init__(
        self, folder: Path, monitor: str, *, every_n_steps: int | None = None, every_minutes: float | None = 10.0
    ) -> None:
        self.folder = folder
        self.monitor = monitor
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.best_score: float | None = None
        self.score: float | None = None
        self.scored_step = -1
        self.saved_step = -1
        self.saved_time = time.monotonic()
        self.seconds = 0.0  # of writing
        self.advanced_progress: str | None = None

    @property
    def state_key(self) -> str:
        return "Checkpoints"  # this class's name in the checkpoints of version 0.1.0

    @property
    def best(self) -> Path:
        return self.folder / BEST

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved_step = trainer.global_step
        if not self.best.is_file():
            self.best_score = None  # of a checkpoint elsewhere, or of one that was removed
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_temporary_files(self.folder)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        score = trainer.callback_metrics.get(self.monitor)
        self.score = score.item() if isinstance(score, Tensor) else None
        self.scored_step = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch and trainer.global_step > self.saved_step:
            self.save(trainer, advanced_progress="epoch_progress")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        between_steps = batch_idx and batch_idx % trainer.accumulate_grad_batches == 0
        if not between_steps or trainer.global_step <= self.saved_step:
            return
        validated = self.score is not None and self.scored_step == trainer.global_step  # within the epoch
        if validated or self.is_due(trainer, batch_idx):
            self.save(trainer, advanced_progress="epoch_loop.batch_progress")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > self.saved_step or self.score is not None:
            self.save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # A signal stops all processes at the same step; after any other exception, saving could wait for ever.
        stopped = isinstance(exception, SIGTERMException) and trainer.training
        if stopped and trainer.global_step > self.saved_step:
            self.save(trainer)

    def is_due(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """Return whether to write a checkpoint before this batch, the same on all processes."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            return True
        if self.every_minutes is None or batch_idx % self.CHECK_EVERY_BATCHES:
            return False
        late = time.monotonic() - self.saved_time > 60 * self.every_minutes
        return trainer.strategy.broadcast(late) if trainer.world_size > 1 else late

    def save(self, trainer: pl.Trainer, *, advanced_progress: str | None = None) -> None:
        """Write last.ckpt, and best.ckpt if the latest score is of these weights and the best so far.

        Args:
            trainer: the trainer whose state is saved.
            advanced_progress: key of the loop progress that Lightning has already advanced for a step that has not
                happened yet.
        """
        start = time.monotonic()
        for logger in trainer.loggers:
            logger.save()
        self.advanced_progress = advanced_progress
        if self.scored_step != trainer.global_step:
            self.score = None  # of a validation within an accumulated step
        is_best = self.score is not None and (self.best_score is None or self.score >= self.best_score)
        if is_best:
            self.best_score = self.score
        new = self.folder / ".new.ckpt"
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            last = self.folder / LAST
            if is_best or (self.score is None and self.best_score is None):
                atomic_link(new, self.best)
            if last.is_file():
                last.replace(self.folder / PREVIOUS)
            new.replace(last)
            sync_folder(self.folder)
        trainer.strategy.barrier("checkpoint")  # the other processes may read the file next
        self.score = None
        self.saved_step, self.saved_time = trainer.global_step, time.monotonic()
        self.seconds += self.saved_time - start

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Lightning has already advanced this loop's "ready" counter: save it minus one, so that a resumed run repeats
        # the step. Before the last batch of an epoch, it has also marked the epoch as finished.
        if self.advanced_progress is not None:
            progress = checkpoint["loops"]["fit_loop"][self.advanced_progress]
            for counts in (progress["total"], progress["current"]):
                counts["ready"] -= 1
            if self.advanced_progress == "epoch_loop.batch_progress":
                progress["is_last_batch"] = False

        # With max_steps, Lightning takes up the batches of the epoch that is over, and passes an epoch without any.
        if self.advanced_progress != "epoch_loop.batch_progress" and trainer.max_steps != -1:
            batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            if batches["is_last_batch"]:
                batches["current"] = dict.fromkeys(batches["current"], 0)
                batches["is_last_batch"] = False

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]
