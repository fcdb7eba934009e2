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


# The rate of the final steps, as a fraction of the peak.
FINAL_FRACTION = 0.01


def warmup_cosine(optimizer: Optimizer, *, warmup_steps: int, total_steps: int, final_steps: int = 0) -> LambdaLR:
    """Create a schedule per step: linear warm-up from 1 / warmup_steps of the peak rate, then a cosine to 0.

    With final steps, the cosine ends at 1 % of the peak rate, which they keep: scores that no longer grow there have
    converged, whereas those of a cosine to 0 grow until its end.

    Args:
        optimizer: the optimizer; the learning rate of each group is its peak.
        warmup_steps: steps before the peak; with 0 the run starts at the peak.
        total_steps: steps of the whole run, warm-up and final steps included.
        final_steps: steps at the end with a constant rate.
    """
    last_fraction = FINAL_FRACTION if final_steps else 0.0
    decay_steps = max(total_steps - final_steps - warmup_steps, 1)

    def fraction_of_peak(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        cosine = 0.5 * (1 + math.cos(math.pi * min((step - warmup_steps) / decay_steps, 1.0)))
        return last_fraction + (1 - last_fraction) * cosine

    return ResumableSchedule(optimizer, fraction_of_peak)
