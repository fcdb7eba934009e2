"""NCCL: one process, and as many as there are GPUs, under DDP and FSDP. A rehearsal has one process and gloo."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.gpu.conftest import DEVICE, needs_two_gpus
from tests.mixers.test_distributed import Twice, gradients_alone, stop


def start(rank, world_size, folder):
    cuda = DEVICE.type == "cuda"
    if cuda:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if cuda else "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size
    )
    torch.manual_seed(0)
    images = torch.randn(2 * world_size, 8, 4, 5, dtype=torch.float64).to(DEVICE.type)
    return Twice().double().to(DEVICE.type), images


def under_ddp(rank, world_size, folder):
    network, x = start(rank, world_size, folder)
    expected = gradients_alone(network, x)
    spread = DistributedDataParallel(network)
    spread(x[2 * rank :][:2]).square().mean().backward()
    for parameter, grad in zip(spread.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
    stop()


def under_fsdp(rank, world_size, folder):
    network, x = start(rank, world_size, folder)
    expected = gradients_alone(copy.deepcopy(network), x)
    mesh = init_device_mesh(DEVICE.type, (world_size,))
    fully_shard(network.layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    network(x[2 * rank :][:2]).square().mean().backward()
    for parameter, grad in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad.full_tensor(), grad)
    stop()


@pytest.mark.parametrize("way", [under_ddp, under_fsdp])
def test_one_process_has_the_gradients_of_a_training_alone(way, tmp_path):
    torch.multiprocessing.spawn(way, args=(1, str(tmp_path)), nprocs=1)


@needs_two_gpus
@pytest.mark.parametrize("way", [under_ddp, under_fsdp])
def test_all_gpus_have_the_gradients_of_one(way, tmp_path):
    count = torch.cuda.device_count()
    torch.multiprocessing.spawn(way, args=(count, str(tmp_path)), nprocs=count)
