"""Statistics against numbers worked out by hand and against numpy."""

import numpy as np
import pytest
from scipy import stats

from lambdanets.reports.statistics import mean_interval, paired_difference, summarize


def test_statistics_by_hand():
    assert summarize([1.0, 2.0, 6.0]) == pytest.approx((3.0, 7**0.5, 3))
    assert summarize([4.0]) == (4.0, None, 1)
    # Differences 2, 1, 5: mean 8/3, deviation 2.0817, t(0.975, 2) = 4.3027: ± 5.1713.
    difference = paired_difference({0: 72, 1: 73, 2: 76, 9: 0}, {0: 70, 1: 72, 2: 71, 8: 0})
    assert difference == pytest.approx((8 / 3, 8 / 3 - 5.1713, 8 / 3 + 5.1713, 3), abs=1e-3)
    assert paired_difference({0: 5.0}, {0: 3.0}) == (2.0, None, None, 1)
    assert paired_difference({0: 5.0}, {1: 3.0}) is None
    # Mean 3, deviation √7, t(0.975, 2) = 4.3027: ± 6.5725.
    assert mean_interval([1.0, 2.0, 6.0]) == pytest.approx((3.0, 3 - 6.5725, 3 + 6.5725), abs=1e-3)
    assert mean_interval([4.0]) == (4.0, None, None)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("seeds", [2, 5, 30])
def test_the_interval_is_students(seeds, confidence):
    a, b = np.random.default_rng(seeds).normal(70, 2, (2, seeds))
    difference = paired_difference(dict(enumerate(a)), dict(enumerate(b)), confidence=confidence)
    half = stats.t.ppf((1 + confidence) / 2, seeds - 1) * (a - b).std(ddof=1) / seeds**0.5
    mean = (a - b).mean()
    assert difference == pytest.approx((mean, mean - half, mean + half, seeds), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_equal_differences_have_an_interval_of_no_width(shift, recwarn):
    scores = {0: 60.0, 1: 61.0, 2: 63.0}
    shifted = {seed: score + shift for seed, score in scores.items()}
    assert paired_difference(shifted, scores) == (shift, shift, shift, 3)
    assert not recwarn.list
