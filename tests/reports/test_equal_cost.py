"""Scores at equal seconds and FLOPs against numbers worked out by hand."""

import json

import pytest

from lambdanets.errors import UserError
from lambdanets.reports.comparison import compare
from lambdanets.reports.equal_cost import (
    CostCurve,
    Throughput,
    curves_over_flops,
    curves_over_seconds,
    equal_seconds_table,
    read_throughput,
)
from lambdanets.reports.runs import read_runs
from tests.reports.run_folders import make_run

SPEED = Throughput({"Conv (He et al. 2016)": 160.0, "Conv + SE (Hu et al. 2018)": 80.0}, "Abacus", "")


@pytest.fixture
def comparison(tmp_path):
    """Compare two rows of two epochs with 80 images each; an unfinished seed doesn't count."""
    for experiment, first, last in (("table3/conv", 0.2, 0.4), ("table3/se", 0.5, 0.7), ("table3/lambda_u1", 0.1, 0.2)):
        for seed in range(3):
            folder = make_run(tmp_path, experiment, seed, None if seed == 2 else 0.6)
            config = (folder / "config.yaml").read_text()
            config = config.replace("data.Digits", "data.Digits, batch_size: 8").replace("{max_", "{devices: 1, max_")
            (folder / "config.yaml").write_text(config)
            scores = (first + 0.02 * seed, last + 0.02 * seed)  # their mean is 1 point above the first seed's
            rows = [f"{epoch},{10 * epoch + 9},{score}" for epoch, score in enumerate(scores)]
            (folder / "metrics.csv").write_text("\n".join(["epoch,step,val/top1", *rows]) + "\n")
    return compare(read_runs([tmp_path]), score="test/top1", baseline=None, flops=lambda run: 2e9)


def test_curves_over_seconds_have_a_measured_speed(comparison):
    conv, se = curves_over_seconds(comparison, SPEED)
    assert (conv.costs, se.costs) == ((0.5, 1.0), (1.0, 2.0))
    assert conv.scores == pytest.approx((21, 41))
    assert se.scores == pytest.approx((51, 71))


def test_training_costs_three_times_the_flops_of_forward_passes(comparison):
    curves = curves_over_flops(comparison)
    assert [curve.costs for curve in curves] == [(3 * 2e9 * 80, 3 * 2e9 * 160)] * 3


def test_scores_between_epochs_are_linear_and_none_lie_outside():
    curve = CostCurve("a", (2.0, 4.0, 6.0), (40.0, 60.0, 50.0))
    assert [curve.score_at(cost) for cost in (2, 3, 4.5, 6)] == pytest.approx([40, 50, 57.5, 50])
    assert curve.score_at(1.9) is None
    assert curve.score_at(6.1) is None


def test_rows_at_the_seconds_of_the_fastest():
    fast = CostCurve("fast", (10.0, 20.0, 30.0), (50.0, 60.0, 65.0))
    slow = CostCurve("slow", (20.0, 40.0, 60.0), (40.0, 62.0, 70.0))
    slowest = CostCurve("slowest", (31.0, 62.0), (45.0, 72.0))
    rows = equal_seconds_table([slow, fast, slowest], SPEED, "top1").rows
    assert [tuple(row.values()) for row in rows] == [
        ("slow", "60", "70.00", "51.00"),
        ("fast", "30", "65.00", "65.00"),
        ("slowest", "62", "72.00", None),
    ]


def test_a_benchmark_that_is_not_there_yet_is_none_and_rows_without_a_time_are_left_out(tmp_path):
    file = tmp_path / "speed.json"
    assert read_throughput(file) is None
    rows = [{"row": "a", "train img/s": 5.0}, {"row": "b", "train img/s": None}]
    origin = {"date": "2026-01-03T00:00:00", "command": "run"}
    file.write_text(json.dumps({"machine": "Abacus, 1 thread", "origin": origin, "rows": rows}))
    throughput = read_throughput(file)
    assert throughput.images_per_s == {"a": 5.0}
    assert throughput.origin == "Abacus, 1 thread, 2026-01-03, `run`"


def test_rows_with_noisy_measurements_are_known(tmp_path):
    samples = {
        "quiet": ([99, 100, 101, 100], False),
        "disturbed": ([99, 100, 101, 100], True),
        "scattered": ([80, 90, 110, 120], False),
    }
    measurements = [{"train img/s": {"samples": row, "disturbed": flag}} for row, flag in samples.values()]
    document = {
        "machine": "Abacus",
        "origin": {"date": "2026-01-03T00:00:00", "command": "run"},
        "rows": [{"row": name, "train img/s": 100.0} for name in [*samples, "once"]],
        "measurements": [*measurements, {}],
    }
    (tmp_path / "speed.json").write_text(json.dumps(document))
    throughput = read_throughput(tmp_path / "speed.json")
    assert throughput.noisy == ["disturbed", "scattered"]
    curves = [CostCurve("quiet", (10.0, 20.0), (50.0, 60.0))]
    (note,) = equal_seconds_table(curves, throughput, "top1").notes
    assert "measured images/s (noisy: disturbed; scattered), Abacus." in note


@pytest.mark.parametrize(
    "content",
    [
        '{"machine": "Abacus"',
        '{"rows": []}',
        "[]",
        '{"machine": "a", "origin": null}',
        '{"machine": "a", "origin": {"date": "", "command": ""}, "rows": [], "measurements": [{}]}',
        '{"machine": "a", "origin": {"date": "", "command": ""}, "rows": [{"row": "a", "train img/s": 1}], '
        '"measurements": [null]}',
    ],
)
def test_another_file_than_a_benchmarks_is_refused(content, tmp_path):
    (tmp_path / "speed.json").write_text(content)
    with pytest.raises(UserError, match=r"speed.json' is no result of benchmark=reproduction .*: measure it again"):
        read_throughput(tmp_path / "speed.json")
