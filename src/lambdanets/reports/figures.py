"""Figures of a report, as SVG."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from omegaconf import OmegaConf

from lambdanets.reports.canvas import new_axes, to_svg
from lambdanets.reports.claims import CONTRADICTED, SUPPORTED, Judgment
from lambdanets.reports.comparison import ComparedRow, Comparison
from lambdanets.reports.curves import validation_scores
from lambdanets.reports.equal_cost import CostCurve
from lambdanets.reports.processors import share_processor
from lambdanets.reports.published import published_value, row_label
from lambdanets.reports.speed_accuracy import Panel, Point, draw_panels, family_of, published_panel


def draw_figures(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Yield titles and SVG elements of the figures that the runs have numbers for."""
    rows = comparison.rows
    colors = row_colors(comparison)
    if any(validation_scores(row.runs.by_seed.values(), comparison.quantity) for row in rows):
        yield "Training curves", draw_training_curves(comparison, colors)
    by_size = [(row.parameters / 1e6, row) for row in rows if row.score and row.parameters]
    if by_size:
        yield "Accuracy and parameters", draw_scatter(comparison, by_size, colors, "M parameters")
    by_time = [(1e3 / row.images_per_s, row) for row in rows if row.score and row.images_per_s]
    if by_time:
        x = f"{time_axis(rows)}, smaller is faster"
        yield "Speed and accuracy", draw_scatter(comparison, by_time, colors, x, front=True)
    measured = measured_panel(comparison)
    if any(is_on_published_curve(point) for point in measured.points):
        figure = draw_panels([published_panel(), measured], reference="efficientnet/b0")
        yield "Speed and accuracy, published", to_svg(figure)


def measured_panel(comparison: Comparison) -> Panel:
    """Return the measured accuracies over training times of the rows that belong to a curve of Figure 2."""
    points = [
        Point(family, row.experiment, 1e3 / row.images_per_s, row.score.mean)
        for row in comparison.rows
        if (family := family_of(row.experiment)) and row.score and row.images_per_s
    ]
    return Panel("Ours", time_axis(comparison.rows), f"{comparison.score} %", points)


def time_axis(rows: Sequence[ComparedRow]) -> str:
    """Return the name of the axis of the rows' times, which says if they are of several processors."""
    runs = (run for row in rows if row.images_per_s for run in row.runs.finished.values())
    return "ms of training an image" + ("" if share_processor(runs) else " on different processors")


def is_on_published_curve(point: Point) -> bool:
    return all(published_value(point.experiment, quantity) for quantity in ("seconds", "top1"))


def draw_intervals(judgments: Sequence[Judgment]) -> str | None:
    """Draw the differences that verdicts rest on, with their intervals and the published differences.

    Returns:
        An SVG element, or None if no judgment has an interval.
    """
    judged = [
        (judgment, judgment.interval)
        for judgment in reversed(judgments)
        if judgment.interval and judgment.interval.low is not None
    ]
    if not judged:
        return None
    figure, axes = new_axes(height=1 + 0.42 * len(judged))
    for y, (judgment, interval) in enumerate(judged):
        color = {SUPPORTED: "tab:green", CONTRADICTED: "tab:red"}.get(judgment.verdict, "tab:grey")
        axes.plot([interval.low, interval.high], [y, y], color=color, linewidth=2)
        axes.plot(interval.mean, y, "o", color=color)
        if judgment.published_difference is not None:
            axes.plot(judgment.published_difference, y, "D", color="black", markerfacecolor="none", markersize=6)
    axes.axvline(0, color="black", linewidth=0.8)
    labels = [f"{row_label(judgment.claim.a)} − {row_label(judgment.claim.b)}" for judgment, _ in judged]
    axes.set_yticks(range(len(judged)), labels)
    axes.set_xlabel("difference in percent, 95 % interval; ◇ published, in ResNet-50 on ImageNet")
    return to_svg(figure)


def row_colors(comparison: Comparison) -> dict[str, Any]:
    """Return a color for each row, by name."""
    rows = comparison.rows
    return {row.name: color for row, color in zip(rows, palette(len(rows)), strict=True)}


