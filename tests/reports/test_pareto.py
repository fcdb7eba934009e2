"""Pareto fronts of published accuracy over latency."""

from itertools import combinations

import pytest

from lambdanets.reports.pareto import (
    CURVES,
    PLACES,
    compare_with_curve,
    draw_pareto,
    find_front,
    find_place,
    overlap,
)
from lambdanets.reports.published import published_value
from lambdanets.reports.speed_accuracy import Panel, Point
from tests.configs import EXPERIMENTS


def efficientnet(time, top1):
    return Point("efficientnet", None, time, top1)


def test_a_front_has_the_points_that_no_other_dominates():
    points = [efficientnet(1, 77), efficientnet(2, 80), efficientnet(3, 79), efficientnet(4, 80), efficientnet(5, 81)]
    assert find_front(points[::-1]) == [points[0], points[1], points[4]]
    assert find_front([]) == []


def test_points_are_compared_with_the_curve_at_their_accuracy():
    curve = [efficientnet(1, 77), efficientnet(16, 81), efficientnet(50, 80)]  # the last one is not on the front
    point = Point("lambda_resnet", None, 2, 79)  # halfway between 77 and 81: 4 on a logarithmic scale
    assert compare_with_curve(point, curve) == pytest.approx(2)
    assert compare_with_curve(Point("lambda_resnet", None, 8, 79), curve) == pytest.approx(0.5)
    assert compare_with_curve(Point("lambda_resnet", None, 99, 81.1), curve) == float("inf")
    assert compare_with_curve(Point("lambda_resnet", None, 99, 76), curve) is None
    assert compare_with_curve(point, []) is None


def test_each_place_is_an_experiment_with_a_published_accuracy():
    for experiment, place in PLACES.items():
        assert experiment in EXPERIMENTS
        assert published_value(experiment, "top1")
        assert place.curve in CURVES
    assert find_place("lambda_resnet/350_320")[:2] == ("lambda_resnet", "350@320")
    assert find_place("efficientnet/b7")[:2] == ("efficientnet", "B7")
    assert find_place("efficiency/params_152").label == "152@256"
    for name in ("hybrids/LLLL", "efficiency/flops_200", "resnet", "LambdaResNet-50 CCLL, global"):
        assert find_place(name) is None


def test_labels_do_not_cover_one_another():
    names = [name for name in EXPERIMENTS if find_place(name) and published_value(name, "top1")]
    points = []
    for name in names:
        top1 = published_value(name, "top1").value
        points.append(Point(find_place(name).curve, name, 2 ** ((top1 - 72) / 2), top1, False))
    assert len(points) > 35
    figure = draw_pareto([Panel("All on one line", "ms", "%", points)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == len(points)
    assert sum(overlap(*pair) for pair in combinations(boxes, 2)) == 0
