"""Training runs read from their folders or from an archive, and grouped by experiment."""

import csv
import json
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lambdanets.config.build import task_class
from lambdanets.config.keys import UNREPORTED_KEYS, is_key_in, override_key
from lambdanets.config.upgrade import KEYS, upgrade_config
from lambdanets.data.image_names import find_files
from lambdanets.errors import UserError
from lambdanets.runs.folders import FAILED, FIT, METRICS, RESOLVED_CONFIG, UNRESOLVED_CONFIG, read_config, read_json
from lambdanets.runs.provenance import PROVENANCE, read_overrides
from lambdanets.tasks import Classification, Task

log = logging.getLogger(__name__)
ARCHIVE = "runs.jsonl"


class MissingRunsError(UserError):
    """Folders that should hold runs don't exist or hold none."""


@dataclass(frozen=True)
class RunRecord:
    """The part of a training run that reports use.

    Args:
        path: its folder; of an archived run, the folder of the archive joined with the run's own name.
        config: resolved.
        overrides: arguments of the command line that made the config.
        metrics: final results, empty until the run has finished.
        log: the rows of metrics.csv without their empty cells.
        starts: command, date, code and machine of the first start and of each continuation.
        error: the message that the run failed with, or None.
    """

    path: Path
    config: DictConfig
    overrides: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    log: list[dict[str, float]] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    @property
    def experiment(self) -> str:
        """The row of the paper that the run belongs to, or else the run's name."""
        return str(self.config.get("experiment") or self.config.name)

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def task(self) -> type[Task]:
        """The class of the run's task; `Classification` if that class can't be imported any more."""
        try:
            return task_class(self.config)
        except Exception:  # an import may raise anything
            return Classification

    @property
    def setting(self) -> tuple[str, ...]:
        """The overrides that set the run apart from others of its experiment and seed."""
        swept = {key for start in self.starts for key in start.get("swept") or ()}
        return tuple(sorted(o for o in self.overrides if is_setting(o) or override_key(o) in swept))

    @property
    def processors(self) -> tuple[str, ...]:
        """The GPUs or else the processors that the run was trained on, as far as they were recorded."""
        names = (start.get("gpus") or start.get("processor") for start in self.starts if not start.get("failed"))
        return tuple(sorted({str(name) for name in names if name}))

    @property
    def last_start(self) -> str:
        """The date of the newest start in ISO format, empty if it was not recorded."""
        return str(self.starts[-1].get("date", "")) if self.starts else ""

    def curve(self, score: str) -> dict[int, float]:
        """Return a score by epoch, counted from 1."""
        return {int(row["epoch"]) + 1: row[score] for row in self.log if score in row and "epoch" in row}

    @property
    def problem(self) -> str | None:
        """The reason why the run has no result, or None."""
        if self.metrics:
            return None
        if self.error is not None:
            return f"failed: {self.error}"
        epochs = len({row["epoch"] for row in self.log if any(name.startswith("val/") for name in row)})
        return f"unfinished, after {epochs} of {self.config.trainer.max_epochs} epochs"

    def lacks(self, score: str) -> str | None:
        """Return the sentence that the run has no such score, or None."""
        return None if score in self.metrics else f"it has no {score}"


@dataclass
class ExperimentRuns:
    """The runs of one experiment in one setting, by seed."""

    experiment: str
    setting: tuple[str, ...]
    by_seed: dict[int, RunRecord] = field(default_factory=dict)

    @property
    def task(self) -> type[Task]:
        return next(iter(self.by_seed.values())).task

    @property
    def finished(self) -> dict[int, RunRecord]:
        """The finished runs by seed."""
        return {seed: run for seed, run in self.by_seed.items() if run.metrics}

    def scores(self, score: str) -> dict[int, float]:
        """Return a score of the finished runs by seed."""
        return {seed: run.metrics[score] for seed, run in sorted(self.by_seed.items()) if score in run.metrics}

    def values(self, name: str) -> list[float]:
        """Return one of the final results of all runs that have it."""
        return [run.metrics[name] for run in self.by_seed.values() if name in run.metrics]


