"""benchmark=callbacks: cost of the visualizations that callbacks=default writes to TensorBoard."""

import statistics
from collections.abc import Mapping

from lambdanets.benchmarks.measure import Setting, TimedTraining
from lambdanets.benchmarks.result import Result
from lambdanets.machine import CpuUse
from lambdanets.measured import Measured
from lambdanets.progress import progress_bar


def measure_callback_cost(setting: Setting, *, trainings: Mapping[str, TimedTraining]) -> Result:
    """Compare whole trainings with callbacks=default and with callbacks=scalars, measured in turn.

    Args:
        setting: the conditions of the measurement.
        trainings: by the text of their config overrides.

    Returns:
        One row per training: seconds, and the visualizations' part of them in two ways.
    """
    columns = ["config", "default, s", "visualizations, s", "visualizations %", "slower than scalars %", "range %"]
    result = Result("Cost of the TensorBoard visualizations", columns, setting=setting)
    with setting.apply():
        for name, training in progress_bar(trainings.items(), "configs"):
            training.training_seconds("default")  # warm up caches and allocators
            start = CpuUse.now()
            pairs = [
                (training.training_seconds("scalars"), training.training_seconds("default"))
                for _ in range(setting.repeats)
            ]
            disturbed = setting.is_disturbed(CpuUse.now().others_since(start))
            slowdowns = [100 * (after / before - 1) for (before, _), (after, _) in pairs]
            percentages = [100 * inside / (after - inside) for _, (after, inside) in pairs]
            result.rows.append(
                {
                    "config": name,
                    "default, s": Measured((after for _, (after, _) in pairs), disturbed=disturbed),
                    "visualizations, s": statistics.median(inside for _, (_, inside) in pairs),
                    "visualizations %": statistics.median(percentages),
                    "slower than scalars %": statistics.median(slowdowns),
                    "range %": f"{min(slowdowns):.1f} to {max(slowdowns):.1f}",
                }
            )
    result.notes.append(
        "Trainings with validation and checkpoints, as job=fit runs them, without their test. Visualizations: seconds "
        "inside of the callbacks that draw lambdas, embeddings, entropies, receptive fields, predictions, confusion, "
        "and that log gradient norms by stage; their % of the other time. Slower than scalars: increase of the time "
        "over a training with callbacks=scalars, the median of ratios measured in turn. The range of the ratios shows "
        "how far such a measurement can be trusted on this machine."
    )
    return result
