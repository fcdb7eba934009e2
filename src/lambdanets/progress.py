"""How far a long job has come, and how long it will take."""

import sys
from collections.abc import Collection, Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def tracked(items: Collection[T], title: str) -> Iterable[T]:
    """The items, one after the other, with a bar and the time left on a terminal; elsewhere nothing is shown."""
    console = Console(stderr=True)
    return track(items, title, total=len(items), console=console, transient=True, disable=not sys.stderr.isatty())


def spoken(seconds: float) -> str:
    """A time in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
