"""A cost model of the exact methods: operation counts times the seconds that a device takes for each operation.

A method consists of matrix products, passes over memory, transforms and calls. The model has to rank the methods, not
to predict the time of one exactly: `python run.py job=benchmark benchmark=methods` prints both, predicted and measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cache
from math import ceil, log2, prod
from operator import index
from typing import NamedTuple

import torch
from torch import Tensor

from lambdanets.ops import fourier, kernel, row_fft, scores, tiles, triton_kernel
from lambdanets.ops.triton_partition import Partition

# The batch that methods are chosen for in a compiled graph, whose batch is open.
GRAPH_BATCH = 8


@dataclass(frozen=True)
class OpCounts:
    """Numbers of operations of each kind.

    Args:
        products: multiply-adds in matrix products.
        moved: elements read or written by passes over memory.
        butterflies: of fast Fourier transforms.
        taps: multiply-adds in convolutions.
        calls: of PyTorch operators.
        kernel: multiply-adds in the C kernel.
        tensor_core: multiply-adds of the programs in Triton in their sums over positions, of whole tiles and steps.
        applied: multiply-adds of these programs with the lambdas that they hold in registers.
    """

    products: float = 0
    moved: float = 0
    butterflies: float = 0
    taps: float = 0
    calls: float = 0
    kernel: float = 0
    tensor_core: float = 0
    applied: float = 0

    def __add__(self, other: OpCounts) -> OpCounts:
        return OpCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> OpCounts:
        return OpCounts(*(times * count for count in astuple(self)))


# Seconds per operation, by device and on CUDA by precision. CPU: least squares over the measurements of
# benchmark=methods on two cores with AVX2. CUDA: not measured; those of the programs in Triton, of products and of
# memory are predicted for an H100 by benchmark=gpu_predicted, float32 by its rate without tensor cores; transforms and
# taps are a guess. A call is what the CPU needs to launch it.
SECONDS_PER_OP = {
    "cpu": OpCounts(
        products=2.2e-11,
        moved=2.5e-10,
        butterflies=3.2e-10,
        taps=6.2e-11,
        calls=1.1e-5,
        kernel=2.5e-11,
    ),
    "cuda bfloat16": OpCounts(
        products=2.5e-15,
        moved=6.7e-13,
        butterflies=1e-12,
        taps=2e-13,
        calls=6e-6,
        tensor_core=5e-15,
        applied=2.1e-14,
    ),
    "cuda float32": OpCounts(
        products=3.7e-14,
        moved=1.3e-12,
        butterflies=1e-12,
        taps=4e-13,
        calls=6e-6,
        tensor_core=4.3e-14,
        applied=4e-14,
    ),
}


def find_rates(device: str, dtype: torch.dtype) -> OpCounts:
    """Return the seconds per operation; a device other than a CPU counts as CUDA."""
    if device == "cpu":
        return SECONDS_PER_OP["cpu"]
    half = dtype in (torch.bfloat16, torch.float16)
    return SECONDS_PER_OP["cuda bfloat16" if half else "cuda float32"]


class Shape(NamedTuple):
    """The sizes that the cost of a method depends on, with the names of the paper."""

    batch: int
    height: int
    width: int
    context: tuple[int, int]
    heads: int
    key_depth: int
    value_depth: int
    intra_depth: int
    scope: tuple[int, int]
    dilation: int = 1
    stride: int = 1
    device: str = "cpu"
    training: bool = True
    dtype: torch.dtype = torch.float32

    @staticmethod
    def of(query: Tensor, values: Tensor, table: Tensor, *, dilation: int = 1, stride: int = 1) -> Shape:
        batch, height, width, heads, key_depth = query.shape
        _, context_height, context_width, intra_depth, value_depth = values.shape
        return Shape(
            batch=batch,
            height=height,
            width=width,
            context=(context_height, context_width),
            heads=heads,
            key_depth=key_depth,
            value_depth=value_depth,
            intra_depth=intra_depth,
            scope=(table.shape[2], table.shape[3]),
            dilation=dilation,
            stride=stride,
            device=query.device.type,
            training=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, values, table)),
            dtype=query.dtype,
        )

    def with_static_sizes(self) -> Shape:
        """Replace the symbolic sizes of a graph: fix the maps' sizes in it, and leave its batch open."""
        if not torch.compiler.is_compiling():
            return self
        context = index(self.context[0]), index(self.context[1])
        return self._replace(batch=GRAPH_BATCH, height=index(self.height), width=index(self.width), context=context)

    @property
    def queries(self) -> int:
        return self.height * self.width

    @property
    def phases(self) -> Shape:
        """The shape of a dilated layer's products: each position sees those of its own phase only, as more images."""
        if self.dilation == 1:
            return self
        size = ceil(self.height / self.dilation), ceil(self.width / self.dilation)
        return self._replace(batch=self.batch * self.dilation**2, height=size[0], width=size[1], context=size)

    @property
    def expanded_bytes(self) -> int:
        """Size of the embeddings of all pairs of a query and a position of the context."""
        elements = self.key_depth * self.intra_depth * self.queries * self.context[0] * self.context[1]
        return elements * self.dtype.itemsize


