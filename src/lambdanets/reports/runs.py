"""Runs as their folders tell of them."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lambdanets.config.upgrade import upgrade_config
from lambdanets.errors import UserError

# Keys of a command that say where and when, not what.
NOT_A_SETTING = ("experiment", "seed", "sweep", "job", "name", "ckpt", "like", "input", "hydra")
NOT_A_SETTING_EITHER = (
    "data.root",
    "data.num_workers",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.enable_progress_bar",
)


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        folder: its folder.
        config: resolved.
    """

    folder: Path
    config: DictConfig

    @property
    def experiment(self) -> str:
        """The row of the paper that it is of, or the run's name."""
        return self.config.get("experiment") or self.config.name

    @property
    def seed(self) -> int:
        return self.config.seed

    @cached_property
    def setting(self) -> tuple[str, ...]:
        """What the command line said apart from experiment and seed."""
        file = self.folder / ".hydra" / "overrides.yaml"
        said = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else []
        return tuple(sorted(str(override) for override in said if is_setting(str(override))))  # type: ignore[union-attr]

    @cached_property
    def metrics(self) -> dict[str, float]:
        """What the run ended with; empty while it hasn't."""
        file = self.folder / "metrics.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    @cached_property
    def starts(self) -> list[dict[str, Any]]:
        """Where, when and with which code it was started, and each time went on."""
        file = self.folder / "provenance.json"
        return json.loads(file.read_text()) if file.is_file() else []

    @cached_property
    def log(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, without empty cells."""
        file = self.folder / "metrics.csv"
        if not file.is_file():
            return []
        with file.open(newline="") as rows:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(rows)]

    def curve(self, score: str) -> dict[int, float]:
        """A score by epoch, counted from 1."""
        return {int(row["epoch"]) + 1: row[score] for row in self.log if score in row and "epoch" in row}

    @property
    def problem(self) -> str | None:
        """Why the run has no result, or None."""
        if self.metrics:
            return None
        file = self.folder / "failed.json"
        if file.is_file():
            return f"failed: {json.loads(file.read_text())['error']}"
        epochs = len({row["epoch"] for row in self.log if any(name.startswith("val/") for name in row)})
        return f"unfinished, after {epochs} of {self.config.trainer.max_epochs} epochs"


@dataclass
class Row:
    """The runs of one experiment in one setting, by seed."""

    experiment: str
    setting: tuple[str, ...]
    runs: dict[int, Run] = field(default_factory=dict)

    def scores(self, score: str) -> dict[int, float]:
        return {seed: run.metrics[score] for seed, run in sorted(self.runs.items()) if score in run.metrics}

    def values(self, name: str) -> list[float]:
        return [run.metrics[name] for run in self.runs.values() if name in run.metrics]


def is_setting(override: str) -> bool:
    key = override.lstrip("+~").split("=", 1)[0]
    return key.split(".", 1)[0] not in NOT_A_SETTING and key not in NOT_A_SETTING_EITHER


def collect(folders: Iterable[Path]) -> list[Run]:
    """All trainings in or below some folders.

    Raises:
        UserError: a folder doesn't exist, or none of them holds a run.
    """
    found: dict[Path, Run] = {}
    places = list(folders)
    for place in places:
        if not place.is_dir():
            raise UserError(f"There is no folder '{place}': sweep_dir must name a folder of runs.")
        for file in sorted(place.rglob("config.yaml")):
            if (file.parent / "composed.yaml").is_file():
                stored: Any = OmegaConf.to_container(OmegaConf.load(file))
                config = OmegaConf.create(upgrade_config(stored))
                if config.job._target_ == "lambdanets.jobs.fit.run":
                    found[file.parent.resolve()] = Run(file.parent, config)
    if not found:
        raise UserError(f"No run lies below {', '.join(map(repr, map(str, places)))}: start some, then report on them.")
    return list(found.values())


def grouped(runs: Iterable[Run]) -> list[Row]:
    """The runs as rows; of several with one seed the last finished one counts."""
    rows: dict[tuple[str, tuple[str, ...]], Row] = {}
    for run in sorted(runs, key=lambda run: (bool(run.metrics), run.folder.stat().st_mtime)):
        key = run.experiment, run.setting
        rows.setdefault(key, Row(*key)).runs[run.seed] = run
    # The order of the longest plan, whenever its runs were started: a part of a sweep may have been run by itself.
    plans = sorted(map(planned, rows.values()), key=lambda plan: (-len(plan), plan))
    order = [experiment for plan in plans for experiment in plan]
    return sorted(
        rows.values(),
        key=lambda row: (row.setting, order.index(row.experiment) if row.experiment in order else -1, row.experiment),
    )


def planned(row: Row) -> list[str]:
    """The experiments of the sweep that a row is of."""
    run = next(iter(row.runs.values()))
    return list(OmegaConf.select(run.config, "sweep.experiments") or [])


def missing(rows: list[Row]) -> list[str]:
    """What keeps a report from being whole: failed, unfinished and never started runs, in words."""
    sentences = []
    for setting in dict.fromkeys(row.setting for row in rows):
        here = [row for row in rows if row.setting == setting]
        seeds = sorted({seed for row in here for seed in row.runs})
        there = {row.experiment: row for row in here}
        for experiment in dict.fromkeys([*(name for row in here for name in planned(row)), *there]):
            for seed in seeds:
                run = there[experiment].runs.get(seed) if experiment in there else None
                problem = "never started" if run is None else run.problem
                if problem:
                    sentences.append(f"{experiment}, seed {seed}: {problem}")
    return sentences
