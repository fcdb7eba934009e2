"""Progress bar of a training."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from typing_extensions import override


class ProgressBar(RichProgressBar):
    """Lightning's progress bar, with the training loss of the last logged step.

    Reading the loss makes the host wait for the GPU, which Lightning does at each step for a value that a task logs
    with prog_bar=True.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss: float | None = None

    @override
    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = self.loss is None or (interval > 0 and trainer.global_step % interval == 0)
        if due and "train/loss" in trainer.logged_metrics:
            self.loss = float(trainer.logged_metrics["train/loss"])
        metrics = super().get_metrics(trainer, pl_module)
        return metrics if self.loss is None else {"train/loss": self.loss, **metrics}
