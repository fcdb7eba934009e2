"""The end of a process that was told to stop."""

import logging
import signal
import subprocess
from typing import NoReturn

from lambdanets.callbacks import StopOnSignal
from lambdanets.distributed.launcher import rank, restartable_job_id

log = logging.getLogger(__name__)


def exit_after_signal(stop: StopOnSignal) -> NoReturn:
    """Ends the process as its signal says, after the checkpoint is written.

    In a job of SLURM, SIGUSR1 (`sbatch --signal=USR1@90`) and the SIGTERM of a preemption put the job back into the
    queue, and SIGUSR2, submitit's, goes to submitit, which does the same. The job then goes on from the checkpoint.
    """
    caught = stop.caught or signal.SIGTERM
    job = (restartable_job_id() or "").partition("slurm ")[2]
    if job and rank() == 0 and (caught is signal.SIGUSR1 or (caught is signal.SIGTERM and preempted(job))):
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        if done.returncode:
            log.warning("SLURM's job %s can't be put back into the queue: %s", job, done.stderr.strip())
    before = stop.previous_handlers.get(caught)
    if caught is signal.SIGUSR2 and callable(before):
        before(caught, None)
    raise SystemExit(128 + caught)


def preempted(job: str) -> bool:
    """Does SLURM want the job's place for another one?

    One that ends by itself within the partition's grace time counts as done, and wouldn't be started again.
    """
    try:
        done = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True)
    except OSError:
        return False
    time = done.stdout.partition(" PreemptTime=")[2].split()
    return bool(time) and time[0] != "None"
