"""Accuracy at equal cost: validation scores over the seconds and the FLOPs of training."""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from lambdanets.errors import UserError
from lambdanets.measured import Measured
from lambdanets.reports.comparison import Comparison
from lambdanets.reports.curves import images_by_epoch, validation_scores
from lambdanets.reports.published import row_label
from lambdanets.reports.runs import ExperimentRuns
from lambdanets.table import Table

log = logging.getLogger(__name__)
TRAINING_FLOPS = 3  # of a forward pass: one forward, two backward


@dataclass(frozen=True)
class CostCurve:
    """A row's validation score after each epoch, over the cost of training until there.

    Args:
        name: the row's label.
        costs: ascending, in any unit.
        scores: mean over seeds, in percent.
    """

    name: str
    costs: tuple[float, ...]
    scores: tuple[float, ...]

    def score_at(self, cost: float) -> float | None:
        """Return the score at a cost, linear between two epochs; None where the curve hasn't begun or has ended."""
        if not self.costs[0] <= cost <= self.costs[-1]:
            return None
        return float(np.interp(cost, self.costs, self.scores))


def cost_curve(row: ExperimentRuns, name: str, quantity: str, cost_per_image: float) -> CostCurve | None:
    """Return the curve of a row's finished runs; None without any, or if their logs don't count images.

    Args:
        row: the runs.
        name: the row's label.
        quantity: of the score, such as top1.
        cost_per_image: of training.
    """
    runs = [run for run in row.by_seed.values() if run.metrics]
    images = {epoch: count for run in runs for epoch, count in images_by_epoch(run).items()}
    points = [
        (images[epoch] * cost_per_image, fmean(scores))
        for epoch, scores in validation_scores(runs, quantity).items()
        if epoch in images
    ]
    if not points:
        return None
    costs, scores = zip(*points, strict=True)
    return CostCurve(name, costs, scores)


@dataclass(frozen=True)
class Throughput:
    """The rows' speed as job=benchmark measured it.

    Args:
        images_per_s: in training, by a row's label.
        machine: device, threads and precision.
        origin: machine, date and command, in words.
        noisy: labels of the rows whose measurements scatter or were disturbed.
    """

    images_per_s: Mapping[str, float]
    machine: str
    origin: str
    noisy: Collection[str] = ()


def read_throughput(file: Path) -> Throughput | None:
    """Read the rows' speed from the JSON file of a benchmark, None if there is no such file yet.

    Raises:
        UserError: it is not the file of a benchmark of networks.
    """
    if not file.is_file():
        log.warning("There is no benchmark '%s' yet: write it with job=benchmark.", file)
        return None
    try:
        benchmark = json.loads(file.read_text(encoding="utf-8"))
        origin = f"{benchmark['machine']}, {benchmark['origin']['date'][:10]}, `{benchmark['origin']['command']}`"
        speeds = {row["row"]: row["train img/s"] for row in benchmark["rows"] if (row["train img/s"] or 0) > 0}
        measurements = benchmark.get("measurements") or [{}] * len(benchmark["rows"])
        cells = {
            row["row"]: Measured(cell["samples"], disturbed=cell["disturbed"])
            for row, measured in zip(benchmark["rows"], measurements, strict=True)
            if (cell := measured.get("train img/s"))
        }
        noisy = [label for label, cell in cells.items() if cell.is_noisy]
        return Throughput(speeds, benchmark["machine"], origin, noisy)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{file}' is no result of benchmark=reproduction or benchmark=networks, or it is damaged ({error!r}): "
            "measure it again with job=benchmark."
        ) from error


def curves_over_seconds(comparison: Comparison, throughput: Throughput) -> list[CostCurve]:
    """Return the curves of all rows with a measured speed over their seconds of training."""
    speeds = throughput.images_per_s
    curves = [
        cost_curve(row.runs, row.name, comparison.quantity, 1 / speeds[row_label(row.experiment)])
        for row in comparison.rows
        if row_label(row.experiment) in speeds
    ]
    return [curve for curve in curves if curve]


def curves_over_flops(comparison: Comparison) -> list[CostCurve]:
    """Return the curves of all rows over the FLOPs of their training, three times those of the forward passes."""
    curves = [
        cost_curve(row.runs, row.name, comparison.quantity, TRAINING_FLOPS * row.flops)
        for row in comparison.rows
        if row.flops
    ]
    return [curve for curve in curves if curve]


def equal_seconds_table(curves: Sequence[CostCurve], throughput: Throughput, quantity: str) -> Table:
    """Return the validation score of each row at its own end, and at the seconds when the fastest row ends.

    Args:
        curves: over seconds.
        throughput: that the seconds are from.
        quantity: of the score, such as top1.
    """
    fastest = min(curves, key=lambda curve: curve.costs[-1])
    seconds = fastest.costs[-1]
    at_end, at_equal = f"val/{quantity} % at the end", f"val/{quantity} % after {seconds:,.0f} s"
    table = Table("At equal seconds", ["row", "seconds of training", at_end, at_equal])
    for curve in curves:
        score = curve.score_at(seconds)
        table.rows.append(
            {
                "row": curve.name,
                "seconds of training": f"{curve.costs[-1]:,.0f}",
                at_end: f"{curve.scores[-1]:.2f}",
                at_equal: None if score is None else f"{score:.2f}",
            }
        )
    noisy = f" (noisy: {'; '.join(throughput.noisy)})" if throughput.noisy else ""
    table.notes.append(
        f"At equal seconds: all rows when the fastest one, {fastest.name}, ends. Seconds: images trained on / measured "
        f"images/s{noisy}, {throughput.machine}. Scores: after each epoch, mean over seeds, linear between epochs. "
        "A schedule that is planned to end here ends higher than one that is cut off here."
    )
    return table
