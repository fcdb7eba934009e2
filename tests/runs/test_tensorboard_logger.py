"""TensorBoard logger: a failure of the log does not end the training."""

import logging

import pytorch_lightning as pl
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset

from lambdanets.runs.tensorboard_logger import ResilientTensorBoardLogger


def read_steps(folder):
    events = EventAccumulator(str(folder)).Reload()
    return [event.step for event in events.Scalars("loss")]


def test_only_the_first_failure_is_logged_and_earlier_events_stay(tmp_path, caplog):
    logger = ResilientTensorBoardLogger(tmp_path, name="run", version="")
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()

    def fail(event):
        raise OSError("No space left on device")

    logger.experiment.file_writer.event_writer.writer.add_event = fail
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            logger.log_metrics({"loss": 1.0}, step=step)
        logger.save()
        logger.finalize("success")
    message = "The TensorBoard log cannot be written (No space left on device): training continues without it."
    assert [record.message for record in caplog.records] == [message]
    assert read_steps(tmp_path / "run") == [0]


class Constant(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, batch_idx):
        loss = self.weight.sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_training_continues_without_its_log(tmp_path):
    logger = ResilientTensorBoardLogger(tmp_path, name="run", version="")

    def fail(event):
        raise OSError("No space left on device")

    logger.experiment.file_writer.event_writer.writer.add_event = fail
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=logger, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Constant(), DataLoader(TensorDataset(torch.ones(5, 1))))
    assert trainer.global_step == 5
