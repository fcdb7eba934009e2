"""Frozen and synchronized batch norms."""

import copy
import os

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lambdanets.models.batch_norm import (
    FrozenBatchNorm2d,
    SyncBatchNorm2d,
    freeze_batch_norms,
    synchronize_batch_norms,
)


def network():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5, eps=1e-3, momentum=0.2)
    nn.init.normal_(norm.weight)
    return nn.Sequential(nn.Conv2d(3, 5, 1), nn.Sequential(norm, nn.ReLU()), nn.BatchNorm2d(5, affine=False))


@pytest.mark.parametrize("replace", [freeze_batch_norms, synchronize_batch_norms])
def test_parameters_and_their_names_stay(replace):
    model = network()
    before, parameters = copy.deepcopy(model.state_dict()), [*model.parameters()]
    replaced = replace(model)
    assert replaced is model
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert (model[1][0].eps, model[1][0].momentum) == (1e-3, 0.2)


def test_frozen_norms_do_not_train_and_are_not_synchronized():
    model = synchronize_batch_norms(freeze_batch_norms(network())).train()
    assert isinstance(model[1][0], FrozenBatchNorm2d)
    before = copy.deepcopy(model[1].state_dict())
    x = torch.randn(4, 3, 2, 2)
    expected = (model[0](x) - before["0.running_mean"].view(-1, 1, 1)) / (
        before["0.running_var"].view(-1, 1, 1) + 1e-3
    ).sqrt() * before["0.weight"].view(-1, 1, 1) + before["0.bias"].view(-1, 1, 1)
    torch.testing.assert_close(model[1][0](model[0](x)), expected)
    model(x).square().sum().backward()
    assert [parameter.grad is None for parameter in model.parameters()] == [False, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model[1].state_dict().items())


def check_uneven_process(rank, folder):
    """Processes with maps of other sizes, as those of detectors: the statistics are those of all positions."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = network().double()
    expected_model, model = copy.deepcopy(model), synchronize_batch_norms(model)
    maps = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(1, 3, 2, 3, dtype=torch.float64)
    positions = torch.cat([x.movedim(1, 0).flatten(1) for x in maps], 1)[None, :, None]  # (1, 3, 1, 40 + 6)
    y, expected = model(maps[rank]), expected_model(positions).split([40, 6], 3)[rank]
    torch.testing.assert_close(y.movedim(1, 0).flatten(1)[None, :, None], expected)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected_model.state_dict()[name])
    y.pow(3).sum().backward()
    expected_model(positions).pow(3).sum().backward()
    for parameter, other in zip(model.parameters(), expected_model.parameters(), strict=True):
        dist.all_reduce(parameter.grad)
        torch.testing.assert_close(parameter.grad, other.grad)
    dist.destroy_process_group()
    os._exit(0)


def check_process(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = network().double()
    expected_model, model = copy.deepcopy(model), synchronize_batch_norms(model)
    assert isinstance(model[1][0], SyncBatchNorm2d)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    share = slice(2 * rank, 2 * rank + 2)
    y, expected = model(x[share]), expected_model(x)
    torch.testing.assert_close(y, expected[share])
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected_model.state_dict()[name])
    y.pow(3).sum().backward()
    expected.pow(3).sum().backward()
    for parameter, other in zip(model.parameters(), expected_model.parameters(), strict=True):
        dist.all_reduce(parameter.grad)
        torch.testing.assert_close(parameter.grad, other.grad)
    # A process that returns is now and then aborted by gloo's threads while Python shuts down.
    dist.destroy_process_group()
    os._exit(0)


@pytest.mark.parametrize("check", [check_process, check_uneven_process])
def test_two_processes_normalize_like_one_with_the_global_batch(check, tmp_path):
    torch.multiprocessing.spawn(check, args=(str(tmp_path),), nprocs=2)


def test_on_a_gpu_the_norms_are_those_of_torch():
    model = synchronize_batch_norms(network(), on_gpu=True)  # before the model has moved there
    assert [type(model[1][0]), type(model[2])] == [nn.SyncBatchNorm] * 2
