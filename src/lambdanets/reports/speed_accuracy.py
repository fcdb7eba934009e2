"""Accuracy over training time as in the paper's Figure 2: published points, ours, and the arrows between them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from lambdanets.reports.canvas import new_panels
from lambdanets.reports.published import load_published, published_value, row_label

PUBLISHED_STEP = "seconds of a training step of 1024 images"


class Family(NamedTuple):
    """Kind of network, drawn as one curve.

    Args:
        label: in the legend.
        color: of matplotlib.
        marker: of matplotlib.
        above: labels are above the points, and not below.
    """

    label: str
    color: str
    marker: str
    above: bool


# By the first part of an experiment's name.
FAMILIES = {
    "lambda_resnet": Family("LambdaResNets", "tab:blue", "o", above=True),
    "se_resnet": Family("ResNets with SE", "tab:green", "^", above=False),
    "resnet": Family("ResNets without SE", "tab:gray", "v", above=False),
    "efficientnet": Family("EfficientNets", "tab:red", "s", above=False),
}
# Arrows of the published figure: from an EfficientNet to a LambdaResNet, or to the curve at equal accuracy (None).
ARROWS = {"efficientnet/b7": "lambda_resnet/350_320", "efficientnet/b6": None}


@dataclass(frozen=True)
class Point:
    """A network's time and accuracy.

    Args:
        family: key of FAMILIES.
        experiment: None for a published network whose depth is not known.
        time: of training, in any unit.
        top1: percent.
        unconfirmed: whether a published number is recalled.
    """

    family: str
    experiment: str | None
    time: float
    top1: float
    unconfirmed: bool = False

    @property
    def label(self) -> str:
        """The network in short, such as 152@224 or B7."""
        name = (self.experiment or "").rpartition("/")[2]
        return name.replace("_", "@") if self.family != "efficientnet" else name.upper()


@dataclass(frozen=True)
class Arrow:
    """Comparison of a network with a faster one of about equal accuracy.

    Args:
        slow: the network that the arrow starts from.
        fast: the network that it points to, or the point of a curve between two networks.
        between: those two networks, None if `fast` is a network.
    """

    slow: Point
    fast: Point
    between: tuple[Point, Point] | None = None

    @property
    def speedup(self) -> float:
        """Ratio of the slow network's time to that of the fast one."""
        return self.slow.time / self.fast.time


@dataclass(frozen=True)
class Panel:
    """A plot of accuracy over time.

    Args:
        title: one line.
        time: name and unit of the points' times.
        top1: name of their accuracies.
        points: the networks.
        printed: whether arrows also show the printed ratio.
    """

    title: str
    time: str
    top1: str
    points: Sequence[Point]
    printed: bool = False


def family_of(experiment: str) -> str | None:
    """Return the key of an experiment's family, None if it belongs to none."""
    family = experiment.partition("/")[0]
    return family if family in FAMILIES and family != experiment else None


def published_points() -> list[Point]:
    """Return the points of the published figure; their times are seconds of a training step of 1024 images."""
    points = []
    for name, entry in load_published().items():
        points += [Point(name, None, seconds, top1, trust == "R") for seconds, top1, trust in entry.get("points", [])]
        family, seconds, top1 = family_of(name), published_value(name, "seconds"), published_value(name, "top1")
        if family and seconds and top1:
            points.append(Point(family, name, seconds.value, top1.value, "R" in (seconds.trust, top1.trust)))
    return points


def published_panel() -> Panel:
    """Return the published figure."""
    return Panel("Published", PUBLISHED_STEP, "published top-1 %", published_points(), printed=True)


def normalize_panel(panel: Panel, reference: str) -> Panel:
    """Divide all times by that of an experiment; return the panel unchanged if it has no point for it."""
    time = next((point.time for point in panel.points if point.experiment == reference), None)
    if time is None:
        return panel
    points = [replace(point, time=point.time / time) for point in panel.points]
    return replace(panel, points=points, time=f"{panel.time}, {row_label(reference)} = 1")


