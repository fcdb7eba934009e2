"""Comparisons of runs: one row per experiment, beside the published numbers."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from statistics import fmean

from omegaconf import OmegaConf

from lambdanets.config.keys import override_key
from lambdanets.reports.differing_configs import differing_notes
from lambdanets.reports.flops import COUNTED_METHODS
from lambdanets.reports.processors import processors_notes, share_processor
from lambdanets.reports.published import format_published, published_note, published_value, row_label
from lambdanets.reports.runs import ExperimentRuns, RunRecord, describe_missing, group_runs
from lambdanets.reports.score_table import mean_test_scores, score_names, score_table
from lambdanets.reports.statistics import PairedDifference, ScoreSummary, paired_difference, summarize
from lambdanets.table import Table
from lambdanets.tasks import Task


@dataclass(frozen=True)
class ComparedRow:
    """Row of a comparison; a number is None where no run has it.

    Args:
        runs: the row's runs.
        name: label of the experiment, with the setting where it distinguishes rows.
        score: over seeds, in percent.
        test_scores: scores of the task's own table, in percent, by name; empty without such a table.
        difference: to the baseline, in percent.
        parameters: of the network.
        flops: of one image's forward pass.
        images_per_s: in training, by the runs' own clocks; None for runs on several processors, too.
        memory_gib: peak memory of training.
    """

    runs: ExperimentRuns
    name: str
    score: ScoreSummary | None
    test_scores: dict[str, float]
    difference: PairedDifference | None
    parameters: float | None
    flops: float | None
    images_per_s: float | None
    memory_gib: float | None

    @property
    def experiment(self) -> str:
        return self.runs.experiment


@dataclass(frozen=True)
class Comparison:
    """The content of a report.

    Args:
        title: one line.
        score: name of the compared score in metrics.json.
        rows: in order.
        baseline: the experiment that differences refer to, None if it has no runs.
        missing: descriptions of failed, unfinished and never started runs.
    """

    title: str
    score: str
    rows: list[ComparedRow]
    baseline: str | None
    missing: list[str]

    @property
    def quantity(self) -> str:
        """The score's name among the published numbers."""
        return self.score.rpartition("/")[2]

    @property
    def tables(self) -> list[Table]:
        """Tables for readers: the comparison, and the task's own table of scores if it has one."""
        rows = [(row.name, row.experiment, row.test_scores) for row in self.rows]
        layout = self.task.SCORE_TABLE if any(row.test_scores for row in self.rows) else None
        return [self.table(), *([score_table(layout, rows, self.task.PUBLISHED_ON)] if layout else [])]

    @property
    def task(self) -> type[Task]:
        """The task of the first row."""
        return self.rows[0].runs.task

    def table(self) -> Table:
        """Return the comparison for readers."""
        published_score = f"published {self.task.SCORE_TITLES.get(self.quantity, self.quantity)}"
        columns = ["row", "runs", f"{self.score} %", published_score, "difference [95 %]", "M parameters"]
        columns += ["published M", "GFLOPs", "images/s", "GiB"]
        table = Table(self.title, columns)
        for row in self.rows:
            table.rows.append(
                {
                    "row": row.name,
                    "runs": str(row.score.seeds if row.score else 0),
                    f"{self.score} %": format_score(row.score),
                    published_score: format_published(row.experiment, self.quantity),
                    "difference [95 %]": self.difference(row),
                    "M parameters": None if row.parameters is None else f"{row.parameters / 1e6:.3f}",
                    "published M": format_published(row.experiment, "params"),
                    "GFLOPs": None if row.flops is None else row.flops / 1e9,
                    "images/s": row.images_per_s,
                    "GiB": row.memory_gib,
                }
            )
        table.notes = self.notes()
        return table

    def difference(self, row: ComparedRow) -> str | None:
        """Return the cell with a row's difference to the baseline."""
        return "baseline" if row.experiment == self.baseline else format_difference(row.difference)

    def notes(self) -> list[str]:
        """Return the sentences below the table."""
        notes = [f"{self.score}: mean ± standard deviation over seeds."]
        if self.baseline:
            notes.append(
                f"Difference: to {row_label(self.baseline)}, paired by seed; Student's 95 % interval from two pairs on."
            )
        notes.append(
            f"GFLOPs: one image's forward pass, two per multiply-add; {COUNTED_METHODS}. Images/s and GiB: in "
            "training, as measured by the runs on their machines."
        )
        notes += processors_notes([(row.name, row.runs) for row in self.rows], "Images/s")
        numbers = [
            published_value(row.experiment, quantity) for row in self.rows for quantity in (self.quantity, "params")
        ]
        if any(numbers):
            data = self.task.PUBLISHED_ON
            notes.append(published_note(f"Published: on {data}, by the papers, not by us", numbers))
        notes += differing_notes((row.name, row.runs) for row in self.rows)
        return notes + [f"Missing: {description.rstrip('.')}." for description in self.missing]

    def numbers(self) -> Table:
        """Return the comparison for programs: one number per cell."""
        columns = ["experiment", "setting", "runs", "mean", "deviation", "difference", "low", "high", "pairs"]
        columns += ["parameters", "flops", "images_per_s", "memory_gib"]
        scores = score_names(self.task.SCORE_TABLE) if any(row.test_scores for row in self.rows) else []
        columns += scores
        quantities = dict.fromkeys([self.quantity, "params", *scores])
        columns += [f"published_{name}{suffix}" for name in quantities for suffix in ("", "_trust")]
        table = Table(self.title, columns)
        for row in self.rows:
            published = {name: published_value(row.experiment, name) for name in quantities}
            score, difference = row.score, row.difference
            table.rows.append(
                {
                    "experiment": row.experiment,
                    "setting": " ".join(row.runs.setting),
                    "runs": score.seeds if score else 0,
                    "mean": score.mean if score else None,
                    "deviation": score.deviation if score else None,
                    "difference": difference.mean if difference else None,
                    "low": difference.low if difference else None,
                    "high": difference.high if difference else None,
                    "pairs": difference.seeds if difference else None,
                    "parameters": row.parameters,
                    "flops": row.flops,
                    "images_per_s": row.images_per_s,
                    "memory_gib": row.memory_gib,
                    **row.test_scores,
                    **{f"published_{name}": number.value for name, number in published.items() if number},
                    **{f"published_{name}_trust": number.trust for name, number in published.items() if number},
                }
            )
        return table


