"""Which checkpoint is the best."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from typing_extensions import override


class BestCheckpoint(ModelCheckpoint):
    """Keeps best.ckpt and last.ckpt after each epoch; of epochs with an equal score, the later one is the best.

    On a small validation split many epochs share the highest score, and the first of them was reached by chance, long
    before the learning rate has come down.

    Args:
        folder: where the checkpoints go.
        monitor: logged score, the higher the better.
    """

    def __init__(self, folder: str, monitor: str) -> None:
        super().__init__(
            folder,
            filename="best",
            monitor=monitor,
            mode="max",
            save_last=True,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    @override
    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        equal = current is not None and self.best_model_score is not None and bool(current == self.best_model_score)
        return equal or super().check_monitor_top_k(trainer, current)
