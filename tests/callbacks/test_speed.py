"""Throughput and peak memory."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lambdanets.callbacks import CheckpointWriter, Speed

SCRIPT = """
import torch
from lambdanets.callbacks.speed import peak_memory_bytes, reset_peak_memory

cpu = torch.device("cpu")
large = torch.ones(300 * 2**18)  # 300 MiB
high = peak_memory_bytes(cpu)
del large
reset_peak_memory(cpu)
print(high - peak_memory_bytes(cpu))
large = torch.ones(300 * 2**18)
print(high - peak_memory_bytes(cpu))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak of a process's memory")
def test_a_reset_restarts_the_measurement_of_peak_memory():
    # In a new process, whose heap has no free room for the tensor, and whose parent is larger than the process.
    parent = b"1" * (800 * 2**20)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    del parent
    after_reset, after_same_tensor = (int(line) / 2**20 for line in done.stdout.split())
    assert after_reset > 250
    assert after_same_tensor < 50


class SlowSteps(pl.LightningModule):
    """A task whose steps take two seconds of a clock, and its validation a hundred."""

    def __init__(self, clock):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.clock = clock

    def training_step(self, batch, batch_idx):
        self.clock[0] += 2.0
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.clock[0] += 100.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_throughput_is_that_of_training_without_validation(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("lambdanets.callbacks.speed.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    loader = DataLoader(TensorDataset(torch.ones(12, 1)), batch_size=4)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[Speed()], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(SlowSteps(clock), loader, loader)
    assert trainer.callback_metrics["speed/images_per_s"] == 12 / (3 * 2.0)
    assert 0.01 < trainer.callback_metrics["speed/peak_memory_gib"] < 100


def test_neither_validations_nor_checkpoints_within_an_epoch_count(tmp_path, monkeypatch):
    clock = [0.0]

    class SlowWriter(CheckpointWriter):
        def on_save_checkpoint(self, *args):
            super().on_save_checkpoint(*args)
            clock[0] += 1000.0

    for module in ("speed", "checkpoint_writer"):
        now = SimpleNamespace(perf_counter=lambda: clock[0], monotonic=lambda: clock[0])
        monkeypatch.setattr(f"lambdanets.callbacks.{module}.time", now)
    loader = DataLoader(TensorDataset(torch.ones(12, 1)), batch_size=4)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[Speed(), SlowWriter(tmp_path, "val/top1", every_n_steps=1)],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, default_root_dir=tmp_path, val_check_interval=1,
    )  # fmt: skip
    trainer.fit(SlowSteps(clock), loader, loader)
    assert clock[0] > 5000  # there were checkpoints
    assert trainer.callback_metrics["speed/images_per_s"] == 12 / (3 * 2.0)
