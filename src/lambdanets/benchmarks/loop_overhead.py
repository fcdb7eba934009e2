"""benchmark=loop: overhead of the training loop of job=fit over a bare one."""

import statistics
from collections.abc import Mapping

from lambdanets.benchmarks.measure import Setting, TimedTraining
from lambdanets.benchmarks.result import Result
from lambdanets.progress import progress_bar


def measure_loop_overhead(setting: Setting, *, trainings: Mapping[str, TimedTraining]) -> Result:
    """Compare epochs of job=fit, with all callbacks, logs and checkpoints, with epochs of a bare PyTorch loop.

    Args:
        setting: the conditions of the measurement.
        trainings: by the text of their config overrides.

    Returns:
        One row per training: milliseconds per step of both loops, and the overhead.
    """
    columns = ["config", "steps", "bare ms/step", "job=fit ms/step", "overhead %"]
    result = Result("The training loop beside a bare one", columns, setting=setting)
    with setting.apply():
        for name, training in progress_bar(trainings.items(), "configs"):
            training.bare_loop_epoch_seconds(), training.epoch_seconds()  # warm up caches and allocators
            pairs = [(training.bare_loop_epoch_seconds(), training.epoch_seconds()) for _ in range(setting.repeats)]
            bare, complete = (statistics.median(times) for times in zip(*pairs, strict=True))
            overhead = statistics.median(after / before for before, after in pairs) - 1
            result.rows.append(
                {
                    "config": name,
                    "steps": str(training.steps),
                    "bare ms/step": 1e3 * bare / training.steps,
                    "job=fit ms/step": 1e3 * complete / training.steps,
                    "overhead %": 100 * overhead,
                }
            )
    result.notes.append(
        "An epoch with validation, divided by its training steps. Bare: the same model, batches, augmentation, "
        "optimizer and schedule, without logs and checkpoints. Overhead: the median of the ratios, measured in turn."
    )
    return result
