"""Launch the processes of one distributed training. Rank 0 alone parses the command line and broadcasts the job.

For `trainer=ddp trainer.devices=2` rank 0 starts the other processes here; torchrun and SLURM start them themselves.
No import of torch before a process needs it.

torch's `elastic_launch` would be shorter, but up to torch 2.11 it always kills the workers 30 s after a stop signal: a
SIGTERM during a validation of 45 s left no checkpoint, where this module leaves one. torch 2.9 forwards neither SIGUSR1
nor SIGUSR2, and a user error is logged with tracebacks. Rank 0 would be a worker, too: on two CPU cores, the idle
parent takes 0.87 GB (resident), and a job 20 s of CPU time instead of 14 s.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lambdanets.distributed.devices import check_devices, count_local_processes
from lambdanets.distributed.launcher import detect_launcher, world_size
from lambdanets.distributed.rendezvous import broadcast_job
from lambdanets.errors import UserError

# The variable that names the folder with the job of a worker (job.json) and its user error (error-<rank>).
JOB_DIR_ENV = "LAMBDANETS_JOB_DIR"
JOB_FILE = "job.json"
# Seconds to wait for workers after rank 0 finishes, and for rank 0 after a worker has died.
SHUTDOWN_TIMEOUT_S = 30.0
DISTRIBUTED_JOBS = ("fit", "test")
Workers = Mapping[int, subprocess.Popen[bytes]]


@contextmanager
def distributed_job(job: str, config: DictConfig, folder: Path) -> Iterator[None]:
    """Send a job to the other processes of a training; without a launcher, start them and stop them at the end.

    Args:
        job: name of the job. A job that always runs in one process needs no other processes.
        config: resolved config.
        folder: output folder of the job.

    Raises:
        UserError: a worker died; the config asks for several nodes without a launcher, or for one process with one.
    """
    if job not in DISTRIBUTED_JOBS:
        yield
        return
    job_json = json.dumps({"config": OmegaConf.to_container(config), "folder": str(folder)})
    if world_size() > 1:
        if config.trainer.strategy == "auto":
            raise UserError(
                f"{detect_launcher()} has started {world_size()} processes, each of which would train on its own: add "
                f"trainer={detect_launcher()}, or start one process for each training."
            )
        broadcast_job(job_json)
        yield
        return
    if config.trainer.num_nodes > 1:
        raise UserError(
            f"trainer.num_nodes={config.trainer.num_nodes} needs a launcher on each node: start the command by "
            "torchrun (trainer=torchrun) or srun (trainer=slurm)."
        )
    processes = count_local_processes(config.trainer)
    if processes == 1:
        yield
        return
    check_devices(config.trainer)
    with (
        tempfile.TemporaryDirectory(prefix="lambdanets-") as job_dir,
        spawn_local_workers(processes, job_dir, job_json),
    ):
        yield


@contextmanager
def spawn_local_workers(processes: int, job_dir: str, job_json: str) -> Iterator[None]:
    """Start processes − 1 workers that run the same job; stop them when the context ends.

    Args:
        processes: number of processes, including this one.
        job_dir: folder for the job and the workers' user errors.
        job_json: the job as JSON.

    Raises:
        UserError: a worker died.
    """
    folder = Path(job_dir)
    (folder / JOB_FILE).write_text(job_json, encoding="utf-8")
    original_environment = dict(os.environ)
    os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_port())}
    python_path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "lambdanets.distributed.worker"]
    workers = {
        rank: subprocess.Popen(
            command, env=os.environ | {"LOCAL_RANK": str(rank), JOB_DIR_ENV: job_dir, "PYTHONPATH": python_path}
        )
        for rank in range(1, processes)
    }
    job_ended = threading.Event()
    threading.Thread(target=abort_on_worker_failure, args=(workers, folder, job_ended), daemon=True).start()
    try:
        yield
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT_S
        for worker in workers.values():
            with suppress(subprocess.TimeoutExpired):
                worker.wait(max(deadline - time.monotonic(), 0.1))
    except Exception as error:
        if isinstance(error, UserError):  # raised on every rank
            raise
        # After a crash, the other ranks only see a closed connection, so look for the real cause.
        time.sleep(2)
        if failure := worker_failure(workers, folder):
            raise UserError(failure) from error
        raise
    finally:
        job_ended.set()
        for worker in workers.values():
            worker.kill()
            worker.wait()
        os.environ.clear()
        os.environ.update(original_environment)
        destroy_process_group()


def abort_on_worker_failure(workers: Workers, folder: Path, job_ended: threading.Event) -> None:
    """Exit this process if it does not end by itself after a worker has died; it may wait for that worker forever."""
    while not job_ended.wait(0.5):
        if failure := worker_failure(workers, folder):
            if not job_ended.wait(SHUTDOWN_TIMEOUT_S):
                print(f"error: {failure}", file=sys.stderr, flush=True)
                for worker in workers.values():
                    worker.kill()
                os._exit(1)
            return


def worker_failure(workers: Workers, folder: Path) -> str | None:
    """Return the error message of the first worker that failed, or None."""
    for rank, worker in workers.items():
        exit_code = worker.poll()
        if not exit_code:
            continue
        error_file = folder / f"error-{rank}"
        if error_file.is_file():
            return error_file.read_text(encoding="utf-8")
        cause = f"killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
        return (
            f"The process of rank {rank} failed ({cause}), and the others cannot continue without it: check its output "
            "above and the machine's memory, then resume with ckpt=last."
        )
    return None


def find_free_port() -> int:
    """Return a TCP port that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def destroy_process_group() -> None:
    """Destroy torch's process group, so that the next run of a sweep can initialize a new one."""
    if "torch" in sys.modules:
        import torch.distributed

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
