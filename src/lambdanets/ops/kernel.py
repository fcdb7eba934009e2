"""Scores first on a CPU, by a kernel in C.

With PyTorch's own operators the scores of many queries have to be written to memory for each product to be large enough
to be fast; what reads and writes them takes longer than the products do. `kernel.c` keeps the scores of one query in
the nearest cache instead. It needs a C compiler: without one the other methods stand in for it.

In a graph that was exported on another machine the operator may meet a GPU, or no compiler: there it does what
`scores_first` does.
"""

import ctypes
import logging
from functools import cache
from math import ceil
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lambdanets.ops import scores
from lambdanets.ops.compiler import CompilerError, compile_library
from lambdanets.ops.custom_op import define_op

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("kernel.c")
# How many scores are held at a time, at most: about half of the nearest cache.
NEAR = 4096
REAL = {torch.float32: "float", torch.float64: "double"}


class Sizes(ctypes.Structure):
    """Of the same name in the source."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("threads", "groups", "parts", "batch", "height", "width", "high", "wide"),
            *("heads", "key_depth", "value_depth", "intra_depth", "rows", "columns"),
            *("padded_key", "padded_value", "span", "together"),
        )
    ]


class Kernel:
    """The functions of the source for one data type.

    Raises:
        CompilerError: there is none here.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.library = compile_library(SOURCE, REAL=REAL[dtype])
        self.lanes = int(self.library.lanes())

    def sizes(self, query: Tensor, values: Tensor, table: Tensor) -> Sizes:
        batch, height, width, heads, key_depth = query.shape
        _, high, wide, intra_depth, value_depth = values.shape
        rows, columns = table.shape[2:]
        threads = torch.get_num_threads()
        parts = min(height, ceil(2 * threads / batch))
        seen = min(rows, high), self.whole(min(columns, wide))
        span = seen[0] * seen[1] if seen[1] == self.lanes else seen[1]
        same = columns // 2 >= max(width, wide) - 1  # all queries of a row see the same
        return Sizes(
            # More groups than threads: a thread that is held up does fewer of them.
            threads=threads,
            groups=min(batch * parts, 4 * threads),
            parts=parts,
            batch=batch,
            height=height,
            width=width,
            high=high,
            wide=wide,
            heads=heads,
            key_depth=key_depth,
            value_depth=value_depth,
            intra_depth=intra_depth,
            rows=rows,
            columns=columns,
            padded_key=self.whole(key_depth),
            padded_value=self.whole(value_depth),
            span=span,
            together=max(1, min(width, NEAR // (heads * span))) if same else 1,
        )

    def whole(self, depth: int) -> int:
        """A depth in whole vectors."""
        return self.lanes * ceil(depth / self.lanes)

    def padded(self, tensor: Tensor) -> Tensor:
        """Contiguous, its last axis in whole vectors."""
        more = -tensor.shape[-1] % self.lanes
        return (F.pad(tensor, (0, more)) if more else tensor).contiguous()

    def with_room(self, tensor: Tensor) -> Tensor:
        """Contiguous, with a vector's room behind its end."""
        flat = tensor.new_empty(tensor.numel() + self.lanes)
        return flat[: tensor.numel()].view(tensor.shape).copy_(tensor)

    def __call__(self, name: str, sizes: Sizes, *tensors: Tensor) -> None:
        getattr(self.library, name)(ctypes.byref(sizes), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors))


@cache
def load_kernel(dtype: torch.dtype) -> Kernel:
    return Kernel(dtype)


# Why there is no kernel on this machine, or None if there is one; empty as long as it wasn't tried.
tried: list[str | None] = []


def kernel_error() -> str | None:
    """Why there is no kernel on this machine, or None if there is one. Tried when first asked, and logged."""
    if not tried and torch.compiler.is_compiling():
        return "it was not tried before this was traced"
    if not tried:
        try:
            load_kernel(torch.float32)
            tried.append(None)
        except CompilerError as error:
            log.info("Lambda layers on a CPU do without their C kernel, which is slower: %s.", error)
            tried.append(str(error))
    return tried[0]


def usable(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and kernel_error() is None


def forward(query: Tensor, values: Tensor, table: Tensor, content: Tensor, kept: Tensor) -> Tensor:
    if not usable(query):
        return scores.forward(query, values, table, content, kept)
    run = load_kernel(query.dtype)
    sizes = run.sizes(query, values, table)
    y = query.new_empty(*query.shape[:4], sizes.padded_value)
    scratch = query.new_empty(sizes.groups, sizes.heads, sizes.span)
    inputs = run.padded(query), run.padded(values), run.with_room(table), run.padded(content)
    run("forward", sizes, *inputs, y, scratch)
    return y[..., : values.shape[4]]


def backward(
    grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not usable(query):
        return scores.backward(grad, query, values, table, content, kept)
    run = load_kernel(query.dtype)
    sizes = run.sizes(query, values, table)
    grad, query = run.padded(grad), run.padded(query)
    turned_values = run.with_room(values.permute(0, 3, 4, 1, 2))
    turned_table, turned_content = run.padded(table.permute(1, 2, 3, 0)), run.padded(content.mT)
    d_query = torch.empty_like(query)
    d_values = query.new_zeros(sizes.parts, *values.shape[:4], sizes.padded_value)
    d_table = query.new_zeros(sizes.groups, *turned_table.shape)
    d_content = query.new_zeros(sizes.parts, *content.shape[:2], sizes.padded_value)
    scratch = query.new_empty(sizes.groups, sizes.together + 1, sizes.heads, sizes.span)
    inputs = grad, query, turned_values, run.with_room(table), turned_table, turned_content
    run("backward", sizes, *inputs, d_query, d_values, d_table, d_content, scratch)
    key_depth, value_depth = content.shape[1:]
    return (
        d_query[..., :key_depth],
        sum_shares(d_values)[..., :value_depth],
        sum_shares(d_table)[..., :key_depth].permute(3, 0, 1, 2),
        sum_shares(d_content)[..., :value_depth],
    )


def sum_shares(shares: Tensor) -> Tensor:
    """The sum over the first axis."""
    return shares[0] if len(shares) == 1 else shares.sum(0)


scores_kernel = define_op("scores_kernel", forward, backward)
