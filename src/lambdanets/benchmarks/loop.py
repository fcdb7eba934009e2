"""benchmark=loop: what the training loop costs beside a bare one."""

import statistics
from collections.abc import Mapping
from typing import Protocol

from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.result import Result
from lambdanets.progress import progress_bar


class Trained(Protocol):
    """One config's training, in two ways; each gives the seconds of an epoch with its validation."""

    steps: int

    def ours(self) -> float: ...

    def bare(self) -> float: ...


def loop(setting: Setting, *, trainings: Mapping[str, Trained]) -> Result:
    """Epochs as job=fit runs them, with all callbacks, logs and checkpoints, and in a bare PyTorch loop, in turn.

    Args:
        setting: how to measure.
        trainings: by what sets them apart.
    """
    columns = ["config", "steps", "bare ms a step", "ours ms a step", "overhead %"]
    result = Result("The training loop beside a bare one", columns, setting=setting)
    with setting.applied():
        for name, training in progress_bar(trainings.items(), "configs"):
            training.bare(), training.ours()  # what is compiled or allocated once
            pairs = [(training.bare(), training.ours()) for _ in range(setting.repeats)]
            bare, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
            overhead = statistics.median(after / before for before, after in pairs) - 1
            result.rows.append(
                {
                    "config": name,
                    "steps": str(training.steps),
                    "bare ms a step": 1e3 * bare / training.steps,
                    "ours ms a step": 1e3 * ours / training.steps,
                    "overhead %": 100 * overhead,
                }
            )
    result.notes.append(
        "An epoch with validation, divided by its training steps. Bare: the same model, batches, augmentation, "
        "optimiser and schedule, and nothing logged or saved. Overhead: the median of the ratios, measured in turn."
    )
    return result
