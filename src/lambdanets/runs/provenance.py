"""The origin of a run: its config, command, code, packages and machine."""

import json
import logging
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from lambdanets.atomic import atomic_write
from lambdanets.config.keys import override_key
from lambdanets.distributed.launcher import restartable_job_id
from lambdanets.machine import processor_name
from lambdanets.runs.folders import FAILED, PROVENANCE, RESOLVED_CONFIG, UNRESOLVED_CONFIG, load_config, read_json
from lambdanets.runs.refusal import drop_logs, release_logs

log = logging.getLogger(__name__)
OVERRIDES = ".hydra/overrides.yaml"
# The arguments of this process as they were given, where they were prepared for Hydra.
given_arguments: list[str] = []
PACKAGES = ("lambdanets", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core", "lightning-bolts")


class Start(NamedTuple):
    """A start of a run that has not been recorded yet: until its job has begun, the folder stays as it was.

    Args:
        folder: of the run.
        config: with its interpolations.
        overrides: of the command line, and of the run that it continues or builds on.
        swept: keys that belong to a start, and that a sweep is over all the same.
    """

    folder: Path
    config: DictConfig
    overrides: Sequence[str] | None = None
    swept: Sequence[str] = ()


# The start of this process's job, until it is recorded.
pending_starts: list[Start] = []


def announce_start(start: Start) -> None:
    """Set the start that `record_pending_start` records."""
    pending_starts[:] = [start]


def drop_pending_start() -> None:
    """Forget the announced start and its log: the job leaves its folder as it was."""
    pending_starts.clear()
    drop_logs()


def record_pending_start(gpus: str | None = None, *, failed: bool = False) -> None:
    """Record the announced start, once, and write its log from now on. Jobs call this when nothing can be refused.

    Args:
        gpus: number and name of the GPUs that a training works on, see `training_gpus`.
        failed: the job has failed before its work began, on whichever device that would have been.
    """
    while pending_starts:
        start = pending_starts.pop()
        start.folder.mkdir(parents=True, exist_ok=True)
        record_start(*start, gpus=gpus, failed=failed)
        (start.folder / FAILED).unlink(missing_ok=True)
        release_logs()


def unresolved_config(config: DictConfig, folder: Path) -> DictConfig:
    """Return the config of the job in a folder with its interpolations.

    Args:
        config: the resolved config, which counts where only rank 0 has the other one.
        folder: of the run.
    """
    for start in pending_starts:
        if start.folder == folder:
            return start.config
    return load_config(folder) if (folder / UNRESOLVED_CONFIG).is_file() else config


def record_start(
    folder: Path,
    config: DictConfig,
    overrides: Sequence[str] | None = None,
    swept: Sequence[str] = (),
    *,
    gpus: str | None = None,
    failed: bool = False,
) -> None:
    """Write the config, as composed and as resolved, and add this start to provenance.json.

    These files suffice to repeat the run: `base_run=<folder>`. The arguments are those of `Start` and of
    `record_pending_start`.
    """
    file = folder / PROVENANCE
    starts = read_json(file, list)
    if starts is None and os.path.lexists(file):
        file.replace(file.with_name(f"{file.name}.damaged"))
    details = {"gpus": gpus, "failed": failed, "swept": [*swept]}
    origin = describe_origin() | {key: value for key, value in details.items() if value}
    atomic_write(folder / RESOLVED_CONFIG, OmegaConf.to_yaml(config, resolve=True))
    atomic_write(folder / UNRESOLVED_CONFIG, OmegaConf.to_yaml(config))
    if overrides is not None:
        atomic_write(folder / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create([*overrides])))
    atomic_write(file, json.dumps([*(starts or ()), origin], indent=2) + "\n")


def read_overrides(folder: Path) -> list[str]:
    """Return the overrides that made a run's config; none if they are not known."""
    file = folder / OVERRIDES
    try:
        stored: Any = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else []
    except (OSError, ValueError, AttributeError, YAMLError, OmegaConfBaseException) as error:
        log.warning("'%s' is damaged and was ignored (%s).", file, " ".join(str(error).split())[:100])
        return []
    return [*map(str, stored)] if isinstance(stored, list) else []


def merge_overrides(earlier: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a run and of a command on it; the latter replace those of the same keys."""
    overrides = [override.removeprefix("++") for override in overrides]
    keys = {override_key(override) for override in overrides}
    return [*(override for override in earlier if override_key(override) not in keys), *overrides]


def describe_origin() -> dict[str, Any]:
    """Return the command, code, packages and machine of this process."""
    return {
        "command": command_line(),
        "job": restartable_job_id() or ray_node(),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "folder": os.getcwd(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git": find_git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "packages": {name: package_version(name) for name in PACKAGES},
    }


def ray_node() -> str | None:
    """Return the node of a Ray cluster that this process works on, or None outside of a cluster."""
    ray = sys.modules.get("ray")
    return f"ray {ray.get_runtime_context().get_node_id()}" if ray and ray.is_initialized() else None


def command_line() -> str:
    """Return the command line of this process."""
    return shlex.join([Path(sys.executable).name, *(given_arguments or sys.argv)])


def started_by(job: str, folder: Path) -> bool:
    """Return whether this very command started the run in a folder, in that job of torchrun or SLURM."""
    starts = [start for start in read_json(folder / PROVENANCE, list) or () if isinstance(start, dict)]
    return any(start.get("job") == job and start.get("command") == command_line() for start in starts)


def find_git_commit() -> str | None:
    """Return the commit of the code, with -dirty where files differ from it, or None outside of a repository.

    A container image has no repository; it sets LAMBDANETS_COMMIT.
    """
    if commit := os.environ.get("LAMBDANETS_COMMIT"):
        return commit
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