def is_setting(override: str) -> bool:
    key = override_key(override)
    return not is_key_in(KEYS.get(key, key), UNREPORTED_KEYS)


def read_runs(folders: Iterable[Path]) -> list[RunRecord]:
    """Read all training runs in or below some folders, from run folders and from archives (runs.jsonl).

    Links are followed, and each file is read once. A folder that can't be listed is left out, with a warning.

    Raises:
        MissingRunsError: a folder doesn't exist, or none of them holds a run.
        UserError: an archive is damaged.
    """
    runs: dict[Path, RunRecord] = {}
    archives: dict[Path, Path] = {}
    folders = list(folders)
    for folder in folders:
        if not folder.is_dir():
            raise MissingRunsError(f"There is no folder '{folder}': sweep_dir must name a folder of runs.")
        for file in sorted(Path(found.path) for found in find_files(folder, on_error=warn_unreadable)):
            if file.name == ARCHIVE:
                archives[file.resolve()] = file
            elif file.name == RESOLVED_CONFIG and (file.parent / UNRESOLVED_CONFIG).is_file():
                try:
                    runs[file.parent.resolve()] = read_run_folder(file.parent)
                except UserError as error:
                    log.warning("The run '%s' is left out. %s", file.parent, error)
    archived = [run for file in archives.values() for run in read_archive(file)]
    every = [*runs.values(), *(run for run in archived if run.path.resolve() not in runs)]
    trainings = [run for run in every if OmegaConf.select(run.config, "job._target_") == FIT]
    if not trainings:
        raise MissingRunsError(
            f"No run lies below {', '.join(map(repr, map(str, folders)))}: start some, then report on them."
        )
    return trainings


def warn_unreadable(error: OSError) -> None:
    log.warning("The folder '%s' is left out: it can't be read (%s).", error.filename, error.strerror)


def read_run_folder(folder: Path) -> RunRecord:
    """Read the files that a run has written so far; other damaged files than its config count as missing.

    Raises:
        UserError: the run's config is damaged.
    """
    config = read_config(folder / RESOLVED_CONFIG)
    missing = missing_key(config)
    if missing:
        raise UserError(f"The config '{folder / RESOLVED_CONFIG}' is damaged ({missing} is missing): restore the file.")
    metrics = read_json(folder / METRICS) or {}
    error = (read_json(folder / FAILED) or {}).get("error")
    return RunRecord(
        folder,
        config,
        tuple(read_overrides(folder)),
        {name: value for name, value in metrics.items() if isinstance(value, int | float)},
        read_log(folder / "metrics.csv"),
        [start for start in read_json(folder / PROVENANCE, list) or () if isinstance(start, dict)],
        None if error is None else str(error),
    )


def missing_key(config: DictConfig) -> str | None:
    """Return the first key that a report needs and a run's config lacks, or None."""
    for key, kind in (("name", str | int | float), ("seed", int), ("trainer.max_epochs", int)):
        if not isinstance(OmegaConf.select(config, key, throw_on_resolution_failure=False), kind):
            return key
    return None


def read_log(file: Path) -> list[dict[str, float]]:
    """Read a metrics.csv without its empty cells and its damaged rows; an absent or damaged file gives no rows."""
    if not file.is_file():
        return []
    rows = []
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                with suppress(ValueError, TypeError):
                    rows.append({key: float(value) for key, value in row.items() if value})
    except (OSError, ValueError, csv.Error) as error:
        log.warning("'%s' is damaged and was ignored (%s).", file, " ".join(str(error).split())[:100])
        return []
    return rows


