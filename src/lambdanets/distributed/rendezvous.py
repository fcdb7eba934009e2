"""Rendezvous of the processes of torchrun or SLURM, and the broadcast of rank 0's jobs.

Rank 0 alone reads the command line. The other ranks wait in `worker_loop` for the resolved configs that rank 0
broadcasts through a key-value store. No import of torch before a process needs it.
"""

import atexit
import itertools
import json
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lambdanets.distributed.launcher import detect_launcher, rank, slurm_environment, world_size
from lambdanets.errors import UserError

Run = Callable[[DictConfig, Path], Any]
job_counter = itertools.count()
FAREWELL_S = 60.0  # for which rank 0 waits at its end for processes that it has not met yet


def was_restarted() -> bool:
    """Return whether torchrun or SLURM has started this job before."""
    # Each agent of torchrun counts the failures of its own workers only; the agents' store outlives all workers.
    restarts = (os.environ.get(name) or 0 for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(int(count) > 0 for count in restarts) or (detect_launcher() == "torchrun" and rendezvous()[1])


@cache
def rendezvous() -> tuple[Any, bool]:
    """Meet the other processes of torchrun or SLURM, once; see `meet`."""
    return meet()


def meet(**options: Any) -> tuple[Any, bool]:
    """Meet the other processes of torchrun or SLURM.

    torchrun restarts the workers with the same store, which still has the keys of earlier starts. So rank 0 draws a
    random prefix for each start, and proceeds once all other ranks have confirmed that prefix.

    Args:
        **options: of torch's rendezvous, such as "timeout".

    Returns:
        The key-value store of this start, and whether an earlier start used the same server.
    """
    import torch.distributed

    if detect_launcher() == "slurm":
        environment = slurm_environment()
        os.environ |= {"MASTER_ADDR": environment.main_address, "MASTER_PORT": str(environment.main_port)}
    server, _, _ = next(torch.distributed.rendezvous("env://", rank(), world_size(), **options))
    token, used_before = uuid.uuid4().hex, server.check(["lambdanets"])
    if rank() == 0:
        start = token
        server.set("lambdanets", start)
        for other in range(1, world_size()):
            server.set(f"{start}/met/{server.get(f'{start}/{other}').decode()}", "")
    else:
        start = ""
        while not (start and server.check([f"{start}/met/{token}"])):
            time.sleep(0.02)
            # May still be the prefix of an earlier start, which rank 0 never acknowledges.
            start = server.get("lambdanets").decode()
            server.set(f"{start}/{rank()}", token)
    return torch.distributed.PrefixStore(start, server), used_before


def store() -> Any:
    """Return the key-value store of this start."""
    return rendezvous()[0]


def init_process_group(backend: str) -> None:
    """Initialize the process group of torchrun's processes.

    By default, torch would read stale addresses of an earlier start from the store.

    Args:
        backend: "nccl" or "gloo".
    """
    from torch import distributed

    if distributed.is_initialized():
        return
    group_store = distributed.PrefixStore("group", store())
    distributed.init_process_group(backend, store=group_store, rank=rank(), world_size=world_size())
    if backend == "nccl":  # NCCL warns about process groups that are not destroyed
        atexit.register(distributed.destroy_process_group)


def broadcast_job(job_json: str) -> None:
    """Send a job, as JSON, to all other ranks; an empty string ends their `worker_loop`."""
    store().set(f"job/{next(job_counter)}", job_json)


def worker_loop(run: Run, *, once: bool = False) -> None:
    """Run the jobs that rank 0 broadcasts, until it sends an empty string.

    Args:
        run: function that runs a job, given its config and output folder.
        once: return after the first job.

    Raises:
        UserError: rank 0 has exited.
    """
    from torch.distributed import DistError

    try:
        while job_json := store().get(f"job/{next(job_counter)}").decode():
            job = json.loads(job_json)
            run(OmegaConf.create(job["config"]), Path(job["folder"]))
            if once:
                return
    except DistError:
        raise UserError("Rank 0 of this training has exited: see its log for the reason.") from None


def stop_workers() -> None:
    """End the `worker_loop` of all other ranks, if this is rank 0.

    They wait for it also where it had no job for them, as for a run that is finished.
    """
    if world_size() == 1 or rank() > 0:
        return
    with suppress(Exception):  # they can't be reached, and end by their own timeout
        have_met = rendezvous.cache_info().currsize
        server, _ = rendezvous() if have_met else meet(timeout=timedelta(seconds=FAREWELL_S))
        server.set(f"job/{next(job_counter)}", "")
