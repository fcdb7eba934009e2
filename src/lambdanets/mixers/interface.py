"""The protocols of mixers and gates, and functions that several mixers use."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lambdanets.errors import UserError


class Mixer(Protocol):
    """A factory of the module that mixes positions in one bottleneck, such as a partial of its class.

    The module is (B, C, H, W) → (B, C, ⌈H / stride⌉, ⌈W / stride⌉).

    Args of the call:
        channels: C, the bottleneck's inner width.
        stride: 1 or 2.
        feature_size: (H, W) of the input. A mixer whose parameters don't depend on it ignores it.
    """

    def __call__(self, channels: int, *, stride: int, feature_size: tuple[int, int]) -> nn.Module: ...


@runtime_checkable
class GatedMixer(Mixer, Protocol):
    """A mixer that also makes the gate at the end of its blocks."""

    def gate(self, channels: int) -> nn.Module:
        """Make a gate, see `Gate`."""


class Gate(Protocol):
    """A factory of the module that reweights the channels of a block's output: (B, C, H, W) → (B, C, H, W)."""

    def __call__(self, channels: int) -> nn.Module: ...


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Return the order of (B, C, H, W) in memory."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def stride_pool(stride: int) -> nn.Module:
    """Make the 3×3 average pooling behind a mixer without a stride, which replaces a strided convolution.

    Windows at the border average over the positions that exist.
    """
    if stride == 1:
        return nn.Identity()
    return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)


def channels_per_head(channels: int, heads: int) -> int:
    """Return the channels of one head.

    Raises:
        UserError: the heads don't divide the channels.
    """
    if heads < 1 or channels % heads:
        divisors = ", ".join(str(n) for n in (1, 2, 4, 8, 16, 32) if channels % n == 0)
        raise UserError(
            f"heads={heads} does not divide the {channels} channels of a layer; choose one that divides every "
            f"stage's width (here {divisors}) or change model.width."
        )
    return channels // heads
