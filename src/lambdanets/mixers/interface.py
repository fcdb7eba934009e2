"""The protocols of mixers and gates, and functions that several mixers use."""

from contextlib import nullcontext
from typing import Protocol, runtime_checkable

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lambdanets.errors import UserError
from lambdanets.ops import is_transformed


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
    """Return the order of (B, C, H, W) in memory; under `torch.func` transforms, which don't know it, the default."""
    if is_transformed():
        return torch.contiguous_format
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


@torch.fx.wrap
def lay_out(x: Tensor, memory_format: torch.memory_format | None) -> Tensor:
    """Copy (B, C, H, W) to an order in memory, if one is given and it has another; one node of a symbolic trace."""
    return x if memory_format is None or is_transformed() else x.contiguous(memory_format=memory_format)


@torch.fx.wrap
def lay_out_like(x: Tensor, other: Tensor) -> Tensor:
    """Copy (B, C, H, W) to the order in memory of another tensor, if it has another."""
    return lay_out(x, memory_format_of(other))


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Compute softmax(scale · Q Kᵀ + bias) V; fast kernels have no forward mode, so transforms get plain products."""
    with sdpa_kernel(SDPBackend.MATH) if is_transformed() else nullcontext():
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)


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
