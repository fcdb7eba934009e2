"""Detectors' average precision by overlap and by the size of objects, as the paper lays it out."""

from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

from lambdanets.reports.published import published
from lambdanets.reports.runs import Row
from lambdanets.table import Table

KINDS = ("box", "mask")
GROUPS = (("50", "75"), ("_small", "_medium", "_large"))
AVERAGE_PRECISIONS = tuple(
    f"{kind}_ap{part}" for kind in KINDS for part in ("", *(part for group in GROUPS for part in group))
)


class Detector(NamedTuple):
    """A row's name and experiment, and its average precisions in percent, by name."""

    name: str
    experiment: str
    found: dict[str, float]


def detected(row: Row) -> dict[str, float]:
    """The mean over seeds of each average precision on the test split, in percent.

    Those of objects that the data don't have, −1, are left out.
    """
    scores = {name: row.scores(f"test/{name}").values() for name in AVERAGE_PRECISIONS}
    there = {name: [100 * score for score in found if score >= 0] for name, found in scores.items()}
    return {name: fmean(found) for name, found in there.items() if found}


def by_size(rows: Iterable[Detector]) -> Table:
    """Ours, and below each what the paper prints for it."""
    table = Table("Average precision by overlap and by size of objects", ["row", "of", *cells({})])
    for row in rows:
        printed = {name: published(row.experiment, name) for name in AVERAGE_PRECISIONS}
        theirs = {name: found.value for name, found in printed.items() if found}
        unconfirmed = any(found.trust == "R" for found in printed.values() if found)
        source = "published (unconfirmed)" if unconfirmed else "published"
        for whose, numbers in (("ours", row.found), (source, theirs)):
            if numbers:
                table.rows.append({"row": row.name, "of": whose, **cells(numbers)})
    table.notes += [
        "AP: COCO's, in percent, over overlaps of 50 to 95 %; at 50 and 75 %; of small, medium and large objects.",
        "Ours: mean over seeds. Published: on COCO, by the paper; unconfirmed: as recalled, not read again.",
    ]
    return table


def cells(numbers: dict[str, float]) -> dict[str, str | None]:
    """One row's average precisions, as the paper groups them."""
    found: dict[str, str | None] = {}
    for kind in KINDS:
        groups = {f"{kind} AP": ("",), f"{kind} 50 / 75": GROUPS[0], f"{kind} s / m / l": GROUPS[1]}
        for heading, parts in groups.items():
            shown = [numbers.get(f"{kind}_ap{part}") for part in parts]
            text = " / ".join("–" if number is None else f"{number:.1f}" for number in shown)
            found[heading] = text if any(number is not None for number in shown) else None
    return found
