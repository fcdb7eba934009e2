"""Scores over seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.stats import t as student_t


class Summary(NamedTuple):
    """Mean, and the standard deviation of the sample (None of a single value)."""

    mean: float
    deviation: float | None
    seeds: int


class Difference(NamedTuple):
    """A mean of paired differences, and the ends of its confidence interval (None of a single pair)."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


def summary(values: Sequence[float]) -> Summary:
    return Summary(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def paired_difference(
    scores: Mapping[int, float], baseline: Mapping[int, float], *, confidence: float = 0.95
) -> Difference | None:
    """The mean difference over the seeds that both have, with Student's interval; None without a common seed.

    Args:
        scores: by seed.
        baseline: by seed.
        confidence: that the interval covers the true mean, if differences are normally distributed.
    """
    differences = [scores[seed] - baseline[seed] for seed in sorted(scores.keys() & baseline.keys())]
    if not differences:
        return None
    mean, deviation, count = summary(differences)
    if deviation is None:
        return Difference(mean, None, None, count)
    margin = float(student_t.ppf((1 + confidence) / 2, count - 1)) * deviation / math.sqrt(count)
    return Difference(mean, mean - margin, mean + margin, count)
