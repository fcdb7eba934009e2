"""Sweeps of runs: which are finished, which are left, which failed.

No import of torch: the command line uses this module before anything heavy is loaded.
"""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lambdanets.atomic import atomic_write
from lambdanets.config.keys import RESTART_KEYS, UNNAMED_KEYS, is_key_in, override_key
from lambdanets.config.overrides import flatten_values
from lambdanets.config.upgrade import write_new_options
from lambdanets.console import program_name
from lambdanets.errors import UserError
from lambdanets.progress import format_duration
from lambdanets.runs.folders import (
    FAILED,
    METRICS,
    UNRESOLVED_CONFIG,
    former_sweep_folder,
    hashed_name,
    load_config,
    read_json,
    sweep_folder,
)

log = logging.getLogger(__name__)
EXCLUDED = "hydra.job.config.override_dirname.exclude_keys"


class SweepSummary(Callback):
    """Log the progress of a --multirun and its outcome; with failed runs, the process ends with exit code 1."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.start, self.ended, self.total = time.time(), 0, count_runs(config)
        self.former_failures = failure_times(Path(config.hydra.sweep.dir))
        name_swept_keys(config)

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        if not hasattr(self, "total"):  # a single run, or one in another process
            return
        self.ended += 1
        if self.total and self.ended < self.total:
            left = (time.time() - self.start) / self.ended * (self.total - self.ended)
            log.info("%d of %d runs are done, %s left", self.ended, self.total, format_duration(left))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        runs = sorted(path.parent for path in folder.glob(f"*/{UNRESOLVED_CONFIG}"))
        finished = sum(run_state(run) == "finished" for run in runs)
        total = max(len(runs), self.total or 0)
        log.info("%d of %d runs in %s are finished.", finished, total, os.path.relpath(folder))
        failures = sorted(failure_times(folder).items() - self.former_failures.items())
        for file, _ in failures:
            error = (read_json(file) or {}).get("error", f"see '{file}'")
            print(f"failed: {file.parent.name}: {error}", file=sys.stderr)
        if finished:
            log.info("Compare them with: %s job=report sweep_dir=%s", program_name(), os.path.relpath(folder))
        if failures:
            raise SystemExit(1)


def failure_times(folder: Path) -> dict[Path, int]:
    """Return the failures in a sweep's folder, with the time at which each was written, by the clock of its server."""
    return {file: file.stat().st_mtime_ns for file in folder.glob(f"*/{FAILED}")}


def swept_overrides(config: DictConfig) -> list[Override]:
    """Return the overrides of a --multirun that have several values, those of its sweeper included."""
    grid: list[str] = OmegaConf.to_container(config.hydra.overrides.task)  # type: ignore[assignment]
    params = config.hydra.sweeper.get("params") or {}
    grid += [f"{key}={value}" for key, value in params.items()] if is_grid(config) else []
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None  # it knows the choices that glob(…) selects
    parsed = OverridesParser.create(loader).parse_overrides(grid)
    return [override for override in parsed if override.is_sweep_override()]


def is_grid(config: DictConfig) -> bool:
    """Return whether a --multirun has a fixed list of runs; other sweepers decide as they go."""
    return str(config.hydra.sweeper._target_).endswith("BasicSweeper")


def count_runs(config: DictConfig) -> int | None:
    """Return the number of runs of a grid, or None where a sweeper decides as it goes."""
    if not is_grid(config):
        return None
    return math.prod(len(list(override.sweep_string_iterator())) for override in swept_overrides(config))


def name_swept_keys(config: DictConfig) -> None:
    """Let the keys that a --multirun runs over count in its folders' names, also those of `UNNAMED_KEYS`.

    Hydra composes each run with the overrides of its own config that the --multirun has.
    """
    swept = {override_key(override.get_key_element()) for override in swept_overrides(config)}
    swept |= set(map(str, config.hydra.sweeper.get("params") or ()))
    if swept & set(UNNAMED_KEYS):
        unnamed = ",".join(key for key in UNNAMED_KEYS if key not in swept)
        config.hydra.overrides.hydra.append(f"{EXCLUDED}=[{unnamed}]")