def interpolate_time(points: Sequence[Point], top1: float) -> tuple[Point, tuple[Point, Point]] | None:
    """Return a point of given accuracy on the curve of a family, and the two networks on both sides of it.

    Between two networks, the logarithm of the time is linear in the accuracy.

    Args:
        points: networks of one family.
        top1: percent.

    Returns:
        None if the accuracy is outside of the curve.
    """
    for low, high in pairwise(sorted(points, key=lambda point: point.top1)):
        if low.top1 <= top1 <= high.top1 and low.top1 < high.top1:
            fraction = (top1 - low.top1) / (high.top1 - low.top1)
            time = math.exp((1 - fraction) * math.log(low.time) + fraction * math.log(high.time))
            return Point(low.family, None, time, top1), (low, high)
    return None


def find_arrows(points: Sequence[Point]) -> list[Arrow]:
    """Return the arrows of the published figure for which there are points."""
    by_experiment = {point.experiment: point for point in points if point.experiment}
    curve = [point for point in points if point.family == "lambda_resnet"]
    arrows = []
    for slow, fast in ARROWS.items():
        start = by_experiment.get(slow)
        if start and fast is None and (interpolated := interpolate_time(curve, start.top1)):
            arrows.append(Arrow(start, *interpolated))
        elif start and fast in by_experiment:
            arrows.append(Arrow(start, by_experiment[fast]))
    return arrows


def printed_speedup(arrow: Arrow) -> float | None:
    """Return the ratio that the published figure prints at an arrow."""
    number = published_value(arrow.slow.experiment, "speedup")
    return number.value if number else None


def draw_panels(panels: Sequence[Panel], reference: str) -> Any:
    """Draw panels side by side.

    Args:
        panels: from left to right.
        reference: the experiment whose time is 1 in each panel that has it.

    Returns:
        A figure of matplotlib.
    """
    figure, axes = new_panels(len(panels), width=7 * len(panels), height=6)
    for panel, panel_axes in zip(panels, axes, strict=True):
        draw_panel(panel_axes, normalize_panel(panel, reference))
    return figure


def draw_panel(axes: Any, panel: Panel) -> None:
    """Draw the curve of each family, with labels, and the arrows."""
    axes.set_xscale("log")
    for key, family in FAMILIES.items():
        points = sorted((point for point in panel.points if point.family == key), key=lambda point: point.time)
        if not points:
            continue
        axes.plot(
            [point.time for point in points],
            [point.top1 for point in points],
            color=family.color,
            marker=family.marker,
            markersize=5,
            linewidth=1,
            label=family.label,
        )
        for point in points:
            label_point(axes, point, family)
    if any(point.unconfirmed for point in panel.points):
        axes.plot([], [], "o", color="black", markerfacecolor="white", markersize=5, label="hollow: unconfirmed")
    axes.margins(x=0.1, y=0.12)
    arrows = find_arrows(panel.points)
    for arrow in arrows:
        draw_arrow(axes, arrow, printed_speedup(arrow) if panel.printed else None)
    if arrows:  # space for their ratios
        left, right = axes.get_xlim()
        axes.set_xlim(left, right * (right / left) ** 0.15)
    label_ticks(axes)
    axes.set_xlabel(panel.time)
    axes.set_ylabel(panel.top1)
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def label_point(axes: Any, point: Point, family: Family) -> None:
    """Label a point; labels above a curve are slanted, so that those of near points don't overlap."""
    if point.unconfirmed:
        axes.plot(point.time, point.top1, family.marker, color=family.color, markerfacecolor="white", markersize=5)
    axes.annotate(
        point.label,
        (point.time, point.top1),
        xytext=(-3, 3) if family.above else (4, -3),
        textcoords="offset points",
        rotation=-45 if family.above else 0,
        rotation_mode="anchor",
        ha="right" if family.above else "left",
        va="bottom" if family.above else "top",
        color=family.color,
        fontsize=7,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.2},
    )


def draw_arrow(axes: Any, arrow: Arrow, printed: float | None) -> None:
    """Draw an arrow, with its ratio beside the label of its start."""
    slow, fast = arrow.slow, arrow.fast
    style = {"arrowstyle": "->", "color": "black", "linewidth": 0.9, "shrinkA": 5, "shrinkB": 0 if arrow.between else 4}
    axes.annotate("", (fast.time, fast.top1), (slow.time, slow.top1), arrowprops=style)
    axes.annotate(
        f"{arrow.speedup:.1f}×" + (f" (printed {printed:.1f}×)" if printed else ""),
        (slow.time, slow.top1),
        xytext=(20, -3),
        textcoords="offset points",
        va="top",
        fontsize=7.5,
    )


def label_ticks(axes: Any) -> None:
    """Show the ticks of a logarithmic axis as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
