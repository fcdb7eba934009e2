"""Threads of each process, so that the processes of a machine share its cores.

A process may use the cores of its CPU affinity, of its container's or cgroup's quota, and of its SLURM job or task.
Local workers, torchrun's workers and SLURM's tasks share them. joblib and Ray give each run of a sweep a share, in
OMP_NUM_THREADS. A user's own OMP_NUM_THREADS wins. Worker processes of data loaders have one thread each, by torch.

No import of torch before a job has imported it.
"""

import contextlib
import os
from pathlib import Path

from lambdanets.distributed.launcher import detect_launcher, slurm_tasks
from lambdanets.machine import usable_cores

# The user's own OMP_NUM_THREADS, or empty, for processes where a launcher has set one.
USER_THREADS_ENV = "LAMBDANETS_OMP_NUM_THREADS"


def record_user_threads() -> None:
    """Keep the user's own OMP_NUM_THREADS, if any, for the processes that this command starts."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    # torchrun sets 1 where its user sets nothing: then the environment that torchrun was started with lacks it.
    if detect_launcher() == "torchrun" and value == "1":
        with contextlib.suppress(OSError):
            agent_variables = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
            if not any(variable.startswith(b"OMP_NUM_THREADS=") for variable in agent_variables):
                value = ""
    os.environ[USER_THREADS_ENV] = value


def set_threads() -> str:
    """Set the number of torch's threads in this process.

    Returns:
        A sentence with the number and its reason, for the log.
    """
    import torch

    cores, processes = usable_cores(), count_processes()
    user_threads = read_count(USER_THREADS_ENV if USER_THREADS_ENV in os.environ else "OMP_NUM_THREADS")
    threads = user_threads or count_threads(cores)
    torch.set_num_threads(threads)
    reason = ", set by OMP_NUM_THREADS" if user_threads else ""
    shares = f", for each of {processes} processes" if processes > 1 else ""
    return f"{name_count(threads, 'thread')} of {name_count(cores, 'core')}{shares}{reason}"


def count_threads(cores: int) -> int:
    """Return the threads of this process: its share of the cores that the processes of this machine may use.

    Args:
        cores: cores that this process may use, alone or together with the others.
    """
    if on_node := read_count("SLURM_CPUS_ON_NODE"):
        tasks = slurm_tasks() if "SLURM_STEP_ID" in os.environ else 1
        per_task = read_count("SLURM_CPUS_PER_TASK") if "SLURM_STEP_ID" in os.environ else None
        cores = min(cores, on_node // tasks, per_task or on_node)  # SLURM may have bound the task to its own cores
    if detect_launcher() != "torchrun":
        cores = min(cores, read_count("OMP_NUM_THREADS") or cores)  # of joblib or Ray
    return max(1, cores // (read_count("LOCAL_WORLD_SIZE") or 1))


def count_processes() -> int:
    """Return the number of processes of this training on this machine."""
    tasks = slurm_tasks() if "SLURM_STEP_ID" in os.environ else 1
    return tasks * (read_count("LOCAL_WORLD_SIZE") or 1)


def read_count(variable: str) -> int | None:
    """Return the positive number in an environment variable, or None; OMP_NUM_THREADS may be a list, as 4,2."""
    number = os.environ.get(variable, "").split(",")[0].strip()
    return int(number) if number.isdigit() and int(number) > 0 else None


def name_count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
