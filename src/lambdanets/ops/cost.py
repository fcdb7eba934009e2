"""What each exact method costs, as far as its operation counts tell.

A method is a list of matrix products, passes over memory, transforms and calls; a device does so many of each in a
second. The model has to rank the methods, not to be a clock: `python run.py job=benchmark benchmark=methods` prints
what it predicts beside what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import ceil, log2
from operator import index

import torch
from torch import Tensor

from lambdanets.ops import fourier, kernel, scores, tiles
from lambdanets.ops import row_fft as rows


@dataclass(frozen=True)
class OpCounts:
    """Multiply-adds in matrix products, elements moved, butterflies of transforms, taps of convolutions, calls,
    multiply-adds in our kernel.
    """

    products: float = 0
    moved: float = 0
    butterflies: float = 0
    taps: float = 0
    calls: float = 0
    kernel: float = 0

    def __add__(self, other: OpCounts) -> OpCounts:
        return OpCounts(*(a + b for a, b in zip(self.counts(), other.counts(), strict=True)))

    def __mul__(self, times: float) -> OpCounts:
        return OpCounts(*(times * count for count in self.counts()))

    def counts(self) -> tuple[float, ...]:
        return self.products, self.moved, self.butterflies, self.taps, self.calls, self.kernel


# Seconds for one of each, in the order of OpCounts. CPU: least squares over the measurements of benchmark=methods on
# two cores with AVX2. CUDA: from the data sheets of large GPUs, not measured.
RATES = {
    "cpu": (2.2e-11, 2.5e-10, 3.2e-10, 6.2e-11, 1.1e-5, 2.5e-11),
    "cuda": (1e-14, 2e-12, 1e-12, 2e-13, 6e-6, 0),
}


@dataclass(frozen=True)
class Shape:
    """The sizes that a cost depends on, in the names of the paper."""

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

    @staticmethod
    def of(query: Tensor, values: Tensor, table: Tensor, *, dilation: int = 1, stride: int = 1) -> Shape:
        batch, height, width, heads, key_depth = query.shape
        _, high, wide, intra_depth, value_depth = values.shape
        return Shape(
            batch=batch,
            height=height,
            width=width,
            context=(high, wide),
            heads=heads,
            key_depth=key_depth,
            value_depth=value_depth,
            intra_depth=intra_depth,
            scope=(table.shape[2], table.shape[3]),
            dilation=dilation,
            stride=stride,
            device=query.device.type,
            training=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, values, table)),
        )

    def with_static_sizes(self) -> Shape:
        """With sizes that a compiler may not leave open, but for the batch: in a graph a usual one stands for it."""
        if not torch.compiler.is_compiling():
            return self
        height, width, high, wide = map(index, (self.height, self.width, *self.context))
        return replace(self, batch=8, height=height, width=width, context=(high, wide))

    @property
    def queries(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class Cost:
    """A method's work and how long the device is thought to take for it."""

    work: OpCounts
    seconds: float


def supported_methods(shape: Shape) -> list[str]:
    """The methods that can compute this."""
    square = shape.context == (shape.height, shape.width)
    names = []
    if shape.stride == 1 and (square or shape.dilation == 1):
        names += ["lambdas", "scores"]
        if shape.device == "cpu" and not kernel.kernel_error():
            names += ["kernel"]
    if shape.stride == 1 and square:
        names += ["tiles", "row_fft", "fourier"]
    if square or shape.stride > 1:
        names += ["convolution"]
    return names


@cache
def predict_costs(shape: Shape) -> dict[str, Cost]:
    """The cost of each method that can compute this, forward or, if gradients are wanted, forward and backward."""
    split = shape
    if shape.dilation > 1:
        step = shape.dilation
        size = ceil(shape.height / step), ceil(shape.width / step)
        split = replace(shape, batch=shape.batch * step**2, height=size[0], width=size[1], context=size)
    rates = RATES.get(shape.device, RATES["cuda"])
    found = {}
    for name in supported_methods(shape):
        work = WORK[name](shape if name == "convolution" else split)
        found[name] = Cost(work, sum(rate * count for rate, count in zip(rates, work.counts(), strict=True)))
    return found


def product(batch: float, rows: float, inner: float, columns: float) -> OpCounts:
    """So many matrix products: (rows × inner) times (inner × columns)."""
    moved = batch * (rows * inner + inner * columns + rows * columns)
    return OpCounts(products=batch * rows * inner * columns, moved=moved)


def calls(count: float) -> OpCounts:
    return OpCounts(calls=count)


def copies(elements: float) -> OpCounts:
    return OpCounts(moved=2 * elements)


def lambdas_work(s: Shape) -> OpCounts:
    seen = s.context[0] * s.context[1] * s.intra_depth
    expanded = copies(s.queries * s.key_depth * seen)
    lambdas = s.batch * s.queries * s.key_depth * s.value_depth
    summed = product(1, s.queries * s.key_depth, seen, s.batch * s.value_depth)
    applied = product(s.batch * s.queries, s.heads, s.key_depth, s.value_depth) + copies(2 * lambdas)
    forward = expanded + summed + applied + calls(12)
    return forward + (expanded + summed * 2 + applied * 2 + calls(25)) if s.training else forward


def convolution_work(s: Shape) -> OpCounts:
    taps = s.batch * s.queries * s.key_depth * s.value_depth * s.intra_depth * s.scope[0] * s.scope[1]
    lambdas = s.batch * s.queries * s.key_depth * s.value_depth
    applied = product(s.batch * s.queries, s.heads, s.key_depth, s.value_depth) + copies(2 * lambdas)
    forward = OpCounts(taps=taps) + applied + calls(10)
    return forward + (OpCounts(taps=2 * taps) + applied * 2 + calls(20)) if s.training else forward


