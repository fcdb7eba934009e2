"""Claims that one row makes of another, and what runs say of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lambdanets.reports.comparison import differing, mean
from lambdanets.reports.published import label, published
from lambdanets.reports.runs import Row
from lambdanets.reports.statistics import Difference, paired_difference
from lambdanets.table import Table

Judged = Literal["more", "little", "smaller", "faster"]
HOLDS, FAILS, OPEN = "holds", "doesn't hold", "can't tell"
LITTLE = 1.0  # percent
FASTER = 1.1  # ratio


@dataclass(frozen=True)
class Claim:
    """A sentence on two experiments.

    Args:
        claim: the sentence.
        a: the experiment that it praises.
        b: the one that it is compared with.
        judged: "more", its score is higher; "little", its score is lower by less than a point; "smaller", it has fewer
            parameters; "faster", it trains more images a second.
    """

    claim: str
    a: str
    b: str
    judged: Judged = "more"


@dataclass(frozen=True)
class Verdict:
    """What runs say of a claim; the texts are a table's cells, None without runs.

    Args:
        claim: the claim.
        published: the numbers that the paper prints.
        ours: ours.
        difference: of ours.
        verdict: HOLDS, FAILS or OPEN.
        interval: a difference of scores in percent.
        printed: the same of the published scores.
    """

    claim: Claim
    published: str | None
    ours: str | None
    difference: str | None
    verdict: str
    interval: Difference | None = None
    printed: float | None = None


def judge(claim: Claim, rows: Mapping[str, Row], *, score: str, throughput: Mapping[str, float]) -> Verdict:
    """The verdict on a claim.

    "more" holds if Student's 95 % interval of the differences, paired by seed, lies above 0, and doesn't if it lies
    below; "little" holds if it lies above −1 percent, and doesn't if it lies below. In between, and with fewer than two
    pairs, one can't tell. "smaller" compares numbers of parameters, "faster" asks for a ratio of 1.1 or more.

    Args:
        claim: the claim.
        rows: by experiment.
        score: name of the score in metrics.json, a share.
        throughput: images/s in training, by experiment, measured side by side.
    """
    match claim.judged:
        case "more" | "little":
            return by_score(claim, rows, score)
        case "smaller":
            sizes = {name: mean(rows[name].values("parameters")) for name in (claim.a, claim.b) if name in rows}
            return by_ratio(claim, "params", {n: v / 1e6 for n, v in sizes.items() if v}, " M", 1.0, fewer=True)
        case "faster":
            return by_ratio(claim, "throughput", throughput, " images/s", FASTER)


def by_score(claim: Claim, rows: Mapping[str, Row], score: str) -> Verdict:
    quantity = score.rpartition("/")[2]
    scores = [
        {seed: 100 * value for seed, value in rows[name].scores(score).items()} if name in rows else {}
        for name in (claim.a, claim.b)
    ]
    found = paired_difference(*scores)
    a, b = (published(name, quantity) for name in (claim.a, claim.b))
    return Verdict(
        claim,
        printed(claim, quantity),
        against(*(f"{sum(of.values()) / len(of):.2f}" for of in scores)) if all(scores) else None,
        differing(found),
        OPEN if found is None else verdict(found, -LITTLE if claim.judged == "little" else 0.0),
        found,
        None if None in (a, b) else a.value - b.value,  # type: ignore[union-attr]
    )


def verdict(found: Difference, least: float) -> str:
    """Does the interval lie above a number, below it, or around it?"""
    if found.low is None or found.high is None:
        return OPEN
    return HOLDS if found.low > least else FAILS if found.high < least else OPEN


def by_ratio(
    claim: Claim, quantity: str, values: Mapping[str, float], unit: str, least: float, *, fewer: bool = False
) -> Verdict:
    if claim.a not in values or claim.b not in values:
        return Verdict(claim, printed(claim, quantity), None, None, OPEN)
    a, b = values[claim.a], values[claim.b]
    gain = b / a if fewer else a / b
    return Verdict(
        claim,
        printed(claim, quantity),
        against(f"{a:.3g}", f"{b:.3g}") + unit,
        f"× {a / b:.2f}",
        HOLDS if gain > least else FAILS if gain < 1 / least else OPEN,
    )


def printed(claim: Claim, quantity: str) -> str | None:
    """The published numbers of both rows, where there are both."""
    numbers = [published(name, quantity) for name in (claim.a, claim.b)]
    if None in numbers:
        return None
    return against(*(str(number).removesuffix(" (unconfirmed)") for number in numbers)) + (
        " (unconfirmed)" if any(number and number.trust == "R" for number in numbers) else ""
    )


def against(a: str, b: str) -> str:
    return f"{a} against {b}"


def table(title: str, verdicts: list[Verdict]) -> Table:
    """A row a claim."""
    columns = ["claim", "A", "B", "published", "ours", "A − B [95 %]", "verdict"]
    shown = Table(title, columns)
    for found in verdicts:
        sides = label(found.claim.a), label(found.claim.b)
        cells = (found.claim.claim, *sides, found.published, found.ours, found.difference, found.verdict)
        shown.rows.append(dict(zip(columns, cells, strict=True)))
    return shown
