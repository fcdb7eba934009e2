"""Log lines, one per epoch."""

import logging
import time

import pytorch_lightning as pl

from lambdanets.progress import format_duration
from lambdanets.tasks import Task

log = logging.getLogger(__name__)


class EpochLogger(pl.Callback):
    """Log one line per epoch with scores, speed and the remaining time, for runs without a terminal."""

    def __init__(self) -> None:
        self.start_time: float | None = None
        self.start_epoch = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.start_time is None:
            self.start_time, self.start_epoch = time.monotonic(), trainer.current_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = trainer.callback_metrics  # a collective operation, so on all processes
        if not trainer.is_global_zero:
            return
        own = [name for name in pl_module.SCORES if name.startswith("val/")] if isinstance(pl_module, Task) else []
        names = ["train/loss", "train/top1", "val/loss", *own, "speed/images_per_s"]
        scores = "".join(f"  {name} {metrics[name].item():.4g}" for name in names if name in metrics)
        remaining = self.format_remaining_time(trainer)
        log.info("epoch %d/%s%s%s", trainer.current_epoch + 1, trainer.max_epochs, scores, remaining)

    def format_remaining_time(self, trainer: pl.Trainer) -> str:
        """Extrapolate the mean duration of the epochs since this start of the run to the remaining ones."""
        remaining_epochs = (trainer.max_epochs or 0) - trainer.current_epoch - 1
        if self.start_time is None or remaining_epochs < 1:
            return ""
        seconds_per_epoch = (time.monotonic() - self.start_time) / (trainer.current_epoch + 1 - self.start_epoch)
        return f"  {format_duration(remaining_epochs * seconds_per_epoch)} left"
