"""Folders of runs: where a new one goes, how an earlier one is found, what they hold.

No import of torch here: the command line answers from this module before anything heavy is loaded.
"""

import hashlib
import json
import logging
import re
import time
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lambdanets.atomic import atomic_write, corruption
from lambdanets.config.upgrade import upgrade_config
from lambdanets.errors import UserError

log = logging.getLogger(__name__)
OUTPUTS = Path("outputs")
# The config with its interpolations, which later commands build upon, and as it was resolved, for people.
COMPOSED = "composed.yaml"
RESOLVED = "config.yaml"
CHECKPOINTS = "checkpoints"
EXPORTED = "model.safetensors"
METRICS = "metrics.json"
SWEEPS = Path("multirun")
# Jobs whose results belong to a run; those of others are found by the job's name.
OF_A_RUN = ("fit", "test", "predict", "export")
# Between the overrides in Hydra's override_dirname; they may hold commas themselves.
SEPARATOR = ";"


@cache
def run_folder(job: str, name: str, ckpt: str | None, like: str | None) -> str:
    """The folder that a command works in: an earlier run's to go on with it, a place in it to test or to predict, or a
    new one, `outputs/<name>/<time>`, or `outputs/<job>/<time>` of a job that is not about one run.

    Args:
        job: name of the job.
        name: name of the run.
        ckpt: as `find_run`, or None for a new run.
        like: folder of the run whose name a new one takes, or None.

    Raises:
        UserError: ckpt or like names nothing that exists.
    """
    if ckpt is not None:
        run = find_run(ckpt, name)
        if run is not None:
            return str(run if job == "fit" else run / job)
    if like is not None:
        name = load_config(like).name
    folder = OUTPUTS / (name if job in OF_A_RUN else job) / time.strftime("%Y-%m-%d_%H-%M-%S")
    while folder.exists():
        folder = folder.with_name(f"{folder.name}_")
    return str(folder)


def run_name(experiment: str | None, sweep: str | None, mixer: str, data: str) -> str:
    """What a run is called, unless it is given a name: <experiment>-<data>, or <mixer>-<data>; a sweep by its own."""
    return f"{experiment or sweep or mixer}-{data}"


def sweep_root(sweep: str | None, now: str) -> str:
    """The folder of a sweep. A named one has the same whenever it is started, so that it can go on."""
    return str(SWEEPS / (sweep or now))


def sweep_folder(overrides: str) -> str:
    """A folder name from a run's overrides, without what a shell, Hydra or a file system would take for its own.

    The experiment comes first, the seed last.
    """
    said = overrides.split(SEPARATOR)
    row = [override.removeprefix("experiment=") for override in said if override.startswith("experiment=")]
    seed = [override for override in said if override.startswith("seed=")]
    rest = [override for override in said if not override.startswith(("experiment=", "seed="))]
    name = re.sub(r"[^\w.-]+", "_", "_".join([*row, *rest, *seed]).replace("=", "-")).strip("_") or "run"
    if len(name) <= 200:
        return name
    return f"{name[:180]}-{hashlib.sha256(overrides.encode()).hexdigest()[:16]}"


def find_run(ckpt: str, name: str) -> Path | None:
    """The folder of the run that `ckpt` speaks of.

    Args:
        ckpt: "last" for the newest run of that name, a run's folder, or a checkpoint file.
        name: name of the run.

    Returns:
        The folder, or None for a checkpoint file that lies outside of a run.

    Raises:
        UserError: there is no such run or file.
    """
    if ckpt == "last":
        runs = [path.parent for path in (OUTPUTS / name).glob(f"*/{COMPOSED}")]
        if not runs:
            raise UserError(
                f"ckpt=last found no run named '{name}' below '{OUTPUTS}': give its folder, ckpt=<folder>, or start it."
            )
        # A run that never came to a checkpoint, for a mistake in its config say, is not what is meant by the last one.
        started = [run for run in runs if checkpoint_file(run, ("last", "previous"))]
        return max(started or runs, key=lambda run: (run / COMPOSED).stat().st_mtime)
    path = Path(ckpt)
    if path.is_dir():
        if not (path / COMPOSED).is_file():
            raise UserError(f"The folder '{path}' holds no run ({COMPOSED} is missing): give a run's folder.")
        return path
    if path.is_file():
        run = path.resolve().parent.parent
        return run if (run / COMPOSED).is_file() else None
    raise UserError(f"ckpt={ckpt} does not exist: give a run's folder, a checkpoint file, or last.")


def checkpoint_file(run: Path, kinds: tuple[str, ...]) -> Path | None:
    """The first of these kinds of checkpoint ("best", "last") that the run has, or what job=export made of it."""
    files = [*(run / CHECKPOINTS / f"{kind}.ckpt" for kind in kinds), run / EXPORTED]
    return next((file for file in files if file.is_file()), None)


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint to go on from: the last one, or, where that one is damaged, the one before. None before the first.

    A damaged one is said, and kept under another name.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    damaged = []
    for kind in ("last", "previous"):
        file = run / CHECKPOINTS / f"{kind}.ckpt"
        if not file.is_file():
            continue
        wrong = corruption(file)
        if wrong is None:
            return file
        damaged.append(f"'{file}' ({wrong}, {file.stat().st_size} bytes)")
        kept = file.with_name(f"{file.name}.damaged")
        file.replace(kept)
        log.warning("The checkpoint %s is damaged, and kept as %s; the one before it is used.", damaged[-1], kept.name)
    if damaged:
        raise UserError(
            f"The run has no checkpoint that isn't damaged or cut off: {' and '.join(damaged)}; go on from another "
            f"one, such as ckpt={run / CHECKPOINTS / 'best.ckpt'}, or start it anew."
        )
    return None


def load_config(run: str | Path) -> DictConfig:
    """A run's config with its interpolations.

    Raises:
        UserError: the folder holds no run.
    """
    file = Path(run) / COMPOSED
    if not file.is_file():
        raise UserError(f"'{run}' is not the folder of a run ({COMPOSED} is missing).")
    composed: Any = OmegaConf.to_container(OmegaConf.load(file))
    return OmegaConf.create(upgrade_config(composed))


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Leaves a job's results as the folder's metrics.json."""
    atomic_write(folder / METRICS, json.dumps(metrics, indent=2) + "\n")
