"""Progress bars and durations on the terminal."""

import sys
from collections.abc import Collection, Iterable
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import track

T = TypeVar("T")


def progress_bar(items: Collection[T], title: str) -> Iterable[T]:
    """Iterate over items, with a progress bar if standard error is a terminal."""
    console = Console(stderr=True)
    return track(
        items, escape(title), total=len(items), console=console, transient=True, disable=not sys.stderr.isatty()
    )


def format_duration(seconds: float) -> str:
    """Return a duration in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
