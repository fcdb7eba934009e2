"""Passes over memory in training, on a CPU: batch norms and transposes.

With PyTorch's operators they take about twice as long, and need copies of columns. Those in `passes.c` need a C
compiler; they see maps as matrices (rows, channels), whose rows are positions.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lambdanets.ops.compiler import compile_library

SOURCE = Path(__file__).with_name("passes.c")
C_TYPES = {torch.float32: "float", torch.float64: "double"}


class Norm(ctypes.Structure):
    """The struct of the same name in the source."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("threads", "rows", "channels", "input_stride", "result_stride")),
        ("update", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("eps", "momentum")),
    ]


@cache
def load_library(real: torch.dtype, input_type: torch.dtype, result_type: torch.dtype) -> ctypes.CDLL:
    """Compile the source for data types of the parameters, the input and the result."""
    half = {"BF16_INPUT": input_type, "BF16_RESULT": result_type}
    definitions = {name: "1" for name, dtype in half.items() if dtype is torch.bfloat16}
    return compile_library(SOURCE, REAL=C_TYPES[real], **definitions)


class Statistics(NamedTuple):
    """Mean and 1 / √(variance + eps) of each channel."""

    mean: Tensor
    rstd: Tensor


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def normalize(x: Tensor, norm: nn.BatchNorm2d, y: Tensor) -> Statistics:
    """Normalize the columns of x, (rows, channels), into y as `norm` does in training; update its running statistics.

    Args:
        x: (rows, channels) in float32, float64 or bfloat16; rows may be apart in memory.
        norm: a batch norm with gain, bias and running statistics.
        y: (rows, channels), the result.
    """
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    real, threads = norm.weight.dtype, torch.get_num_threads()
    sizes = Norm(threads, *x.shape, x.stride(0), y.stride(0), True, norm.eps, momentum)
    mean, rstd = norm.weight.new_empty(2, x.shape[1]).unbind()
    scratch = x.new_empty(threads * 5 * x.shape[1], dtype=torch.float64)
    parameters = norm.weight, norm.bias, norm.running_mean, norm.running_var
    library = load_library(real, x.dtype, y.dtype)
    library.normalize(
        ctypes.byref(sizes), address(x), *map(address, parameters), *map(address, (mean, rstd, y, scratch))
    )
    return Statistics(mean, rstd)


def differentiate(
    grad: Tensor,
    x: Tensor,
    gain: Tensor,
    statistics: Statistics,
    d_x: Tensor,
) -> tuple[Tensor, Tensor]:
    """Write the gradient of x into d_x, and return those of gain and bias.

    Args:
        grad: (rows, channels), the gradient of the result of `normalize`.
        x: (rows, channels), as for `normalize`.
        gain: (channels,) of the batch norm.
        statistics: as `normalize` returned them.
        d_x: (rows, channels) in the data type of x; rows may be apart in memory.
    """
    threads = torch.get_num_threads()
    sizes = Norm(threads, *x.shape, x.stride(0), grad.stride(0), False, 0, 0)
    d_gain, d_bias = gain.new_empty(2, x.shape[1]).unbind()
    scratch = gain.new_empty(threads * 5 * x.shape[1], dtype=torch.float64)
    inputs = map(address, (x, gain, *statistics, grad))
    outputs = map(address, (d_x, d_gain, d_bias, scratch))
    library = load_library(gain.dtype, x.dtype, grad.dtype)
    library.differentiate(ctypes.byref(sizes), *inputs, ctypes.c_int64(d_x.stride(0)), *outputs)
    return d_gain, d_bias


def transpose(x: Tensor) -> Tensor:
    """Transpose matrices: a contiguous (B, rows, columns) → (B, columns, rows), contiguous too."""
    if x.dtype not in C_TYPES:
        return x.mT.contiguous()
    y = x.new_empty(x.shape[0], x.shape[2], x.shape[1])
    sizes = (ctypes.c_int64(size) for size in (torch.get_num_threads(), *x.shape))
    load_library(x.dtype, x.dtype, x.dtype).transpose(*sizes, address(x), address(y))
    return y
