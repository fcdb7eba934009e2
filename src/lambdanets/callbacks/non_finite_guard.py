"""Guard against losses and gradients that are not finite."""

import logging
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lambdanets.errors import UserError

log = logging.getLogger(__name__)
ADVICE = (
    "lower recipe.optimizer.lr, lengthen recipe.warmup_epochs, set trainer.gradient_clip_val, or skip such steps with "
    "recipe.skip_nonfinite=true."
)
HALF_ADVICE = (
    "trainer.precision=16-true keeps weights and sums in float16, whose largest number is 65,504: set "
    "trainer.precision=bf16-mixed, or 16-mixed on a GPU."
)


class PendingCheck(NamedTuple):
    """A value of one optimizer step that must be finite, not yet read from the device."""

    step: int
    learning_rate: float
    value: Tensor


class NonFiniteGuard(pl.Callback):
    """Log train/grad_norm, the norm of all gradients before clipping, and end the run when it is not finite.

    A loss that is not finite has gradients that are not finite. On a GPU the norms are checked some steps later, so
    that no step waits for the device, but always before a checkpoint is written; the error names the first bad step all
    the same. With float16 the gradient scaler skips such steps by itself, and the guard checks the loss instead.

    Fused optimizers skip a step on the device. With others, `skip` makes each step on a GPU wait for the norm. A
    skipped step also leaves no trace in buffers such as batch norms' statistics, which the forward pass changes. With
    float16 that holds where the loss is not finite: if gradients alone overflow, the images' statistics are sound.

    Args:
        skip: skip such steps and count them as train/skipped, instead of ending the run.

    Attributes:
        skipped: number of skipped steps up to the last check.
    """

    # Steps on a GPU between two checks.
    CHECK_EVERY_STEPS = 20

    def __init__(self, *, skip: bool = False) -> None:
        self.skip = skip
        self.is_half = False  # all weights and sums are in float16
        self.skipped = 0
        self.count: Tensor | None = None  # of skipped steps, on the device
        self.pending: list[PendingCheck] = []
        self.buffers: list[Tensor] = []
        self.accepted = torch.empty(0)  # the buffers' values after the last step that was not skipped

    @property
    def state_key(self) -> str:
        return "Finite"  # this class's name in the checkpoints of version 0.1.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.is_half = trainer.precision == "16-true"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.buffers = [buffer for buffer in pl_module.buffers() if self.skip and buffer.is_floating_point()]
        self.accepted = concatenate(self.buffers)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if has_gradient_scaler(trainer):
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).detach()
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        pl_module.log("train/grad_norm", norm)
        if self.skip:
            pl_module.log("train/skipped", self.skip_step(optimizer, norm))
        self.check_later(trainer, optimizer, norm)

    def skip_step(self, optimizer: Optimizer, norm: Tensor) -> Tensor:
        """Skip the step if the norm of its gradients is not finite, and return the number of skipped steps."""
        not_finite = ~torch.isfinite(norm)
        self.restore_buffers(not_finite)
        if self.count is None:
            self.count = norm.new_full((), self.skipped)
        self.count = self.count + not_finite
        if all(group.get("fused") for group in optimizer.param_groups):
            optimizer.found_inf = not_finite.float()  # type: ignore[attr-defined]  # as a gradient scaler does
        elif not_finite:
            optimizer.zero_grad(set_to_none=True)  # optimizers leave parameters without gradient unchanged
        return self.count

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if has_gradient_scaler(trainer):
            loss = outputs["loss"].detach()
            self.restore_buffers(~torch.isfinite(loss))
            self.check_later(trainer, trainer.optimizers[0], loss)

    def restore_buffers(self, skipped: Tensor) -> None:
        """Give the buffers the values that they had before this step, if it is skipped, without reading `skipped`."""
        if self.buffers:
            self.accepted = torch.where(skipped, self.accepted, concatenate(self.buffers))
            parts = self.accepted.split([buffer.numel() for buffer in self.buffers])
            torch._foreach_copy_(self.buffers, [p.view_as(b) for p, b in zip(parts, self.buffers, strict=True)])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.check()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.check()

    def check_later(self, trainer: pl.Trainer, optimizer: Optimizer, value: Tensor) -> None:
        """Queue a value for the next check, which on a CPU follows at once."""
        self.pending.append(PendingCheck(trainer.global_step, optimizer.param_groups[0]["lr"], value))
        if value.device.type == "cpu" or len(self.pending) >= self.CHECK_EVERY_STEPS:
            self.check()

    def check(self) -> None:
        """Check all pending values, and log those that are not finite if such steps are skipped.

        Raises:
            UserError: the loss or a gradient of a step was not finite, and such steps are not skipped.
        """
        pending, self.pending = self.pending, []
        if not pending or torch.isfinite(torch.stack([check.value for check in pending])).all():
            return
        for bad in (check for check in pending if not torch.isfinite(check.value)):
            if not self.skip:
                raise UserError(
                    f"The loss or a gradient was not finite at step {bad.step}, learning rate {bad.learning_rate:.4g}: "
                    + (HALF_ADVICE if self.is_half else ADVICE)
                )
            self.skipped += 1
            log.warning(
                "Skipped step %d: the gradient norm is %s at learning rate %.4g.",
                bad.step,
                bad.value.item(),
                bad.learning_rate,
            )

    def state_dict(self) -> dict[str, Any]:
        self.check()
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]


def concatenate(tensors: list[Tensor]) -> Tensor:
    """Return the values of all tensors as one vector, in a new tensor."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors]) if tensors else torch.empty(0)


def has_gradient_scaler(trainer: pl.Trainer) -> bool:
    """Return whether the loss is scaled for float16, where gradients that are not finite are expected at times."""
    precision = trainer.precision_plugin
    return isinstance(precision, MixedPrecision) and precision.scaler is not None
