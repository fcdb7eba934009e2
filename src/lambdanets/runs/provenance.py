"""What a run's folder tells of its origin."""

import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lambdanets.atomic import atomic_write
from lambdanets.distributed.launcher import restartable_job_id
from lambdanets.machine import processor_name
from lambdanets.runs.folders import RESOLVED_CONFIG, UNRESOLVED_CONFIG

PROVENANCE = "provenance.json"
PACKAGES = ("lambdanets", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core", "lightning-bolts")


def record(folder: Path, config: DictConfig) -> None:
    """Writes the config, as composed and as resolved, and adds this start to provenance.json.

    The run is repeated from these files alone, by `base_run=<folder>`.
    """
    atomic_write(folder / UNRESOLVED_CONFIG, OmegaConf.to_yaml(config))
    atomic_write(folder / RESOLVED_CONFIG, OmegaConf.to_yaml(config, resolve=True))
    file = folder / PROVENANCE
    starts = json.loads(file.read_text()) if file.is_file() else []
    atomic_write(file, json.dumps([*starts, origin()], indent=2) + "\n")


def origin() -> dict[str, Any]:
    """Command, code and packages of this process."""
    return {
        "command": command(),
        "job": restartable_job_id() or ray_node(),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "folder": os.getcwd(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "packages": {name: package_version(name) for name in PACKAGES},
    }


def ray_node() -> str | None:
    """The node of a Ray cluster that this process works on, or None outside of one."""
    ray = sys.modules.get("ray")
    return f"ray {ray.get_runtime_context().get_node_id()}" if ray and ray.is_initialized() else None


def command() -> str:
    """This process's command line."""
    return shlex.join([Path(sys.executable).name, *sys.argv])


def started_by(job: str, folder: Path) -> bool:
    """Was the run in this folder begun by this very command in that job of torchrun or SLURM?"""
    file = folder / PROVENANCE
    starts = json.loads(file.read_text()) if file.is_file() else []
    return any(start.get("job") == job and start["command"] == command() for start in starts)


def git_commit() -> str | None:
    """The commit of the code, with -dirty where files differ from it, or None outside of a repository.

    An image, which has no repository, says it in LAMBDANETS_COMMIT.
    """
    if said := os.environ.get("LAMBDANETS_COMMIT"):
        return said
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
