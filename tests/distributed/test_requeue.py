"""Exit after a signal, with a stand-in for SLURM's scontrol."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from lambdanets.distributed import requeue
from lambdanets.distributed.requeue import exit_after_signal

RUNNING = "JobId=17 JobName=fit\n   JobState=RUNNING Reason=None\n   PreemptEligibleTime=x PreemptTime={}\n"
PREEMPTED = RUNNING.format("2026-11-25T04:55:29")


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Put an scontrol on the path; return its logged calls, its output, and a file whose existence makes it refuse."""
    calls, output, refusal = tmp_path / "calls", tmp_path / "output", tmp_path / "refusal"
    script = tmp_path / "scontrol"
    output.write_text(RUNNING.format("None"))
    script.write_text(
        f'#!/bin/sh\necho "$*" >> {calls}\n[ "$1" = requeue ] && [ -e {refusal} ] && cat {refusal} >&2 && exit 1\n'
        f"cat {output}\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(requeue, "END_TIMEOUT_S", 0.2)
    monkeypatch.setattr(requeue, "RANK_0_LEAD_S", 0.2)
    return SimpleNamespace(
        calls=lambda: calls.read_text().splitlines() if calls.is_file() else [], output=output, refusal=refusal
    )


@pytest.fixture(autouse=True)
def restored_handlers():
    signals = (signal.SIGTERM, signal.SIGUSR1)
    handlers = {signum: signal.getsignal(signum) for signum in signals}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def exit_code(caught, handlers=None):
    with pytest.raises(SystemExit) as exit_:
        exit_after_signal(SimpleNamespace(caught=caught, previous_handlers=handlers or {}))
    return exit_.value.code


def test_sigusr1_requeues_the_job_and_waits_to_be_ended(scontrol, caplog):
    start = time.monotonic()
    assert exit_code(signal.SIGUSR1) == 128 + signal.SIGUSR1
    assert scontrol.calls() == ["show job 17", "requeue 17"]
    assert time.monotonic() - start >= 0.2
    assert "has not ended it within" in caplog.text


def test_slurms_sigterm_ends_the_wait(scontrol, monkeypatch, caplog):
    monkeypatch.setattr(requeue, "END_TIMEOUT_S", 60.0)
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -TERM {os.getpid()}"])
    start = time.monotonic()
    assert exit_code(signal.SIGUSR1) == 128 + signal.SIGUSR1
    assert time.monotonic() - start < 30
    assert "has not ended it" not in caplog.text
    killer.wait()


def test_a_refused_request_is_a_warning_and_no_wait(scontrol, monkeypatch, caplog):
    monkeypatch.setattr(requeue, "END_TIMEOUT_S", 60.0)
    scontrol.refusal.write_text("Requested operation is presently disabled for job 17")
    start = time.monotonic()
    assert exit_code(signal.SIGUSR1) == 128 + signal.SIGUSR1
    assert time.monotonic() - start < 30
    assert "could not be requeued (Requested operation is presently disabled for job 17)" in caplog.text


def test_without_scontrol_as_in_a_container_there_is_a_warning(scontrol, monkeypatch, caplog):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert exit_code(signal.SIGUSR1) == 128 + signal.SIGUSR1
    assert "could not be requeued" in caplog.text


@pytest.mark.parametrize(
    ("status", "requeued"),
    [
        (RUNNING.format("None"), False),  # kill
        (PREEMPTED, True),
        (PREEMPTED.replace("RUNNING", "COMPLETING"), False),  # scancel, or SLURM requeues the job by itself
    ],
)
def test_sigterm_requeues_a_preempted_job_only(status, requeued, scontrol):
    scontrol.output.write_text(status)
    assert exit_code(signal.SIGTERM) == 128 + signal.SIGTERM
    assert ("requeue 17" in scontrol.calls()) == requeued


def test_a_job_that_slurm_ends_already_is_not_requeued(scontrol):
    scontrol.output.write_text(RUNNING.format("None").replace("RUNNING", "COMPLETING"))
    exit_code(signal.SIGUSR1)
    assert scontrol.calls() == ["show job 17"]


def test_a_task_of_an_array_is_requeued_alone(scontrol, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "15")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    exit_code(signal.SIGUSR1)
    assert scontrol.calls() == ["show job 15_3", "requeue 15_3"]


def test_other_ranks_wait_for_rank_0_to_requeue(scontrol, monkeypatch):
    for name, value in (("SLURM_STEP_ID", "0"), ("SLURM_NTASKS", "2"), ("SLURM_PROCID", "1")):
        monkeypatch.setenv(name, value)
    scontrol.output.write_text(RUNNING.format("None").replace("RUNNING", "COMPLETING"))  # by rank 0
    start = time.monotonic()
    exit_code(signal.SIGUSR1)
    assert time.monotonic() - start >= 0.2
    assert scontrol.calls() == ["show job 17"]


def test_submitit_requeues_its_job_itself_and_the_process_waits(scontrol):
    received = []

    def requeue_by_submitit(caught, frame):
        received.append(caught)
        sys.exit(-1)

    start = time.monotonic()
    assert exit_code(signal.SIGUSR2, {signal.SIGUSR2: requeue_by_submitit}) == 128 + signal.SIGUSR2
    assert received == [signal.SIGUSR2]
    assert scontrol.calls() == []
    assert time.monotonic() - start >= 0.2


def test_a_signal_outside_of_a_training_requeues_too(scontrol):
    requeue.handle_stop_signals()
    with pytest.raises(SystemExit) as exit_:
        signal.raise_signal(signal.SIGUSR1)
    assert exit_.value.code == 128 + signal.SIGUSR1
    assert "requeue 17" in scontrol.calls()


def test_a_forked_process_does_not_requeue(scontrol):
    requeue.handle_stop_signals()
    child = os.fork()
    if child == 0:
        signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert scontrol.calls() == []


def test_handlers_of_others_remain(scontrol):
    handler = lambda signum, frame: None  # noqa: E731
    signal.signal(signal.SIGTERM, handler)
    requeue.handle_stop_signals()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_sigterm_without_slurm(scontrol, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    assert exit_code(signal.SIGTERM) == 128 + signal.SIGTERM
    assert scontrol.calls() == []
