"""Figures of made-up runs."""

import re
from xml.etree import ElementTree

import pytest
from omegaconf import OmegaConf

from lambdanets.reports.claims import Claim, judge
from lambdanets.reports.comparison import compare
from lambdanets.reports.equal_cost import CostCurve
from lambdanets.reports.figures import (
    draw_cost_curves,
    draw_factor,
    draw_figures,
    draw_intervals,
    measured_panel,
    pareto_front,
)
from lambdanets.reports.runs import read_runs
from tests.reports.run_folders import make_run, make_sweep


@pytest.fixture
def comparison(tmp_path):
    return compare(read_runs([make_sweep(tmp_path)]), score="test/top1", baseline=None, flops=lambda run: None)


def test_pareto_front():
    points = [(1, 10), (2, 9), (2, 12), (3, 12), (5, 20)]
    assert pareto_front(points) == [(1, 10), (2, 12), (5, 20)]


def test_figures_show_all_rows_and_are_the_same_each_time(comparison):
    figures = dict(draw_figures(comparison))
    assert list(figures) == ["Training curves", "Accuracy and parameters", "Speed and accuracy"]
    for svg in figures.values():
        assert all(label in svg for label in ("Conv + SE (Hu et al. 2018)", "Lambda layer, u = 1"))
        ElementTree.fromstring(svg)
    assert "Pareto front" in figures["Speed and accuracy"]
    assert dict(draw_figures(comparison)) == figures


def test_figures_without_numbers_are_left_out(comparison):
    for row in comparison.rows:
        for run in row.runs.by_seed.values():
            run.log.clear()
        object.__setattr__(row, "images_per_s", None)
    assert [title for title, _ in draw_figures(comparison)] == ["Accuracy and parameters"]


@pytest.fixture
def make_figure2(tmp_path):
    def make(**top1):
        for name, score in top1.items():
            make_run(tmp_path, name.replace("__", "/"), 0, score)
        return compare(read_runs([tmp_path]), score="test/top1", baseline=None, flops=lambda run: None)

    return make


def test_rows_with_published_times_are_drawn_beside_the_published_figure(make_figure2):
    comparison = make_figure2(
        lambda_resnet__350_320=0.4, efficientnet__b0=0.3, efficientnet__b7=0.41, resnet__50=0.2, table3__conv=0.1
    )
    speeds = {"lambda_resnet/350_320": 50.0, "efficientnet/b7": 10.0, "efficientnet/b0": 400.0}
    for row in comparison.rows:
        object.__setattr__(row, "images_per_s", speeds.get(row.experiment, 100.0))
    svg = dict(draw_figures(comparison))["Speed and accuracy, published"]
    ElementTree.fromstring(svg)
    assert "3.2× (printed 3.2×)" in svg
    assert "5.0×" in svg, "ours: 50 images/s against 10"
    assert svg.count("420@320") == 1, "only in the published figure"
    assert svg.count("350@320") == svg.count(">B7<") == 2
    assert "ms of training an image, EfficientNet-B0 = 1" in svg
    points = {point.experiment: point for point in measured_panel(comparison).points}
    assert set(points) == {*speeds, "resnet/50"}, "rows of other tables belong to no curve"
    assert (points["efficientnet/b7"].time, points["efficientnet/b7"].top1) == (100, pytest.approx(41))


def test_rows_without_published_times_have_no_published_figure(make_figure2):
    assert "Speed and accuracy, published" not in dict(draw_figures(make_figure2(resnet__50=0.2, se_resnet__50=0.3)))


def test_intervals_are_colored_by_their_verdicts(comparison):
    rows = {row.experiment: row.runs for row in comparison.rows}
    claims = [Claim("", "table3/se", "table3/conv"), Claim("", "table3/lambda_u1", "table3/conv")]
    judgments = [judge(claim, rows, score="test/top1", throughput={}) for claim in claims]
    svg = draw_intervals(judgments)
    assert "Conv + SE (Hu et al. 2018) − Conv (He et al. 2016)" in svg
    assert "Lambda layer, u = 1 −" not in svg, "a single pair has no interval"
    assert "#7f7f7f" in svg, "grey: can't tell"
    assert draw_intervals(judgments[1:]) is None


def test_cost_curves_have_a_color_and_a_label_each():
    curves = [CostCurve("A", (1.0, 2.0), (50.0, 60.0)), CostCurve("B", (2.0, 4.0), (55.0, 65.0))]
    svg = draw_cost_curves(curves, {"A": "#123456", "B": "#654321"}, "seconds", "top1")
    ElementTree.fromstring(svg)
    assert all(text in svg for text in (">A<", ">B<", "#123456", "#654321", ">seconds<", "val/top1 %, mean over seeds"))


def test_scores_over_a_factor_ascend_with_words_last(tmp_path):
    for experiment, scope in (("a", "global"), ("b", 15), ("c", 3), ("d", "null")):
        config = make_run(tmp_path, experiment, 0, 0.5) / "config.yaml"
        config.write_text(config.read_text().replace("mixers.Conv,", f"mixers.Conv, scope: {scope},"))
    runs = read_runs([tmp_path])
    assert [OmegaConf.select(run.config, "mixer.scope") for run in runs] == ["global", 15, 3, None]
    svg = draw_factor(compare(runs, score="test/top1", baseline=None, flops=lambda run: None), "mixer.scope")
    texts = re.findall(r">([^<>]+)</text>", svg)
    assert [text for text in texts if text in ("global", "15", "3", "scope", "d")] == [
        "3",
        "15",
        "global",
        "scope",
        "d",
    ]
