"""Runs that are stopped, killed, or meet a fault: no step is lost, and the error is one line."""

import csv
import json
import math
import os
import resource
import signal
import subprocess

import pytest
import pytorch_lightning as pl
import torch

from tests import in_process
from tests.command import ROOT, command, environment, run, single_run_folder, start_training
from tests.endurance.kills import compare_runs, kill_repeatedly

# Averaged weights, dropout and stochastic depth have states of their own.
REGULARIZED = ("recipe.ema_decay=0.9", "recipe.dropout=0.1", "recipe.drop_path=0.1")
SHORT = ("trainer.max_epochs=2", "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1")
FREQUENT_CHECKPOINTS = (*SHORT, *REGULARIZED, "checkpoint.every_n_steps=3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run that is never stopped."""
    cwd = tmp_path_factory.mktemp("whole")
    run(*FREQUENT_CHECKPOINTS, cwd=cwd)
    return single_run_folder(cwd)


def last_step(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


def test_a_run_killed_three_times_ends_with_the_weights_and_logs_of_the_whole_run(whole, tmp_path):
    assert kill_repeatedly(tmp_path, FREQUENT_CHECKPOINTS, 3) >= 1
    assert compare_runs(whole, single_run_folder(tmp_path)) == []


def test_sigterm_ends_the_run_with_a_checkpoint_after_the_current_step(whole, tmp_path):
    process = start_training(*FREQUENT_CHECKPOINTS, cwd=tmp_path)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Stopped by SIGTERM after step " in stdout
    step = int(stdout.partition("Stopped by SIGTERM after step ")[2].partition(";")[0])
    assert last_step(single_run_folder(tmp_path)) == step
    run(*FREQUENT_CHECKPOINTS, "ckpt=last", cwd=tmp_path)
    assert compare_runs(whole, single_run_folder(tmp_path)) == []


class SignalInStep(pl.Callback):
    """Callback that sends SIGTERM to its own process during a step.

    Args:
        step: optimizer step, from 1.
    """

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_before_validation_ends_the_run_after_the_epoch(whole, tmp_path):
    steps = last_step(whole) // 2
    target = f"{SignalInStep.__module__}.{SignalInStep.__name__}"
    callback = (f"+callbacks.stop={{_target_: {target}, step: {steps}}}", "allow_targets=[tests]")
    options = {"cwd": tmp_path, "PYTHONPATH": str(ROOT)}
    done = run(*FREQUENT_CHECKPOINTS, *callback, code=128 + signal.SIGTERM, **options)
    assert f"Stopped by SIGTERM after step {steps}" in done.stdout
    assert last_step(single_run_folder(tmp_path)) == steps
    run(*FREQUENT_CHECKPOINTS, "ckpt=last", "allow_targets=[tests]", **options)
    assert compare_runs(whole, single_run_folder(tmp_path)) == []


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(tmp_path):
    in_process.run("trainer.max_epochs=1", "trainer.limit_train_batches=4", "mixer=conv", cwd=tmp_path)
    folder = single_run_folder(tmp_path)
    last = folder / "checkpoints" / "last.ckpt"
    before, results = last.read_bytes(), (folder / "metrics.json").read_bytes()
    done = subprocess.run(
        command("trainer.max_epochs=2", "trainer.limit_train_batches=4", "mixer=conv", "ckpt=last"),
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120,
        # A limit of 1 MiB per file stands in for a full disk.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)),
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "error: The disk is full or its quota is reached" in done.stderr
    assert "Traceback" not in done.stderr
    assert last.read_bytes() == before
    assert [file.name for file in last.parent.iterdir() if file.name.startswith(".")] == []
    assert not (folder / "metrics.json").exists(), "the run counts as unfinished"
    assert (folder / "metrics-1.json").read_bytes() == results


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    hot = ("recipe.optimizer.lr=1e30", "recipe.warmup_epochs=0", "mixer=conv", "trainer.max_epochs=1")
    done = run(*hot, "trainer.limit_train_batches=8", cwd=tmp_path, code=1)
    assert "error: The loss or a gradient was not finite at step " in done.stderr
    assert "e+29: lower recipe.optimizer.lr" in done.stderr
    assert not list(tmp_path.glob("outputs/*/*/metrics.json"))


class InfiniteLoss(pl.Callback):
    """The loss of one step is infinite."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            pl_module.loss = lambda logits, labels: torch.inf * type(pl_module).loss(pl_module, logits, labels)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        vars(pl_module).pop("loss", None)


def test_with_skip_nonfinite_a_run_skips_such_a_step_and_goes_on(tmp_path):
    step, steps = 5, 16
    infinite = f"+callbacks.infinite={{_target_: {InfiniteLoss.__module__}.{InfiniteLoss.__name__}, step: {step}}}"
    options = (*SHORT, "mixer=conv", "trainer.limit_train_batches=8", infinite, "allow_targets=[tests]")
    done = in_process.run(*options, "name=stop", cwd=tmp_path, code=1)
    assert f"error: The loss or a gradient was not finite at step {step}, " in done.text

    in_process.run(*options, "name=skip", "recipe.skip_nonfinite=true", cwd=tmp_path)
    (folder,) = tmp_path.glob("outputs/skip/*")
    assert (folder / "run.log").read_text().count(f"Skipped step {step}: the gradient norm is ") == 1
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/skipped"]]
    assert [float(row["train/skipped"]) for row in rows] == [0.0] * step + [1.0] * (steps - step)
    assert [math.isfinite(float(row["train/grad_norm"])) for row in rows] == [index != step for index in range(steps)]
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
    assert checkpoint["callbacks"]["Finite"] == {"skipped": 1}
    assert json.loads((folder / "metrics.json").read_text())["test/top1"] > 0.2
