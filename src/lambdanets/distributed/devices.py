"""Devices of a trainer config, and the number of local processes."""

import os
from collections.abc import Mapping
from typing import Any

from lambdanets.errors import UserError


def check_devices(trainer: Mapping[str, Any]) -> None:
    """Check that this machine has the devices of a trainer config.

    Args:
        trainer: trainer config with accelerator, devices and strategy.

    Raises:
        UserError: the config asks for more GPUs or CPU cores than there are, or names CPU cores.
    """
    import torch

    accelerator, devices = trainer["accelerator"], trainer["devices"]
    gpus = torch.cuda.device_count()
    if accelerator in ("gpu", "cuda") and gpus == 0:
        raise UserError(f"trainer.accelerator={accelerator} needs a GPU, but torch finds none: set trainer=cpu.")
    is_count = str(devices).isdigit() and int(devices) >= 1
    if (gpus == 0 or accelerator == "cpu") and devices != "auto" and not is_count:
        raise UserError(
            f"trainer.devices={devices} names GPUs, but the training runs on the CPU: set the number of its processes, "
            "as trainer.devices=1."
        )
    if not isinstance(devices, int) or devices <= 1:
        return
    if accelerator == "auto" and gpus == 0 and trainer["strategy"] == "auto":
        raise UserError(
            f"trainer.devices={devices} asks for {devices} GPUs, but this machine has none: leave it out, or set "
            f"trainer=ddp trainer.devices={devices} for {devices} processes on the CPU."
        )
    available, kind = (gpus, "GPUs") if gpus and accelerator != "cpu" else (os.cpu_count() or 1, "CPU cores")
    if devices > available:
        raise UserError(f"trainer.devices={devices} is more than the {available} {kind} of this machine: lower it.")


def count_local_processes(trainer: Mapping[str, Any]) -> int:
    """Return the number of processes on this machine for a trainer config."""
    strategy, devices = trainer["strategy"], trainer["devices"]
    if strategy == "auto" and devices == 1:
        return 1
    if isinstance(devices, int) and devices >= 0:
        return devices
    if isinstance(devices, str) and devices.isdigit():
        return int(devices)
    if isinstance(devices, str) and "," in devices:  # indices of GPUs, as in "0,1"
        return len([index for index in devices.split(",") if index.strip()])
    import torch

    gpus = torch.cuda.device_count() if trainer["accelerator"] != "cpu" else 0
    return max(gpus, 1) if devices in ("auto", -1, "-1") else len(devices)
