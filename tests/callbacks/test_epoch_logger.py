"""The log line of an epoch."""

import logging
import re

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lambdanets.callbacks import EpochLogger
from lambdanets.tasks import Task


class Counter(Task):
    """A task whose logged scores are known: the loss is 2.5, the validation accuracy 0.1 times the epoch."""

    SCORES = ("test/top1", "val/top1")

    def __init__(self, clock, seconds_per_epoch):
        super().__init__(torch.nn.Identity(), optimizer=torch.optim.SGD, batch_size=1)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.clock, self.seconds_per_epoch = clock, seconds_per_epoch

    def training_step(self, batch, batch_idx):
        loss = 2.5 + 0 * self.weight.sum()
        self.log("train/loss", loss)
        self.log("train/other", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/top1", 0.1 * (self.current_epoch + 1))

    def on_validation_epoch_end(self):
        self.clock[0] += self.seconds_per_epoch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("lambdanets.callbacks.epoch_logger.time.monotonic", lambda: now[0])
    return now


def log_lines(clock, caplog, folder, epochs, seconds_per_epoch, **options):
    loader = DataLoader(TensorDataset(torch.ones(2, 1)), batch_size=1)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, callbacks=[EpochLogger()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip
    task = Counter(clock, seconds_per_epoch)
    with caplog.at_level(logging.INFO, logger="lambdanets.callbacks.epoch_logger"):
        trainer.fit(task, loader, loader, **options)
    lines = [record.getMessage() for record in caplog.records if record.name == "lambdanets.callbacks.epoch_logger"]
    return trainer, lines


def test_each_epoch_has_its_scores_and_the_time_that_is_left(clock, caplog, tmp_path):
    _, lines = log_lines(clock, caplog, tmp_path, epochs=3, seconds_per_epoch=40.0)
    assert lines == [
        "epoch 1/3  train/loss 2.5  val/top1 0.1  80 s left",
        "epoch 2/3  train/loss 2.5  val/top1 0.2  40 s left",
        "epoch 3/3  train/loss 2.5  val/top1 0.3",
    ]


def test_a_resumed_run_extrapolates_from_its_own_epochs(clock, caplog, tmp_path):
    trainer, _ = log_lines(clock, caplog, tmp_path, epochs=2, seconds_per_epoch=1000.0)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    caplog.clear()
    _, lines = log_lines(
        clock, caplog, tmp_path, epochs=6, seconds_per_epoch=10.0, ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    remaining = [int(match[1]) for line in lines if (match := re.search(r"  (\d+) s left$", line))]
    assert remaining == [30, 20, 10]
    assert lines[-1].startswith("epoch 6/6  ")