def scores_work(s: Shape) -> OpCounts:
    seen = s.context[0] * s.context[1] * s.intra_depth
    held = scores.CHUNK.get(s.device, scores.CHUNK["cuda"])
    chunks = min(s.height, ceil(s.batch * s.heads * s.queries * seen / held))
    expanded = copies(s.queries * s.key_depth * seen)
    scored = product(s.queries, s.batch * s.heads, s.key_depth, seen)
    summed = product(s.batch, s.heads * s.queries, seen, s.value_depth)
    forward = expanded + scored + summed + calls(18 * chunks)
    if not s.training:
        return forward
    return forward + expanded * 2 + scored * 3 + summed * 2 + calls(45 * chunks + 3 * (s.width * chunks + s.height))


def tiles_work(s: Shape) -> OpCounts:
    sides = [tiles.best_tile_side(side, scope) for side, scope in zip((s.height, s.width), s.scope, strict=True)]
    count = s.batch * ceil(s.height / sides[0]) * ceil(s.width / sides[1])
    queries = sides[0] * sides[1]
    seen = (sides[0] + s.scope[0] - 1) * (sides[1] + s.scope[1] - 1) * s.intra_depth
    held = tiles.CHUNK.get(s.device, tiles.CHUNK["cuda"])
    chunks = min(s.batch, ceil(s.heads * count * queries * seen / held))
    windows = copies(count * seen * s.value_depth)
    scored = product(queries, count * s.heads, s.key_depth, seen)
    summed = product(count, s.heads * queries, seen, s.value_depth)
    moved = copies(count * queries * s.heads * (s.key_depth + s.value_depth))
    forward = windows + scored + summed + moved + calls(25 * chunks + queries)
    if not s.training:
        return forward
    apart = ceil(1 + s.scope[0] / sides[0]) * ceil(1 + s.scope[1] / sides[1])
    return forward + windows * 2 + scored * 3 + summed * 2 + moved + calls((40 + 4 * apart) * chunks + 3 * queries)


def rows_work(s: Shape) -> OpCounts:
    reach = min(s.scope[0] // 2, s.height - 1), min(s.scope[1] // 2, s.width - 1)
    frequencies = (s.height + reach[0]) // 2 + 1
    step = rows.columns_at_once(s.width, 2 * frequencies * s.key_depth * s.value_depth)
    chunks = ceil(s.width / step)
    seen = min(s.width, step + 2 * reach[1]) * s.intra_depth
    toeplitz = copies(chunks * frequencies * 4 * step * s.key_depth * seen)
    in_frequency = product(s.batch * chunks * frequencies, 2 * step * s.key_depth, 2 * seen, s.value_depth)
    transformed = product(s.batch * chunks, s.height, 2 * frequencies, step * s.key_depth * s.value_depth)
    applied = product(s.batch * s.queries, s.heads, s.key_depth, s.value_depth)
    spectra = product(s.batch, 2 * frequencies, s.height, s.intra_depth * s.width * s.value_depth)
    forward = (
        toeplitz + in_frequency + transformed + applied + spectra + calls(chunks * (12 * s.batch + 12 * step) + 20)
    )
    if not s.training:
        return forward
    again = 0 if min(s.scope[0] - 2 * s.height, s.scope[1] - 2 * s.width) >= -1 else 1  # lambdas are kept, or not
    more = toeplitz * 2 + in_frequency * (2 + again) + transformed * (1 + again) + applied * 3 + spectra * 2
    return forward + more + calls(chunks * (35 * s.batch + 30 * step) + 60)


def fourier_work(s: Shape) -> OpCounts:
    reach = min(s.scope[0] // 2, s.height - 1), min(s.scope[1] // 2, s.width - 1)
    size = fourier.fast_length(s.height + reach[0]), fourier.fast_length(s.width + reach[1])
    spectrum = size[0] * (size[1] // 2 + 1)
    images = s.batch * s.value_depth
    held = fourier.CHUNK.get(s.device, fourier.CHUNK["cuda"])
    chunks = min(s.batch, ceil(images * s.intra_depth * spectrum / held))
    transform = OpCounts(butterflies=images * spectrum * log2(size[0] * size[1]))
    multiplied = OpCounts(moved=images * spectrum * 4 * s.intra_depth)
    applied = OpCounts(moved=images * s.queries * s.heads * 3)
    once = (transform + multiplied + applied) * s.key_depth + transform * s.intra_depth
    forward = once + calls((16 * s.key_depth + 12) * chunks)
    if not s.training:
        return forward
    again = once + (transform + multiplied * 3 + applied * 2) * s.key_depth + transform * (2 * s.intra_depth)
    return forward + again + calls((45 * s.key_depth + 25) * chunks)


def kernel_work(s: Shape) -> OpCounts:
    # A query at the border sees less than its scope.
    seen = [
        sum(min(there, here + scope // 2 + 1) - max(0, here - scope // 2) for here in range(side))
        for side, there, scope in zip((s.height, s.width), s.context, s.scope, strict=True)
    ]
    pairs = s.batch * s.heads * seen[0] * seen[1] * s.intra_depth
    maps = copies(s.batch * s.queries * s.heads * s.value_depth)
    forward = OpCounts(kernel=pairs * (s.key_depth + s.value_depth)) + maps + calls(15)
    if not s.training:
        return forward
    return forward + OpCounts(kernel=pairs * (3 * s.key_depth + 2 * s.value_depth)) + maps * 2 + calls(40)


WORK = {
    "lambdas": lambdas_work,
    "convolution": convolution_work,
    "scores": scores_work,
    "tiles": tiles_work,
    "row_fft": rows_work,
    "fourier": fourier_work,
    "kernel": kernel_work,
}
