"""Figure 2: the published points, their arrows, and ours beside them."""

from itertools import product

import pytest

from lambdanets.reports.speed_accuracy import (
    FAMILIES,
    Panel,
    Point,
    draw_panels,
    family_of,
    find_arrows,
    interpolate_time,
    normalize_panel,
    printed_speedup,
    published_panel,
    published_points,
)
from tests.configs import EXPERIMENTS

SECONDS_ERROR, TOP1_ERROR = 0.01, 0.02  # of reading the published picture


def lambda_resnet(name, time, top1):
    return Point("lambda_resnet", f"lambda_resnet/{name}", time, top1)


def efficientnet(name, time, top1):
    return Point("efficientnet", f"efficientnet/{name}", time, top1)


def speedups(points):
    return [arrow.speedup for arrow in find_arrows(points)]


def published(name):
    (point,) = (point for point in published_points() if point.experiment == name)
    return point


def test_the_published_curves_have_their_points():
    points = published_points()
    counts = {family: sum(point.family == family for point in points) for family in FAMILIES}
    assert counts == {"lambda_resnet": 12, "efficientnet": 8, "se_resnet": 3, "resnet": 3}
    assert {point.experiment for point in points} - {None} == {
        name for name in EXPERIMENTS if name.startswith(("lambda_resnet/", "efficientnet/"))
    }
    unconfirmed = [point.label for point in points if point.unconfirmed]
    assert unconfirmed == ["50@128", "50@160", "101@160", "101@192", "152@192"]
    for family in FAMILIES:
        curve = [point for point in points if point.family == family]
        assert curve == sorted(curve, key=lambda point: point.time) == sorted(curve, key=lambda point: point.top1)


def test_a_point_is_labeled_by_its_network():
    assert lambda_resnet("350_320", 1, 84).label == "350@320"
    assert efficientnet("b7", 1, 84).label == "B7"
    assert Point("resnet", None, 1, 84).label == ""
    assert family_of("se_resnet/50") == "se_resnet"
    assert family_of("efficiency/params_152") is None
    assert family_of("resnet") is None


def test_time_is_interpolated_on_a_logarithmic_scale():
    curve = [lambda_resnet("270_256", 8, 84), lambda_resnet("50_128", 1, 80), lambda_resnet("152_256", 2, 82)]
    point, between = interpolate_time(curve, 83.5)  # three quarters of the way from 2 to 8, which is 4^(3/4)
    assert point.time == pytest.approx(2 * 4**0.75)
    assert point.top1 == 83.5
    assert [network.label for network in between] == ["152@256", "270@256"]
    assert interpolate_time(curve, 80)[0].time == pytest.approx(1)
    assert interpolate_time(curve, 84)[0].time == pytest.approx(8)
    assert interpolate_time(curve, 84.1) is None
    assert interpolate_time(curve, 79.9) is None


def test_printed_ratios_follow_from_the_points_within_the_error_of_reading():
    b7, b6 = find_arrows(published_points())
    assert [printed_speedup(arrow) for arrow in (b7, b6)] == [3.2, 4.4]
    assert b7.fast.label == "350@320"
    assert [point.label for point in b6.between] == ["152@256", "270@256"]
    # Each number moves by its error in the direction that makes the ratio smaller or larger; all corners are tried.
    names = ("lambda_resnet/152_256", "lambda_resnet/270_256", "lambda_resnet/350_320")
    names += ("efficientnet/b6", "efficientnet/b7")
    ratios = []
    for seconds, top1 in product(product((-1, 1), repeat=5), product((-1, 1), repeat=4)):
        shifts = zip(map(published, names), seconds, (*top1, 0), strict=True)
        points = [
            Point(point.family, point.experiment, point.time + SECONDS_ERROR * s, point.top1 + TOP1_ERROR * t)
            for point, s, t in shifts
        ]
        ratios.append(speedups(points))
    for ratio, printed in zip(zip(*ratios, strict=True), (3.2, 4.4), strict=True):
        assert round(min(ratio), 1) <= printed <= round(max(ratio), 1)
        assert max(ratio) - min(ratio) < 0.2 * printed
    assert b7.speedup == pytest.approx(6.034 / 1.907)


def test_arrows_need_their_points():
    small, large = lambda_resnet("152_256", 1, 83.5), lambda_resnet("270_256", 2, 84.5)
    b6, b7 = efficientnet("b6", 6, 84), efficientnet("b7", 12, 84.7)
    assert speedups([small, large, b6, b7]) == [pytest.approx(6 / 2**0.5)]
    assert speedups([small, large, b7, lambda_resnet("350_320", 3, 84.7)]) == [4]
    assert speedups([small, b6]) == []
    assert speedups([Point("resnet", None, 1, 84), b7]) == []


def test_times_are_normalized_to_a_point():
    panel = Panel("Ours", "ms", "top-1", [efficientnet("b0", 4, 77), efficientnet("b1", 8, 79)])
    normalized = normalize_panel(panel, "efficientnet/b0")
    assert [point.time for point in normalized.points] == [1, 2]
    assert normalized.time == "ms, EfficientNet-B0 = 1"
    assert normalize_panel(panel, "resnet/50") == panel


def test_the_figure_has_labeled_points_and_both_ratios():
    ours = [lambda_resnet("350_320", 6, 84.6), efficientnet("b7", 9, 84.7), efficientnet("b0", 0.5, 77.1)]
    figure = draw_panels([published_panel(), Panel("Ours", "s", "top-1", ours)], "efficientnet/b0")
    left, right = figure.axes
    labels = {text.get_text(): text for text in left.texts}
    assert {"50@128", "152@224", "350@320", "420@320", "B0", "B7"} <= set(labels)
    assert labels["B7"].xy == (pytest.approx(6.034 / 0.089), 84.7)
    assert {"3.2× (printed 3.2×)", "4.6× (printed 4.4×)"} <= set(labels)
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert legend == [*(family.label for family in FAMILIES.values()), "hollow: unconfirmed"]
    assert [text.get_text() for text in right.texts if text.get_text()] == ["350@320", "B0", "B7", "1.5×"]
    assert left.get_xscale() == right.get_xscale() == "log"
    assert right.get_xlabel() == "s, EfficientNet-B0 = 1"
