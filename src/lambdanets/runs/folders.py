"""Folders of runs: their names, their files and their checkpoints.

No import of torch: the command line uses this module before anything heavy is loaded.
"""

import hashlib
import itertools
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

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
FAILED = "failed.json"
FIT = "lambdanets.jobs.fit.run"  # the job whose folder is that of a run
PROVENANCE = "provenance.json"
SWEEPS = Path("multirun")
# Jobs whose results lie in a run's folder; the folders of other jobs have the job's name.
JOBS_IN_RUN_FOLDER = ("fit", "test", "predict", "export")
# The longest name of a sweep's run; file systems allow 255 bytes.
MAX_NAME = 200
# Separates the overrides in the text that a name's hash is taken of.
SEPARATOR = ";"
# Config groups inside of groups, by their names in the names of folders.
NESTED_GROUPS = {"recipe_optimizer": "recipe/optimizer", "recipe_start": "recipe/start"}
# A key in the name of a sweep's run. A value in which a key could be read is ambiguous.
KEY_IN_NAME = re.compile(rf"(?:^|_)({'|'.join(NESTED_GROUPS)}|[A-Za-z][A-Za-z0-9]*(?:\.\w+)*)-", re.ASCII)

# The new folders that this process has chosen, which another command may choose in the same second.
chosen_folders: set[Path] = set()


def new_folder(job: str, name: str) -> Path:
    """Return a folder that does not exist yet: `outputs/<name>/<time>`, or `outputs/<job>/<time>`.

    Args:
        job: name of the job; one that is not about a single run gives the folder its name.
        name: name of the run.
    """
    folder = OUTPUTS / (name if job in JOBS_IN_RUN_FOLDER else job) / time.strftime("%Y-%m-%d_%H-%M-%S")
    while folder.exists():
        folder = folder.with_name(f"{folder.name}_")
    chosen_folders.add(folder)
    return folder


def check_name(name: Any) -> str:
    """Return the name of a run, which is a folder below outputs/.

    Raises:
        UserError: the name leads out of outputs/, or file systems refuse it.
    """
    text = "" if name is None or not isinstance(name, str | int | float) or isinstance(name, bool) else str(name)
    parts = text.split("/")
    unusable = [part for part in parts if part.strip(". ") == "" or len(part.encode(errors="replace")) > MAX_NAME]
    if unusable or not text.isprintable() or "\\" in text or text.startswith("~"):
        raise UserError(
            f"name={name!r} cannot name a run: its folder is {OUTPUTS}/<name>/<time>, so give a relative name without "
            f"'..', with parts of at most {MAX_NAME} bytes, such as name=my_run. For another place, set "
            "hydra.run.dir=<folder>."
        )
    return text


def run_name(experiment: str | None, sweep: str | None, mixer: str, data: str) -> str:
    """Return the default name of a run: `<experiment>-<data>`, or `<mixer>-<data>`; of a sweep `<sweep>-<data>`."""
    return f"{experiment or sweep or mixer}-{data}"


def sweep_folder(overrides: Sequence[str]) -> str:
    """Return the folder name of a sweep's run: experiment first, seed last.

    Names are ASCII without characters that shells, Hydra or file systems treat specially, and have at most 200
    characters. A name from which the overrides cannot be read back ends with a hash of them, so that different
    overrides have different names. The exception are experiments that differ in `/` and `_` alone.

    Args:
        overrides: the run's overrides.
    """
    overrides = sorted(override.lstrip("+") for override in overrides)
    name = readable_name(overrides)
    if len(name) <= MAX_NAME and is_unambiguous(name, overrides):
        return name
    return hashed_name(name, overrides)


def hashed_name(name: str, overrides: Sequence[str]) -> str:
    """Return a name, shortened, with a hash of the overrides."""
    text = SEPARATOR.join(override.replace(SEPARATOR, 2 * SEPARATOR) for override in sorted(overrides))
    return f"{name[:180]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def readable_name(overrides: Sequence[str], *, ascii_only: bool = True) -> str:
    """Return sorted overrides as a name, in which other characters than letters, digits, `.` and `-` become `_`."""
    groups: dict[str, list[str]] = {"experiment": [], "": [], "seed": []}
    for override in overrides:
        key = override.split("=", 1)[0]
        groups[key if key in groups else ""].append(override.removeprefix("experiment="))
    name = "_".join(override for group in groups.values() for override in group).replace("=", "-")
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII if ascii_only else 0).strip("_").lstrip(".-") or "run"


def is_unambiguous(name: str, overrides: Sequence[str]) -> bool:
    """Return whether these overrides, and no others, can be read back from their name."""
    settings = [tuple(override.split("=", 1)) for override in overrides]
    experiments = [value for key, *values in settings if key == "experiment" for value in values]
    prefix = "_".join(experiments).replace("/", "_")
    matches = list(re.finditer(KEY_IN_NAME, name))
    starts = [*(match.start() for match in matches), len(name)]
    pairs = [
        (NESTED_GROUPS.get(match[1], match[1]), name[match.end() : end])
        for match, end in zip(matches, starts[1:], strict=True)
    ]
    others = [setting for setting in settings if setting[0] not in ("experiment", "seed")]
    return (
        len(experiments) <= 1
        and re.fullmatch(r"[\w.]*", prefix, flags=re.ASCII) is not None
        and name[: starts[0]] == (prefix if overrides else "run")
        and pairs == [*others, *(setting for setting in settings if setting[0] == "seed")]
        and not name.endswith(".")
        and (name != "run" or not overrides)
    )


