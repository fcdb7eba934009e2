"""benchmark=callbacks: what the looks into a network cost."""

import statistics
from collections.abc import Mapping
from typing import Protocol

from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.result import Result
from lambdanets.progress import tracked


class Trained(Protocol):
    """One config's training from its first to its last step."""

    def whole(self, callbacks: str) -> float:
        """Seconds with these callbacks."""


def callbacks(setting: Setting, *, trainings: Mapping[str, Trained]) -> Result:
    """Whole trainings with callbacks=default and with callbacks=scalars, in turn.

    Args:
        setting: how to measure.
        trainings: by what sets them apart.
    """
    columns = ["config", "numbers only, s", "default, s", "overhead %", "range %"]
    result = Result("What TensorBoard's pictures cost", columns, setting=setting)
    with setting.applied():
        for name, training in tracked(trainings.items(), "configs"):
            training.whole("default")  # what is compiled or allocated once
            pairs = [(training.whole("scalars"), training.whole("default")) for _ in range(setting.repeats)]
            ratios = [100 * (after / before - 1) for before, after in pairs]
            before, after = (statistics.median(times) for times in zip(*pairs, strict=True))
            result.rows.append(
                {
                    "config": name,
                    "numbers only, s": before,
                    "default, s": after,
                    "overhead %": statistics.median(ratios),
                    "range %": f"{min(ratios):.1f} to {max(ratios):.1f}",
                }
            )
    result.notes.append(
        "Trainings with validation and checkpoints, as job=fit runs them, without their test. Default: lambdas, "
        "embeddings, entropies, receptive fields, predictions, confusion, gradient norms by stage. Overhead: the "
        "median of the ratios, measured in turn."
    )
    return result
