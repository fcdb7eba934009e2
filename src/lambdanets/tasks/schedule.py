"""Learning-rate schedule."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override


class ResumableSchedule(LambdaLR):
    """A schedule whose saved state is its step alone: peak rates and shape are those of the present config."""

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "base_lrs": self.base_lrs, "lr_lambdas": [None] * len(self.lr_lambdas)})
        rates = [base * shape(self.last_epoch) for base, shape in zip(self.base_lrs, self.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = rates


def warmup_cosine(optimizer: Optimizer, *, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Create a schedule per step: linear warm-up from 1 / warmup_steps of the peak rate, then a cosine to 0.

    Args:
        optimizer: the optimizer; the learning rate of each group is its peak.
        warmup_steps: steps before the peak; with 0 the run starts at the peak.
        total_steps: steps of the whole run, warm-up included.
    """

    def fraction_of_peak(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    return ResumableSchedule(optimizer, fraction_of_peak)
