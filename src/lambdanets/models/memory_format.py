"""Order of convolutions' weights in memory."""

import torch
from torch import nn


def lay_out_convolutions(model: nn.Module) -> None:
    """Store the weights of a model's convolutions in channels_last order, for GPUs.

    cuDNN would otherwise copy each of them, and its gradient, in each step of a network whose maps have that order. A
    network with channels_last=false stays as it is.
    """
    if any(getattr(module, "memory_format", None) is torch.contiguous_format for module in model.modules()):
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.to(memory_format=torch.channels_last)