def swept_keys(settings: Any) -> list[str]:
    """Return the keys of `UNNAMED_KEYS` that the sweep of a run is over.

    Args:
        settings: Hydra's own config of the run.
    """
    excluded = settings.job.config.override_dirname.exclude_keys
    return [key for key in UNNAMED_KEYS if key not in excluded]


def choose_sweep_folder(root: DictConfig) -> str:
    """Return the folder name of a sweep's run, for hydra.sweep.subdir.

    A run that an earlier version began keeps its folder, and experiments whose names differ in `/` and `_` alone get
    different ones.

    Args:
        root: the composed config, Hydra's own included.
    """
    excluded = root.hydra.job.config.override_dirname.exclude_keys
    given: Any = OmegaConf.to_container(root.hydra.overrides.task)
    overrides = [override for override in given if override_key(override) not in excluded]
    name, former = sweep_folder(overrides), former_sweep_folder(overrides)
    current = OmegaConf.masked_copy(root, [str(key) for key in root if key != "hydra"])
    OmegaConf.set_struct(current, False)
    current.name, current.experiment = root.name, root.experiment
    write_new_options(current)

    def differ(folder: str) -> list[str] | None:
        run = Path(root.hydra.sweep.dir, folder)
        try:
            return differing_keys(run, current, swept_keys(root.hydra)) if (run / UNRESOLVED_CONFIG).is_file() else None
        except UserError:  # a damaged config, which the run itself reports
            return None

    differences = differ(name)
    if differences is None and former != name and differ(former) == []:
        return former
    return hashed_name(name, overrides) if "experiment" in (differences or ()) else name


def run_state(run: Path) -> str:
    """Return the state of a run: "finished", "failed" or "unfinished"."""
    if read_json(run / METRICS) is not None:
        return "finished"
    return "failed" if (run / FAILED).is_file() else "unfinished"


def finished_results(folder: Path, composed: DictConfig, swept: Sequence[str] = ()) -> dict[str, float] | None:
    """Return the results of the run in a folder if it has finished, or None if it is to start or to continue.

    Args:
        folder: of the run.
        composed: the config that the command line gives now.
        swept: keys that the sweep is over, which must be equal although other starts may differ in them.

    Raises:
        UserError: the folder holds a run of another config.
    """
    if not (folder / UNRESOLVED_CONFIG).is_file():
        return None
    different = differing_keys(folder, composed, swept)
    if different:
        raise UserError(
            f"'{folder}' holds a run of another config ({', '.join(different[:3])} differ): start a new sweep "
            "elsewhere with hydra.sweep.dir=<folder>, or move the old one."
        )
    return read_json(folder / METRICS) if run_state(folder) == "finished" else None


def differing_keys(folder: Path, composed: DictConfig, swept: Sequence[str] = ()) -> list[str]:
    """Return the keys in which the run in a folder differs from a config, without those that belong to a start.

    Args:
        folder: of the run.
        composed: the config.
        swept: keys that count although they belong to a start.

    Raises:
        UserError: the run's config is damaged.
    """
    stored, current = (
        {
            key: value
            for key, value in flatten(config).items()
            if is_key_in(key, tuple(swept)) or not is_key_in(key, RESTART_KEYS)
        }
        for config in (load_config(folder), composed)
    )
    return sorted(key for key in stored.keys() | current.keys() if stored.get(key) != current.get(key))


def record_failure(folder: Path, message: str) -> None:
    """Write the error message of a run to its failed.json."""
    atomic_write(folder / FAILED, json.dumps({"error": message}, indent=2, ensure_ascii=False) + "\n")


def flatten(config: DictConfig) -> dict[str, Any]:
    """Return the config's values by their dotted keys; interpolations stay unresolved."""
    return flatten_values(OmegaConf.to_container(config))
