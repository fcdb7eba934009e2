"""Measured quantities against values by hand."""

import copy
import json
import math
import pickle

import pytest

from lambdanets.measured import Measured
from lambdanets.table import format_cell


def test_the_value_is_the_median():
    assert Measured([3.0, 1.0, 2.0]) == 2.0
    assert math.isnan(Measured())


def test_products_and_quotients_with_numbers_keep_the_measurements():
    seconds = Measured([0.1, 0.2, 0.4])
    assert (1e3 * seconds).samples == pytest.approx((100, 200, 400))
    assert (seconds / 2).samples == pytest.approx((0.05, 0.1, 0.2))
    assert (8 / seconds).samples == pytest.approx((80, 40, 20))
    assert 8 / seconds == pytest.approx(40)


def test_a_ratio_has_the_ratios_of_pairs_that_were_measured_in_turn():
    ratio = Measured([2.0, 4.0, 6.0]) / Measured([1.0, 1.0, 3.0])  # the slow round slows both
    assert ratio == 4.0
    assert ratio.samples == (2.0, 4.0, 2.0)
    assert len((Measured([2.0, 4.0]) / Measured([1.0, 1.0, 3.0])).samples) == 2


def test_noise_is_a_wide_middle_half_or_another_process():
    assert not Measured([1.0, 1.01, 1.02, 1.03, 9.0]).is_noisy  # one slow measurement does not move the median
    assert Measured([1.0, 1.1, 1.2, 1.3, 1.4]).is_noisy
    assert (2 * Measured([1.0, 1.0], disturbed=True)).is_noisy
    assert (Measured([1.0]) / Measured([1.0], disturbed=True)).is_noisy


def test_cells_show_the_range_and_the_noise():
    assert format_cell(Measured([10.11, 10.23, 10.34, 10.2, 10.2])) == "10.2 (10.1–10.3)"
    assert format_cell(Measured([10.0, 10.0, 344.0, 344.0])) == "177 (10.0–344) noisy"
    assert format_cell(Measured([1.5])) == "1.50"
    assert format_cell(Measured()) == "–"


def test_copies_keep_the_measurements():
    measured = Measured([1.0, 2.0, 4.0], disturbed=True)
    for same in (copy.deepcopy(measured), pickle.loads(pickle.dumps(measured))):
        assert (same, same.samples, same.disturbed) == (2.0, (1.0, 2.0, 4.0), True)
    assert json.dumps(measured) == "2.0"
