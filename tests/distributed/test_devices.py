"""Devices and numbers of processes of trainer configs, on machines with and without GPUs."""

import os

import pytest
import torch

from lambdanets.distributed.devices import check_devices, count_local_processes
from lambdanets.errors import UserError


def trainer(devices, strategy="auto", accelerator="auto"):
    return {"devices": devices, "strategy": strategy, "accelerator": accelerator}


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that sets the number of GPUs."""
    return lambda count: monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("config", "gpu_count", "processes"),
    [
        (trainer(1), 4, 1),
        (trainer("auto", "ddp"), 4, 4),
        (trainer(-1, "ddp"), 4, 4),
        (trainer("auto", "ddp"), 0, 1),
        (trainer("auto", "ddp", "cpu"), 4, 1),
        (trainer(2, "ddp"), 0, 2),
        (trainer("2", "fsdp"), 4, 2),
        (trainer([0, 3], "ddp"), 4, 2),
        (trainer("0,3", "ddp"), 4, 2),
        (trainer("3,", "ddp"), 4, 1),
    ],
)
def test_processes_of_a_trainer_config(config, gpu_count, processes, gpus):
    gpus(gpu_count)
    assert count_local_processes(config) == processes


@pytest.mark.parametrize(
    ("config", "gpu_count", "message"),
    [
        (trainer(1, accelerator="gpu"), 0, "trainer.accelerator=gpu needs a GPU"),
        (trainer(2), 0, "trainer.devices=2 asks for 2 GPUs, but this machine has none"),
        (trainer(4, "ddp"), 2, "trainer.devices=4 is more than the 2 GPUs of this machine"),
        (trainer([0]), 0, r"trainer.devices=\[0\] names GPUs, but the training runs on the CPU"),
        (trainer(-1), 0, "trainer.devices=-1 names GPUs, but the training runs on the CPU"),
        (trainer([0], accelerator="cpu"), 2, r"trainer.devices=\[0\] names GPUs"),
        (trainer(0), 0, "trainer.devices=0 names GPUs"),
        (trainer(10**6, "ddp", "cpu"), 2, f"is more than the {os.cpu_count()} CPU cores of this machine"),
    ],
)
def test_missing_devices(config, gpu_count, message, gpus):
    gpus(gpu_count)
    with pytest.raises(UserError, match=message):
        check_devices(config)


@pytest.mark.parametrize(
    "config",
    [
        trainer(1),
        trainer("auto", "ddp"),
        trainer(2, "ddp"),
        trainer("2", "ddp"),
        trainer([0]),
        trainer(1, accelerator="gpu"),
    ],
)
def test_available_devices(config, gpus):
    gpus(2)
    check_devices(config)
