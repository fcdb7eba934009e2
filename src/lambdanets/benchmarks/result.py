"""What a benchmark found, as a table, as JSON and as Markdown."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lambdanets.benchmarks.measure import Setting
from lambdanets.machine import processor_name
from lambdanets.table import Table


@dataclass
class Result(Table):
    """A table of measurements.

    Args:
        setting: how they were measured.
        plot: how plots.draw shows them: the columns of x, y and the lines' names, or nothing.
    """

    setting: Setting = field(default_factory=Setting)
    plot: dict[str, str] = field(default_factory=dict)

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
        (folder / f"{name}.md").write_text(self.page(origin))

    def page(self, origin: dict[str, Any]) -> str:
        """The table under its title, with machine, versions, date and command."""
        packages = ", ".join(f"{name} {found}" for name, found in origin["packages"].items() if found)
        lines = [f"# {self.title}", "", f"{machine(self.setting)}. Python {origin['python']}, {packages}.", ""]
        lines += [f"{origin['date'][:10]}, `{origin['command']}`", ""]
        return "\n".join([*lines, self.markdown()])


def machine(setting: Setting) -> str:
    """The processor and how it is used, in words."""
    if setting.torch_device.type == "cuda":
        return f"{torch.cuda.get_device_name()}, {setting.precision}"
    return f"{processor_name()}, {setting.threads} threads of {os.cpu_count()}, {setting.precision}"
