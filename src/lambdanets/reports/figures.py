"""The plots of a report, as SVG."""

import io
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from lambdanets.reports.claims import FAILS, HOLDS, Verdict
from lambdanets.reports.comparison import Compared, Comparison
from lambdanets.reports.published import label
from lambdanets.reports.runs import Row


def figures(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Titles and pictures; one that no run has figures for is left out."""
    colours = {row.name: colour for row, colour in zip(comparison.rows, palette(len(comparison.rows)), strict=True)}
    if any(curves(row.row, comparison.quantity) for row in comparison.rows):
        yield "Training curves", training_curves(comparison, colours)
    sized = [row for row in comparison.rows if row.score and row.parameters]
    if sized:
        points = [(row.parameters / 1e6, row) for row in sized if row.parameters]
        yield "Accuracy and parameters", scatter(comparison, points, colours, "M parameters")
    timed = [row for row in comparison.rows if row.score and row.images_per_s]
    if timed:
        points = [(1e3 / row.images_per_s, row) for row in timed if row.images_per_s]
        yield (
            "Speed and accuracy",
            scatter(comparison, points, colours, "ms of training an image, smaller is faster", front=True),
        )


def intervals(verdicts: Sequence[Verdict]) -> str | None:
    """The differences that verdicts rest on, with their intervals and the published differences; None without any."""
    judged = [
        (found, found.interval) for found in reversed(verdicts) if found.interval and found.interval.low is not None
    ]
    if not judged:
        return None
    figure, axes = canvas(height=1 + 0.42 * len(judged))
    for place, (found, interval) in enumerate(judged):
        colour = {HOLDS: "tab:green", FAILS: "tab:red"}.get(found.verdict, "tab:grey")
        axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2)
        axes.plot(interval.mean, place, "o", color=colour)
        if found.printed is not None:
            axes.plot(found.printed, place, "D", color="black", markerfacecolor="none", markersize=6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(judged)), [f"{label(found.claim.a)} − {label(found.claim.b)}" for found, _ in judged])
    axes.set_xlabel("difference in percent, 95 % interval; ◇ published, in ResNet-50 on ImageNet")
    return svg(figure)


def palette(count: int) -> list[Any]:
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](number) for number in range(count)]
    return [colormaps["turbo"]((number + 0.5) / count) for number in range(count)]


def curves(row: Row, quantity: str) -> dict[int, list[float]]:
    """The validation scores of all seeds, in percent, by epoch."""
    by_epoch: dict[int, list[float]] = {}
    for run in row.runs.values():
        for epoch, score in run.curve(f"val/{quantity}").items():
            by_epoch.setdefault(epoch, []).append(100 * score)
    return dict(sorted(by_epoch.items()))


def training_curves(comparison: Comparison, colours: dict[str, Any]) -> str:
    figure, axes = canvas(height=4.6)
    for row in comparison.rows:
        found = curves(row.row, comparison.quantity)
        if found:
            epochs = list(found)
            axes.plot(epochs, [fmean(v) for v in found.values()], marker=".", color=colours[row.name], label=row.name)
            axes.fill_between(
                epochs,
                [min(v) for v in found.values()],
                [max(v) for v in found.values()],
                color=colours[row.name],
                alpha=0.12,
                linewidth=0,
            )
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"val/{comparison.quantity} %, mean and range over seeds")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return svg(figure)


def scatter(
    comparison: Comparison,
    points: Sequence[tuple[float, Compared]],
    colours: dict[str, Any],
    x: str,
    *,
    front: bool = False,
) -> str:
    figure, axes = canvas(height=4.6)
    for place, row in points:
        assert row.score is not None
        axes.errorbar(
            [place],
            [row.score.mean],
            yerr=None if row.score.deviation is None else [row.score.deviation],
            fmt="o",
            capsize=3,
            color=colours[row.name],
            label=row.name,
        )
    if front:
        best = pareto([(place, row.score.mean) for place, row in points if row.score])
        axes.plot(*zip(*best, strict=True), color="grey", linewidth=1, linestyle="--", label="Pareto front", zorder=0)
    if len(points) > 1 and max(p for p, _ in points) > 4 * min(p for p, _ in points):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel(x)
    axes.set_ylabel(f"{comparison.score} %")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return svg(figure)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, score) that no other point beats in both, from the cheapest on."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


def canvas(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg(figure: Any) -> str:
    """The picture's element, to stand in an HTML page."""
    from matplotlib import rc_context

    text = io.StringIO()
    # The same input gives the same bytes: no date, no random ids.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "lambdanets"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
