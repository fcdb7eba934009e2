"""metrics.csv: all logged metrics of a run, across resumes."""

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
    """CSV logger with one row per logging call, whose file survives resuming and crashes.

    Lightning's CSVLogger starts each file anew, and loses it when the process is killed while it adds a column. This
    logger keeps the rows before the resumed step and drops those after it, which the run computes again. The file is
    appended to or replaced atomically.

    Args:
        folder: the run's folder.
        step: optimizer steps before the checkpoint that the run resumes from; 0 for a new run.
    """

    FILE = "metrics.csv"

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__()
        self.file = folder / self.FILE
        self.step = step
        self.rows: list[dict[str, Any]] = []
        self.columns: list[str] = ["step"]
        self.loaded = False
        self.saved_count = 0

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
        """Do nothing: the hyperparameters are in the run's config.yaml."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self.loaded:
            self.rows, self.loaded = read_rows(self.file, self.step), True
            self.columns = list(dict.fromkeys(["step", *(key for row in self.rows for key in row)]))
            self.rewrite_file()
        values = {name: getattr(value, "item", lambda value=value: value)() for name, value in metrics.items()}
        self.rows.append({"step": step, **values})

    @override
    @rank_zero_only
    def save(self) -> None:
        """Append the new rows to the file; rewrite it if there are new columns."""
        new_rows = self.rows[self.saved_count :]
        columns = list(dict.fromkeys([*self.columns, *(key for row in new_rows for key in row)]))
        if columns != self.columns:
            self.columns = columns
            self.rewrite_file()
        elif new_rows:
            with self.file.open("a", newline="", encoding="utf-8") as file:
                file.write(self.format_rows(new_rows))
            self.saved_count = len(self.rows)

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def rewrite_file(self) -> None:
        atomic_write(self.file, ",".join(self.columns) + os.linesep + self.format_rows(self.rows))
        self.saved_count = len(self.rows)

    def format_rows(self, rows: list[dict[str, Any]]) -> str:
        lines = io.StringIO()
        csv.DictWriter(lines, self.columns, lineterminator=os.linesep).writerows(rows)
        return lines.getvalue()


def read_rows(file: Path, step: int) -> list[dict[str, Any]]:
    """Return the rows of a file before a step, without a truncated last line."""
    if not step or not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if None not in row.values() and row["step"].isdigit()]
    return [{key: value for key, value in row.items() if value != ""} for row in rows if int(row["step"]) < step]