@dataclass(frozen=True)
class Cost:
    """Operations of a method, and predicted seconds."""

    ops: OpCounts
    seconds: float


def supported_methods(shape: Shape) -> list[str]:
    """Return the methods that can compute a product of this shape."""
    square = shape.context == (shape.height, shape.width)
    names = []
    if shape.stride == 1 and (square or shape.dilation == 1):
        names += ["lambdas", "scores"]
        if shape.device == "cpu" and not kernel.kernel_error():
            names += ["kernel"]
        if triton_kernel.supports(shape.device, shape.dtype, shape.key_depth):
            names += ["triton"]
    if shape.stride == 1 and square:
        names += ["tiles", "row_fft", "fourier"]
    if square or shape.stride > 1:
        names += ["convolution"]
    return names


@cache
def predict_costs(shape: Shape) -> dict[str, Cost]:
    """Predict the cost of each supported method: of the forward pass, and in training of the backward pass too."""
    rates = astuple(find_rates(shape.device, shape.dtype))
    costs = {}
    for name in supported_methods(shape):
        ops = COUNTERS[name](shape if name == "convolution" else shape.phases)
        costs[name] = Cost(ops, sum(rate * count for rate, count in zip(rates, astuple(ops), strict=True)))
    return costs


@contextmanager
def assume_kernel() -> Iterator[None]:
    """Choose methods as where the C kernel is available, to count costs that don't depend on this machine.

    Nothing may be computed meanwhile, only traced on tensors without data.
    """
    token = kernel.is_assumed.set(True)
    predict_costs.cache_clear()
    try:
        yield
    finally:
        kernel.is_assumed.reset(token)
        predict_costs.cache_clear()


def product(batch: float, rows: float, inner: float, columns: float) -> OpCounts:
    """Count a batch of matrix products, (rows × inner) times (inner × columns) each."""
    moved = batch * (rows * inner + inner * columns + rows * columns)
    return OpCounts(products=batch * rows * inner * columns, moved=moved)


def calls(count: float) -> OpCounts:
    return OpCounts(calls=count)


def copies(elements: float) -> OpCounts:
    return OpCounts(moved=2 * elements)


def lambdas_ops(s: Shape) -> OpCounts:
    visible = s.context[0] * s.context[1] * s.intra_depth
    expanded = copies(s.queries * s.key_depth * visible)
    lambdas = s.batch * s.queries * s.key_depth * s.value_depth
    summed = product(1, s.queries * s.key_depth, visible, s.batch * s.value_depth)
    applied = product(s.batch * s.queries, s.heads, s.key_depth, s.value_depth) + copies(2 * lambdas)
    forward = expanded + summed + applied + calls(12)
    return forward + (expanded + summed * 2 + applied * 2 + calls(25)) if s.training else forward


