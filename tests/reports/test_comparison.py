"""Comparisons of made-up runs against numbers worked out by hand."""

import pytest

from lambdanets.reports.comparison import compare
from lambdanets.reports.runs import read_runs
from tests.reports.run_folders import EXPERIMENTS, make_run, make_sweep


@pytest.fixture
def sweep(tmp_path):
    return make_sweep(tmp_path)


def comparison(folder, baseline=None):
    return compare(read_runs([folder]), score="test/top1", baseline=baseline, flops=lambda run: 2e9)


def test_rows_are_in_the_tables_order_with_published_numbers_beside(sweep):
    conv, se, lambdas = comparison(sweep).rows
    assert [row.experiment for row in (conv, se, lambdas)] == EXPERIMENTS
    assert conv.score == pytest.approx((71.0, 1.0, 3))
    assert conv.difference is None
    assert se.difference == pytest.approx((8 / 3, 8 / 3 - 5.1713, 8 / 3 + 5.1713, 3), abs=1e-3)
    assert lambdas.score == (80, None, 1)
    assert lambdas.difference.low is None
    assert conv.images_per_s == 51
    assert conv.memory_gib == pytest.approx(0.6)
    table = comparison(sweep).table()
    assert table.rows[0]["difference [95 %]"] == "baseline"
    assert table.rows[1]["test/top1 %"] == "73.67 ± 2.08"
    assert table.rows[1]["difference [95 %]"] == "+2.67 [-2.50, +7.84]"
    assert table.rows[1]["published top-1"] == "77.6"
    assert table.rows[2]["published M"] == "15.0"
    assert table.rows[2]["GFLOPs"] == 2


def test_another_baseline_can_be_chosen_and_one_without_runs_gives_no_differences(sweep):
    conv, se, _ = comparison(sweep, baseline="table3/se").rows
    assert se.difference is None
    assert conv.difference.mean == pytest.approx(-8 / 3)
    absent = comparison(sweep, baseline="table3/lambda_u4")
    assert absent.baseline is None
    assert not any(row.difference for row in absent.rows)


def test_rows_of_another_setting_are_compared_with_its_baseline(sweep):
    for seed in range(2):
        make_run(sweep, "table3/conv", seed, 0.5, overrides=["recipe.optimizer.lr=0.1"])
        make_run(sweep, "table3/se", seed, 0.6, overrides=["recipe.optimizer.lr=0.1"])
    rows = {row.name: row for row in comparison(sweep).rows}
    assert len(rows) == 5
    row = rows["Conv + SE (Hu et al. 2018), recipe.optimizer.lr=0.1"]
    assert row.difference.mean == pytest.approx(10)
    assert row.difference.seeds == 2
    assert "Conv + SE (Hu et al. 2018)" in rows


def test_flops_are_those_of_a_finished_run(tmp_path):
    make_run(tmp_path, "table3/conv", 0)
    make_run(tmp_path, "table3/conv", 1, 0.8)
    make_run(tmp_path, "table3/se", 0)
    rows = compare(
        read_runs([tmp_path]), score="test/top1", baseline=None, flops=lambda run: run.metrics.get("parameters")
    ).rows
    assert [row.flops for row in rows] == [5754, None]


def test_the_notes_name_missing_runs(sweep):
    assert "Missing: table3/lambda_u1, seed 1: failed: The <disk> is full." in comparison(sweep).table().notes
