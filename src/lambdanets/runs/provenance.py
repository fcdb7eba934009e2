"""The origin of a run: its config, command, code, packages and machine."""

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


def record_start(folder: Path, config: DictConfig) -> None:
    """Write the config, as composed and as resolved, and add this start to provenance.json.

    These files suffice to repeat the run: `base_run=<folder>`.
    """
    atomic_write(folder / UNRESOLVED_CONFIG, OmegaConf.to_yaml(config))
    atomic_write(folder / RESOLVED_CONFIG, OmegaConf.to_yaml(config, resolve=True))
    file = folder / PROVENANCE
    starts = json.loads(file.read_text()) if file.is_file() else []
    atomic_write(file, json.dumps([*starts, describe_origin()], indent=2) + "\n")


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
    return shlex.join([Path(sys.executable).name, *sys.argv])


def started_by(job: str, folder: Path) -> bool:
    """Return whether this very command started the run in a folder, in that job of torchrun or SLURM."""
    file = folder / PROVENANCE
    starts = json.loads(file.read_text()) if file.is_file() else []
    return any(start.get("job") == job and start["command"] == command_line() for start in starts)


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
