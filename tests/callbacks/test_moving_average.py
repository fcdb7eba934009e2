"""Exponential moving average of the weights."""

import copy

import torch
from pytorch_lightning.callbacks import EMAWeightAveraging

from lambdanets.callbacks import MovingAverage
from tests.callbacks.test_non_finite_guard import InfiniteThirdBatch, fit


class Averaged(InfiniteThirdBatch):
    """The task with a batch norm, whose statistics are averaged and whose counter is not."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(2)

    def training_step(self, batch, batch_idx):
        self.norm(torch.randn(4, 2, generator=torch.Generator().manual_seed(batch_idx)))
        return (self.weight * (batch_idx + 1.0)).sum()


def test_the_average_is_that_of_lightning(tmp_path):
    averages = []
    for callback in (EMAWeightAveraging(decay=0.7), MovingAverage(0.7)):
        _, task = fit(tmp_path, callback, Averaged())
        averages.append(task.state_dict())
        assert callback._average_model.n_averaged == 5
    for name, expected in averages[0].items():
        if expected.is_floating_point():
            torch.testing.assert_close(averages[1][name], expected)


def test_a_resumed_run_continues_the_average_of_a_run_with_lightnings_callback(tmp_path):
    old = EMAWeightAveraging(decay=0.7)
    trainer, _ = fit(tmp_path, old, Averaged())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    expected = copy.deepcopy(old._average_model.module.state_dict())
    new = MovingAverage(0.7)
    fit(tmp_path, new, Averaged(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert new._latest_update_step == 5
    for name, value in new._average_model.module.state_dict().items():
        assert torch.equal(value, expected[name])
