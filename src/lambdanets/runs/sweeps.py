"""Grids of runs: what is done, what is left, what failed.

No import of torch here: the command line answers from this module before anything heavy is loaded.
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
from lambdanets.errors import UserError
from lambdanets.progress import format_duration
from lambdanets.runs import folders as runs

log = logging.getLogger(__name__)
FAILED = "failed.json"
# Where a run is done, what it is called, and which others a sweep has, doesn't make it another run.
PLACE = (
    "ckpt",
    "like",
    "name",
    "data.root",
    "data.num_workers",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.enable_progress_bar",
)


class Summary(Callback):
    """At the end of a --multirun says what came of its runs; with failed ones, the process ends with exit code 1."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.start, self.done, self.total = time.time(), 0, count(config)

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        if not hasattr(self, "total"):  # a single run, or one in another process
            return
        self.done += 1
        if self.total and self.done < self.total:
            left = (time.time() - self.start) / self.done * (self.total - self.done)
            log.info("%d of %d runs are done, %s left", self.done, self.total, format_duration(left))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        found = sorted(path.parent for path in folder.glob(f"*/{runs.COMPOSED}"))
        finished = sum(state(run) == "finished" for run in found)
        log.info("%d of %d runs in %s are finished.", finished, len(found), os.path.relpath(folder))
        failures = [file for file in sorted(folder.glob(f"*/{FAILED}")) if file.stat().st_mtime >= self.start - 1]
        for file in failures:
            print(f"failed: {file.parent.name}: {json.loads(file.read_text())['error']}", file=sys.stderr)
        if finished:
            log.info("Compare them with: python run.py job=report sweep_dir=%s", os.path.relpath(folder))
        if failures:
            raise SystemExit(1)


def count(config: DictConfig) -> int | None:
    """The number of runs of a grid, or None where a sweeper decides on it as it goes."""
    grid = list(config.hydra.overrides.task)
    if not str(config.hydra.sweeper._target_).endswith("BasicSweeper"):
        return None
    grid += [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    swept = [override for override in OverridesParser.create().parse_overrides(grid) if override.is_sweep_override()]
    return math.prod(len(list(override.sweep_string_iterator())) for override in swept)


def state(run: Path) -> str:
    """What became of a run: "finished", "failed" or "unfinished"."""
    if (run / runs.METRICS).is_file():
        return "finished"
    return "failed" if (run / FAILED).is_file() else "unfinished"


def finished(folder: Path, composed: DictConfig) -> dict[str, float] | None:
    """The results that the run in this folder left when it was done earlier, or None: it is to be run, or to go on.

    Raises:
        UserError: the folder holds a run of another config.
    """
    if not (folder / runs.COMPOSED).is_file():
        return None
    before, now = (flat(config) for config in (runs.load_config(folder), composed))
    different = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if different:
        raise UserError(
            f"'{folder}' holds a run of another config ({', '.join(different[:3])} differ): start a new sweep "
            "elsewhere with hydra.sweep.dir=<folder>, or move the old one."
        )
    (folder / FAILED).unlink(missing_ok=True)
    if state(folder) == "finished":
        return json.loads((folder / runs.METRICS).read_text())
    return None


def record_failure(folder: Path, sentence: str) -> None:
    """Leaves the sentence as the run's failed.json."""
    atomic_write(folder / FAILED, json.dumps({"error": sentence}, indent=2, ensure_ascii=False) + "\n")


def flat(config: DictConfig) -> dict[str, Any]:
    """Keys joined by dots, without those of PLACE; interpolations as they stand."""
    items: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else str(key))
        elif path not in PLACE and not path.startswith(("sweep", "benchmark")):
            items[path] = node

    walk(OmegaConf.to_container(config), "")
    return items