def former_sweep_folder(overrides: Sequence[str]) -> str:
    """Return the name that versions up to 0.1.0 gave the folder of a sweep's run."""
    joined = SEPARATOR.join(sorted(overrides))
    name = readable_name(joined.split(SEPARATOR), ascii_only=False)
    return name if len(name) <= MAX_NAME else f"{name[:180]}-{hashlib.sha256(joined.encode()).hexdigest()[:16]}"


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


def owner_run(checkpoint: Path) -> Path | None:
    """Return the folder of the run that a checkpoint file belongs to, or None for a file on its own.

    Checkpoints that `set_earlier_run_aside` has moved belong to no run: the folder around them is that of a later one.
    """
    folder = checkpoint.resolve().parent
    was_set_aside = re.fullmatch(rf"{CHECKPOINTS}-\d+", folder.name) is not None
    return folder.parent if (folder.parent / UNRESOLVED_CONFIG).is_file() and not was_set_aside else None


def best_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint with the best validation score, else the newest one, or None before the first."""
    return find_checkpoint_file(run, ("best", "last", "previous"))


def last_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint to continue from, the last one or else the one before it; None before the first.

    Log a damaged checkpoint; the one before it takes its place.

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
        log.warning("The checkpoint %s is damaged.", damaged[-1])
    if damaged:
        raise UserError(
            f"All checkpoints of the run are damaged or cut off: {' and '.join(damaged)}. Continue from another one, "
            f"such as ckpt={run / CHECKPOINTS / 'best.ckpt'}, or start the run anew."
        )
    return None


def rename_damaged(checkpoints: Path) -> None:
    """Rename the damaged ones of last.ckpt and previous.ckpt, so that no later one takes an intact one's place."""
    for kind in ("last", "previous"):
        file = checkpoints / f"{kind}.ckpt"
        if file.is_file() and corruption(file) is not None:
            renamed = file.with_name(f"{file.name}.damaged")
            file.replace(renamed)
            log.warning("The damaged checkpoint %s was renamed to %s.", file, renamed.name)


def rename_results(folder: Path) -> None:
    """Rename the results of a run that is trained further: they are those of its earlier end, `metrics-<epochs>.json`.

    Until the run has results again, it counts as unfinished.
    """
    results = read_json(folder / METRICS)
    if results is not None:
        (folder / METRICS).replace(folder / f"metrics-{results.get('epochs', 0):g}.json")


def set_earlier_run_aside(folder: Path) -> None:
    """Move the checkpoints of an earlier run out of a new run's folder, to `checkpoints-1` or the next free number.

    Until the new run has written its own, they would be taken for its checkpoints. The earlier run's results, its
    metrics.csv and its provenance go with them. Without a checkpoint it is the same run, which has been restarted.
    """
    checkpoints = folder / CHECKPOINTS
    files = sorted(checkpoints.glob("*.ckpt"))
    if not files:
        return
    number = next(n for n in itertools.count(1) if not os.path.lexists(folder / f"{CHECKPOINTS}-{n}"))
    aside = folder / f"{CHECKPOINTS}-{number}"
    aside.mkdir()
    for file in (*files, *sorted(folder.glob("metrics*.json")), folder / "metrics.csv", folder / PROVENANCE):
        if os.path.lexists(file):
            file.rename(aside / file.name)
    log.warning("The checkpoints of an earlier run in '%s' were moved to '%s', with its results.", folder, aside.name)


def load_config(run: str | Path) -> DictConfig:
    """Return a run's config with its interpolations, under today's names.

    Raises:
        UserError: the folder holds no run, or the config is damaged.
    """
    file = Path(run) / UNRESOLVED_CONFIG
    if not file.is_file():
        raise UserError(f"'{run}' is not the folder of a run ({UNRESOLVED_CONFIG} is missing): give a run's folder.")
    return read_config(file)


def read_config(file: Path) -> DictConfig:
    """Return the config in a file of a run, under today's names.

    Raises:
        UserError: the file is damaged or cannot be read.
    """
    try:
        stored: Any = OmegaConf.to_container(OmegaConf.load(file))
        if isinstance(stored, dict) and stored:
            return OmegaConf.create(upgrade_config(stored))
        reason = "it holds no keys"
    except (OSError, ValueError, AttributeError, TypeError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())[:100]
    raise UserError(
        f"The config '{file}' is damaged ({reason}): restore the file, or give a checkpoint of the run outside of its "
        "folder; each checkpoint holds the config."
    )


def read_json(file: Path, kind: type = dict) -> Any:
    """Return the content of a JSON file of a run, or None if it is missing or damaged; log the damage.

    Args:
        file: the file.
        kind: type that the content must have.
    """
    if not os.path.lexists(file):
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        reason = None if isinstance(content, kind) else f"it holds no {'object' if kind is dict else 'list'}"
    except (OSError, ValueError, RecursionError) as error:
        content, reason = None, " ".join(str(error).split())[:100]
    if reason is not None:
        log.warning("'%s' is damaged and was ignored (%s).", file, reason)
        return None
    return content


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Write a job's results to metrics.json."""
    atomic_write(folder / METRICS, json.dumps(metrics, indent=2) + "\n")