def compare(
    runs: list[RunRecord], *, score: str, baseline: str | None, flops: Callable[[RunRecord], float | None]
) -> Comparison:
    """Group runs by experiment and setting and compare their scores over seeds.

    Args:
        runs: as `read_runs` returns them.
        score: name of a score in metrics.json.
        baseline: the experiment that differences refer to; None takes the sweep's.
        flops: counts the FLOPs of a run's network, or returns None where they can't be counted.
    """
    grouped = group_runs(runs)
    first = runs[0].config
    baseline = baseline or OmegaConf.select(first, "sweep.baseline")
    rows = [compare_row(row, grouped, score=score, baseline=baseline, flops=flops) for row in grouped]
    title = OmegaConf.select(first, "sweep.title") or "Runs compared"
    has_baseline = any(row.experiment == baseline for row in rows)
    return Comparison(title, score, rows, baseline if has_baseline else None, describe_missing(grouped, score))


def compare_row(
    row: ExperimentRuns,
    rows: list[ExperimentRuns],
    *,
    score: str,
    baseline: str | None,
    flops: Callable[[RunRecord], float | None],
) -> ComparedRow:
    """Compare one row with the baseline among all rows; arguments as for `compare`."""
    reference = find_baseline(row, rows, baseline)
    scores = valid_percents(row.scores(score))
    difference = None
    if reference is not None and reference is not row:
        difference = paired_difference(scores, valid_percents(reference.scores(score)))
    # Only a finished run has recorded its parameters, which tell the number of classes of a folder of images.
    counted = max(row.by_seed.values(), key=lambda run: "parameters" in run.metrics)
    return ComparedRow(
        row,
        row_name(row, rows),
        summarize(list(scores.values())) if scores else None,
        mean_test_scores(row),
        difference,
        mean_or_none(row.values("parameters")),
        flops(counted),
        mean_or_none(row.values("images_per_s")) if share_processor(row.finished.values()) else None,
        mean_or_none([memory for run in row.by_seed.values() if (memory := peak_memory_gib(run)) is not None]),
    )


def row_name(row: ExperimentRuns, rows: list[ExperimentRuns], hidden: Collection[str] = ()) -> str:
    """Return a row's label with the settings that set it apart from other rows of its experiment.

    Args:
        row: one of the rows.
        rows: all of them.
        hidden: keys that stay out of the label.
    """
    settings = [set(other.setting) for other in rows if other.experiment == row.experiment]
    common = set.intersection(*settings)
    own = [override for override in row.setting if override not in common and override_key(override) not in hidden]
    return ", ".join([row_label(row.experiment), *own])


def find_baseline(row: ExperimentRuns, rows: list[ExperimentRuns], baseline: str | None) -> ExperimentRuns | None:
    """Return the baseline's row in the same setting, or else its only row."""
    candidates = [other for other in rows if other.experiment == baseline]
    same_setting = [other for other in candidates if other.setting == row.setting]
    if same_setting:
        return same_setting[0]
    return candidates[0] if len(candidates) == 1 else None


def peak_memory_gib(run: RunRecord) -> float | None:
    return max((row["speed/peak_memory_gib"] for row in run.log if "speed/peak_memory_gib" in row), default=None)


def valid_percents(scores: dict[int, float]) -> dict[int, float]:
    """Return scores in percent, without the −1 that COCO gives for sizes of objects that the data lack."""
    return {seed: 100 * score for seed, score in scores.items() if score >= 0}


def mean_or_none(values: list[float]) -> float | None:
    return fmean(values) if values else None


def format_score(score: ScoreSummary | None) -> str | None:
    if score is None:
        return None
    return f"{score.mean:.2f}" + ("" if score.deviation is None else f" ± {score.deviation:.2f}")


def format_difference(difference: PairedDifference | None) -> str | None:
    if difference is None:
        return None
    low, high = difference.low, difference.high
    return f"{difference.mean:+.2f}" + ("" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]")
