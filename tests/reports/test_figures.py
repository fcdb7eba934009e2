"""Figures of made-up runs."""

from xml.etree import ElementTree

import pytest

from lambdanets.reports.claims import Claim, judge
from lambdanets.reports.comparison import compare
from lambdanets.reports.figures import draw_figures, draw_intervals, pareto_front
from lambdanets.reports.runs import read_runs
from tests.reports.run_folders import make_sweep


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


def test_intervals_are_colored_by_their_verdicts(comparison):
    rows = {row.experiment: row.runs for row in comparison.rows}
    claims = [Claim("", "table3/se", "table3/conv"), Claim("", "table3/lambda_u1", "table3/conv")]
    judgments = [judge(claim, rows, score="test/top1", throughput={}) for claim in claims]
    svg = draw_intervals(judgments)
    assert "Conv + SE (Hu et al. 2018) − Conv (He et al. 2016)" in svg
    assert "Lambda layer, u = 1 −" not in svg, "a single pair has no interval"
    assert "#7f7f7f" in svg, "grey: can't tell"
    assert draw_intervals(judgments[1:]) is None
