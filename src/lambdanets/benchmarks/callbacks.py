"""benchmark=callbacks: what the looks into a network cost."""

import statistics
from collections.abc import Mapping
from typing import Protocol

from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.result import Result
from lambdanets.progress import progress_bar


class Trained(Protocol):
    """One config's training from its first to its last step."""

    def whole(self, callbacks: str) -> tuple[float, float]:
        """Seconds with these callbacks, and those of them that the looks into the network took."""


def callbacks(setting: Setting, *, trainings: Mapping[str, Trained]) -> Result:
    """Whole trainings with callbacks=default and with callbacks=scalars, in turn.

    Args:
        setting: how to measure.
        trainings: by what sets them apart.
    """
    columns = ["config", "default, s", "of it in the looks, s", "%", "by the clock %", "range %"]
    result = Result("What TensorBoard's pictures cost", columns, setting=setting)
    with setting.applied():
        for name, training in progress_bar(trainings.items(), "configs"):
            training.whole("default")  # what is compiled or allocated once
            pairs = [(training.whole("scalars"), training.whole("default")) for _ in range(setting.repeats)]
            ratios = [100 * (after / before - 1) for (before, _), (after, _) in pairs]
            shares = [100 * looks / (after - looks) for _, (after, looks) in pairs]
            result.rows.append(
                {
                    "config": name,
                    "default, s": statistics.median(after for _, (after, _) in pairs),
                    "of it in the looks, s": statistics.median(looks for _, (_, looks) in pairs),
                    "%": statistics.median(shares),
                    "by the clock %": statistics.median(ratios),
                    "range %": f"{min(ratios):.1f} to {max(ratios):.1f}",
                }
            )
    result.notes.append(
        "Trainings with validation and checkpoints, as job=fit runs them, without their test. In the looks: seconds "
        "inside of the callbacks that draw lambdas, embeddings, entropies, receptive fields, predictions, confusion, "
        "and log gradient norms by stage; % of the other time. By the clock: how much longer the training took than "
        "one with callbacks=scalars, the median of ratios measured in turn, and their range, which says how far such "
        "a measurement can be trusted on this machine."
    )
    return result