def read_archive(file: Path) -> list[RunRecord]:
    """Read the runs of a runs.jsonl, as `archive_runs` writes it.

    Raises:
        UserError: a line is damaged or lacks a key.
    """
    runs: list[RunRecord] = []
    text = file.read_bytes().rstrip(b"\n")
    # Not splitlines(), which also splits at separators that JSON leaves in strings.
    for index, line in enumerate(text.split(b"\n") if text else (), start=1):
        try:
            runs.append(parse_run(line, file.parent))
        except (ValueError, RecursionError, OmegaConfBaseException) as error:
            reason = " ".join(str(error).split())[:100]
            raise UserError(
                f"Line {index} of '{file}' is not an archived run ({reason}): restore the file, or delete the line and "
                "archive its run again with job=report sweep_dir=<folder> job.archive_to=<folder>."
            ) from error
    return runs


def parse_run(line: bytes, folder: Path) -> RunRecord:
    """Return the run of an archive's line.

    Args:
        line: JSON.
        folder: of the archive.

    Raises:
        ValueError: the line is no JSON object of a run.
        OmegaConfBaseException: its config is none.
    """
    stored = json.loads(line.decode())
    if not isinstance(stored, dict):
        raise ValueError("it is no JSON object")
    is_valid = {
        "run": lambda run: isinstance(run, str),
        "config": lambda config: isinstance(config, dict),
        "overrides": lambda overrides: is_list_of(str, overrides),
        "metrics": is_numbers,
        "log": lambda log: is_list_of(dict, log) and all(map(is_numbers, log)),
        "starts": lambda starts: is_list_of(dict, starts),
    }
    for key, test in is_valid.items():
        if not test(stored.get(key)):
            raise ValueError(f"its {key} is {'damaged' if key in stored else 'missing'}")
    config = OmegaConf.create(upgrade_config(stored["config"]))
    missing = missing_key(config)
    if missing:
        raise ValueError(f"its config has no {missing}")
    overrides, metrics, log, starts = (stored[key] for key in ("overrides", "metrics", "log", "starts"))
    return RunRecord(folder / stored["run"], config, tuple(overrides), metrics, log, starts, stored.get("error"))


def is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def is_numbers(value: Any) -> bool:
    """Return whether a value is a mapping to numbers."""
    return isinstance(value, dict) and all(isinstance(number, int | float) for number in value.values())


def group_runs(runs: Iterable[RunRecord]) -> list[ExperimentRuns]:
    """Group runs into rows; of several runs with the same seed, the finished one that was started last counts."""
    rows: dict[tuple[str, tuple[str, ...]], ExperimentRuns] = {}
    for run in sorted(runs, key=lambda run: (bool(run.metrics), run.last_start)):
        key = run.experiment, run.setting
        rows.setdefault(key, ExperimentRuns(*key)).by_seed[run.seed] = run
    # The longest plan gives the order: parts of a sweep may have been started by themselves.
    plans = sorted(map(planned_experiments, rows.values()), key=lambda plan: (-len(plan), plan))
    order = [experiment for plan in plans for experiment in plan]
    return sorted(
        rows.values(),
        key=lambda row: (row.setting, order.index(row.experiment) if row.experiment in order else -1, row.experiment),
    )


def planned_experiments(row: ExperimentRuns) -> list[str]:
    """Return the experiments of the sweep that a row belongs to."""
    run = next(iter(row.by_seed.values()))
    return list(OmegaConf.select(run.config, "sweep.experiments") or [])


def describe_missing(rows: list[ExperimentRuns], score: str) -> list[str]:
    """Describe each run of a comparison that failed, is unfinished, was never started, or lacks the score."""
    descriptions = []
    for setting in dict.fromkeys(row.setting for row in rows):
        same_setting = {row.experiment: row for row in rows if row.setting == setting}
        seeds = sorted({seed for row in same_setting.values() for seed in row.by_seed})
        planned = [experiment for row in same_setting.values() for experiment in planned_experiments(row)]
        for experiment in dict.fromkeys([*planned, *same_setting]):
            for seed in seeds:
                run = same_setting[experiment].by_seed.get(seed) if experiment in same_setting else None
                problem = "never started" if run is None else run.problem or run.lacks(score)
                if problem:
                    descriptions.append(f"{experiment}, seed {seed}: {problem}")
    return descriptions
