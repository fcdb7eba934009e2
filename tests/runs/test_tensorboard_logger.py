"""TensorBoard logger: a failure of the log does not end the training."""

import logging

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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
