"""TensorBoard histograms and a gradient check, by lightning-bolts."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from lambdanets.bolts import import_bolts
from lambdanets.errors import UserError


def data_monitor(log_every_n_steps: int | None = None) -> pl.Callback:
    """Create a callback that logs histograms of the batches that enter `training_step`.

    Args:
        log_every_n_steps: steps between histograms; None takes the trainer's interval.

    Raises:
        UserError: lightning-bolts is not installed.
    """
    return import_bolts("callbacks.data_monitor").TrainingDataMonitor(log_every_n_steps)


def module_monitor(modules: Sequence[str] | None = None, log_every_n_steps: int | None = None) -> pl.Callback:
    """Create a callback that logs histograms of the inputs and outputs of chosen modules.

    Args:
        modules: names such as model.stages.0.0.mixer; None chooses the whole task.
        log_every_n_steps: steps between histograms; None takes the trainer's interval.

    Raises:
        UserError: lightning-bolts is not installed.
    """
    return import_bolts("callbacks.data_monitor").ModuleDataMonitor(
        submodules=None if modules is None else list(modules), log_every_n_steps=log_every_n_steps
    )


def gradient_check() -> pl.Callback:
    """Create a callback that verifies before training that no image's output depends on another image of its batch.

    Batch norm, which mixes images by design, is in evaluation mode during the check. A model that mixes images ends the
    run with a UserError when training starts.

    Raises:
        UserError: lightning-bolts is not installed.
    """
    base = import_bolts("callbacks.verification.batch_gradient").BatchGradientVerificationCallback

    class GradientCheck(base):  # type: ignore[misc, valid-type]
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            generator = torch.Generator().manual_seed(0)
            pl_module.example_input_array = torch.randn(2, data.channels, *data.image_size, generator=generator)
            super().on_train_start(trainer, pl_module)

        def _raise(self) -> None:
            raise UserError(
                "The model mixes the images of a batch: check its code for a reshape or permute across dimension 0."
            )

    return GradientCheck()
