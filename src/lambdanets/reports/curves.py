"""Scores of runs after each epoch, the images trained on until there, and the time that it took."""

from collections.abc import Iterable
from statistics import fmean

import numpy as np
from omegaconf import OmegaConf

from lambdanets.reports.runs import ExperimentRuns, RunRecord

LAST_EPOCHS = 3  # of which the mean gain says whether a training has converged


def validation_scores(runs: Iterable[RunRecord], quantity: str) -> dict[int, list[float]]:
    """Return the validation scores of all seeds by epoch, in percent."""
    by_epoch: dict[int, list[float]] = {}
    for run in runs:
        for epoch, score in run.curve(f"val/{quantity}").items():
            by_epoch.setdefault(epoch, []).append(100 * score)
    return dict(sorted(by_epoch.items()))


def final_gain(row: ExperimentRuns, quantity: str) -> float | None:
    """Return the validation score's gain per epoch over the last three epochs, in points.

    Returns:
        The mean over the seeds of finished runs; None if there is none, or if they have fewer than four epochs.
    """
    gains = []
    for run in row.by_seed.values():
        curve = run.curve(f"val/{quantity}") if run.metrics else {}
        last = max(curve, default=0)
        if last - LAST_EPOCHS in curve:
            gains.append(100 * (curve[last] - curve[last - LAST_EPOCHS]) / LAST_EPOCHS)
    return fmean(gains) if gains else None


def images_by_epoch(run: RunRecord) -> dict[int, int]:
    """Return the images trained on until the end of each epoch; empty if the run doesn't say how many a step takes."""
    per_step = images_per_step(run)
    if per_step is None:
        return {}
    return {epoch: (int(step) + 1) * per_step for epoch, step in run.curve("step").items()}


def images_per_step(run: RunRecord) -> int | None:
    """Return the images of an optimizer step over all devices, None where the config leaves devices to the machine."""
    keys = ("data.batch_size", "trainer.devices", "trainer.num_nodes", "trainer.accumulate_grad_batches")
    batch, devices, nodes, accumulated = (OmegaConf.select(run.config, key) for key in keys)
    factors = (batch, 1 if devices is None else devices, nodes or 1, accumulated or 1)
    if not all(isinstance(factor, int) and factor > 0 for factor in factors):
        return None
    return int(np.prod(factors))


def training_seconds(run: RunRecord) -> float | None:
    """Return the seconds that a run has trained, without the work that a stop lost; None if nothing is recorded.

    A run with several starts may have recorded the seconds of its last one alone. Its log has the speed of each epoch.
    """
    recorded = run.metrics.get("seconds")
    if recorded is not None and len(run.starts) < 2:
        return recorded
    images = images_by_epoch(run)
    logged = [
        (images[epoch] - images.get(epoch - 1, 0)) / speed
        for epoch, speed in run.curve("speed/images_per_s").items()
        if epoch in images and speed
    ]
    return max([sum(logged), *([] if recorded is None else [recorded])]) or None
