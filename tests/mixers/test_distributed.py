"""A layer that is used twice in a network, under PyTorch's two ways to train on several devices."""

import copy
import os

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lambdanets.mixers import LambdaLayer


class Twice(nn.Module):
    """One lambda layer at two depths: its parameters get two gradients a step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LambdaLayer(8, scope="global", feature_size=(4, 5), key_depth=3, heads=2, batch_norm=False)

    def forward(self, x):
        return self.layer(torch.relu(self.layer(x)))


def start(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Twice().double(), torch.randn(4, 8, 4, 5, dtype=torch.float64)


def stop():
    """Ends a process whose checks have passed; one that returns is now and then aborted while Python shuts down."""
    dist.destroy_process_group()
    os._exit(0)


def gradients_alone(network, x):
    network = copy.deepcopy(network)
    network(x).square().mean().backward()
    return [parameter.grad for parameter in network.parameters()]


def under_ddp(rank, folder):
    network, x = start(rank, folder)
    expected = gradients_alone(network, x)
    spread = DistributedDataParallel(network)
    spread(x[2 * rank :][:2]).square().mean().backward()
    for parameter, grad in zip(spread.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
    stop()


def under_fsdp(rank, folder):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    network, x = start(rank, folder)
    expected = gradients_alone(network, x)
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(network.layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    network(x[2 * rank :][:2]).square().mean().backward()
    for parameter, grad in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad.full_tensor(), grad)
    stop()


@pytest.mark.parametrize("way", [under_ddp, under_fsdp])
def test_two_processes_give_the_gradients_of_one(way, tmp_path):
    torch.multiprocessing.spawn(way, args=(str(tmp_path),), nprocs=2)
