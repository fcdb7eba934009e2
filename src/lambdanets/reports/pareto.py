"""Published accuracy over measured latency: a curve for each kind of network, with its Pareto front."""

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple

from matplotlib.transforms import Bbox

from lambdanets.reports.canvas import new_panels
from lambdanets.reports.speed_accuracy import FAMILIES, Family, Panel, Point, interpolate_time, label_ticks

CURVES = FAMILIES | {
    "lambda_stages": Family("LambdaResNets, all of c4 and c5", "tab:cyan", "D", above=True),
    "mobilenet": Family("MobileNets", "tab:orange", "P", above=False),
    "lambda_mobilenet": Family("LambdaMobileNets", "tab:purple", "X", above=True),
    "timm": Family("lambda networks of timm", "tab:brown", "*", above=False),
}
RIVALS = "efficientnet"  # the curve that LambdaResNets are compared with
FONT_SIZE = 7.5
# Places of a label beside its point: distances in pixels, and directions.
DISTANCES = (7.0, 11.0, 16.0, 22.0)
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.9, 0.9), (-0.9, 0.9), (0.9, -0.9), (-0.9, -0.9))
MARK = 5.0  # half of the size of a point, in pixels
LINE_STEPS = 20


class Place(NamedTuple):
    """A network's place in the plot.

    Args:
        curve: key of CURVES.
        label: in the plot.
        name: in tables that have networks of several sweeps; None for `row_label`.
    """

    curve: str
    label: str
    name: str | None = None


# Networks that the first part of their name does not place.
PLACES = {
    "table3/conv": Place("resnet", "50@224", "ResNet-50, 224²"),
    "table3/se": Place("se_resnet", "50@224", "ResNet-50 + SE, 224²"),
    "resnet101/conv": Place("resnet", "101@224"),
    "resnet101/se": Place("se_resnet", "101@224"),
    "resnet152/conv": Place("resnet", "152@256"),
    "resnet152/se": Place("se_resnet", "152@256"),
    "hybrids/CCLL": Place("lambda_stages", "50@224", "LambdaResNet-50 CCLL, 23×23"),
    "resnet101/lambda_all": Place("lambda_stages", "101@224"),
    "efficiency/params_152": Place("lambda_stages", "152@256"),
    "efficiency/params_200": Place("lambda_stages", "200@256"),
    "mobilenet/v2": Place("mobilenet", "v2"),
    "mobilenet/v3_large": Place("mobilenet", "v3-large"),
    "mobilenet/lambda_v2": Place("lambda_mobilenet", "v2"),
    "mobilenet/lambda_v3_large": Place("lambda_mobilenet", "v3-large"),
    "timm/lambda_resnet26t": Place("timm", "26t"),
    "timm/lambda_resnet26rpt_256": Place("timm", "26rpt"),
    "timm/lambda_resnet50ts": Place("timm", "50ts"),
}


def find_place(experiment: str) -> Place | None:
    """Return the place of an experiment's network, None if it has none."""
    family = experiment.partition("/")[0]
    if experiment not in PLACES and family in FAMILIES and family != experiment:
        return Place(family, Point(family, experiment, 0, 0).label)
    return PLACES.get(experiment)


def label_point(point: Point) -> str:
    place = find_place(str(point.experiment))
    return place.label if place else ""


def coordinates(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.time for point in points], [point.top1 for point in points]


def find_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that are more accurate than all others that are as fast, from fast to slow."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.time, -point.top1)):
        if not front or point.top1 > front[-1].top1:
            front.append(point)
    return front


def compare_with_curve(point: Point, curve: Sequence[Point]) -> float | None:
    """Return the time of a curve's front at a point's accuracy over the point's time.

    Returns:
        The speedup; infinite if the point is more accurate than the curve, None if it is less accurate.
    """
    front = find_front(curve)
    if front and point.top1 > front[-1].top1:
        return float("inf")
    interpolated = interpolate_time(front, point.top1)
    return interpolated[0].time / point.time if interpolated else None


def draw_pareto(panels: Sequence[Panel]) -> Any:
    """Draw panels side by side, whose curves connect the points of each family's front.

    Returns:
        A figure of matplotlib.
    """
    figure, axes = new_panels(len(panels), width=10.5 * len(panels), height=7.5)
    for panel, panel_axes in zip(panels, axes, strict=True):
        draw_panel(panel_axes, panel)
    return figure


def draw_panel(axes: Any, panel: Panel) -> None:
    axes.set_xscale("log")
    for key, family in CURVES.items():
        if not (points := [point for point in panel.points if point.family == key]):
            continue
        style = {"color": family.color, "marker": family.marker, "markersize": 6}
        axes.plot(*coordinates(find_front(points)), linewidth=1.2, label=family.label, **style)
        axes.plot(*coordinates(points), linestyle="", **style)
        for point in (point for point in points if point.unconfirmed):
            axes.plot(point.time, point.top1, **style, markerfacecolor="white")
    if any(point.unconfirmed for point in panel.points):
        axes.plot([], [], "o", color="black", markerfacecolor="white", markersize=6, label="hollow: unconfirmed")
    axes.margins(x=0.06, y=0.06)
    label_ticks(axes)
    axes.set_xlabel(panel.time)
    axes.set_ylabel(panel.top1)
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    label_points(axes, panel.points)


def label_points(axes: Any, points: Sequence[Point]) -> None:
    """Label points where the labels cover other labels, points and curves least."""
    axes.figure.draw_without_rendering()  # sets the scale
    marks = axes.transData.transform([(point.time, point.top1) for point in points])
    obstacles = [Bbox.from_extents(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in marks]
    for curve in CURVES:
        front = find_front([point for point in points if point.family == curve])
        corners = axes.transData.transform([(point.time, point.top1) for point in front]) if front else []
        for (x0, y0), (x1, y1) in pairwise(corners):
            steps = [step / LINE_STEPS for step in range(LINE_STEPS + 1)]
            obstacles += [
                Bbox.from_bounds(x0 + step * (x1 - x0) - 1, y0 + step * (y1 - y0) - 1, 2, 2) for step in steps
            ]
    for point in sorted(points, key=lambda point: point.time):
        label = axes.annotate(
            label_point(point),
            (point.time, point.top1),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            color=CURVES[point.family].color,
            fontsize=FONT_SIZE,
        )
        extent = label.get_window_extent()
        half_width, half_height = extent.width / 2, extent.height / 2
        scale = 72 / axes.figure.dpi
        candidates = []
        for distance, (right, up) in product(DISTANCES, DIRECTIONS):
            shift = right * (half_width + distance), up * (half_height + distance)
            box = extent.translated(*shift)
            cost = sum(overlap(box, obstacle) for obstacle in obstacles) + distance
            candidates.append((cost, shift, box))
        _, shift, box = min(candidates, key=lambda candidate: candidate[0])
        label.set_position((shift[0] * scale, shift[1] * scale))
        obstacles.append(box)


def overlap(first: Any, second: Any) -> float:
    """Return the area that two boxes have in common, in square pixels."""
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    return max(0.0, width) * max(0.0, height)
