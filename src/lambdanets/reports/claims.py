"""Claims that compare two experiments, judged by runs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from lambdanets.errors import UserError
from lambdanets.reports.comparison import format_difference, mean_or_none
from lambdanets.reports.published import published_value, row_label
from lambdanets.reports.runs import ExperimentRuns
from lambdanets.reports.statistics import PairedDifference, paired_difference
from lambdanets.table import Table

Criterion = Literal["superior", "non_inferior", "fewer_parameters", "faster"]
SUPPORTED, CONTRADICTED, INCONCLUSIVE = "holds", "doesn't hold", "can't tell"
NOT_RUN, NOT_MEASURED = "not run", "not measured"
MARK = "†"  # of rows that hadn't converged, and of their claims
MARGIN = 1.0  # of non-inferiority, in percentage points
MIN_SPEEDUP = 1.1  # ratio


@dataclass(frozen=True)
class Claim:
    """A claim that compares two experiments.

    Args:
        statement: the claim in words.
        a: the experiment that it favors.
        b: the experiment that a is compared with.
        criterion: "superior", a scores higher; "non_inferior", a scores lower by less than `MARGIN`, or higher;
            "fewer_parameters", a has fewer of them; "faster", a trains more images per second.
        seeds: planned number of pairs, None for that of the other claims beside it.
    """

    statement: str
    a: str
    b: str
    criterion: Criterion = "superior"
    seeds: int | None = None

    def __post_init__(self) -> None:
        if self.criterion not in get_args(Criterion):
            choices = ", ".join(get_args(Criterion))
            raise UserError(f"The claim '{self.statement}' has criterion={self.criterion}: choose one of {choices}.")

    @property
    def experiments(self) -> set[str]:
        """Both experiments."""
        return {self.a, self.b}

    @property
    def is_of_scores(self) -> bool:
        """True for a claim that is judged by scores, and not by a size or a speed."""
        return self.criterion in ("superior", "non_inferior")


@dataclass(frozen=True)
class Judgment:
    """The verdict on a claim with its evidence; texts are cells of a table, None without numbers.

    Args:
        claim: the claim.
        published: both published numbers.
        ours: both of our numbers.
        difference: between ours.
        verdict: SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_RUN or NOT_MEASURED.
        interval: the difference of our scores, in percent.
        published_difference: the difference of the published scores, in percent.
    """

    claim: Claim
    published: str | None
    ours: str | None
    difference: str | None
    verdict: str
    interval: PairedDifference | None = None
    published_difference: float | None = None


def judge(claim: Claim, rows: Mapping[str, ExperimentRuns], *, score: str, throughput: Mapping[str, float]) -> Judgment:
    """Judge a claim by runs.

    Scores are compared by Student's 95 % interval of the differences, paired by seed. A claim of superiority holds if
    the interval lies above 0 and doesn't hold if it lies below; for non-inferiority the limit is −`MARGIN`. An interval
    around the limit, or a single pair, is inconclusive. Numbers of parameters are compared as they are; throughputs
    must differ by a ratio of `MIN_SPEEDUP`. Without a pair the claim is not run, without both throughputs not measured.

    Args:
        claim: the claim.
        rows: runs by experiment.
        score: name of the score in metrics.json, a fraction.
        throughput: images/s in training by experiment, measured side by side.
    """
    match claim.criterion:
        case "superior":
            return judge_scores(claim, rows, score, limit=0.0)
        case "non_inferior":
            return judge_scores(claim, rows, score, limit=-MARGIN)
        case "fewer_parameters":
            sizes = {name: mean_or_none(rows[name].values("parameters")) for name in (claim.a, claim.b) if name in rows}
            millions = {name: size / 1e6 for name, size in sizes.items() if size}
            return judge_ratio(claim, "params", millions, " M", NOT_RUN, min_ratio=1.0, lower_is_better=True)
        case "faster":
            return judge_ratio(claim, "throughput", throughput, " images/s", NOT_MEASURED, min_ratio=MIN_SPEEDUP)


def judge_scores(claim: Claim, rows: Mapping[str, ExperimentRuns], score: str, *, limit: float) -> Judgment:
    """Judge a claim by the interval of its paired differences, which must lie above a limit in percent."""
    quantity = score.rpartition("/")[2]
    scores = [
        {seed: 100 * value for seed, value in rows[name].scores(score).items()} if name in rows else {}
        for name in (claim.a, claim.b)
    ]
    difference = paired_difference(*scores)
    common = scores[0].keys() & scores[1].keys()
    means = [f"{sum(by_seed[seed] for seed in sorted(common)) / len(common):.2f}" for by_seed in scores if common]
    a, b = (published_value(name, quantity) for name in (claim.a, claim.b))
    return Judgment(
        claim,
        format_published_pair(claim, quantity),
        format_pair(*means) if means else None,
        format_difference(difference),
        interval_verdict(difference, limit),
        difference,
        a.value - b.value if a and b else None,
    )


def interval_verdict(difference: PairedDifference | None, limit: float) -> str:
    """Return whether an interval lies above a limit, below it or around it."""
    if difference is None:
        return NOT_RUN
    if difference.low is None or difference.high is None:
        return INCONCLUSIVE
    return SUPPORTED if difference.low > limit else CONTRADICTED if difference.high < limit else INCONCLUSIVE


def judge_ratio(
    claim: Claim,
    quantity: str,
    values: Mapping[str, float],
    unit: str,
    missing: str,
    *,
    min_ratio: float,
    lower_is_better: bool = False,
) -> Judgment:
    """Judge a claim by the ratio of two values without an interval.

    Args:
        claim: the claim.
        quantity: name among the published numbers.
        values: by experiment.
        unit: with a leading space.
        missing: the verdict without both values.
        min_ratio: the better value must be better by more than this ratio.
        lower_is_better: whether the smaller value is the better one.
    """
    published = format_published_pair(claim, quantity)
    if claim.a not in values or claim.b not in values:
        return Judgment(claim, published, None, None, missing)
    a, b = values[claim.a], values[claim.b]
    gain = b / a if lower_is_better else a / b
    verdict = SUPPORTED if gain > min_ratio else CONTRADICTED if gain < 1 / min_ratio else INCONCLUSIVE
    return Judgment(claim, published, format_pair(f"{a:.3g}", f"{b:.3g}") + unit, f"× {a / b:.2f}", verdict)


def format_published_pair(claim: Claim, quantity: str) -> str | None:
    """Return the published numbers of both experiments, None unless both are published."""
    a, b = (published_value(name, quantity) for name in (claim.a, claim.b))
    if a is None or b is None:
        return None
    return format_pair(a.plain, b.plain) + (" (unconfirmed)" if "R" in (a.trust, b.trust) else "")


def format_pair(a: str, b: str) -> str:
    return f"{a} against {b}"


def claims_table(
    title: str, judgments: list[Judgment], *, seeds: int | None = None, marked: Collection[Claim] = ()
) -> Table:
    """Return a table with one row per claim.

    Args:
        title: one line.
        judgments: in order.
        seeds: planned number of pairs; adds a column with the pairs that there are.
        marked: claims with a mark.
    """
    columns = ["claim", "A", "B", "published", "ours", "A − B [95 %]", *(["pairs"] if seeds else []), "verdict"]
    table = Table(title, columns)
    for judgment in judgments:
        claim = judgment.claim
        cells = {
            "claim": marked_statement(claim, marked),
            "A": row_label(claim.a),
            "B": row_label(claim.b),
            "published": judgment.published,
            "ours": judgment.ours,
            "A − B [95 %]": judgment.difference,
            "verdict": judgment.verdict,
        }
        if seeds and claim.is_of_scores:
            pairs, planned = judgment.interval.seeds if judgment.interval else 0, claim.seeds or seeds
            cells["pairs"] = f"{pairs} of {planned}" if pairs < planned else str(pairs)
        table.rows.append(dict(cells))
    return table


def marked_statement(claim: Claim, marked: Collection[Claim]) -> str:
    """Return a claim in words, with a mark if it is one of the marked claims."""
    return f"{claim.statement} {MARK}" if claim in marked else claim.statement
