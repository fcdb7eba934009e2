"""What the skeleton asks of a mixer and of a gate."""

from typing import Protocol

import torch
from torch import Tensor, nn

from lambdanets.errors import UserError


class Mixer(Protocol):
    """Makes the module that mixes positions in one bottleneck: (B, C, H, W) → (B, C, ⌈H / stride⌉, ⌈W / stride⌉).

    Args of the call:
        channels: C, the bottleneck's inner width.
        stride: 1 or 2.
        feature_size: (H, W) of the input. A mixer whose parameters don't depend on it ignores it.

    A factory with an attribute `gate`, itself a `Gate`, brings that gate to its blocks.
    """

    def __call__(self, channels: int, *, stride: int, feature_size: tuple[int, int]) -> nn.Module: ...


class Gate(Protocol):
    """Makes the module that reweighs the channels of a block's output: (B, C, H, W) → (B, C, H, W)."""

    def __call__(self, channels: int) -> nn.Module: ...


def memory_format_of(x: Tensor) -> torch.memory_format:
    """How (B, C, H, W) lies in memory."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def stride_pool(stride: int) -> nn.Module:
    """The 3×3 average pooling that gives a mixer without a stride of its own the stride of the convolution it replaces.

    Border windows average over the positions that exist.
    """
    if stride == 1:
        return nn.Identity()
    return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)


def channels_per_head(channels: int, heads: int) -> int:
    """The channels of one head.

    Raises:
        UserError: the heads don't divide the channels.
    """
    if heads < 1 or channels % heads:
        choices = ", ".join(str(n) for n in (1, 2, 4, 8, 16, 32) if channels % n == 0)
        raise UserError(
            f"heads={heads} does not divide the {channels} channels of a layer; choose one that divides every "
            f"stage's width (here {choices}) or change model.width."
        )
    return channels // heads
