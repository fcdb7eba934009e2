"""The bare training loop does the same training as job=fit."""

import time

import pytest
import pytorch_lightning as pl
import torch

from lambdanets.config import experiments
from lambdanets.config.build import build_data, build_task
from lambdanets.jobs.benchmark_training import EpochClock, HookTimer, train_bare_epoch
from tests.configs import composing

# Random crops are drawn from another generator in the bare loop, so the comparison is without them.
OVERRIDES = ["model=tiny", "recipe.augment.crop_padding=0", "recipe.augment.flip=false", "trainer.max_epochs=2"]


class FirstEpoch(pl.Callback):
    """The training losses of the first epoch, and the weights and the score behind it."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 0:
            self.losses.append(outputs["loss"].detach().clone())

    def on_validation_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            self.weights = {name: tensor.clone() for name, tensor in pl_module.model.state_dict().items()}
            self.val_top1 = trainer.callback_metrics["val/top1"].item()


# One recipe without, and one with a learning rate that depends on the batch size and is small in the last epoch.
@pytest.mark.parametrize(
    "options",
    [
        ["recipe=digits", "mixer=lambda"],
        ["recipe=cifar", "recipe.batch_size=64", "recipe.warmup_epochs=0.2", "task.final_epochs=1"],
    ],
)
def test_losses_weights_and_score_equal_the_tasks(options, tmp_path):
    with composing():
        config = experiments.compose_config([*options, *OVERRIDES])

    def build():
        data = build_data(config)
        data.prepare_data()
        data.setup("fit")
        return data, build_task(config, data, data.classes)

    data, task = build()
    epoch = FirstEpoch()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[epoch], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)

    data, task = build()
    bare = train_bare_epoch(task, data, torch.device("cpu"), epochs=2)
    assert bare.seconds > 0
    assert len(bare.losses) > 10
    assert torch.equal(bare.losses, torch.stack(epoch.losses))
    weights = task.model.state_dict()
    assert weights.keys() == epoch.weights.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in epoch.weights.items())
    assert bare.val_top1 == pytest.approx(epoch.val_top1, abs=1e-6)


class Slow(pl.Callback):
    """A callback with one hook that takes a while."""

    def on_train_end(self, trainer, pl_module):
        time.sleep(0.02)


def test_hooks_of_watched_callbacks_are_timed():
    timer = HookTimer()
    watched, other = Slow(), Slow()
    timer.watch([watched])
    for _ in range(2):
        watched.on_train_end(None, None)
        other.on_train_end(None, None)
    assert 0.04 <= timer.seconds < 0.2
    watched.on_train_start(None, None)
    assert "on_train_start" not in vars(watched)


def test_the_clock_has_the_begin_of_each_epoch_and_the_end(tmp_path):
    clock = EpochClock()
    with composing():
        config = experiments.compose_config([*OVERRIDES, "mixer=conv"])
    data = build_data(config)
    data.prepare_data()
    task = build_task(config, data, [str(digit) for digit in range(10)])
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, limit_train_batches=1, limit_val_batches=1, callbacks=[clock], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    assert len(clock.times) == 4
    assert clock.times == sorted(clock.times)
