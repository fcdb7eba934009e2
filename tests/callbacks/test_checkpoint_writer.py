"""Files of a run's checkpoints, and when they are written."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lambdanets.callbacks import CheckpointWriter
from lambdanets.errors import UserError
from lambdanets.jobs.fit import check_steps_per_epoch

STEPS = 4  # per epoch


class ScoredEpochs(pl.LightningModule):
    """A task whose validation scores are given."""

    def __init__(self, scores, on_step=lambda step: None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.scores, self.on_step = scores, on_step
        self.batches = []

    def training_step(self, batch, batch_idx):
        self.on_step(self.global_step)
        self.batches.append((self.current_epoch, batch_idx))
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.log("score", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, task, *, epochs, ckpt=None, trainer_options=None, **options):
    loader = DataLoader(TensorDataset(torch.ones(STEPS, 1)))
    writer = CheckpointWriter(folder, "score", **options)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[writer], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
        **(trainer_options or {}),
    )  # fmt: skip
    trainer.fit(task, loader, loader, ckpt_path=ckpt, weights_only=True)
    return writer


def global_step(file):
    return torch.load(file, weights_only=True)["global_step"]


def test_of_equal_scores_the_later_epoch_is_the_best(tmp_path):
    writer = fit(tmp_path, ScoredEpochs([0.5, 0.7, 0.7, 0.6, 0.1]), epochs=5)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert writer.best_score == pytest.approx(0.7)
    assert global_step(tmp_path / "best.ckpt") == 3 * STEPS
    assert global_step(tmp_path / "previous.ckpt") == 4 * STEPS
    assert global_step(tmp_path / "last.ckpt") == 5 * STEPS
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_best_score_survives_a_restart(tmp_path):
    fit(tmp_path, ScoredEpochs([0.5, 0.9]), epochs=2)
    writer = fit(tmp_path, ScoredEpochs([0.5, 0.9, 0.8]), epochs=3, ckpt=tmp_path / "last.ckpt")
    assert writer.best_score == pytest.approx(0.9)
    assert global_step(tmp_path / "best.ckpt") == 2 * STEPS


class CrashError(Exception):
    pass


def crash_at(step):
    def on_step(current):
        if current == step:
            raise CrashError

    return on_step


class CheckedEpochs(ScoredEpochs):
    """A task whose resumed run checks that it has as many steps per epoch as before."""

    def on_train_start(self):
        check_steps_per_epoch(self.trainer)


@pytest.mark.parametrize("within", range(STEPS))  # 0: between two epochs; 3: before the last batch
@pytest.mark.parametrize(("epochs", "limits"), [(2, {}), (3, {"max_steps": 2 * STEPS})])
def test_a_run_resumed_at_any_step_trains_each_batch_once(epochs, limits, within, tmp_path):
    task = ScoredEpochs([0.1, 0.2], on_step=crash_at(STEPS + within))
    with pytest.raises(CrashError):
        fit(tmp_path, task, epochs=epochs, every_n_steps=1, trainer_options=limits)
    assert global_step(tmp_path / "last.ckpt") == STEPS + within
    resumed = CheckedEpochs([0.1, 0.2, 0.3])
    fit(tmp_path, resumed, epochs=epochs, ckpt=tmp_path / "last.ckpt", trainer_options=limits)
    assert len(task.batches) == STEPS + within
    assert resumed.batches == [(1, batch) for batch in range(within, STEPS)]


@pytest.mark.parametrize("steps", [1, STEPS + 3])
def test_a_run_that_max_steps_ended_within_an_epoch_is_refused_with_that_reason(steps, tmp_path):
    fit(tmp_path, ScoredEpochs([0.1, 0.2]), epochs=2, trainer_options={"max_steps": steps})
    with pytest.raises(
        UserError, match=rf"max_steps ended the run after {steps % STEPS} of the {STEPS} steps of an epoch"
    ):
        fit(tmp_path, CheckedEpochs([0.1, 0.2, 0.3]), epochs=3, ckpt=tmp_path / "last.ckpt")


def test_a_checkpoint_is_written_when_the_time_is_over(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("lambdanets.callbacks.checkpoint_writer.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(CheckpointWriter, "CHECK_EVERY_BATCHES", 1)

    def on_step(step):
        clock[0] += 40.0
        if step == 3:
            raise CrashError

    with pytest.raises(CrashError):
        fit(tmp_path, ScoredEpochs([0.1], on_step), epochs=1, every_minutes=1.0)
    assert global_step(tmp_path / "last.ckpt") == 2  # after 80 s; after 120 s only 40 s have passed since then


class ScoredValidations(ScoredEpochs):
    """A task whose scores are given by validation, not by epoch."""

    def __init__(self, scores):
        super().__init__(scores)
        self.validations = -1

    def on_validation_start(self):
        self.validations += 1

    def validation_step(self, batch, batch_idx):
        self.log("score", self.scores[self.validations])


@pytest.mark.parametrize(
    ("interval", "accumulated", "scores", "best"),
    [
        (2, 1, [0.1, 0.9, 0.2, 0.3], 4),
        (2, 1, [0.9, 0.1, 0.2, 0.3], 2),
        (2, 1, [0.1, 0.2, 0.9, 0.3], 6),
        # The first, third, … validation is within a step, so that no checkpoint has just its weights and progress.
        (1, 2, [0.9, 0.1, 0.2, 0.3, 0.8, 0.2, 0.1, 0.1], 2),
    ],
)
def test_the_best_checkpoint_has_the_weights_that_were_validated(interval, accumulated, scores, best, tmp_path):
    options = {"val_check_interval": interval, "accumulate_grad_batches": accumulated}
    fit(tmp_path, ScoredValidations(scores), epochs=2, every_n_steps=3, trainer_options=options)
    assert global_step(tmp_path / "best.ckpt") == best
