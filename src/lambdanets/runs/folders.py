"""Folders of runs: their names, their files and their checkpoints.

No import of torch: the command line uses this module before anything heavy is loaded.
"""

import hashlib
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lambdanets.atomic import atomic_write, corruption
from lambdanets.config.upgrade import upgrade_config
from lambdanets.errors import UserError

log = logging.getLogger(__name__)
OUTPUTS = Path("outputs")
# The config with its interpolations, which later commands build on, and the resolved one, for readers.
UNRESOLVED_CONFIG = "composed.yaml"
RESOLVED_CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
EXPORTED = "model.safetensors"
METRICS = "metrics.json"
SWEEPS = Path("multirun")
# Jobs whose results lie in a run's folder; the folders of other jobs have the job's name.
JOBS_IN_RUN_FOLDER = ("fit", "test", "predict", "export")
# Separates the overrides in Hydra's override_dirname; a comma would not do, since values contain commas.
SEPARATOR = ";"


def new_folder(job: str, name: str) -> Path:
    """Return a folder that does not exist yet: `outputs/<name>/<time>`, or `outputs/<job>/<time>`.

    Args:
        job: name of the job; one that is not about a single run gives the folder its name.
        name: name of the run.
    """
    folder = OUTPUTS / (name if job in JOBS_IN_RUN_FOLDER else job) / time.strftime("%Y-%m-%d_%H-%M-%S")
    while folder.exists():
        folder = folder.with_name(f"{folder.name}_")
    return folder


def run_name(experiment: str | None, sweep: str | None, mixer: str, data: str) -> str:
    """Return the default name of a run: `<experiment>-<data>`, or `<mixer>-<data>`; of a sweep `<sweep>-<data>`."""
    return f"{experiment or sweep or mixer}-{data}"


def sweep_folder(overrides: str) -> str:
    """Return the folder name of a sweep's run, safe for shells, Hydra and file systems: experiment first, seed last.

    Args:
        overrides: the run's overrides, joined by `SEPARATOR`.
    """
    groups: dict[str, list[str]] = {"experiment": [], "": [], "seed": []}
    for override in overrides.split(SEPARATOR):
        key = override.split("=", 1)[0]
        groups[key if key in groups else ""].append(override.removeprefix("experiment="))
    name = "_".join(override for group in groups.values() for override in group).replace("=", "-")
    name = re.sub(r"[^\w.-]+", "_", name).strip("_") or "run"
    if len(name) <= 200:
        return name
    return f"{name[:180]}-{hashlib.sha256(overrides.encode()).hexdigest()[:16]}"


def newest_run(name: str) -> Path:
    """Return the folder of the newest run of that name.

    A run without a checkpoint counts only if no run has one: it may have ended early, as by a mistake in its config.

    Raises:
        UserError: there is no run of that name.
    """
    runs = [path.parent for path in (OUTPUTS / name).glob(f"*/{UNRESOLVED_CONFIG}")]
    if not runs:
        raise UserError(
            f"ckpt=last: there is no run named '{name}' below '{OUTPUTS}'. Give its folder, ckpt=<folder>, or start it."
        )
    trained = [run for run in runs if find_checkpoint_file(run, ("last", "previous"))]
    return max(trained or runs, key=lambda run: (run / UNRESOLVED_CONFIG).stat().st_mtime)


def find_checkpoint_file(run: Path, kinds: tuple[str, ...]) -> Path | None:
    """Return the first of these kinds of checkpoint ("best", "last") in a run, or the weights that job=export wrote."""
    files = [*(run / CHECKPOINTS / f"{kind}.ckpt" for kind in kinds), run / EXPORTED]
    return next((file for file in files if file.is_file()), None)


def best_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint with the best validation score, else the newest one, or None before the first."""
    return find_checkpoint_file(run, ("best", "last", "previous"))


def last_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint to continue from, the last one or else the one before it; None before the first.

    Log a damaged checkpoint and rename it; the one before it takes its place.

    Raises:
        UserError: all checkpoints are damaged.
    """
    damaged = []
    for kind in ("last", "previous"):
        file = run / CHECKPOINTS / f"{kind}.ckpt"
        if not file.is_file():
            continue
        reason = corruption(file)
        if reason is None:
            return file
        damaged.append(f"'{file}' ({reason}, {file.stat().st_size} bytes)")
        renamed = file.with_name(f"{file.name}.damaged")
        file.replace(renamed)
        log.warning("The checkpoint %s is damaged and was renamed to %s.", damaged[-1], renamed.name)
    if damaged:
        raise UserError(
            f"All checkpoints of the run are damaged or cut off: {' and '.join(damaged)}. Continue from another one, "
            f"such as ckpt={run / CHECKPOINTS / 'best.ckpt'}, or start the run anew."
        )
    return None


def load_config(run: str | Path) -> DictConfig:
    """Return a run's config with its interpolations, under today's names.

    Raises:
        UserError: the folder holds no run.
    """
    file = Path(run) / UNRESOLVED_CONFIG
    if not file.is_file():
        raise UserError(f"'{run}' is not the folder of a run ({UNRESOLVED_CONFIG} is missing): give a run's folder.")
    composed: Any = OmegaConf.to_container(OmegaConf.load(file))
    return OmegaConf.create(upgrade_config(composed))


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Write a job's results to metrics.json."""
    atomic_write(folder / METRICS, json.dumps(metrics, indent=2) + "\n")
