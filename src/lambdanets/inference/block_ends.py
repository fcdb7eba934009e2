"""Gates and poolings at the end of blocks, in one pass in C each; without a compiler, by PyTorch's operators."""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from lambdanets.ops.compiler import try_compile

SOURCE = Path(__file__).with_name("block_ends.c")


@cache
def load_library() -> ctypes.CDLL | None:
    """Compile the source, once; None without a compiler."""
    return try_compile(SOURCE)


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def sizes(*numbers: int) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(number) for number in numbers]


def scale_and_add(y: Tensor, factors: Tensor, other: Tensor, *, relu: bool) -> Tensor:
    """Compute y · factors + other in the memory of y, and optionally a ReLU.

    Args:
        y: (B, C, H, W).
        factors: (B, C, 1, 1).
        other: (B, C, H, W).
        relu: clamp the result at zero.
    """
    library = load_library()
    last = torch.channels_last
    factors = factors.to(y.dtype)  # autocast computes them in half precision
    is_float = y.dtype is other.dtype is torch.float32
    is_last = y.is_contiguous(memory_format=last) and other.is_contiguous(memory_format=last)
    if library is None or not is_float or not is_last:
        y = torch.addcmul(other, y, factors)
        return y.relu_() if relu else y
    batch, channels, height, width = y.shape
    factors = factors.contiguous()
    numbers = sizes(torch.get_num_threads(), batch, height * width, channels)
    library.scale_and_add(*numbers, pointer(factors), pointer(other), pointer(y), *sizes(relu))
    return y


def pool(layer: nn.Module, x: Tensor, *, relu: bool) -> Tensor:
    """Compute a lambda layer's pooling, and optionally a ReLU: (B, H, W, C) → (B, C, H', W'), channels last.

    Args:
        layer: the pooling, or an identity.
        x: contiguous.
        relu: clamp the result at zero.
    """
    library = load_library()
    options = ("kernel_size", "stride", "padding", "count_include_pad")
    is_paper = isinstance(layer, nn.AvgPool2d) and [getattr(layer, name) for name in options] == [3, 2, 1, False]
    if library is None or not is_paper:
        y = layer(x.permute(0, 3, 1, 2))
        return y.relu() if relu else y
    batch, height, width, channels = x.shape
    y = x.new_empty(batch, (height + 1) // 2, (width + 1) // 2, channels)
    numbers = sizes(torch.get_num_threads(), batch, height, width, channels)
    library.pool(*numbers, pointer(x), pointer(y), *sizes(relu))
    return y.permute(0, 3, 1, 2)
