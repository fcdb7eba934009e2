"""The lambda layer's product in exported graphs: standard operators, in the order that is cheapest for the runtime."""

from collections.abc import Callable, Iterator
from dataclasses import astuple
from functools import partial
from typing import Literal, NamedTuple

from torch import Tensor, nn

from lambdanets.ops import OpCounts, Shape
from lambdanets.ops.bands import (
    Band,
    Window,
    banded_scores,
    cut_bands,
    map_embeddings,
    whole_map_scores,
    window_embeddings,
)
from lambdanets.ops.lambdas import convolution_by_head
from lambdanets.ops.table import Size, dilate_table

Runtime = Literal["onnx", "torch"]
# Most bytes of constants that a graph may hold for one layer: E of a whole map of 20² positions, or of bands of 4 rows
# of 28² (k = 16). Larger constants cost more to read from memory than they save.
MAX_CONSTANT = 12 * 2**20
# Seconds per operation, on one thread for one image: least squares of relative errors over the products of layers of
# LambdaResNet-50, with global, 23×23 and 7×7 scopes, measured on an AMD EPYC with AVX-512.
SECONDS_PER_OP: dict[Runtime, OpCounts] = {
    "onnx": OpCounts(products=2.3e-11, moved=9.4e-11, taps=3.3e-11, calls=2.5e-6),
    "torch": OpCounts(products=2.1e-11, moved=2e-10, taps=5.1e-11, calls=5.5e-6),
}


class BandedScores(nn.Module):
    """Scores first, band by band, see `lambdanets.ops.bands`.

    Args:
        table: (k, u, R, C).
        size: (H, W) of the map.
        rows: of queries in a band.
    """

    def __init__(self, table: Tensor, size: Size, rows: int) -> None:
        super().__init__()
        self.bands = cut_bands(size[0], table.shape[2], rows)
        self.names: dict[Window, str] = {}
        for band in self.bands:
            if band.window not in self.names:
                self.names[band.window] = f"embeddings{len(self.names)}"
                self.register_buffer(self.names[band.window], window_embeddings(table, size, band.window).contiguous())

    def forward(self, query: Tensor, values: Tensor, content: Tensor) -> Tensor:
        embeddings = {window: self.get_buffer(name) for window, name in self.names.items()}
        return banded_scores(query, values, embeddings, content, self.bands)


class WholeMapScores(nn.Module):
    """Scores first with E of all pairs, in two matrix products. Args as of `BandedScores`."""

    embeddings: Tensor

    def __init__(self, table: Tensor, size: Size) -> None:
        super().__init__()
        self.register_buffer("embeddings", map_embeddings(table, size))

    def forward(self, query: Tensor, values: Tensor, content: Tensor) -> Tensor:
        return whole_map_scores(query, values, self.embeddings, content)


class LambdasFirst(nn.Module):
    """Lambdas first with E of all pairs, for many heads. Args as of `BandedScores`."""

    embeddings: Tensor

    def __init__(self, table: Tensor, size: Size) -> None:
        super().__init__()
        self.register_buffer("embeddings", map_embeddings(table, size).flatten(0, 1))

    def forward(self, query: Tensor, values: Tensor, content: Tensor) -> Tensor:
        batch, height, width, _, key_depth = query.shape
        lambdas = (self.embeddings @ values.flatten(1, 3)).reshape(batch, height, width, key_depth, -1)
        return query @ (lambdas + content[:, None, None])


