"""Exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from typing_extensions import override


class MovingAverage(WeightAveraging):
    """Average weights and batch norms' statistics after each step, and validate and save the averages.

    Lightning's EMAWeightAveraging, with the same result, waits for the GPU at each step and averages one tensor after
    the other.

    Args:
        decay: factor of the former average in the new one.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    @property
    def state_key(self) -> str:
        return "EMAWeightAveraging"  # the callback in the checkpoints of version 0.1.0

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._latest_update_step:
            self.update(pl_module, decay=self.decay if self._latest_update_step else 0.0)
            self._latest_update_step = trainer.global_step

    @contextmanager
    def averages(self, task: pl.LightningModule) -> Iterator[None]:
        """Give a task the averages within a context, as during a validation."""
        if self._average_model is None:
            yield
            return
        self._swap_models(task)
        try:
            yield
        finally:
            self._swap_models(task)

    @torch.no_grad()
    def update(self, task: pl.LightningModule, decay: float) -> None:
        """Average the current weights with the former averages; a decay of 0 copies them.

        Integers, the counters of batch norms, keep their first value.
        """
        assert self._average_model is not None
        averages, values = ([*module.parameters(), *module.buffers()] for module in (self._average_model.module, task))
        floating = [index for index, average in enumerate(averages) if average.is_floating_point()]
        if decay:
            torch._foreach_lerp_([averages[i] for i in floating], [values[i] for i in floating], 1 - decay)
        else:
            torch._foreach_copy_(averages, values)
        self._average_model.n_averaged += 1
