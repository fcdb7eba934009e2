"""Plots of benchmark results."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lambdanets.benchmarks.result import Result
from lambdanets.reports.pareto import draw_pareto
from lambdanets.reports.speed_accuracy import Panel, Point, draw_panels

SPEED_ACCURACY, PARETO = "speed_accuracy", "pareto"


def save_plot(result: Result, path: Path) -> None:
    """Save the plot that `result.plot` describes: lines on logarithmic axes, bars, or accuracy over time."""
    if result.plot["kind"] == SPEED_ACCURACY:
        draw_panels(restore_panels(result), result.plot["normalize_to"]).savefig(path, dpi=110)
    elif result.plot["kind"] == PARETO:
        draw_pareto(restore_panels(result)).savefig(path, dpi=110)
    else:
        save_columns(result, path)


def speed_accuracy_plot(panels: Sequence[Panel], normalize_to: str) -> dict[str, Any]:
    """Return the `plot` of a result that draws accuracy over time."""
    return {"kind": SPEED_ACCURACY, "normalize_to": normalize_to, "panels": [asdict(panel) for panel in panels]}


def pareto_plot(panels: Sequence[Panel]) -> dict[str, Any]:
    """Return the `plot` of a result that draws the fronts of accuracy over time."""
    return {"kind": PARETO, "panels": [asdict(panel) for panel in panels]}


def restore_panels(result: Result) -> list[Panel]:
    return [
        Panel(**(panel | {"points": [Point(**point) for point in panel["points"]]})) for panel in result.plot["panels"]
    ]


def save_columns(result: Result, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    x, y, line = (result.plot[key] for key in ("x", "y", "line"))
    rows: list[Any] = [row for row in result.rows if row.get(y) is not None]
    names = list(dict.fromkeys(row[line] for row in rows))
    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    if result.plot["kind"] == "lines":
        for name in names:
            points = [(row[x], row[y]) for row in rows if row[line] == name]
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.set_xscale("log", base=2)
    else:
        groups = list(dict.fromkeys(row[x] for row in rows))
        width = 0.8 / len(names)
        for index, name in enumerate(names):
            points = [(groups.index(row[x]) + index * width, row[y]) for row in rows if row[line] == name]
            positions, heights = zip(*points, strict=True)
            axes.bar(positions, heights, width=width, label=name)
        axes.set_xticks([index + 0.4 - width / 2 for index in range(len(groups))], groups, fontsize=8)
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(result.title, loc="left", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
