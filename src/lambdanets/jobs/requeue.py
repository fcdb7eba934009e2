"""The end of a process that was told to stop."""

import logging
import signal
import subprocess
from typing import NoReturn

from lambdanets.callbacks import StopOnSignal
from lambdanets.jobs import ranks

log = logging.getLogger(__name__)


def ended(stop: StopOnSignal) -> NoReturn:
    """Ends the process as its signal says, after the checkpoint is written.

    In a job of SLURM, SIGUSR1 (`sbatch --signal=USR1@90`) puts the job back into the queue, and SIGUSR2, submitit's,
    goes to submitit, which does the same. The job then goes on from the checkpoint.
    """
    caught = stop.caught or signal.SIGTERM
    if caught is signal.SIGUSR1 and ranks.rank() == 0:
        job = (ranks.identity() or "").removeprefix("slurm ")
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        if done.returncode:
            log.warning("SLURM's job %s can't be put back into the queue: %s", job, done.stderr.strip())
    before = stop.replaced.get(caught)
    if caught is signal.SIGUSR2 and callable(before):
        before(caught, None)
    raise SystemExit(128 + caught)
