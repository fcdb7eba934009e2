"""Runs compared: one row an experiment, the published numbers beside."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from omegaconf import OmegaConf

from lambdanets.reports.detection_table import AVERAGE_PRECISIONS, Detector, by_size, detected
from lambdanets.reports.published import label, published
from lambdanets.reports.runs import Row, Run, grouped, missing
from lambdanets.reports.statistics import Difference, Summary, paired_difference, summary
from lambdanets.table import Table

Flops = Callable[[Run], float | None]
SHOWN = {"top1": "top-1", "top5": "top-5", "box_ap": "box AP", "mask_ap": "mask AP"}


@dataclass(frozen=True)
class Compared:
    """A row's figures; scores in percent, None where no run has them."""

    row: Row
    name: str
    score: Summary | None
    detected: dict[str, float]  # a detector's average precisions
    difference: Difference | None
    parameters: float | None
    flops: float | None
    images_per_s: float | None
    memory_gib: float | None


@dataclass(frozen=True)
class Comparison:
    """What a report shows.

    Args:
        title: one line.
        score: name of the score that is compared.
        rows: in order.
        baseline: the experiment that differences are to, if it has runs.
        missing: failed, unfinished and never started runs, in words.
    """

    title: str
    score: str
    rows: list[Compared]
    baseline: str | None
    missing: list[str]

    @property
    def quantity(self) -> str:
        """The score's name among the published numbers."""
        return self.score.rpartition("/")[2]

    @property
    def tables(self) -> list[Table]:
        """For readers; of detectors a second one, by the size of objects."""
        detectors = [Detector(row.name, row.row.experiment, row.detected) for row in self.rows]
        return [self.table(), *([by_size(detectors)] if any(row.detected for row in self.rows) else [])]

    def table(self) -> Table:
        beside = f"published {SHOWN.get(self.quantity, self.quantity)}"
        columns = ["row", "runs", f"{self.score} %", beside, "difference [95 %]", "M parameters"]
        columns += ["published M", "GFLOPs", "images/s", "GiB"]
        table = Table(self.title, columns)
        for row in self.rows:
            table.rows.append(
                {
                    "row": row.name,
                    "runs": str(row.score.seeds if row.score else 0),
                    f"{self.score} %": scored(row.score),
                    "difference [95 %]": self.difference(row),
                    "M parameters": None if row.parameters is None else f"{row.parameters / 1e6:.3f}",
                    "GFLOPs": None if row.flops is None else row.flops / 1e9,
                    "images/s": row.images_per_s,
                    "GiB": row.memory_gib,
                    beside: quoted(row, self.quantity),
                    "published M": quoted(row, "params"),
                }
            )
        table.notes = self.notes()
        return table

    def difference(self, row: Compared) -> str | None:
        return "baseline" if row.row.experiment == self.baseline else differing(row.difference)

    def notes(self) -> list[str]:
        notes = [f"{self.score}: mean ± standard deviation over seeds."]
        if self.baseline:
            notes.append(
                f"Difference: to {label(self.baseline)}, paired by seed; Student's 95 % interval from two seeds on."
            )
        notes.append(
            "GFLOPs: of one image's forward pass, two a multiply-add. Images/s and GiB: in training, as the runs "
            "measured them on their machines."
        )
        if any(published(row.row.experiment, self.quantity) for row in self.rows):
            data = "COCO" if self.quantity in AVERAGE_PRECISIONS else "ImageNet"
            notes.append(f"Published: on {data}, by the papers; unconfirmed: as recalled, not read again. Never ours.")
        return notes + [f"Missing: {sentence}." for sentence in self.missing]

    def numbers(self) -> Table:
        """For programs: one value a cell."""
        columns = ["experiment", "setting", "runs", "mean", "deviation", "difference", "low", "high", "pairs"]
        columns += ["parameters", "flops", "images_per_s", "memory_gib"]
        scores = AVERAGE_PRECISIONS if any(row.detected for row in self.rows) else ()
        columns += scores
        quantities = dict.fromkeys([self.quantity, "params", *scores])
        columns += [f"published_{name}{trust}" for name in quantities for trust in ("", "_trust")]
        table = Table(self.title, columns)
        for row in self.rows:
            printed = {name: published(row.row.experiment, name) for name in quantities}
            score, difference = row.score, row.difference
            table.rows.append(
                {
                    "experiment": row.row.experiment,
                    "setting": " ".join(row.row.setting),
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
                    **row.detected,
                    **{f"published_{name}": found.value for name, found in printed.items() if found},
                    **{f"published_{name}_trust": found.trust for name, found in printed.items() if found},
                }
            )
        return table


def compare(runs: list[Run], *, score: str, baseline: str | None, flops: Flops) -> Comparison:
    """Groups runs by experiment and setting, and their scores over seeds.

    Args:
        runs: as collected.
        score: a score of metrics.json.
        baseline: the experiment to which differences are; None takes the sweep's.
        flops: counts a run's.
    """
    rows = grouped(runs)
    first = runs[0].config
    baseline = baseline or OmegaConf.select(first, "sweep.baseline")
    compared = []
    for row in rows:
        against = baseline_of(row, rows, baseline)
        scores = percent(row.scores(score))
        compared.append(
            Compared(
                row,
                name_of(row, rows),
                summary(list(scores.values())) if scores else None,
                detected(row),
                paired_difference(scores, percent(against.scores(score))) if against and against is not row else None,
                mean(row.values("parameters")),
                flops(next(iter(row.runs.values()))),
                mean(row.values("images_per_s")),
                mean([gib for run in row.runs.values() for gib in peak_memory(run)]),
            )
        )
    title = OmegaConf.select(first, "sweep.title") or "Runs compared"
    there = baseline if any(row.experiment == baseline for row in rows) else None
    return Comparison(title, score, compared, there, missing(rows))


def name_of(row: Row, rows: list[Row]) -> str:
    """A row's label, with what sets it apart from others of the same experiment."""
    others = [other for other in rows if other.experiment == row.experiment]
    common = set.intersection(*(set(other.setting) for other in others))
    return ", ".join([label(row.experiment), *(said for said in row.setting if said not in common)])


def baseline_of(row: Row, rows: list[Row], baseline: str | None) -> Row | None:
    """The baseline's row in the same setting, else the only one there is."""
    found = [other for other in rows if other.experiment == baseline]
    same = [other for other in found if other.setting == row.setting]
    return (same or (found if len(found) == 1 else [None]))[0]  # type: ignore[list-item]


def peak_memory(run: Run) -> list[float]:
    seen = [row["speed/peak_memory_gib"] for row in run.log if "speed/peak_memory_gib" in row]
    return [max(seen)] if seen else []


def percent(scores: dict[int, float]) -> dict[int, float]:
    """Of those that there are: an average precision of what isn't in the data is −1."""
    return {seed: 100 * score for seed, score in scores.items() if score >= 0}


def mean(values: list[float]) -> float | None:
    return fmean(values) if values else None


def scored(found: Summary | None) -> str | None:
    if found is None:
        return None
    return f"{found.mean:.2f}" + ("" if found.deviation is None else f" ± {found.deviation:.2f}")


def differing(found: Difference | None) -> str | None:
    if found is None:
        return None
    interval = "" if found.low is None or found.high is None else f" [{found.low:+.2f}, {found.high:+.2f}]"
    return f"{found.mean:+.2f}{interval}"


def quoted(row: Compared, quantity: str) -> str | None:
    found = published(row.row.experiment, quantity)
    return None if found is None else str(found)
