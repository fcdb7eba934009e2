"""Results of a benchmark as table, JSON and Markdown."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lambdanets.atomic import atomic_write
from lambdanets.benchmarks.measure import Setting
from lambdanets.errors import UserError
from lambdanets.machine import processor_name
from lambdanets.table import Table


@dataclass
class Result(Table):
    """Table of measurements.

    Args:
        setting: the conditions of the measurement.
        plot: options of `plots.save_plot`: its kind, and the columns of x, y and the lines' names or, of speed_accuracy
            plots, the panels and the experiment that times are normalized to; empty for no plot.
    """

    setting: Setting = field(default_factory=Setting)
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
            "rows": self.rows,
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
            document = json.loads(file.read_text())
            title, rows, notes = (document[key] for key in ("title", "rows", "notes"))
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
        machine = describe_machine(self.setting)
        if "precision" in self.columns:
            machine = machine.removesuffix(f", {self.setting.precision}")
        lines = [f"# {self.title}", "", f"{machine}{gpu}. Python {origin['python']}, {packages}.", ""]
        lines += [f"{origin['date'][:10]}, `{origin['command']}`", ""]
        lines += [f"![{self.title}]({name}.png)", ""] if self.plot else []
        return "\n".join([*lines, self.to_markdown()])


def describe_machine(setting: Setting) -> str:
    """Return the name of the processor or GPU, with the number of threads and the precision."""
    if setting.torch_device.type == "cuda":
        return f"{torch.cuda.get_device_name()}, {setting.precision}"
    threads = f"{setting.threads} thread{'s' * (setting.threads != 1)}"
    return f"{processor_name()}, {threads} of {os.cpu_count()}, {setting.precision}"
