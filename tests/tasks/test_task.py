"""The base of all tasks."""

import math
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch.utils.data import DataLoader, TensorDataset

from lambdanets.mixers import Conv
from lambdanets.models import ResNet
from lambdanets.tasks import Classification


@pytest.mark.parametrize(("device", "memory_format"), [("cuda", torch.channels_last), ("cpu", torch.contiguous_format)])
def test_convolutions_are_laid_out_for_a_gpu_before_training(device, memory_format):
    network = ResNet(Conv, depth=[1], strides=[1], layout="L", width=0.25, num_classes=2)
    task = Classification(network, num_classes=2, optimizer=torch.optim.SGD, batch_size=1)
    task.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    task.configure_model()
    assert network.stages[0][0].mixer.weight.is_contiguous(memory_format=memory_format)


class StepRecorder(pl.Callback):
    """Write the gradient of each optimizer step of this process to a file, flattened."""

    def __init__(self, folder):
        self.folder = folder
        self.gradients = []

    def on_before_optimizer_step(self, trainer, task, optimizer):
        self.gradients.append(torch.cat([parameter.grad.flatten().clone() for parameter in task.parameters()]))

    def on_train_end(self, trainer, task):
        torch.save(self.gradients, self.folder / f"{trainer.global_rank}.pt")


def record_gradients(folder, batches, *, accumulated, precision="64-true", processes=1, **options):
    """Return the gradients of an epoch's steps, a list per process; with a learning rate of 0, weights don't change."""
    torch.manual_seed(0)
    network = ResNet(Conv, depth=[1], strides=[1], layout="L", width=0.25, num_classes=2).eval()
    task = Classification(network, num_classes=2, optimizer=torch.optim.SGD, batch_size=1)
    task.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.0)
    data = TensorDataset(torch.randn(2 * batches, 3, 8, 8), torch.arange(2 * batches) % 2)
    folder.mkdir()
    scaler = {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        max_epochs=1,
        accumulate_grad_batches=accumulated,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StepRecorder(folder)],
        **(scaler if precision == "16-mixed" else {"precision": precision}),
        **options,
    )
    trainer.fit(task, DataLoader(data, batch_size=1))
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


@pytest.mark.parametrize(
    ("precision", "processes", "tolerance"),
    [
        ("64-true", 1, 1e-12),
        ("32-true", 1, 1e-5),
        ("bf16-mixed", 1, 1e-2),
        ("16-mixed", 1, 2e-3),
        ("64-true", 2, 1e-12),
    ],
)
def test_an_incomplete_accumulation_is_the_mean_of_its_batches(tmp_path, precision, processes, tolerance):
    """The last two of six batches, when four are accumulated, have the gradient of two accumulated ones."""
    options = {"precision": precision, "processes": processes, "limit_train_batches": 6}
    four = record_gradients(tmp_path / "four", 6 * processes, accumulated=4, **options)
    two = record_gradients(tmp_path / "two", 6 * processes, accumulated=2, **options)
    for ours, expected in zip(four, two, strict=True):
        assert (len(ours), len(expected)) == (2, 3)
        for gradient, reference in ((ours[0], (expected[0] + expected[1]) / 2), (ours[1], expected[2])):
            assert (gradient - reference).norm() <= tolerance * reference.norm()
            assert reference.norm() > 0


@pytest.mark.parametrize(
    ("options", "total", "warmup"),
    [
        ({"max_epochs": 6}, 12, 4),  # two steps per epoch
        ({"max_epochs": 6, "max_steps": 9}, 9, 4),
        ({"max_epochs": 6, "max_steps": 6}, 6, 3),  # at most half of the run
        ({"max_epochs": 6, "limit_train_batches": 3}, 6, 2),
    ],
)
def test_the_schedule_counts_incomplete_accumulations(tmp_path, options, total, warmup):
    network = ResNet(Conv, depth=[1], strides=[1], layout="L", width=0.25, num_classes=2)
    task = Classification(network, num_classes=2, optimizer=torch.optim.SGD, batch_size=1, warmup_epochs=2)
    task.optimizer = lambda groups: torch.optim.SGD(groups, lr=1.0)
    rates = []
    recorder = pl.Callback()
    recorder.on_before_optimizer_step = lambda trainer, task, optimizer: rates.append(optimizer.param_groups[0]["lr"])
    trainer = pl.Trainer(
        accelerator="cpu",
        accumulate_grad_batches=4,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[recorder],
        **options,
    )
    trainer.fit(task, DataLoader(TensorDataset(torch.randn(6, 3, 8, 8), torch.arange(6) % 2), batch_size=1))
    rise = [(step + 1) / warmup for step in range(warmup)]
    fall = [0.5 + 0.5 * math.cos(math.pi * step / (total - warmup)) for step in range(total - warmup)]
    assert rates == pytest.approx(rise + fall)
