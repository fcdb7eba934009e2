"""Trainings on the GPU: mixed precision, resuming, whole commands."""

import csv
import json
import os

import pytest
import pytorch_lightning as pl
import torch

from tests.command import run, single_run_folder
from tests.gpu.conftest import DEVICE
from tests.gpu.training import fit, prepare

# For tests.command.run, which hides all GPUs by default.
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))


@pytest.mark.parametrize("mixer", ["lambda", "lambda_conv", "attention"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_lowers_the_loss(mixer, precision, device, tmp_path):
    if precision == "16-mixed" and device.type == "cpu":
        pytest.skip("16-mixed needs a GPU")
    fit(tmp_path, f"mixer={mixer}", f"trainer.precision={precision}", "trainer.max_epochs=3")
    with (tmp_path / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]
    assert all(torch.isfinite(torch.tensor(losses)))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


class StopError(Exception):
    """The end of a training in the middle of an epoch."""


class StopAfterStep(pl.Callback):
    """Callback that ends a training without a further checkpoint."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 16:
            raise StopError


def weights(training):
    return torch.cat([tensor.detach().double().flatten().cpu() for tensor in training.task.parameters()])


def test_a_resumed_run_has_the_weights_of_a_whole_one(device, tmp_path):
    options = ("mixer=lambda", "trainer.max_epochs=2", "trainer.deterministic=warn", "checkpoint.every_n_steps=3")
    folders = [tmp_path / name for name in ("whole", "again", "stopped")]
    for folder in folders:
        folder.mkdir()
    whole, again = (weights(fit(folder, *options)) for folder in folders[:2])
    _, training = prepare(folders[2], *options)
    training.trainer.callbacks.append(StopAfterStep())
    with pytest.raises(StopError):
        training.trainer.fit(training.task, datamodule=training.data)
    resumed = weights(fit(folders[2], *options, ckpt=str(folders[2] / "checkpoints" / "last.ckpt")))
    # On a GPU, two whole runs may differ too.
    assert (resumed - whole).norm() <= 2 * (again - whole).norm() + 1e-5 * whole.norm()


@pytest.mark.parametrize("trainer", ["auto", "ddp", "fsdp"])
def test_a_whole_run_with_all_gpus(trainer, device, tmp_path):
    count = max(1, torch.cuda.device_count()) if device.type == "cuda" else 1
    devices = [] if trainer == "auto" else [f"trainer.devices={count}"]
    options = ["mixer=lambda", f"trainer={trainer}", *devices, "trainer.max_epochs=6", "trainer.precision=bf16-mixed"]
    hidden = "" if DEVICE.type == "cpu" else VISIBLE
    run(*options, cwd=tmp_path, CUDA_VISIBLE_DEVICES=hidden)
    folder = single_run_folder(tmp_path)
    scores = json.loads((folder / "metrics.json").read_text())
    assert scores["test/top1"] > 0.3  # a guess has 0.1
    (start,) = json.loads((folder / "provenance.json").read_text())
    assert ("gpus" in start) == (device.type == "cuda")
