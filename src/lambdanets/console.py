"""Output of jobs on the terminal."""

import logging
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lambdanets.errors import printable

# Lightning's advice against choices that this project makes on purpose.
IGNORED_WARNINGS = (
    r".*is currently marked under review.*",
    r".*does not have many workers.*",
    r".*Experiment logs directory .* exists and is not empty.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*It is recommended to use `self.log\('speed/.*",
    r"(?s).*Grad strides do not match bucket view strides.*",
    r".*The `srun` command is available on your system but is not used.*",
    r".*You're using the WeightAveraging callback with a model that overrides.*",
    r".*You're resuming from a checkpoint that ended before the epoch ended.*",
)


def silence_lightning() -> None:
    """Silence Lightning's messages about the machine, and its advice against deliberate choices."""
    for logger in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "faster_coco_eval"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message)


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console that prints names as they are: without rich's markup, `:emoji:` names, and highlighting."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def print_metrics(metrics: Mapping[str, float], *, title: str) -> None:
    """Print a job's results as a table."""
    console = plain_console()
    console.print(printable(title), soft_wrap=True)
    table = Table(show_header=False)
    for name, value in metrics.items():
        is_tiny = 0 < abs(value) < 5e-4
        table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:.1e}" if is_tiny else f"{value:.4f}")
    console.print(table)


def print_next_steps(steps: Mapping[str, str]) -> None:
    """Print labeled paths, and commands to copy."""
    width, console = max(map(len, steps)), plain_console()
    for label, step in steps.items():
        console.print(printable(f"{label:{width}}  {step}"), soft_wrap=True)


def program_name() -> str:
    """Return the words that start the command line, for commands to copy: `python run.py` in a checkout."""
    name = Path(sys.argv[0]).name
    return {"lambdanets": "lambdanets", "__main__.py": "python -m lambdanets"}.get(name, "python run.py")
