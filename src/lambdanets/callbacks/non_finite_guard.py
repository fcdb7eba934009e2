"""What happens when the loss or a gradient is not finite."""

import logging
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lambdanets.errors import UserError

log = logging.getLogger(__name__)


class NonFiniteGuard(pl.Callback):
    """Logs train/grad_norm, the norm of all gradients before clipping, and ends the run when it is not finite.

    A loss that isn't finite has gradients that aren't. On a GPU the norm is looked at a little later, so that no step
    waits for it, but before a checkpoint is written; the step that the sentence names is the first one all the same.
    With float16 the scaler skips such steps by itself, and the loss is looked at instead.

    Args:
        skip: leave such steps out instead, and count them as train/skipped.
    """

    # Steps on a GPU between two looks.
    LATER = 20

    def __init__(self, *, skip: bool = False) -> None:
        self.skip = skip
        self.skipped = 0
        self.open: list[tuple[int, float, Tensor]] = []

    @property
    def state_key(self) -> str:
        return "Finite"  # this class's name in the checkpoints of version 0.1.0

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if scales(trainer):
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).detach()
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        pl_module.log("train/grad_norm", norm)
        if self.skip:
            if not torch.isfinite(norm):
                self.skipped += 1
                log.warning("step %d is skipped: %s", trainer.global_step, self.state(norm, optimizer))
                optimizer.zero_grad(set_to_none=True)  # an optimiser leaves alone what has no gradient
            pl_module.log("train/skipped", float(self.skipped))
            return
        self.note(trainer, optimizer, norm)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if scales(trainer):
            self.note(trainer, trainer.optimizers[0], outputs["loss"].detach())

    def note(self, trainer: pl.Trainer, optimizer: Optimizer, value: Tensor) -> None:
        """Keeps what must be finite, and looks at it now or later."""
        self.open.append((trainer.global_step, optimizer.param_groups[0]["lr"], value))
        if value.device.type == "cpu" or len(self.open) >= self.LATER:
            self.look()

    def state(self, norm: Tensor, optimizer: Optimizer) -> str:
        return f"its gradient's norm is {norm.item()} at learning rate {optimizer.param_groups[0]['lr']:.4g}"

    def look(self) -> None:
        """Raises UserError: the loss or a gradient of one of the latest steps wasn't finite."""
        latest, self.open = self.open, []
        if not latest or torch.isfinite(torch.stack([norm for _, _, norm in latest])).all():
            return
        step, rate = next((step, rate) for step, rate, norm in latest if not torch.isfinite(norm))
        raise UserError(
            f"The loss or a gradient was not finite at step {step}, learning rate {rate:.4g}: lower "
            "recipe.optimizer.lr, lengthen recipe.warmup_epochs, set trainer.gradient_clip_val, or leave such steps "
            "out with recipe.skip_nonfinite=true."
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.look()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.look()

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]


def scales(trainer: pl.Trainer) -> bool:
    """Is the loss scaled, as float16 needs it, so that gradients which aren't finite are part of the plan?"""
    precision = trainer.precision_plugin
    return isinstance(precision, MixedPrecision) and precision.scaler is not None
