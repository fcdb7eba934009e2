"""Sweeps of runs: which are finished, which are left, which failed.

No import of torch: the command line uses this module before anything heavy is loaded.
"""

import json
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lambdanets.atomic import atomic_write
from lambdanets.config.keys import RESTART_KEYS, is_key_in
from lambdanets.console import program_name
from lambdanets.errors import UserError
from lambdanets.progress import format_duration
from lambdanets.runs.folders import METRICS, UNRESOLVED_CONFIG, load_config

log = logging.getLogger(__name__)
FAILED = "failed.json"


class SweepSummary(Callback):
    """Log the progress of a --multirun and its outcome; with failed runs, the process ends with exit code 1."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.start, self.ended, self.total = time.time(), 0, count_runs(config)

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
        log.info("%d of %d runs in %s are finished.", finished, len(runs), os.path.relpath(folder))
        failures = [file for file in sorted(folder.glob(f"*/{FAILED}")) if file.stat().st_mtime >= self.start - 1]
        for file in failures:
            print(f"failed: {file.parent.name}: {json.loads(file.read_text())['error']}", file=sys.stderr)
        if finished:
            log.info("Compare them with: %s job=report sweep_dir=%s", program_name(), os.path.relpath(folder))
        if failures:
            raise SystemExit(1)


def count_runs(config: DictConfig) -> int | None:
    """Return the number of runs of a grid, or None where a sweeper decides as it goes."""
    grid = list(config.hydra.overrides.task)
    if not str(config.hydra.sweeper._target_).endswith("BasicSweeper"):
        return None
    grid += [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    swept = [override for override in OverridesParser.create().parse_overrides(grid) if override.is_sweep_override()]
    return math.prod(len(list(override.sweep_string_iterator())) for override in swept)


def run_state(run: Path) -> str:
    """Return the state of a run: "finished", "failed" or "unfinished"."""
    if (run / METRICS).is_file():
        return "finished"
    return "failed" if (run / FAILED).is_file() else "unfinished"


def finished_results(folder: Path, composed: DictConfig) -> dict[str, float] | None:
    """Return the results of the run in a folder if it has finished, or None if it is to start or to continue.

    Args:
        folder: of the run.
        composed: the config that the command line gives now.

    Raises:
        UserError: the folder holds a run of another config.
    """
    if not (folder / UNRESOLVED_CONFIG).is_file():
        return None
    stored, current = (
        {key: value for key, value in flatten(config).items() if not is_key_in(key, RESTART_KEYS)}
        for config in (load_config(folder), composed)
    )
    different = sorted(key for key in stored.keys() | current.keys() if stored.get(key) != current.get(key))
    if different:
        raise UserError(
            f"'{folder}' holds a run of another config ({', '.join(different[:3])} differ): start a new sweep "
            "elsewhere with hydra.sweep.dir=<folder>, or move the old one."
        )
    (folder / FAILED).unlink(missing_ok=True)
    if run_state(folder) == "finished":
        return json.loads((folder / METRICS).read_text())
    return None


def record_failure(folder: Path, message: str) -> None:
    """Write the error message of a run to its failed.json."""
    atomic_write(folder / FAILED, json.dumps({"error": message}, indent=2, ensure_ascii=False) + "\n")


def flatten(config: DictConfig) -> dict[str, Any]:
    """Return the config's values by their dotted keys; interpolations stay unresolved."""
    values: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else str(key))
        else:
            values[path] = node

    walk(OmegaConf.to_container(config), "")
    return values
