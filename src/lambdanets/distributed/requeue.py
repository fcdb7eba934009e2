"""Exit of a process after a stop signal; SLURM jobs are requeued."""

import logging
import signal
import subprocess
from typing import NoReturn

from lambdanets.callbacks import StopOnSignal
from lambdanets.distributed.launcher import rank, restartable_job_id

log = logging.getLogger(__name__)


def exit_after_signal(stop: StopOnSignal) -> NoReturn:
    """Exit with the signal's exit code, once the checkpoint is written.

    SIGUSR1 (`sbatch --signal=USR1@90`) and the SIGTERM of a preemption requeue the SLURM job, which then resumes from
    the checkpoint. SIGUSR2 is passed on to submitit, which requeues its job itself.
    """
    caught = stop.caught or signal.SIGTERM
    slurm_job = (restartable_job_id() or "").partition("slurm ")[2]
    if (
        slurm_job
        and rank() == 0
        and (caught is signal.SIGUSR1 or (caught is signal.SIGTERM and was_preempted(slurm_job)))
    ):
        result = subprocess.run(["scontrol", "requeue", slurm_job], capture_output=True, text=True)
        if result.returncode:
            log.warning("SLURM job %s could not be requeued: %s", slurm_job, result.stderr.strip())
    previous_handler = stop.previous_handlers.get(caught)
    if caught is signal.SIGUSR2 and callable(previous_handler):
        previous_handler(caught, None)
    raise SystemExit(128 + caught)


def was_preempted(slurm_job: str) -> bool:
    """Return whether SLURM is preempting a job.

    A preempted job that exits within the partition's grace time counts as completed; SLURM does not restart it.
    """
    try:
        result = subprocess.run(["scontrol", "show", "job", slurm_job], capture_output=True, text=True)
    except OSError:
        return False
    preempt_time = result.stdout.partition(" PreemptTime=")[2].split()
    return bool(preempt_time) and preempt_time[0] != "None"
