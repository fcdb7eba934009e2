"""The processes that train one model together: how the others get the first one's job, and how they end with it.

The first process alone goes through Hydra. The others are started here (`trainer=ddp trainer.devices=2`), by torchrun
or by SLURM; none of them reads the command line. No import of torch here before a process needs it.
"""

import atexit
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lambdanets.errors import UserError

# A folder with job.json, through which a process started here gets its job and gives its error back.
DESK = "LAMBDANETS_DESK"
JOB = "job.json"
# Seconds that the others have to end after the first, and the first after one of the others has died.
PATIENCE = 30.0
DISTRIBUTED = ("fit", "test")
Run = Callable[[DictConfig, Path], Any]


def launcher() -> str | None:
    """Who started this process beside others: "torchrun", "slurm" (a task of an srun with several), or None."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    if "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        return "slurm"
    return None


def rank() -> int:
    """This process's number among those that a launcher or this module started, from 0."""
    match launcher():
        case "torchrun":
            return int(os.environ["RANK"])
        case "slurm":
            return int(os.environ["SLURM_PROCID"])
    return int(os.environ.get("LOCAL_RANK", 0))


def slurm_tasks() -> int:
    """Tasks of the job on each machine of SLURM, which writes them as 8 or 8(x2)."""
    return int(re.split(r"[(,]", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))[0])


def started_again() -> bool:
    """Has torchrun or SLURM started this process's job before?"""
    # An agent of torchrun's counts only the deaths of its own workers; a store that it has kept knows of all.
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT") or os.environ.get("SLURM_RESTART_COUNT") or 0
    return int(restarts) > 0 or (launcher() == "torchrun" and meeting()[1])


def identity() -> str | None:
    """What stays the same of a job that torchrun or SLURM starts again, or None of one that neither does."""
    if launcher() == "torchrun":
        given = os.environ["TORCHELASTIC_RUN_ID"]
        # Without --rdzv-id all jobs are called none: the agent, which outlives its workers, tells them apart.
        return f"torchrun {given}" if given != "none" else f"torchrun {socket.gethostname()} {os.getppid()}"
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"slurm {array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return f"slurm {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else None


@contextmanager
def together(job: str, config: DictConfig, folder: Path) -> Iterator[None]:
    """Gives the job to all other processes of a training, starts them if nobody has, and lets none outlive the job.

    Args:
        job: name of the job; one that isn't done by several processes passes through.
        config: resolved.
        folder: where the job works.

    Raises:
        UserError: another process died, or there are too few machines.
    """
    text = json.dumps({"config": OmegaConf.to_container(config), "folder": str(folder)})
    if launcher() and int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) > 1:
        if job in DISTRIBUTED:
            say(text)
        yield
        return
    count = local_processes(config.trainer) if job in DISTRIBUTED else 1
    if job in DISTRIBUTED and config.trainer.num_nodes > 1:
        raise UserError(
            f"trainer.num_nodes={config.trainer.num_nodes} needs torchrun (trainer=torchrun) or srun (trainer=slurm) "
            "to start a process on each machine; the README shows how."
        )
    if count == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="lambdanets-") as desk, others(count, Path(desk), text):
        yield


def local_processes(trainer: Mapping[str, Any]) -> int:
    """Processes on this machine for the config's strategy and devices."""
    strategy, devices = trainer["strategy"], trainer["devices"]
    if strategy == "auto" and devices == 1:
        return 1
    if isinstance(devices, int) and devices >= 0:
        return devices
    if isinstance(devices, str) and devices.isdigit():
        return int(devices)
    import torch

    gpus = torch.cuda.device_count() if trainer["accelerator"] != "cpu" else 0
    return max(gpus, 1) if devices in ("auto", -1, "-1") else len(devices)


@contextmanager
def others(count: int, desk: Path, text: str) -> Iterator[None]:
    """Starts count − 1 processes that do the same job; they are gone when the context ends."""
    from lambdanets.jobs.build import check_devices

    check_devices(json.loads(text)["config"]["trainer"])
    (desk / JOB).write_text(text)
    before = dict(os.environ)
    os.environ |= {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "lambdanets.rank"]
    started = {
        number: subprocess.Popen(
            command, env=os.environ | {"LOCAL_RANK": str(number), DESK: str(desk), "PYTHONPATH": path}
        )
        for number in range(1, count)
    }
    over = threading.Event()
    watch = threading.Thread(target=end_with_the_first_death, args=(started, desk, over), daemon=True)
    watch.start()
    try:
        yield
        deadline = time.monotonic() + PATIENCE
        for process in started.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.1))
    except Exception as error:
        # Of a mistake all processes say the same; of a death the others only know that a connection is closed.
        time.sleep(0 if isinstance(error, UserError) else 2)
        if not isinstance(error, UserError) and (sentence := death(started, desk)):
            raise UserError(sentence) from error
        raise
    finally:
        over.set()
        for process in started.values():
            process.kill()
            process.wait()
        os.environ.clear()
        os.environ.update(before)
        leave_group()


