"""A line of text an epoch."""

import logging
import time

import pytorch_lightning as pl

from lambdanets.progress import format_duration

log = logging.getLogger(__name__)


class EpochLogger(pl.Callback):
    """Logs one line an epoch, so that a run without a terminal leaves a readable log."""

    NAMES = ("train/loss", "train/top1", "val/loss", "val/top1", "val/box_ap", "val/mask_ap", "speed/images_per_s")

    def __init__(self) -> None:
        self.begun: tuple[float, int] | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.begun is None:
            self.begun = time.monotonic(), trainer.current_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = trainer.callback_metrics  # which all processes compute together
        if not trainer.is_global_zero:
            return
        numbers = "  ".join(f"{name} {metrics[name].item():.4g}" for name in self.NAMES if name in metrics)
        log.info("epoch %d/%s  %s%s", trainer.current_epoch + 1, trainer.max_epochs, numbers, self.left(trainer))

    def left(self, trainer: pl.Trainer) -> str:
        """The time that the other epochs will take if they take as long as those since this start."""
        epochs = (trainer.max_epochs or 0) - trainer.current_epoch - 1
        if self.begun is None or epochs < 1:
            return ""
        start, first = self.begun
        each = (time.monotonic() - start) / (trainer.current_epoch + 1 - first)
        return f"  {format_duration(epochs * each)} left"
