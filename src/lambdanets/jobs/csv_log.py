"""metrics.csv, kept when a run goes on."""

import csv
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger
from typing_extensions import override


class CSVLog(CSVLogger):
    """Lightning's CSV logger in a folder that may hold the log of the same run's earlier part.

    Lightning starts each log anew. Here the rows of the steps that a run's checkpoint has behind it stay, those after
    it, which the run goes through again, are dropped.

    Args:
        folder: the run's folder.
        step: optimiser steps that the run has behind it.
    """

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder.parent, name=folder.name, version="")
        self._kept: list[dict[str, str]] = []
        file = folder / "metrics.csv"
        if step and file.is_file():
            with file.open(newline="") as rows:
                self._kept = [row for row in csv.DictReader(rows) if int(row["step"]) < step]

    @property
    @override
    def log_dir(self) -> str:
        return self.root_dir

    @property
    @override
    def experiment(self):  # type: ignore[no-untyped-def]
        new = self._experiment is None
        writer = super().experiment
        if new and self._kept and self._experiment is not None:
            writer.metrics = [{key: value for key, value in row.items() if value != ""} for row in self._kept]
            writer.save()
        return writer
