"""Sweeps and trainings as jobs of a real SLURM, which are requeued and resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster import slurm
from tests.command import ROOT, environment, run, single_run_folder
from tests.endurance.kills import compare_runs

pytestmark = pytest.mark.skipif(slurm.missing_requirement() is not None, reason=f"SLURM {slurm.missing_requirement()}")
LONG = (
    "trainer.max_epochs=6", "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1", "recipe.ema_decay=0.9",
    "checkpoint.every_n_steps=7",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cluster():
    slurm.up()
    yield
    slurm.down()


def submit(cwd, line, *options):
    """Submit a batch job that runs one line, and return its id."""
    script = cwd / "job.sh"
    script.write_text(f"#!/bin/sh\n{line}\n")
    options = ("--parsable", "--requeue", "--open-mode=append", "--output=job.log", *options)
    done = subprocess.run(
        ["sbatch", *options, str(script)], cwd=cwd, env=environment(), capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def job_state(job):
    done = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True)
    return done.stdout.partition("JobState=")[2].split()[0]


def find_task(job, rank):
    """Return the process id of a task of a job."""
    listing = subprocess.run(["scontrol", "listpids", job], capture_output=True, text=True).stdout
    for line in listing.splitlines()[1:]:
        pid = int(line.split()[0])
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"SLURM_PROCID={rank}".encode() in variables and b"run.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError(listing)


def wait_for(condition, cwd, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        log = cwd / "job.log"
        assert time.monotonic() < deadline, log.read_text() if log.is_file() else "no log"
        time.sleep(0.1)


def start_now(job):
    """Start a requeued job at once, where SLURM would wait for two minutes."""
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True)


def has_checkpoint(cwd):
    return bool(list(cwd.glob("outputs/*/*/checkpoints/last.ckpt")))


def run_command(*arguments):
    return " ".join([sys.executable, str(ROOT / "run.py"), *arguments])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run that is never stopped."""
    cwd = tmp_path_factory.mktemp("whole")
    run(*LONG, cwd=cwd)
    return single_run_folder(cwd)


def test_each_run_of_a_sweep_is_a_job(tmp_path):
    launcher = ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=low", "hydra.launcher.cpus_per_task=1")
    grid = ("mixer=conv,lambda", "trainer.max_epochs=1", "trainer.limit_train_batches=4")
    done = run("--multirun", *launcher, *grid, cwd=tmp_path)
    assert "2 of 2 runs in multirun/" in done.stdout
    jobs = [json.loads(file.read_text())[0]["job"] for file in tmp_path.glob("multirun/*/*/provenance.json")]
    print("jobs:", *jobs)
    assert len(set(jobs)) == 2
    assert all(job.startswith("slurm ") for job in jobs)


def test_a_killed_task_fails_the_job_which_resumes_when_requeued(tmp_path):
    pair = (
        "trainer=slurm", "trainer.max_epochs=30", "trainer.enable_progress_bar=false", "checkpoint.every_n_steps=4",
        "mixer=conv",
    )  # fmt: skip
    line = f"srun --kill-on-bad-exit=1 {run_command(*pair)}"
    job = submit(tmp_path, line, "--nodes=1", "--ntasks-per-node=2")
    wait_for(lambda: has_checkpoint(tmp_path) or job_state(job) == "FAILED", tmp_path)
    folder = single_run_folder(tmp_path)
    start = time.monotonic()
    os.kill(find_task(job, 1), signal.SIGKILL)
    wait_for(lambda: job_state(job) in ("FAILED", "COMPLETED", "CANCELLED"), tmp_path, 60)
    print(f"the job ended {time.monotonic() - start:.1f} s after its second task was killed: {job_state(job)}")
    assert job_state(job) == "FAILED"

    # The same job, requeued by its id, resumes.
    subprocess.run(["scontrol", "requeue", job], check=True)
    wait_for(lambda: start_now(job) or "resuming from" in (folder / "run.log").read_text(), tmp_path)
    subprocess.run(["scancel", job], check=True)
    wait_for(lambda: job_state(job) == "CANCELLED", tmp_path)
    assert len(list(tmp_path.glob("outputs/*/*"))) == 1


@pytest.mark.parametrize("cause", ["USR1", "preemption"])
def test_a_requeued_job_ends_with_the_weights_and_logs_of_the_whole_run(cause, whole, tmp_path):
    job = submit(tmp_path, f"exec srun --ntasks=1 {run_command(*LONG)}", "--cpus-per-task=2", "--partition=low")
    wait_for(lambda: has_checkpoint(tmp_path), tmp_path)
    if cause == "USR1":
        subprocess.run(["scancel", "--signal=USR1", job], check=True)
    else:
        (tmp_path / "high").mkdir()
        submit(tmp_path / "high", "sleep 2", "--partition=high", "--cpus-per-task=2")
    folder = single_run_folder(tmp_path)
    wait_for(lambda: "Stopped by SIG" in (folder / "run.log").read_text(), tmp_path)
    wait_for(lambda: start_now(job) or job_state(job) == "COMPLETED", tmp_path, 240)
    log = (folder / "run.log").read_text()
    print(*[line for line in log.splitlines() if "Stopped by" in line or "resuming from" in line], sep="\n")
    assert "resuming from" in log
    assert len(json.loads((folder / "provenance.json").read_text())) == 2
    assert compare_runs(whole, single_run_folder(tmp_path)) == []
