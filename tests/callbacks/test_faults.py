"""Losses that aren't finite, and a TensorBoard that dies."""

import logging

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lambdanets.callbacks import NonFiniteGuard
from lambdanets.errors import UserError
from lambdanets.runs.tensorboard_logger import ResilientTensorBoardLogger


class Line(pl.LightningModule):
    """One weight with momentum, whose third batch has an infinite loss."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.weights = []

    def training_step(self, batch, batch_idx):
        self.weights.append(self.weight.detach().clone())
        return (self.weight * batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.5, momentum=0.9, weight_decay=0.1)


def fit(folder, callback, logger=False):
    data = torch.ones(5, 2)
    data[2] = torch.inf
    task = Line()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=logger, callbacks=[callback], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(task, DataLoader(TensorDataset(data), batch_size=1))
    return task


def test_the_run_ends_at_the_first_step_that_is_not_finite(tmp_path):
    with pytest.raises(UserError, match=r"not finite at step 2, learning rate 0.5: lower"):
        fit(tmp_path, NonFiniteGuard())


def test_such_a_step_changes_nothing_and_is_counted(tmp_path):
    callback = NonFiniteGuard(skip=True)
    task = fit(tmp_path, callback)
    assert callback.skipped == 1
    assert torch.equal(task.weights[3], task.weights[2])
    assert not torch.equal(task.weights[4], task.weights[3])
    assert torch.isfinite(task.weight).all()


def test_training_goes_on_without_tensorboard(tmp_path, caplog):
    logger = ResilientTensorBoardLogger(tmp_path, name="run", version="")

    def die(event):
        raise OSError("No space left on device")

    logger.experiment.file_writer.event_writer.writer.add_event = die
    with caplog.at_level(logging.WARNING):
        fit(tmp_path, NonFiniteGuard(skip=True), logger)
    assert caplog.text.count("The TensorBoard log cannot be written (No space left on device)") == 1