def palette(count: int) -> list[Any]:
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](index) for index in range(count)]
    return [colormaps["turbo"]((index + 0.5) / count) for index in range(count)]


def draw_training_curves(comparison: Comparison, colors: Mapping[str, Any]) -> str:
    """Draw each row's validation scores: their mean over seeds and their range."""
    figure, axes = new_axes(height=4.6)
    for row in comparison.rows:
        scores = validation_scores(row.runs.by_seed.values(), comparison.quantity)
        if scores:
            epochs = list(scores)
            axes.plot(epochs, list(map(fmean, scores.values())), marker=".", color=colors[row.name], label=row.name)
            low, high = ([limit(values) for values in scores.values()] for limit in (min, max))
            axes.fill_between(epochs, low, high, color=colors[row.name], alpha=0.12, linewidth=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"val/{comparison.quantity} %, mean and range over seeds")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return to_svg(figure)


def draw_cost_curves(curves: Sequence[CostCurve], colors: Mapping[str, Any], xlabel: str, quantity: str) -> str:
    """Draw the validation scores of rows over the cost of their training.

    Args:
        curves: one per row.
        colors: by a row's name.
        xlabel: cost and unit.
        quantity: of the score, such as top1.
    """
    figure, axes = new_axes(height=4.6)
    for curve in curves:
        axes.plot(curve.costs, curve.scores, marker=".", color=colors[curve.name], label=curve.name)
    axes.set_xlim(left=0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(f"val/{quantity} %, mean over seeds")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return to_svg(figure)


def draw_factor(comparison: Comparison, key: str) -> str:
    """Draw the rows' scores over a factor: each seed, their mean and standard deviation.

    Args:
        comparison: of the rows; one without the factor is a horizontal line.
        key: of the factor in the config, such as mixer.scope; numbers ascend, and words come last.
    """
    figure, axes = new_axes(height=4.6)
    by_value: list[tuple[Any, ComparedRow]] = []
    for row in comparison.rows:
        value = OmegaConf.select(next(iter(row.runs.by_seed.values())).config, key)
        if row.score and value is None:
            axes.axhline(row.score.mean, color="grey", linewidth=1, linestyle="--", label=row.name)
        elif row.score:
            by_value.append((value, row))
    by_value.sort(key=lambda pair: (1, 0) if isinstance(pair[0], str) else (0, pair[0]))
    for x, (_, row) in enumerate(by_value):
        assert row.score is not None
        seeds = [100 * score for score in row.runs.scores(comparison.score).values()]
        axes.plot([x] * len(seeds), seeds, ".", color="tab:blue", alpha=0.5)
        axes.errorbar([x], [row.score.mean], yerr=row.score.deviation, fmt="o", capsize=3, color="tab:blue")
    axes.set_xticks(range(len(by_value)), [str(value) for value, _ in by_value])
    axes.set_xlabel(key.rpartition(".")[2])
    axes.set_ylabel(f"{comparison.score} %: seeds, mean ± standard deviation")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return to_svg(figure)


def draw_scatter(
    comparison: Comparison,
    points: Sequence[tuple[float, ComparedRow]],
    colors: Mapping[str, Any],
    xlabel: str,
    *,
    front: bool = False,
) -> str:
    """Draw each row's score, with its standard deviation, over another quantity.

    Args:
        comparison: what the rows are from.
        points: x, and the row.
        colors: by a row's name.
        xlabel: quantity and unit.
        front: draw the Pareto front too.
    """
    figure, axes = new_axes(height=4.6)
    for x, row in points:
        assert row.score is not None
        axes.errorbar(
            [x],
            [row.score.mean],
            yerr=None if row.score.deviation is None else [row.score.deviation],
            fmt="o",
            capsize=3,
            color=colors[row.name],
            label=row.name,
        )
    if front:
        best = pareto_front([(x, row.score.mean) for x, row in points if row.score])
        axes.plot(*zip(*best, strict=True), color="grey", linewidth=1, linestyle="--", label="Pareto front", zorder=0)
    if len(points) > 1 and max(x for x, _ in points) > 4 * min(x for x, _ in points):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(f"{comparison.score} %")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return to_svg(figure)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (cost, score) that no other point beats in both, by increasing cost."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front
