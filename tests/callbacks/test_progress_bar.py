"""Progress bar of a training."""

from types import SimpleNamespace

import torch

from lambdanets.callbacks import ProgressBar


def test_without_logging_the_first_loss_stays():
    bar = ProgressBar()
    for step in range(3):
        trainer = SimpleNamespace(
            global_step=step, log_every_n_steps=0, loggers=[], progress_bar_metrics={},
            logged_metrics={"train/loss": torch.tensor(float(step))},
        )  # fmt: skip
        assert bar.get_metrics(trainer, None) == {"train/loss": 0.0}


def test_the_loss_is_read_at_the_first_step_and_when_the_trainer_logs():
    bar, shown = ProgressBar(), []
    for step in range(8):
        trainer = SimpleNamespace(
            global_step=step, log_every_n_steps=3, loggers=[], progress_bar_metrics={"val/top1": 0.5},
            logged_metrics={"train/loss": torch.tensor(float(step))} if step else {},
        )  # fmt: skip
        shown.append(bar.get_metrics(trainer, None))
    assert shown[0] == {"val/top1": 0.5}
    assert [metrics["train/loss"] for metrics in shown[1:]] == [1, 1, 3, 3, 3, 6, 6]
