"""Runs that are stopped, killed, or meet a fault: nothing is lost, and what is wrong is said in a sentence."""

import json
import os
import resource
import signal
import subprocess
import time

import pytest
import pytorch_lightning as pl
import torch

from tests.command import ROOT, command, environment, run
from tests.endurance.kills import differences, killed, one_run

# Averaged weights, dropout and stochastic depth have states of their own.
REGULARISED = ("recipe.ema_decay=0.9", "recipe.dropout=0.1", "recipe.drop_path=0.1")
SHORT = ("trainer.max_epochs=2", "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1")
OFTEN = (*SHORT, *REGULARISED, "checkpoint.every_n_steps=3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stops."""
    place = tmp_path_factory.mktemp("whole")
    run(*OFTEN, cwd=place)
    return one_run(place)


def training(place, *arguments):
    """A run that has begun to train."""
    process = subprocess.Popen(
        command(*arguments), cwd=place, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(place.glob("outputs/*/*/checkpoints/last.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_killed_three_times_a_run_comes_to_the_weights_and_logs_of_the_whole_one(whole, tmp_path):
    assert killed(tmp_path, OFTEN, 3) >= 1
    assert differences(whole, one_run(tmp_path)) == []


def test_sigterm_is_answered_by_a_checkpoint_after_the_step_that_runs(whole, tmp_path):
    process = training(tmp_path, *OFTEN)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Stopped by SIGTERM after step " in said
    step = int(said.partition("after step ")[2].partition(";")[0])
    assert torch.load(one_run(tmp_path) / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step
    run(*OFTEN, "ckpt=last", cwd=tmp_path)
    assert differences(whole, one_run(tmp_path)) == []


class Stopped(pl.Callback):
    """SIGTERM comes while a step runs."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_before_validation_is_answered_at_the_end_of_the_epoch(whole, tmp_path):
    steps = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] // 2
    stop = f"+callbacks.stop={{_target_: {Stopped.__module__}.{Stopped.__name__}, step: {steps}}}"
    done = run(*OFTEN, stop, "allow_targets=[tests]", cwd=tmp_path, code=128 + signal.SIGTERM, PYTHONPATH=str(ROOT))
    assert f"Stopped by SIGTERM after step {steps}" in done.stdout
    found = torch.load(one_run(tmp_path) / "checkpoints" / "last.ckpt", weights_only=True)
    assert found["global_step"] == steps
    run(*OFTEN, "ckpt=last", "allow_targets=[tests]", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert differences(whole, one_run(tmp_path)) == []


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(tmp_path):
    run("trainer.max_epochs=1", "trainer.limit_train_batches=4", "mixer=conv", cwd=tmp_path)
    last = one_run(tmp_path) / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    done = subprocess.run(
        command("trainer.max_epochs=2", "trainer.limit_train_batches=4", "mixer=conv", "ckpt=last"),
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120,
        # Files that may not grow beyond 1 MiB stand for a disk that is full.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)),
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "error: The disk is full or its quota is reached" in done.stderr
    assert "Traceback" not in done.stderr
    assert last.read_bytes() == before
    assert [file.name for file in last.parent.iterdir() if file.name.startswith(".")] == []


def test_numbers_that_are_not_finite_end_the_run_or_are_left_out(tmp_path):
    hot = ("recipe.optimizer.lr=1e30", "recipe.warmup_epochs=0", "mixer=conv", "trainer.max_epochs=1")
    done = run(*hot, "trainer.limit_train_batches=8", cwd=tmp_path, code=1)
    assert "error: The loss or a gradient was not finite at step " in done.stderr
    assert "e+29: lower recipe.optimizer.lr" in done.stderr
    assert not list(tmp_path.glob("outputs/*/*/metrics.json"))


def test_a_process_that_dies_ends_the_job_with_a_sentence(tmp_path):
    pairs = ("trainer=ddp", "trainer.devices=2", "trainer.max_epochs=50", "mixer=conv", "checkpoint.every_n_steps=2")
    process = training(tmp_path, *pairs, *SHORT[1:])
    children = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True)
    (other,) = [line.split()[0] for line in children.stdout.splitlines() if "lambdanets.distributed.worker" in line]
    os.kill(int(other), signal.SIGKILL)
    start = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - start < 60
    assert process.returncode == 1
    assert "error: The process of rank 1 failed (killed by SIGKILL), and the others cannot continue" in said
    # Nothing was lost: one process alone goes on.
    last = one_run(tmp_path) / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] >= 2


def test_many_processes_and_many_runs(tmp_path):
    grid = ("mixer=conv,se,lambda", "seed=0,1", "trainer=ddp", "trainer.devices=2", '+note="a=b, c d"')
    limits = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
    done = run("--multirun", *grid, *limits, "trainer.limit_test_batches=1", cwd=tmp_path, timeout=400)
    assert "6 of 6 runs in multirun/" in done.stdout
    assert os.listdir(tmp_path) == ["multirun"]
    (sweep,) = (tmp_path / "multirun").iterdir()
    folders = [path for path in sweep.iterdir() if path.is_dir()]
    assert len(folders) == 6
    for folder in folders:
        assert "test/top1" in json.loads((folder / "metrics.json").read_text())
        assert len(json.loads((folder / "provenance.json").read_text())) == 1
        assert sorted(path.name for path in folder.glob("*.log")) == ["run.log"]
        assert (folder / "run.log").read_text().count("M parameters, in ") == 1
        assert "note: a=b, c d" in (folder / "config.yaml").read_text().splitlines()
        assert len((folder / "metrics.csv").read_text().splitlines()) > 2
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in left