def convolution_ops(s: Shape) -> OpCounts:
    taps = s.batch * s.queries * s.key_depth * s.value_depth * s.intra_depth * s.scope[0] * s.scope[1]
    lambdas = s.batch * s.queries * s.key_depth * s.value_depth
    applied = product(s.batch * s.queries, s.heads, s.key_depth, s.value_depth) + copies(2 * lambdas)
    forward = OpCounts(taps=taps) + applied + calls(10)
    return forward + (OpCounts(taps=2 * taps) + applied * 2 + calls(20)) if s.training else forward


def scores_ops(s: Shape) -> OpCounts:
    visible = s.context[0] * s.context[1] * s.intra_depth
    limit = scores.CHUNK.get(s.device, scores.CHUNK["cuda"])
    chunks = min(s.height, ceil(s.batch * s.heads * s.queries * visible / limit))
    expanded = copies(s.queries * s.key_depth * visible)
    scored = product(s.queries, s.batch * s.heads, s.key_depth, visible)
    summed = product(s.batch, s.heads * s.queries, visible, s.value_depth)
    forward = expanded + scored + summed + calls(18 * chunks)
    if not s.training:
        return forward
    return forward + expanded * 2 + scored * 3 + summed * 2 + calls(45 * chunks + 3 * (s.width * chunks + s.height))


def tiles_ops(s: Shape) -> OpCounts:
    sides = [tiles.best_tile_side(side, scope) for side, scope in zip((s.height, s.width), s.scope, strict=True)]
    count = s.batch * ceil(s.height / sides[0]) * ceil(s.width / sides[1])
    queries = sides[0] * sides[1]
    visible = (sides[0] + s.scope[0] - 1) * (sides[1] + s.scope[1] - 1) * s.intra_depth
    limit = tiles.CHUNK.get(s.device, tiles.CHUNK["cuda"])
    chunks = min(s.batch, ceil(s.heads * count * queries * visible / limit))
    windows = copies(count * visible * s.value_depth)
    scored = product(queries, count * s.heads, s.key_depth, visible)
    summed = product(count, s.heads * queries, visible, s.value_depth)
    moved = copies(count * queries * s.heads * (s.key_depth + s.value_depth))
    forward = windows + scored + summed + moved + calls(25 * chunks + queries)
    if not s.training:
        return forward
    classes = ceil(1 + s.scope[0] / sides[0]) * ceil(1 + s.scope[1] / sides[1])
    return forward + windows * 2 + scored * 3 + summed * 2 + moved + calls((40 + 4 * classes) * chunks + 3 * queries)


