"""Statistics of scores over seeds."""

import statistics
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.stats import t, ttest_rel


class ScoreSummary(NamedTuple):
    """Mean and standard deviation of a sample.

    Args:
        mean: of the sample.
        deviation: the sample's standard deviation, None for a single value.
        seeds: number of values.
    """

    mean: float
    deviation: float | None
    seeds: int


class MeanInterval(NamedTuple):
    """A sample's mean with its confidence interval, whose ends are None for a single value."""

    mean: float
    low: float | None
    high: float | None


class PairedDifference(NamedTuple):
    """A mean difference over pairs with its confidence interval.

    Args:
        mean: of the differences.
        low: lower end of the interval, None for a single pair.
        high: upper end of the interval, None for a single pair.
        seeds: number of pairs.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int


def summarize(scores: Sequence[float]) -> ScoreSummary:
    """Return mean, standard deviation and number of scores."""
    return ScoreSummary(statistics.fmean(scores), statistics.stdev(scores) if len(scores) > 1 else None, len(scores))


def mean_interval(scores: Sequence[float], *, confidence: float = 0.95) -> MeanInterval:
    """Return the mean of scores with Student's interval.

    Args:
        scores: one or more.
        confidence: probability that the interval covers the true mean if scores are normally distributed.
    """
    mean, deviation, count = summarize(scores)
    if deviation is None:
        return MeanInterval(mean, None, None)
    margin = float(t.ppf((1 + confidence) / 2, count - 1)) * deviation / count**0.5
    return MeanInterval(mean, mean - margin, mean + margin)


def paired_difference(
    scores: Mapping[int, float], baseline: Mapping[int, float], *, confidence: float = 0.95
) -> PairedDifference | None:
    """Return the mean difference over common seeds with Student's interval; None without a common seed.

    Args:
        scores: by seed.
        baseline: by seed.
        confidence: probability that the interval covers the true mean if differences are normally distributed.
    """
    seeds = sorted(scores.keys() & baseline.keys())
    if not seeds:
        return None
    mean = statistics.fmean(scores[seed] - baseline[seed] for seed in seeds)
    if len(seeds) == 1:
        return PairedDifference(mean, None, None, 1)
    with warnings.catch_warnings():  # differences that are all equal: the interval is a point
        warnings.simplefilter("ignore", RuntimeWarning)
        test = ttest_rel([scores[seed] for seed in seeds], [baseline[seed] for seed in seeds])
        interval = test.confidence_interval(confidence)
    return PairedDifference(mean, float(interval.low), float(interval.high), len(seeds))
