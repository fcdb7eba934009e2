"""benchmark=loop: overhead of the training loop of job=fit over a bare one."""

import statistics
from collections.abc import Mapping

from lambdanets.benchmarks.gpu_use import GpuUse
from lambdanets.benchmarks.measure import Setting, TimedTraining
from lambdanets.benchmarks.result import Result
from lambdanets.machine import CpuUse
from lambdanets.measured import Measured
from lambdanets.progress import progress_bar


def measure_loop_overhead(setting: Setting, *, trainings: Mapping[str, TimedTraining]) -> Result:
    """Compare epochs of job=fit, with all callbacks, logs and checkpoints, with epochs of a bare PyTorch loop.

    Args:
        setting: the conditions of the measurement.
        trainings: by the text of their config overrides.

    Returns:
        One row per training: milliseconds per step of both loops, and the overhead.
    """
    columns = ["config", "steps", "bare ms/step", "job=fit ms/step", "overhead %", "range %"]
    columns += ["bare GPU %", "job=fit GPU %"] if setting.torch_device.type == "cuda" else []
    result = Result("The training loop beside a bare one", columns, setting=setting)
    with setting.apply():
        for name, training in progress_bar(trainings.items(), "configs"):
            training.bare_loop_epoch_seconds(), training.epoch_seconds()  # warm up caches and allocators
            bare_use, complete_use = GpuUse(), GpuUse()
            bare_steps, complete_steps, overheads = [], [], []  # milliseconds and %
            start = CpuUse.now()
            for _ in range(setting.repeats):
                with bare_use:
                    bare_steps.append(1e3 * training.bare_loop_epoch_seconds() / training.steps)
                with complete_use:
                    complete_steps.append(1e3 * training.epoch_seconds() / training.steps)
                overheads.append(100 * (complete_steps[-1] / bare_steps[-1] - 1))
            disturbed = setting.is_disturbed(CpuUse.now().others_since(start))
            result.rows.append(
                {
                    "config": name,
                    "steps": str(training.steps),
                    "bare ms/step": Measured(bare_steps, disturbed=disturbed),
                    "job=fit ms/step": Measured(complete_steps, disturbed=disturbed),
                    "overhead %": statistics.median(overheads),
                    "range %": f"{min(overheads):.1f} to {max(overheads):.1f}",
                    "bare GPU %": bare_use.median,
                    "job=fit GPU %": complete_use.median,
                }
            )
    result.notes.append(
        "An epoch with validation, divided by its training steps. Bare: the same model, batches, augmentation, "
        "optimizer and schedule, without logs and checkpoints. Overhead: the median of the ratios, measured in turn."
    )
    if setting.torch_device.type == "cuda":
        result.notes.append(
            "GPU %: part of the time in which the GPU computes, by nvidia-smi: the median of the samples that are "
            "not 0, since the GPU idles while a training is prepared."
        )
    return result
