"""Exit after a signal, with a stand-in for SLURM's scontrol."""

import signal
from types import SimpleNamespace

import pytest

from lambdanets.distributed.requeue import exit_after_signal


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Put an scontrol on the path; return its logged calls and the file with its output."""
    calls, output, script = tmp_path / "calls", tmp_path / "output", tmp_path / "scontrol"
    output.write_text("")
    script.write_text(f'#!/bin/sh\necho "$*" >> {calls}\ncat {output}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return SimpleNamespace(calls=lambda: calls.read_text().splitlines() if calls.is_file() else [], output=output)


def exit_code(caught, handlers=None):
    with pytest.raises(SystemExit) as exit_:
        exit_after_signal(SimpleNamespace(caught=caught, previous_handlers=handlers or {}))
    return exit_.value.code


def test_sigusr1_requeues_the_job(scontrol):
    assert exit_code(signal.SIGUSR1) == 128 + signal.SIGUSR1
    assert scontrol.calls() == ["requeue 17"]


@pytest.mark.parametrize(
    ("preempt_time", "requeued"),
    [("None", False), ("2026-11-25T04:55:29", True)],
)
def test_sigterm_requeues_a_preempted_job_only(preempt_time, requeued, scontrol):
    scontrol.output.write_text(f"JobId=17 JobName=fit\n   PreemptEligibleTime=x PreemptTime={preempt_time}\n")
    assert exit_code(signal.SIGTERM) == 128 + signal.SIGTERM
    assert ("requeue 17" in scontrol.calls()) == requeued


def test_other_ranks_do_not_requeue(scontrol, monkeypatch):
    for name, value in (("SLURM_STEP_ID", "0"), ("SLURM_NTASKS", "2"), ("SLURM_PROCID", "1")):
        monkeypatch.setenv(name, value)
    exit_code(signal.SIGUSR1)
    assert scontrol.calls() == []


def test_sigusr2_is_passed_on_to_the_earlier_handler(scontrol):
    received = []
    handler = lambda caught, frame: received.append(caught)  # noqa: E731
    assert exit_code(signal.SIGUSR2, {signal.SIGUSR2: handler}) == 128 + signal.SIGUSR2
    assert received == [signal.SIGUSR2]
    assert scontrol.calls() == []


def test_sigterm_without_slurm(scontrol, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    assert exit_code(signal.SIGTERM) == 128 + signal.SIGTERM
    assert scontrol.calls() == []
