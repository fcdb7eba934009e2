"""metrics.csv: all logged numbers, kept when a run goes on."""

import csv
import io
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only
from typing_extensions import override

from lambdanets.atomic import atomic_write


class ResumableCSVLogger(Logger):
    """Writes each call's numbers as a row with its step; a new number makes a new column.

    Lightning's own logger starts each log anew, and a process that is killed while it adds a column leaves none. Here
    the rows of the steps that a run's checkpoint has behind it stay, those after it, which the run goes through again,
    are dropped; the file is replaced in one piece or added to.

    Args:
        folder: the run's folder.
        step: optimiser steps that the run has behind it.
    """

    FILE = "metrics.csv"

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__()
        self.file = folder / self.FILE
        self.step = step
        self.rows: list[dict[str, Any]] = []
        self.columns: list[str] = ["step"]
        self.fresh = True
        self.written = 0

    @property
    @override
    def name(self) -> str:
        return self.file.parent.name

    @property
    @override
    def version(self) -> str:
        return ""

    @property
    @override
    def log_dir(self) -> str:
        return str(self.file.parent)

    @property
    @rank_zero_experiment
    def experiment(self) -> "ResumableCSVLogger":
        return self

    @override
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run's config.yaml has them."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.fresh:
            self.rows, self.fresh = kept_rows(self.file, self.step), False
            self.columns = list(dict.fromkeys(["step", *(key for row in self.rows for key in row)]))
            self.rewrite()
        numbers = {name: getattr(value, "item", lambda value=value: value)() for name, value in metrics.items()}
        self.rows.append({"step": step, **numbers})

    @override
    @rank_zero_only
    def save(self) -> None:
        """Brings the rows to the file."""
        new = self.rows[self.written :]
        columns = list(dict.fromkeys([*self.columns, *(key for row in new for key in row)]))
        if columns != self.columns:
            self.columns = columns
            self.rewrite()
        elif new:
            with self.file.open("a", newline="") as file:
                file.write(self.text(new))
            self.written = len(self.rows)

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def rewrite(self) -> None:
        atomic_write(self.file, ",".join(self.columns) + os.linesep + self.text(self.rows))
        self.written = len(self.rows)

    def text(self, rows: list[dict[str, Any]]) -> str:
        lines = io.StringIO()
        csv.DictWriter(lines, self.columns, lineterminator=os.linesep).writerows(rows)
        return lines.getvalue()


def kept_rows(file: Path, step: int) -> list[dict[str, Any]]:
    """The rows of an earlier part of the run that are before this step; a line that was cut off isn't one."""
    if not step or not file.is_file():
        return []
    with file.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if None not in row.values() and row["step"].isdigit()]
    return [{key: value for key, value in row.items() if value != ""} for row in rows if int(row["step"]) < step]
