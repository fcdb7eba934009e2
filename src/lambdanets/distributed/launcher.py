"""The launcher of this process, torchrun or SLURM, and the rank of this process in its training.

No import of torch: the command line uses this module before heavy imports.
"""

import os
import re
import socket
from typing import Any

from lambdanets.errors import UserError

# The step of the shell that salloc opens: SLURM_NTASKS are those of the allocation there.
SLURM_INTERACTIVE_STEP = str(2**32 - 6)


def detect_launcher() -> str | None:
    """Return the launcher of this process: "torchrun", "slurm" (srun with several tasks) or None."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    step = os.environ.get("SLURM_STEP_ID", SLURM_INTERACTIVE_STEP)
    if step != SLURM_INTERACTIVE_STEP and int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        return "slurm"
    return None


def rank() -> int:
    """Return the rank of this process in its training, from 0."""
    match detect_launcher():
        case "torchrun":
            return int(os.environ["RANK"])
        case "slurm":
            return int(os.environ["SLURM_PROCID"])
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    """Return the number of processes that torchrun or SLURM started; 1 without a launcher."""
    match detect_launcher():
        case "torchrun":
            return int(os.environ["WORLD_SIZE"])
        case "slurm":
            return int(os.environ["SLURM_NTASKS"])
    return 1


def slurm_tasks() -> int:
    """Return the number of tasks per node of a SLURM job, which SLURM writes as 8 or 8(x2)."""
    return int(re.split(r"[(,]", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))[0])


def restartable_job_id() -> str | None:
    """Return the name that a job of torchrun or SLURM keeps across restarts, or None without a launcher."""
    if detect_launcher() == "torchrun":
        run_id = os.environ["TORCHELASTIC_RUN_ID"]
        if run_id != "none":
            return f"torchrun {run_id}"
        if slurm_job_id() is None:
            # Without --rdzv-id every job has the id "none". The agent outlives its workers: its process id is unique.
            return f"torchrun {socket.gethostname()} {os.getppid()}"
    return None if slurm_job_id() is None else f"slurm {slurm_job_id()}"


def slurm_job_id() -> str | None:
    """Return the id of this process's SLURM job, as 17, or 17_1 for a task of an array, or None outside of SLURM."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def slurm_environment() -> Any:
    """Return Lightning's environment for the SLURM job.

    Raises:
        UserError: Lightning does not support how the job requests its tasks.
    """
    from pytorch_lightning.plugins.environments import SLURMEnvironment

    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:  # --ntasks without --ntasks-per-node
        raise UserError(str(error)) from error
