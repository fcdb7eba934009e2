"""Results of a benchmark as table, JSON and Markdown."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lambdanets.atomic import atomic_write
from lambdanets.benchmarks.measure import Setting
from lambdanets.errors import UserError
from lambdanets.machine import CpuUse, count_cores, processor_name
from lambdanets.measured import MAX_SPREAD, Measured
from lambdanets.table import Table, TableRow


@dataclass
class Result(Table):
    """Table of measurements.

    Args:
        setting: the conditions of the measurement.
        machine_load: `describe_load` of the measurement; empty if unknown.
        plot: options of `plots.save_plot`: its kind, and the columns of x, y and the lines' names or, of speed_accuracy
            and pareto plots, the panels, and of the first the experiment that times are normalized to; empty for no
            plot.
    """

    setting: Setting = field(default_factory=Setting)
    machine_load: dict[str, float | None] = field(default_factory=dict)
    plot: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path, name: str, origin: dict[str, Any], *, more: dict[str, Any] | None = None) -> None:
        """Write <name>.json and <name>.md, each as a whole.

        Args:
            folder: folder of the files.
            name: name of the benchmark.
            origin: versions, date and command of the run, as in `provenance`.
            more: further entries of the JSON.
        """
        document = {
            "title": self.title,
            "machine": describe_machine(self.setting),
            "origin": origin,
            "setting": asdict(self.setting),
            "load": self.machine_load,
            "rows": self.rows,
            "measurements": store_measurements(self.rows),
            "notes": self.notes,
            "plot": self.plot,
            **(more or {}),
        }
        atomic_write(folder / f"{name}.json", json.dumps(document, indent=1, allow_nan=True) + "\n")
        atomic_write(folder / f"{name}.md", self.to_page(name, origin))

    @staticmethod
    def load(file: Path) -> "Result":
        """Read the rows, notes and plot of a <name>.json; machine and setting are not restored.

        Raises:
            UserError: the file is not the JSON of a benchmark, or has no plot.
        """
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            title, notes = (document[key] for key in ("title", "notes"))
            rows = restore_measurements(document["rows"], document.get("measurements"))
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(
                f"'{file}' is not the JSON of a benchmark ({error!r}): name a <benchmark>.json that job=benchmark has "
                "written."
            ) from error
        plot = document.get("plot")
        if not plot:
            raise UserError(f"'{file}' has no plot: name the JSON of a benchmark that draws one, or measure again.")
        return Result(title, list(rows[0]) if rows else [], rows, notes, plot=plot)

    def to_page(self, name: str, origin: dict[str, Any]) -> str:
        """Return a Markdown page with machine, versions, date, command, plot and table; arguments as for `save`."""
        packages = ", ".join(f"{package} {version}" for package, version in origin["packages"].items() if version)
        gpu = "".join(
            f", {name} {value}" for name, value in (origin.get("gpu") or {}).items() if name != "name" and value
        )
        machine = describe_machine(self.setting, columns=self.columns)
        lines = [f"# {self.title}", "", f"{machine}{gpu}. Python {origin['python']}, {packages}.", ""]
        lines += [f"{origin['date'][:10]}, `{origin['command']}`", ""]
        lines += [f"![{self.title}]({name}.png)", ""] if self.plot else []
        return "\n".join([*lines, self.to_markdown(), *(f"{note}\n" for note in self.describe_measurements())])

    def show(self) -> None:
        super().show()
        for note in self.describe_measurements():
            Console().print(note, soft_wrap=True, highlight=False, markup=False)

    def describe_measurements(self) -> list[str]:
        """Return sentences on the ranges of the cells, on the noisy ones, and on the load of the machine."""
        cells = [cell for row in self.rows for name, cell in row.items() if name in self.columns]
        measured = [cell for cell in cells if isinstance(cell, Measured) and len(cell.samples) > 1]
        notes = []
        if measured:
            noisy = sum(cell.is_noisy for cell in measured)
            notes.append(
                f"In brackets: the range of the measurements, of which the cell is the median. Noisy cells: "
                f"{noisy or 'none'} of {len(measured)}. A cell is noisy if the middle half of its measurements spans "
                f"more than {100 * MAX_SPREAD:g} % of the median, or if other processes used the cores."
            )
            notes += ["Measure again on an idle machine."] if noisy else []
        others, before, after = (self.machine_load.get(key) for key in ("other cores", "before", "after"))
        if others is not None:
            notes.append(
                f"Other processes used {others:.2f} of {self.machine_load['cores']:.0f} cores during the measurements."
                + (f" Load average: {before:.2f} before, {after:.2f} after." if None not in (before, after) else "")
            )
        return notes


def store_measurements(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """Return the measurements of each row's measured cells, as values of JSON."""
    return [
        {
            name: {"samples": [float(f"{sample:.4g}") for sample in cell.samples], "disturbed": cell.disturbed}
            for name, cell in row.items()
            if isinstance(cell, Measured)
        }
        for row in rows
    ]


def restore_measurements(rows: Sequence[TableRow], measurements: Sequence[dict[str, Any]] | None) -> list[TableRow]:
    """Return rows with the measured cells that `store_measurements` has stored."""
    stored = measurements or [{}] * len(rows)
    return [
        row | {name: Measured(value=row[name], **cell) for name, cell in cells.items()}  # type: ignore[arg-type]
        for row, cells in zip(rows, stored, strict=True)
    ]


def describe_load(start: CpuUse, end: CpuUse) -> dict[str, float | None]:
    """Return the load averages before and after a measurement, and the cores that other processes used meanwhile."""
    return {
        "before": start.load,
        "after": end.load,
        "other cores": end.others_since(start),
        "cores": float(count_cores()),
    }


def describe_machine(setting: Setting, *, columns: Sequence[str] = ()) -> str:
    """Return the name of the processor or GPU, with the number of threads and the precision.

    Args:
        setting: the conditions of the measurement.
        columns: of a table, which has a column for what differs between its rows.
    """
    is_gpu = setting.torch_device.type == "cuda"
    parts = [torch.cuda.get_device_name() if is_gpu else processor_name()]
    if not is_gpu and "threads" not in columns:
        parts.append(f"{setting.threads} thread{'s' * (setting.threads != 1)} of {os.cpu_count()}")
    if "precision" not in columns:
        parts.append(setting.precision)
    return ", ".join(parts)
