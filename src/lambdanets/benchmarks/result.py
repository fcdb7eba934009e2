"""What a benchmark found, as a table, as JSON and as Markdown."""

import json
import math
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lambdanets.benchmarks.measure import Setting

Row = dict[str, str | float | None]


@dataclass
class Result:
    """Rows with the same columns.

    Args:
        title: one line.
        columns: of the table, in order.
        setting: how it was measured.
        rows: from column to value; None where a contestant wasn't run.
        notes: sentences below the table.
        plot: how plots.draw shows it: the columns of x, y and the lines' names, or nothing.
    """

    title: str
    columns: list[str]
    setting: Setting
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plot: dict[str, str] = field(default_factory=dict)

    def show(self) -> None:
        console = Console()
        table = Table(title=self.title, title_justify="left")
        for column in self.columns:
            table.add_column(column, justify="left" if self.is_text(column) else "right")
        for row in self.rows:
            table.add_row(*self.cells(row))
        console.print(table)
        for note in self.notes:
            console.print(note, soft_wrap=True, highlight=False)

    def save(self, folder: Path, name: str, origin: dict[str, Any]) -> None:
        """Writes <name>.json and <name>.md."""
        document = {
            "title": self.title,
            "machine": machine(self.setting),
            "origin": origin,
            "setting": asdict(self.setting),
            "rows": self.rows,
            "notes": self.notes,
        }
        (folder / f"{name}.json").write_text(json.dumps(document, indent=1, allow_nan=True) + "\n")
        (folder / f"{name}.md").write_text(self.markdown(origin))

    def markdown(self, origin: dict[str, Any]) -> str:
        packages = ", ".join(f"{name} {found}" for name, found in origin["packages"].items() if found)
        lines = [f"# {self.title}", "", f"{machine(self.setting)}. Python {origin['python']}, {packages}.", ""]
        lines += [f"{origin['date'][:10]}, `{origin['command']}`", ""]
        lines += ["| " + " | ".join(self.columns) + " |"]
        lines += ["|" + "|".join("---" if self.is_text(column) else "---:" for column in self.columns) + "|"]
        lines += ["| " + " | ".join(self.cells(row)) + " |" for row in self.rows]
        return "\n".join([*lines, "", *(f"{note}\n" for note in self.notes)])

    def is_text(self, column: str) -> bool:
        return any(isinstance(row.get(column), str) for row in self.rows)

    def cells(self, row: Row) -> list[str]:
        return [shown(row.get(column)) for column in self.columns]


def shown(value: str | float | None) -> str:
    """A table's cell: three significant digits for what is measured."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        return f"{value:,.{digits}f}"
    return str(value)


def machine(setting: Setting) -> str:
    """The processor and how it is used, in words."""
    if setting.place.type == "cuda":
        return f"{torch.cuda.get_device_name()}, {setting.precision}"
    return f"{processor()}, {setting.threads} threads of {os.cpu_count()}, {setting.precision}"


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
