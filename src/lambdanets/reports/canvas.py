"""The style of all figures of a report, and their form as SVG."""

import io
from typing import Any


def new_axes(height: float) -> tuple[Any, Any]:
    """Return a figure and its axes in the style of all figures.

    Args:
        height: in inches.
    """
    figure, (axes,) = new_panels(1, width=9.5, height=height)
    return figure, axes


def new_panels(count: int, *, width: float, height: float) -> tuple[Any, list[Any]]:
    """Return a figure and the axes of panels side by side, in the style of all figures.

    Args:
        count: panels.
        width: in inches.
        height: in inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def to_svg(figure: Any) -> str:
    """Return a figure as an SVG element for an HTML page; the same input gives the same bytes."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "lambdanets"}):  # no random ids
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