def row_fft_ops(s: Shape) -> OpCounts:
    reach = min(s.scope[0] // 2, s.height - 1), min(s.scope[1] // 2, s.width - 1)
    frequencies = (s.height + reach[0]) // 2 + 1
    columns = row_fft.columns_per_chunk(s.width, 2 * frequencies * s.key_depth * s.value_depth)
    chunks = ceil(s.width / columns)
    visible = min(s.width, columns + 2 * reach[1]) * s.intra_depth
    toeplitz = copies(chunks * frequencies * 4 * columns * s.key_depth * visible)
    in_frequency = product(s.batch * chunks * frequencies, 2 * columns * s.key_depth, 2 * visible, s.value_depth)
    transformed = product(s.batch * chunks, s.height, 2 * frequencies, columns * s.key_depth * s.value_depth)
    applied = product(s.batch * s.queries, s.heads, s.key_depth, s.value_depth)
    spectra = product(s.batch, 2 * frequencies, s.height, s.intra_depth * s.width * s.value_depth)
    forward = (
        toeplitz + in_frequency + transformed + applied + spectra + calls(chunks * (12 * s.batch + 12 * columns) + 20)
    )
    if not s.training:
        return forward
    recomputed = 0 if min(s.scope[0] - 2 * s.height, s.scope[1] - 2 * s.width) >= -1 else 1  # see row_fft.saved_size
    more = toeplitz * 2 + in_frequency * (2 + recomputed) + transformed * (1 + recomputed) + applied * 3 + spectra * 2
    return forward + more + calls(chunks * (35 * s.batch + 30 * columns) + 60)


def fourier_ops(s: Shape) -> OpCounts:
    reach = min(s.scope[0] // 2, s.height - 1), min(s.scope[1] // 2, s.width - 1)
    size = fourier.fast_length(s.height + reach[0]), fourier.fast_length(s.width + reach[1])
    spectrum = size[0] * (size[1] // 2 + 1)
    images = s.batch * s.value_depth
    limit = fourier.CHUNK.get(s.device, fourier.CHUNK["cuda"])
    chunks = min(s.batch, ceil(images * s.intra_depth * spectrum / limit))
    transform = OpCounts(butterflies=images * spectrum * log2(size[0] * size[1]))
    multiplied = OpCounts(moved=images * spectrum * 4 * s.intra_depth)
    applied = OpCounts(moved=images * s.queries * s.heads * 3)
    once = (transform + multiplied + applied) * s.key_depth + transform * s.intra_depth
    forward = once + calls((16 * s.key_depth + 12) * chunks)
    if not s.training:
        return forward
    backward = once + (transform + multiplied * 3 + applied * 2) * s.key_depth + transform * (2 * s.intra_depth)
    return forward + backward + calls((45 * s.key_depth + 25) * chunks)


def kernel_ops(s: Shape) -> OpCounts:
    rows = kernel.visible_pairs(s.height, s.context[0], s.scope[0])
    columns = kernel.visible_pairs(s.width, s.context[1], s.scope[1])
    pairs = s.batch * s.heads * rows * columns * s.intra_depth
    maps = copies(s.batch * s.queries * s.heads * s.value_depth)
    forward = OpCounts(kernel=pairs * (s.key_depth + s.value_depth)) + maps + calls(1)
    if not s.training:
        return forward
    return forward + OpCounts(kernel=pairs * (3 * s.key_depth + 2 * s.value_depth)) + maps * 2 + calls(54)


def partition_product(s: Shape) -> Partition:
    """Return how the programs in Triton cut a product of this shape."""
    return Partition(
        s.batch,
        (s.height, s.width),
        s.context,
        key_depth=s.key_depth,
        value_depth=s.value_depth,
        intra_depth=s.intra_depth,
        scope=s.scope,
        dtype=s.dtype,
    )


def triton_ops(s: Shape) -> OpCounts:
    partition = partition_product(s)
    tiling = partition.tiling
    tile = tiling.rows * tiling.columns
    lambdas = partition.tiles * partition.blocks(s.batch) * tile
    summed = partition.lambdas_steps() * tile * partition.step
    applied = s.heads * lambdas
    maps = copies(s.batch * s.queries * s.heads * (s.key_depth + s.value_depth))
    forward = OpCounts(tensor_core=summed, applied=applied) + maps + calls(4)
    if not s.training:
        return forward
    values_patch, windows_patch = (prod(patch) for patch in (partition.values_patch, partition.windows_patch))
    summed += partition.values_steps(s.batch) * values_patch * tiling.columns * partition.values_step
    summed += partition.windows_steps(s.batch) * windows_patch * tiling.rows * partition.windows_step
    chunks = ceil(s.batch / partition.chunk)
    backward = OpCounts(tensor_core=summed, applied=2 * applied, moved=3 * lambdas) + maps * 2
    return forward + backward + calls(8 + 5 * chunks)


COUNTERS = {
    "lambdas": lambdas_ops,
    "convolution": convolution_ops,
    "scores": scores_ops,
    "tiles": tiles_ops,
    "row_fft": row_fft_ops,
    "fourier": fourier_ops,
    "kernel": kernel_ops,
    "triton": triton_ops,
}
