"""Sweeps and trainings as jobs of a real SLURM, which are requeued and resume.

CLUSTER_REPEATS=20 repeats the test of requeued jobs, at random moments; it prints one line per job.
"""

import json
import os
import random
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
FINAL_STATES = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
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


def has_checkpoint(cwd):
    return bool(list(cwd.glob("outputs/*/*/checkpoints/last.ckpt")))


def run_command(*arguments):
    return " ".join([sys.executable, str(ROOT / "run.py"), *arguments])


def preempt(cwd):
    """Submit a job of higher priority that needs the whole node, and return its id."""
    (cwd / "high").mkdir()
    return submit(cwd / "high", "sleep 1", "--partition=high", "--exclusive")


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
    wait_for(lambda: "resuming from" in (folder / "run.log").read_text(), tmp_path)
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
        preempt(tmp_path)
    folder = single_run_folder(tmp_path)
    wait_for(lambda: "Stopped by SIG" in (folder / "run.log").read_text(), tmp_path)
    wait_for(lambda: job_state(job) == "COMPLETED", tmp_path, 240)
    log = (folder / "run.log").read_text()
    print(*[line for line in log.splitlines() if "Stopped by" in line or "resuming from" in line], sep="\n")
    assert "resuming from" in log
    assert len(json.loads((folder / "provenance.json").read_text())) == 2
    assert compare_runs(whole, single_run_folder(tmp_path)) == []


@pytest.mark.parametrize("repeat", range(int(os.environ.get("CLUSTER_REPEATS", 1))))
@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("cause", ["USR1", "preemption", "preemption without grace time"])
def test_a_stopped_job_is_requeued_and_completes(cause, tasks, repeat, tmp_path):
    options = (
        "mixer=conv", "trainer.enable_progress_bar=false", "trainer.max_epochs=16", "trainer.limit_train_batches=5",
        "trainer.limit_val_batches=1", *(["trainer=slurm"] if tasks > 1 else []),
    )  # fmt: skip
    partition = "low_now" if "without" in cause else "low"
    line = f"exec srun --kill-on-bad-exit=1 {run_command(*options)}"
    job = submit(tmp_path, line, "--nodes=1", f"--ntasks-per-node={tasks}", f"--partition={partition}")
    wait_for(lambda: has_checkpoint(tmp_path), tmp_path, 90)
    time.sleep(random.Random(repeat).uniform(0.0, 0.5))
    start = time.monotonic()
    high = None
    if cause == "USR1":
        subprocess.run(["scancel", "--signal=USR1", job], check=True)
    else:
        high = preempt(tmp_path)
    folder = single_run_folder(tmp_path)
    wait_for(lambda: job_state(job) in FINAL_STATES, tmp_path)
    log = (folder / "run.log").read_text()
    state, seconds, resumed = job_state(job), time.monotonic() - start, log.count("resuming from")
    print(f"\n{cause}, {tasks} tasks, {repeat}: {state} after {seconds:.0f} s, resumed {resumed} times", flush=True)
    assert state == "COMPLETED", (tmp_path / "job.log").read_text()
    assert high is None or job_state(high) == "COMPLETED"
    assert "Stopped by SIG" in log
    assert "resuming from" in log
    stopped = int(log.partition("after step ")[2].partition(";")[0])
    assert f"after step {stopped}\n" in log.partition("resuming from")[2]  # no step is lost
    assert len(json.loads((folder / "provenance.json").read_text())) == 2
    assert (folder / "metrics.json").is_file()
