"""Gradient norms by stage of the network."""

import re

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


class GradientNorms(pl.Callback):
    """Log `gradients/<stage>`, the norm of the gradient of a stage's parameters, whenever the trainer logs.

    The stages of a ResNet are stem, c2 to c5 and classifier; other models have the names of their submodules.
    """

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not interval or (trainer.global_step + 1) % interval:  # 0 is never
            return
        stages: dict[str, list[Tensor]] = {}
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                stages.setdefault(stage_name(name), []).append(parameter.grad)
        norms = {stage: torch.nn.utils.get_total_norm(gradients).detach() for stage, gradients in stages.items()}
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            # A fused optimizer divides by the loss scale itself; reading the scale as a number would wait for the GPU.
            norms = {stage: norm / scaler._scale for stage, norm in norms.items()}
        pl_module.log_dict(
            {f"gradients/{stage}": n.full_tensor() if isinstance(n, DTensor) else n for stage, n in norms.items()}
        )


def stage_name(parameter_name: str) -> str:
    """Return the stage of a parameter: model.stages.2.0.conv1.weight belongs to c4."""
    if match := re.search(r"\bstages\.(\d+)\.", parameter_name):
        return f"c{int(match[1]) + 2}"
    parts = [part for part in parameter_name.split(".")[:-1] if part not in ("model", "module", "backbone", "body")]
    return parts[0] if parts else parameter_name
