"""Sweeps and trainings as jobs of a real SLURM, which are put back into the queue and go on."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster import slurm
from tests.command import ROOT, environment, run, single_run_folder
from tests.endurance.kills import compare_runs

pytestmark = pytest.mark.skipif(slurm.missing() is not None, reason=f"SLURM {slurm.missing()}")
LONG = (
    "trainer.max_epochs=6", "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1", "recipe.ema_decay=0.9",
    "checkpoint.every_n_steps=7",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cluster():
    slurm.up()
    yield
    slurm.down()


def submit(place, line, *options):
    """A batch job that runs one line; its number."""
    script = place / "job.sh"
    script.write_text(f"#!/bin/sh\n{line}\n")
    said = ("--parsable", "--requeue", "--open-mode=append", "--output=job.log", *options)
    done = subprocess.run(
        ["sbatch", *said, str(script)], cwd=place, env=environment(), capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def state(job):
    done = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True)
    return done.stdout.partition("JobState=")[2].split()[0]


def wait_for(condition, place, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        log = place / "job.log"
        assert time.monotonic() < deadline, log.read_text() if log.is_file() else "no log"
        time.sleep(0.1)


def at_once(job):
    """SLURM lets a job that was put back wait for two minutes; not here."""
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True)


def begun(place):
    return bool(list(place.glob("outputs/*/*/checkpoints/last.ckpt")))


def python(*arguments):
    return " ".join([sys.executable, str(ROOT / "run.py"), *arguments])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    run(*LONG, cwd=place)
    return single_run_folder(place)


def test_a_sweep_is_done_by_jobs(tmp_path):
    launcher = ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=low", "hydra.launcher.cpus_per_task=1")
    grid = ("mixer=conv,lambda", "trainer.max_epochs=1", "trainer.limit_train_batches=4")
    done = run("--multirun", *launcher, *grid, cwd=tmp_path)
    assert "2 of 2 runs in multirun/" in done.stdout
    jobs = [json.loads(file.read_text())[0]["job"] for file in tmp_path.glob("multirun/*/*/provenance.json")]
    print("done by", *jobs)
    assert len(set(jobs)) == 2
    assert all(job.startswith("slurm ") for job in jobs)


def test_two_tasks_train_together_and_one_that_dies_ends_both(tmp_path):
    pair = (
        "trainer=slurm", "trainer.max_epochs=30", "trainer.enable_progress_bar=false", "checkpoint.every_n_steps=4",
        "mixer=conv",
    )  # fmt: skip
    line = f"srun --kill-on-bad-exit=1 {python(*pair)}"
    job = submit(tmp_path, line, "--nodes=1", "--ntasks-per-node=2")
    wait_for(lambda: begun(tmp_path) or state(job) == "FAILED", tmp_path)
    folder = single_run_folder(tmp_path)
    tasks = subprocess.run(["pgrep", "-f", str(ROOT / "run.py")], capture_output=True, text=True).stdout.split()
    second = [pid for pid in tasks if b"SLURM_PROCID=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    start = time.monotonic()
    os.kill(int(second[-1]), 9)
    wait_for(lambda: state(job) in ("FAILED", "COMPLETED", "CANCELLED"), tmp_path, 60)
    print(f"the job ended {time.monotonic() - start:.1f} s after its second task was killed: {state(job)}")
    assert state(job) == "FAILED"

    # The same job again, by its number, goes on where it was.
    subprocess.run(["scontrol", "requeue", job], check=True)
    wait_for(lambda: at_once(job) or "going on from" in (folder / "run.log").read_text(), tmp_path)
    subprocess.run(["scancel", job], check=True)
    wait_for(lambda: state(job) == "CANCELLED", tmp_path)
    assert len(list(tmp_path.glob("outputs/*/*"))) == 1


@pytest.mark.parametrize("way", ["USR1", "preemption"])
def test_a_job_that_is_put_back_into_the_queue_ends_as_if_it_had_never_stopped(way, whole, tmp_path):
    job = submit(tmp_path, f"exec srun --ntasks=1 {python(*LONG)}", "--cpus-per-task=2", "--partition=low")
    wait_for(lambda: begun(tmp_path), tmp_path)
    if way == "USR1":
        subprocess.run(["scancel", "--signal=USR1", job], check=True)
    else:
        (tmp_path / "high").mkdir()
        submit(tmp_path / "high", "sleep 2", "--partition=high", "--cpus-per-task=2")
    folder = single_run_folder(tmp_path)
    wait_for(lambda: "Stopped by SIG" in (folder / "run.log").read_text(), tmp_path)
    wait_for(lambda: at_once(job) or state(job) == "COMPLETED", tmp_path, 240)
    log = (folder / "run.log").read_text()
    print(*[line for line in log.splitlines() if "Stopped by" in line or "going on from" in line], sep="\n")
    assert "going on from" in log
    assert len(json.loads((folder / "provenance.json").read_text())) == 2
    assert compare_runs(whole, single_run_folder(tmp_path)) == []
