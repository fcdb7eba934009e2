"""Exit of a process after a stop signal; SLURM jobs are requeued.

No import of torch: the command line uses this module before heavy imports.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from lambdanets.distributed.launcher import rank, slurm_job_id

if TYPE_CHECKING:
    from lambdanets.callbacks import StopOnSignal

log = logging.getLogger(__name__)
# Seconds until the processes of other ranks requeue the job themselves, if rank 0 has not: it may be blocked or dead.
RANK_0_LEAD_S = 10.0
# Seconds to wait for SLURM to end a requeued job.
END_TIMEOUT_S = 180.0
SCONTROL_TIMEOUT_S = 60.0


def handle_stop_signals() -> None:
    """Requeue the SLURM job on a stop signal outside of a training too: during imports, setup and tests.

    `StopOnSignal` handles these signals during a training. Handlers that exist already, such as submitit's, remain.
    """
    if slurm_job_id() is None:
        return
    process = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            requeue_and_exit(signal.Signals(signum))
        signal.signal(signum, signal.SIG_DFL)  # a forked process, such as one of a pool, does not speak for the job
        os.kill(os.getpid(), signum)

    for signum in (signal.SIGTERM, signal.SIGUSR1):
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, handle)


def exit_after_signal(stop: StopOnSignal) -> NoReturn:
    """Exit with the signal's exit code, once the checkpoint is written.

    SIGUSR1 (`sbatch --signal=USR1@90`) and the SIGTERM of a preemption requeue the SLURM job, which then resumes from
    the checkpoint. SIGUSR2 is passed on to submitit, which requeues its job itself.
    """
    caught = stop.caught or signal.SIGTERM
    previous_handler = stop.previous_handlers.get(caught)
    if caught is signal.SIGUSR2 and callable(previous_handler):
        watch = SigtermWatch()
        try:
            previous_handler(caught, None)
            if slurm_job_id():  # rank 0 requeues, and the job ends with the first process that exits
                watch.wait(caught, RANK_0_LEAD_S if rank() else 0.0)
        except SystemExit:
            watch.wait(caught, END_TIMEOUT_S)
        raise SystemExit(128 + caught)
    requeue_and_exit(caught)


def requeue_and_exit(caught: signal.Signals) -> NoReturn:
    """Requeue the SLURM job if the signal asks for it, wait until SLURM ends this process, and exit.

    Only SLURM may end a requeued job: if the batch script ends first, SLURM may take the job for completed. Rank 0
    requeues, and the processes of all ranks wait.
    """
    job = slurm_job_id()
    if job is None or caught not in (signal.SIGUSR1, signal.SIGTERM):
        raise SystemExit(128 + caught)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    watch = SigtermWatch()
    if rank() > 0:
        watch.wait(caught, RANK_0_LEAD_S)
    status = read_job_status(job)
    # In any other state, SLURM ends the job already: it is cancelled, out of time, or requeued by SLURM.
    is_running = status.get("JobState") == "RUNNING"
    if caught is signal.SIGTERM and not (is_running and status.get("PreemptTime", "None") != "None"):
        raise SystemExit(128 + caught)
    if not status or is_running:
        request = run_scontrol("requeue", job)
        if request.returncode:
            log.warning(
                "SLURM job %s could not be requeued (%s): submit it with sbatch --requeue, or resume the run with "
                "ckpt=last.",
                job,
                request.stderr.strip(),
            )
            raise SystemExit(128 + caught)
        log.info("SLURM requeues job %s, which resumes when it starts again.", job)
        watch.wait(caught, END_TIMEOUT_S)
        log.warning(
            "SLURM has accepted to requeue job %s, but has not ended it within %.0f s; this process exits now. If "
            "squeue does not list the job, resume the run with ckpt=last.",
            job,
            END_TIMEOUT_S,
        )
    raise SystemExit(128 + caught)


class SigtermWatch:
    """From now on, SIGTERM is only recorded: SLURM may send it before its request to requeue has returned."""

    def __init__(self) -> None:
        self.received = False
        signal.signal(signal.SIGTERM, self.record)

    def record(self, signum: int, frame: FrameType | None) -> None:
        self.received = True

    def wait(self, caught: signal.Signals, seconds: float) -> None:
        """Wait until SLURM's SIGTERM, which exits with the exit code of the caught signal, or for some seconds."""
        deadline = time.monotonic() + seconds
        while not self.received and time.monotonic() < deadline:
            time.sleep(0.1)
        if self.received:
            raise SystemExit(128 + caught)


def read_job_status(job: str) -> dict[str, str]:
    """Return the fields of `scontrol show job`, such as JobState, or nothing if it fails.

    A job that is being preempted within its partition's grace time is RUNNING and has a PreemptTime; SLURM does not
    requeue it if it exits within that time.
    """
    fields = (field.partition("=") for field in run_scontrol("show", "job", job).stdout.split())
    return {name: value for name, _, value in fields}


def run_scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run scontrol; a failure to run it is a return code and a message."""
    command = ["scontrol", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SCONTROL_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
