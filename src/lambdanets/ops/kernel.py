"""Scores first on a CPU, by a kernel in C.

With PyTorch's own operators, matrix products are fast only for many queries at a time, and their scores have to be
written to memory: these reads and writes take longer than the products do. `kernel.c` keeps the scores of a few queries
in the nearest cache instead. It needs a C compiler; without one the other methods replace it.

A graph that was exported on another machine may run on a GPU or without a compiler: the operator then computes the same
as `scores_first`.
"""

import ctypes
import logging
from contextvars import ContextVar
from functools import cache, lru_cache
from math import ceil, prod
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from lambdanets.ops import scores
from lambdanets.ops.compiler import CompilerError, compile_library
from lambdanets.ops.custom_op import define_op, is_transformed

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("kernel.c")
# Scores held at a time, at most: about half of the nearest cache.
CACHED_SCORES = 4096
C_TYPES = {torch.float32: "float", torch.float64: "double"}


class Sizes(ctypes.Structure):
    """The struct of the same name in the source."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("threads", "groups", "parts", "batch", "height", "width", "context_height", "context_width"),
            *("heads", "key_depth", "value_depth", "intra_depth", "rows", "columns"),
            *("padded_key", "padded_value", "query_stride", "value_stride", "band", "span", "batched_queries"),
        )
    ]


class Kernel:
    """The compiled functions for one data type.

    Raises:
        CompilerError: the source can't be compiled or loaded.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        # GCC's further optimizations of -O3 cost registers in the blocks, and time.
        self.library = compile_library(SOURCE, level="-O2", REAL=C_TYPES[dtype])
        self.lanes = int(self.library.lanes())

    def sizes(self, query: Tensor, values: Tensor, table: Tensor) -> Sizes:
        batch, height, width, heads, key_depth = query.shape
        _, context_height, context_width, intra_depth, value_depth = values.shape
        rows, columns = table.shape[2:]
        threads = torch.get_num_threads()
        parts = min(height, ceil(2 * threads / batch))
        visible = min(rows, context_height), self.round_up(min(columns, context_width))
        span = visible[0] * visible[1] if visible[1] == self.lanes else visible[1]
        same_view = columns // 2 >= max(width, context_width) - 1  # for all queries of a row
        return Sizes(
            # More groups than threads: a thread that is delayed does fewer of them.
            threads=threads,
            groups=min(batch * parts, 4 * threads),
            parts=parts,
            batch=batch,
            height=height,
            width=width,
            context_height=context_height,
            context_width=context_width,
            heads=heads,
            key_depth=key_depth,
            value_depth=value_depth,
            intra_depth=intra_depth,
            rows=rows,
            columns=columns,
            padded_key=self.round_up(key_depth),
            padded_value=self.round_up(value_depth),
            span=span,
            batched_queries=max(1, min(width, CACHED_SCORES // (heads * span))) if same_view else 1,
        )

    @lru_cache(maxsize=1024)  # noqa: B019, each kernel lives as long as the process
    def forward_sizes(
        self,
        query: torch.Size,
        values: torch.Size,
        table: torch.Size,
        query_stride: int,
        value_stride: int,
        threads: int,
    ) -> tuple[Sizes, int]:
        """Return the forward pass's sizes, from the shapes of its inputs, and the elements of its scratch memory."""
        batch, height, width, heads, key_depth = query
        _, context_height, context_width, intra_depth, value_depth = values
        rows, columns = table[2:]
        pitch = self.round_up(min(columns, context_width))
        band = max(1, min(rows, context_height, CACHED_SCORES // (heads * pitch)))
        queries = max(1, CACHED_SCORES // (heads * band * pitch))
        sizes = Sizes(
            threads=threads,
            # Shares of unequal time are dealt to the threads one by one.
            parts=1 if threads == 1 else min(width, ceil(4 * threads / (batch * height))),
            batch=batch,
            height=height,
            width=width,
            context_height=context_height,
            context_width=context_width,
            heads=heads,
            key_depth=key_depth,
            value_depth=value_depth,
            intra_depth=intra_depth,
            rows=rows,
            columns=columns,
            padded_value=self.round_up(value_depth),
            query_stride=query_stride,
            value_stride=value_stride,
            band=band,
            span=band * pitch,
            batched_queries=queries,
        )
        return sizes, threads * queries * heads * band * pitch + prod(table) + self.lanes

    def round_up(self, depth: int) -> int:
        """Round a depth up to whole vectors."""
        return self.lanes * ceil(depth / self.lanes)

    def pad_depth(self, tensor: Tensor) -> Tensor:
        """Make a tensor contiguous, and pad its last axis to whole vectors."""
        padding = -tensor.shape[-1] % self.lanes
        return (F.pad(tensor, (0, padding)) if padding else tensor).contiguous()

    def pad_end(self, tensor: Tensor) -> Tensor:
        """Make a tensor contiguous, with memory for one more vector behind its end."""
        flat = tensor.new_empty(tensor.numel() + self.lanes)
        return flat[: tensor.numel()].view(tensor.shape).copy_(tensor)

    def __call__(self, name: str, sizes: Sizes, *arguments: Tensor | bool | None) -> None:
        pointers = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments]
        getattr(self.library, name)(ctypes.byref(sizes), *pointers)


@cache
def load_kernel(dtype: torch.dtype) -> Kernel:
    return Kernel(dtype)


# Set while costs are counted as on a machine that has the kernel.
is_assumed = ContextVar("is_assumed", default=False)


@torch.compiler.assume_constant_result
def kernel_error() -> str | None:
    """Return why the kernel is unavailable on this machine, or None. The first call compiles it."""
    return None if is_assumed.get() else try_kernel()


@cache
def try_kernel() -> str | None:
    try:
        load_kernel(torch.float32)
    except CompilerError as error:
        log.info("Lambda layers run without their C kernel, which makes them slower on a CPU: %s.", error)
        return str(error)
    return None


def is_available(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and kernel_error() is None


def visible_pairs(queries: int, context: int, scope: int) -> int:
    """Count the pairs of a query and a position of the context within its scope, along one axis."""
    reach = scope // 2
    return sum(min(context, query + reach + 1) - max(0, query - reach) for query in range(queries))


def forward(query: Tensor, values: Tensor, table: Tensor, content: Tensor, saved: Tensor) -> Tensor:
    return infer(query, values, table, content)


def infer(
    query: Tensor,
    values: Tensor,
    table: Tensor,
    content: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Compute the product without gradients, followed by a folded batch norm and a ReLU.

    Queries and values may be slices of the channels of a larger map: they aren't copied.

    Args:
        query: (B, H, W, h, k); half precision is converted to single.
        values: (B, H', W', u, v).
        table: (k, u, R, C).
        content: (B, k, v).
        scale: h·v factors of the result's channels, or None.
        shift: h·v summands of the result's channels, after the factors, or None.
        relu: clamp the result at zero.

    Returns:
        (B, H, W, h, v), contiguous.
    """
    if not query.numel():
        return query.new_empty(*query.shape[:4], values.shape[4])
    if not is_available(query):
        y = scores.forward(query, values, table, content, query.new_empty(0))
        y = y if scale is None else y * scale.view(y.shape[3:])
        y = y if shift is None else y + shift.view(y.shape[3:])
        return y.relu() if relu else y
    if query.dtype not in C_TYPES:
        scale, shift = (None if t is None else t.float() for t in (scale, shift))
        y = infer(query.float(), values.float(), table.float(), content.float(), scale, shift, relu)
        return y.to(query.dtype)
    run = load_kernel(query.dtype)
    heads, value_depth = query.shape[3], values.shape[4]
    if value_depth % run.lanes:
        values, content = run.pad_depth(values), run.pad_depth(content)
        scale, shift = (None if t is None else run.pad_depth(t.view(heads, value_depth)) for t in (scale, shift))
    query, query_stride = to_rows(query)
    values, value_stride = to_rows(values)
    sizes, scratch_size = run.forward_sizes(
        query.shape, values.shape, table.shape, query_stride, value_stride, torch.get_num_threads()
    )
    y = query.new_empty(*query.shape[:4], sizes.padded_value)
    tensors = (query, values, table.contiguous(), content.contiguous(), scale, shift)
    run("forward", sizes, *tensors, relu, y, query.new_empty(scratch_size))
    return y if sizes.padded_value == value_depth else y[..., :value_depth].contiguous()


def to_rows(maps: Tensor) -> tuple[Tensor, int]:
    """Return maps (B, H, W, ·, ·), copied unless positions lie at equal distances in memory, and that distance."""
    _, height, width, outer, inner = maps.shape
    strides = maps.stride()
    stride = strides[2]
    if strides != (height * width * stride, width * stride, stride, inner, 1):
        maps = maps.contiguous()
        stride = outer * inner
    return maps, stride


def backward(
    grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor, saved: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not is_available(query):
        return scores.backward(grad, query, values, table, content, saved)
    run = load_kernel(query.dtype)
    sizes = run.sizes(query, values, table)
    grad, query = run.pad_depth(grad), run.pad_depth(query)
    turned_values = run.pad_end(values.permute(0, 3, 4, 1, 2))
    turned_table, turned_content = run.pad_depth(table.permute(1, 2, 3, 0)), run.pad_depth(content.mT)
    d_query = torch.empty_like(query)
    d_values = query.new_zeros(sizes.parts, *values.shape[:4], sizes.padded_value)
    d_table = query.new_zeros(sizes.groups, *turned_table.shape)
    d_content = query.new_zeros(sizes.parts, *content.shape[:2], sizes.padded_value)
    scratch = query.new_empty(sizes.groups, sizes.batched_queries + 1, sizes.heads, sizes.span)
    inputs = grad, query, turned_values, run.pad_end(table), turned_table, turned_content
    run("backward", sizes, *inputs, d_query, d_values, d_table, d_content, scratch)
    key_depth, value_depth = content.shape[1:]
    return (
        d_query[..., :key_depth],
        sum_parts(d_values)[..., :value_depth],
        sum_parts(d_table)[..., :key_depth].permute(3, 0, 1, 2),
        sum_parts(d_content)[..., :value_depth],
    )


def sum_parts(parts: Tensor) -> Tensor:
    """Sum over the first axis."""
    return parts[0] if len(parts) == 1 else parts.sum(0)


op = define_op("scores_kernel", forward, backward)


def scores_kernel(query: Tensor, values: Tensor, table: Tensor, content: Tensor) -> Tensor:
    """Compute the product by the operator, or without gradients at once, for the operator's call costs more."""
    tensors = query, values, table, content
    return infer(*tensors) if is_plain(tensors) else op(*tensors)


def is_plain(tensors: tuple[Tensor, ...]) -> bool:
    """Return whether tensors are plain arrays on a CPU, and no gradients, graphs, transforms or modes follow them."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed():
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return False
    gradients = torch.is_grad_enabled()
    return all(
        type(tensor) in (Tensor, Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype in C_TYPES
        and tensor.dtype == tensors[0].dtype
        and not (gradients and tensor.requires_grad)
        and tensor.numel() > 0
        for tensor in tensors
    )
