"""Average precision of detectors by overlap and by the size of objects, in the paper's layout."""

from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

from lambdanets.reports.published import published_value
from lambdanets.reports.runs import ExperimentRuns
from lambdanets.table import Table

KINDS = ("box", "mask")
OVERLAPS, SIZES = ("50", "75"), ("_small", "_medium", "_large")
AVERAGE_PRECISIONS = tuple(f"{kind}_ap{suffix}" for kind in KINDS for suffix in ("", *OVERLAPS, *SIZES))


class DetectionRow(NamedTuple):
    """The average precisions of one row of a comparison.

    Args:
        name: the row's name in the comparison.
        experiment: as in configs/experiment.
        scores: average precisions in percent, by name.
    """

    name: str
    experiment: str
    scores: dict[str, float]


def mean_test_scores(row: ExperimentRuns) -> dict[str, float]:
    """Return the mean over seeds of each average precision on the test split, in percent.

    COCO's evaluation gives −1 for sizes of objects that the data lack; these are left out.
    """
    by_name = {name: row.scores(f"test/{name}").values() for name in AVERAGE_PRECISIONS}
    percents = {name: [100 * score for score in scores if score >= 0] for name, scores in by_name.items()}
    return {name: fmean(scores) for name, scores in percents.items() if scores}


def detection_table(rows: Iterable[DetectionRow]) -> Table:
    """Lay out our average precisions, each row followed by the published ones."""
    table = Table("Average precision by overlap and by size of objects", ["row", "of", *format_scores({})])
    for row in rows:
        published = {name: published_value(row.experiment, name) for name in AVERAGE_PRECISIONS}
        published_scores = {name: number.value for name, number in published.items() if number}
        unconfirmed = any(number.trust == "R" for number in published.values() if number)
        source = "published (unconfirmed)" if unconfirmed else "published"
        for origin, scores in (("ours", row.scores), (source, published_scores)):
            if scores:
                table.rows.append({"row": row.name, "of": origin, **format_scores(scores)})
    table.notes += [
        "AP: COCO's, in percent, over overlaps of 50 to 95 %; at 50 and 75 %; of small, medium and large objects.",
        "Ours: mean over seeds. Published: on COCO, by the paper; unconfirmed: as recalled, not read again.",
    ]
    return table


def format_scores(scores: dict[str, float]) -> dict[str, str | None]:
    """Return the cells of one row, grouped as in the paper; None for a group without scores."""
    cells: dict[str, str | None] = {}
    for kind in KINDS:
        groups = {f"{kind} AP": ("",), f"{kind} 50 / 75": OVERLAPS, f"{kind} s / m / l": SIZES}
        for heading, suffixes in groups.items():
            values = [scores.get(f"{kind}_ap{suffix}") for suffix in suffixes]
            text = " / ".join("–" if value is None else f"{value:.1f}" for value in values)
            cells[heading] = text if any(value is not None for value in values) else None
    return cells
