"""A line of text an epoch."""

import logging

import pytorch_lightning as pl

log = logging.getLogger(__name__)


class EpochLine(pl.Callback):
    """Logs one line an epoch, so that a run without a terminal leaves a readable log."""

    NAMES = ("train/loss", "train/top1", "val/loss", "val/top1", "val/box_ap", "val/mask_ap", "speed/images_per_s")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = trainer.callback_metrics  # which all processes compute together
        if not trainer.is_global_zero:
            return
        numbers = "  ".join(f"{name} {metrics[name].item():.4g}" for name in self.NAMES if name in metrics)
        log.info("epoch %d/%s  %s", trainer.current_epoch + 1, trainer.max_epochs, numbers)
