"""Losses and gradients that are not finite."""

from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch.utils.data import DataLoader, TensorDataset

from lambdanets.callbacks import NonFiniteGuard
from lambdanets.callbacks.non_finite_guard import PendingCheck
from lambdanets.errors import UserError
from lambdanets.tasks.optimizers import prepare_fused

SGD = partial(torch.optim.SGD, lr=0.5, momentum=0.9, weight_decay=0.1)


class InfiniteThirdBatch(pl.LightningModule):
    """One weight with momentum, whose third batch has an infinite loss."""

    def __init__(self, create=SGD):
        super().__init__()
        self.create = create
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.weights = []

    def training_step(self, batch, batch_idx):
        self.weights.append(self.weight.detach().clone())
        return (self.weight * batch[0]).sum()

    def configure_optimizers(self):
        return self.create([self.weight])


class Normalized(InfiniteThirdBatch):
    """The task with a batch norm, whose statistics a batch that is not finite would spoil for good."""

    def __init__(self, create=SGD):
        super().__init__(create)
        self.norm = torch.nn.BatchNorm1d(2, affine=False)
        self.means = []

    def training_step(self, batch, batch_idx):
        self.means.append(self.norm.running_mean.clone())
        self.norm(batch[0].expand(4, 2))
        return super().training_step(batch, batch_idx)


def fit(folder, callback, task=None, bad=2, **options):
    data = torch.ones(5, 2)
    data[bad] = torch.inf
    task = task or InfiniteThirdBatch()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, callbacks=[callback], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(task, DataLoader(TensorDataset(data), batch_size=1), **options)
    return trainer, task


def test_the_run_ends_at_the_first_step_that_is_not_finite(tmp_path):
    with pytest.raises(UserError, match=r"not finite at step 2, learning rate 0.5: lower"):
        fit(tmp_path, NonFiniteGuard())


def test_pure_float16_is_named_as_the_cause(tmp_path):
    guard = NonFiniteGuard()
    guard.setup(SimpleNamespace(precision="16-true"), None, "fit")
    guard.pending.append(PendingCheck(0, 0.1, torch.tensor(torch.inf)))
    with pytest.raises(UserError, match=r"trainer.precision=16-true keeps .* set trainer.precision=bf16-mixed"):
        guard.check()


@pytest.mark.parametrize("bad", [0, 2])
def test_a_skipped_step_leaves_the_statistics_of_batch_norms(tmp_path, bad):
    _, task = fit(tmp_path, NonFiniteGuard(skip=True), Normalized(), bad=bad)
    assert torch.equal(task.means[bad + 1], task.means[bad])
    # Four steps with images of value 1: the mean moves by a tenth of its distance to 1 at each.
    torch.testing.assert_close(task.norm.running_mean, torch.full((2,), 1 - 0.9**4))
    assert torch.isfinite(task.norm.running_var).all()


def test_with_a_gradient_scaler_the_loss_decides_about_the_statistics():
    guard, task = NonFiniteGuard(skip=True), Normalized()
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    trainer = SimpleNamespace(precision_plugin=precision, optimizers=[SGD([task.weight])], global_step=0)
    guard.on_train_start(trainer, task)
    for loss, mean in ((1.0, 0.1), (torch.inf, 0.1), (1.0, 0.19)):
        task.norm(torch.full((4, 2), loss))
        guard.on_train_batch_end(trainer, task, {"loss": torch.tensor(loss)}, None, 0)
        torch.testing.assert_close(task.norm.running_mean, torch.full((2,), mean))


def test_a_skipped_step_changes_nothing_and_is_counted(tmp_path):
    callback = NonFiniteGuard(skip=True)
    trainer, task = fit(tmp_path, callback)
    assert callback.skipped == 1
    assert torch.equal(task.weights[3], task.weights[2])
    assert not torch.equal(task.weights[4], task.weights[3])
    assert torch.isfinite(task.weight).all()
    assert trainer.logged_metrics["train/skipped"] == 1
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = NonFiniteGuard(skip=True)
    fit(tmp_path, resumed, ckpt_path=tmp_path / "last.ckpt", weights_only=True)  # a finished epoch, without more steps
    assert resumed.skipped == 1


@pytest.mark.parametrize("bad", [0, 2])
@pytest.mark.parametrize(
    "create",
    [
        partial(torch.optim.SGD, lr=0.5, momentum=0.9, nesterov=True, weight_decay=0.1),
        partial(torch.optim.AdamW, lr=0.5, weight_decay=0.1),
    ],
)
def test_a_fused_optimizer_skips_like_others_without_reading_the_norm(tmp_path, create, bad):
    tasks = [InfiniteThirdBatch(create), InfiniteThirdBatch(lambda groups: prepare_fused(create(groups, fused=True)))]
    counts = []
    for task in tasks:
        callback = NonFiniteGuard(skip=True)
        trainer, _ = fit(tmp_path, callback, task, bad)
        counts.append((callback.skipped, trainer.logged_metrics["train/skipped"].item()))
    assert counts == [(1, 1.0)] * 2
    torch.testing.assert_close(torch.stack(tasks[1].weights), torch.stack(tasks[0].weights))
    assert torch.equal(tasks[1].weights[bad + 1], tasks[1].weights[bad])
    torch.testing.assert_close(tasks[1].weight, tasks[0].weight)


def test_on_a_gpu_values_are_checked_some_steps_later_and_before_a_checkpoint():
    class DeviceTensor:
        """A tensor that claims to be on a GPU."""

        device = torch.device("cuda")

    guard = NonFiniteGuard()
    trainer = SimpleNamespace(global_step=0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    for step in range(guard.CHECK_EVERY_STEPS - 1):
        trainer.global_step = step
        guard.check_later(trainer, optimizer, DeviceTensor())
    assert len(guard.pending) == guard.CHECK_EVERY_STEPS - 1
    guard.pending = [check._replace(value=torch.tensor(1.0)) for check in guard.pending]
    guard.pending[7] = guard.pending[7]._replace(value=torch.tensor(torch.nan))
    guard.pending[9] = guard.pending[9]._replace(value=torch.tensor(torch.inf))
    with pytest.raises(UserError, match="not finite at step 7,"):
        guard.on_save_checkpoint(trainer, None, {})
