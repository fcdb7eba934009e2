"""Where in the network the gradients are."""

import re

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


class GradientNorms(pl.Callback):
    """Logs gradients/<stage>, the norm of the gradient of a stage's parameters, whenever the trainer logs: c2 to c5,
    stem, classifier, or what else the model's parts are called.
    """

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if (trainer.global_step + 1) % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        stages: dict[str, list[Tensor]] = {}
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                stages.setdefault(stage_of(name), []).append(parameter.grad)
        norms = {stage: torch.nn.utils.get_total_norm(gradients).detach() for stage, gradients in stages.items()}
        pl_module.log_dict(
            {f"gradients/{stage}": n.full_tensor() if isinstance(n, DTensor) else n for stage, n in norms.items()}
        )


def stage_of(name: str) -> str:
    """The stage that a parameter belongs to, from its name: model.stages.2.0.conv1.weight is of c4."""
    if found := re.search(r"\bstages\.(\d+)\.", name):
        return f"c{int(found[1]) + 2}"
    parts = [part for part in name.split(".")[:-1] if part not in ("model", "module", "backbone", "body")]
    return parts[0] if parts else name
