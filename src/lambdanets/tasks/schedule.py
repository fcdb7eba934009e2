"""The learning rate over a run."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, *, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Linear warm-up from 1 / warmup_steps of each group's rate to all of it, then a cosine to 0; step by step.

    Args:
        optimizer: its groups' learning rates are the peak.
        warmup_steps: steps before the peak; 0 starts there.
        total_steps: steps of the whole run, warm-up included.
    """

    def share_of_peak(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    return LambdaLR(optimizer, share_of_peak)
