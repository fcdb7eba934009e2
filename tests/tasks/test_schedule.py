"""The learning rate against lightning-bolts'."""

import numpy as np
import pytest
import torch

from lambdanets.bolts import import_bolts
from lambdanets.tasks.schedule import warmup_cosine


@pytest.mark.parametrize(("warmup", "total"), [(5, 40), (2, 11)])
def test_the_schedule_equals_that_of_lightning_bolts(warmup, total):
    def rates(make):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
        schedule = make(optimizer)
        values = []
        for _ in range(total):
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return values

    reference = import_bolts("optimizers.lr_scheduler").LinearWarmupCosineAnnealingLR
    ours = rates(lambda optimizer: warmup_cosine(optimizer, warmup_steps=warmup, total_steps=total))
    theirs = rates(lambda optimizer: reference(optimizer, warmup, total, warmup_start_lr=0.4 / warmup))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_final_steps_keep_one_percent_of_the_peak_rate_behind_a_shorter_cosine():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = warmup_cosine(optimizer, warmup_steps=2, total_steps=15, final_steps=3)
    rates = []
    for _ in range(15):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.4])
    assert rates[7] == pytest.approx((0.4 + 0.004) / 2)  # the middle of the cosine's ten steps
    assert rates[12:] == pytest.approx([0.004] * 3)
    assert rates[2:13] == sorted(set(rates[2:13]), reverse=True)