def end_with_the_first_death(started: Mapping[int, subprocess.Popen[bytes]], desk: Path, over: threading.Event) -> None:
    """Ends this process some time after one of the others has died: it may wait for it for ever."""
    while not over.wait(0.5):
        if sentence := death(started, desk):
            if not over.wait(PATIENCE):
                print(f"error: {sentence}", file=sys.stderr, flush=True)
                for process in started.values():
                    process.kill()
                os._exit(1)
            return


def death(started: Mapping[int, subprocess.Popen[bytes]], desk: Path) -> str | None:
    """What is to be said of the first process that didn't end well, if there is one."""
    for number, process in started.items():
        code = process.poll()
        if not code:
            continue
        told = desk / f"error-{number}"
        if told.is_file():
            return told.read_text()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return (
            f"Process {number + 1} of {len(started) + 1} {how}, and the others can't go on without it: look for its "
            "error above or at the machine's memory, and go on from the last checkpoint with ckpt=last."
        )
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def leave_group() -> None:
    """Ends this process's part in a process group, so that the next run can form another one."""
    if "torch" in sys.modules:
        import torch.distributed

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def slurm_environment() -> Any:
    """Lightning's view of SLURM's job.

    Raises:
        UserError: the job's tasks aren't laid out as Lightning can use them.
    """
    from pytorch_lightning.plugins.environments import SLURMEnvironment

    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:  # --ntasks without --ntasks-per-node
        raise UserError(str(error)) from error


@cache
def meeting() -> tuple[Any, bool]:
    """The key-value store that torchrun's or SLURM's processes share, and whether earlier processes of theirs used it.

    torchrun keeps the store from one start of its workers to the next, with all that those before have left in it, so
    that the first process gives each start a name of its own, and goes on when all others have answered to it.
    """
    import torch.distributed

    if launcher() == "slurm":
        place = slurm_environment()
        os.environ |= {"MASTER_ADDR": place.main_address, "MASTER_PORT": str(place.main_port)}
        world = int(os.environ["SLURM_NTASKS"])
    else:
        world = int(os.environ["WORLD_SIZE"])
    store, _, _ = next(torch.distributed.rendezvous("env://", rank(), world))
    token, again = uuid.uuid4().hex, store.check(["lambdanets"])
    if rank() == 0:
        name = token
        store.set("lambdanets", name)
        for other in range(1, world):
            store.set(f"{name}/met/{store.get(f'{name}/{other}').decode()}", "")
    else:
        name = ""
        while not (name and store.check([f"{name}/met/{token}"])):
            time.sleep(0.02)
            name = store.get("lambdanets").decode()  # perhaps that of an earlier start, to which nobody answers
            store.set(f"{name}/{rank()}", token)
    return torch.distributed.PrefixStore(name, store), again


def wire() -> Any:
    """The store of this start."""
    return meeting()[0]


def join(backend: str) -> None:
    """Forms the process group of torchrun's processes, for which torch alone would read what earlier ones have left.

    Args:
        backend: "nccl" or "gloo".
    """
    from torch import distributed

    if distributed.is_initialized():
        return
    store = distributed.PrefixStore("group", wire())
    distributed.init_process_group(backend, store=store, rank=rank(), world_size=int(os.environ["WORLD_SIZE"]))
    if backend == "nccl":  # which warns of groups that nobody destroys
        atexit.register(distributed.destroy_process_group)


NUMBER = itertools.count()


def say(text: str) -> None:
    """Tells all other processes of torchrun or SLURM what comes next: a job, or nothing more."""
    wire().set(f"job/{next(NUMBER)}", text)


def follow(run: Run, *, once: bool = False) -> None:
    """Does what the first process of torchrun or SLURM says, until it says nothing more, or once."""
    from torch.distributed import DistError

    try:
        while text := wire().get(f"job/{next(NUMBER)}").decode():
            job = json.loads(text)
            run(OmegaConf.create(job["config"]), Path(job["folder"]))
            if once:
                return
    except DistError:
        raise UserError("The first process of the job has ended; its log says why.") from None


def release() -> None:
    """Lets the others go, at the end of the first process."""
    if launcher() and rank() == 0 and meeting.cache_info().currsize:
        say("")