class LambdaConvolution(nn.Module):
    """Lambdas first by a convolution of the values, for maps of any size.

    Args:
        table: (k, u, R, C).
        dilation: distance in positions between neighboring entries of the table.
        stride: distance in positions between neighboring queries.
    """

    table: Tensor

    def __init__(self, table: Tensor, *, dilation: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.dilation = dilation
        self.stride = stride
        self.register_buffer("table", table.clone())

    def forward(self, query: Tensor, values: Tensor, content: Tensor) -> Tensor:
        return convolution_by_head(query, values, self.table, content, dilation=self.dilation, stride=self.stride)


class Candidate(NamedTuple):
    """A way to compute a product: a function that makes it of the table, its cost for one image, and its constants.

    Args:
        make: (table) → the module.
        ops: operations.
        constant: elements of its constants.
    """

    make: Callable[[Tensor], nn.Module]
    ops: OpCounts
    constant: int


def make_product(table: Tensor, shape: Shape, runtime: Runtime) -> nn.Module:
    """Make the module that computes a lambda layer's product at least predicted cost, for one image at a time.

    Args:
        table: (k, u, R, C), for maps of this size.
        shape: sizes of the product.
        runtime: that the graph is exported to.
    """
    rates = astuple(SECONDS_PER_OP[runtime])

    def seconds(candidate: Candidate) -> float:
        return sum(rate * count for rate, count in zip(rates, astuple(candidate.ops), strict=True))

    return min(candidates(shape), key=seconds).make(table)


def candidates(s: Shape) -> Iterator[Candidate]:
    """Yield the products whose constants aren't too large."""
    yield Candidate(partial(LambdaConvolution, dilation=s.dilation, stride=s.stride), convolution_ops(s), 0)
    if s.stride > 1:
        return
    size = s.height, s.width

    def dilated(product: Callable[..., nn.Module], *options: int) -> Callable[[Tensor], nn.Module]:
        return lambda table: product(dilate_table(table, s.dilation), size, *options)

    constant = s.key_depth * s.intra_depth * s.queries**2
    if 4 * constant <= MAX_CONSTANT:
        yield Candidate(dilated(WholeMapScores), whole_map_ops(s), constant)
        yield Candidate(dilated(LambdasFirst), lambdas_ops(s), constant)
    for rows in range(1, s.height + 1):
        bands = cut_bands(s.height, s.dilation * (s.scope[0] - 1) + 1, rows)
        constant = sum(s.width * s.key_depth * window_positions(s, window) for window in {b.window for b in bands})
        if 4 * constant <= MAX_CONSTANT:
            yield Candidate(dilated(BandedScores, rows), banded_ops(s, bands), constant)


def window_positions(s: Shape, window: Window) -> int:
    """Return the positions of a window, counted once per intra-depth."""
    return (window.last - window.first + 1) * s.width * s.intra_depth


def banded_ops(s: Shape, bands: list[Band]) -> OpCounts:
    ops = OpCounts()
    for band in bands:
        queries, visible = (band.stop - band.start) * s.width, window_positions(s, band.window)
        scores, embeddings = queries * s.heads * visible, s.width * s.key_depth * visible
        moved = 4 * scores + embeddings + 2 * (band.stop - band.start) * visible * s.value_depth
        ops += OpCounts(products=scores * (s.key_depth + s.value_depth), moved=moved, calls=11)
    return ops + OpCounts(moved=4 * s.queries * s.heads * s.value_depth, calls=6)


def whole_map_ops(s: Shape) -> OpCounts:
    visible = s.queries * s.intra_depth
    scores, embeddings = s.queries * s.heads * visible, s.queries * s.key_depth * visible
    moved = 2 * scores + embeddings + 4 * s.queries * s.heads * s.value_depth
    return OpCounts(products=scores * (s.key_depth + s.value_depth), moved=moved, calls=8)


def lambdas_ops(s: Shape) -> OpCounts:
    embeddings, lambdas = s.queries**2 * s.key_depth * s.intra_depth, s.queries * s.key_depth * s.value_depth
    products = embeddings * s.value_depth + s.heads * lambdas
    return OpCounts(products=products, moved=embeddings + 4 * lambdas, calls=6)


def convolution_ops(s: Shape) -> OpCounts:
    lambdas = s.queries * s.key_depth * s.value_depth
    taps = lambdas * s.intra_depth * s.scope[0] * s.scope[1]
    return OpCounts(taps=taps, moved=(1 + 3 * s.heads) * lambdas, calls=8 + 4 * s.heads)
