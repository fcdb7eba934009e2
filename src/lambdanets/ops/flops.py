"""FLOPs of our operators for `torch.utils.flop_counter`: two per multiply-add, as PyTorch counts its own operators.

The formulas count all matrix products, including padding and recomputation, and Fourier transforms as 2.5·N·log2(N) for
N real points. Like PyTorch's formulas, they don't count copies.
"""

from collections.abc import Callable, Sequence
from math import ceil, log2
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from lambdanets.ops import fourier, kernel, row_fft, scores, tiles, triton_kernel  # noqa: F401, each defines its operator
from lambdanets.ops.triton_partition import Tiling

Sizes = Sequence[int]
Formula = Callable[[Sizes, Sizes, Sizes, bool], float]


def scores_first_products(query: Sizes, pairs: float, depth: Sizes, backward: bool) -> float:
    """Count scores first for a number of pairs of a query and a position, and the content lambda.

    Forward: q · E and s · v. Backward: the scores, their gradient, and the gradients of v, q and E.
    """
    _, value_depth = depth
    batch, height, width, heads, key_depth = query
    content = 2 * batch * height * width * heads * key_depth * value_depth
    if not backward:
        return 2 * pairs * (key_depth + value_depth) + content
    return 2 * pairs * (3 * key_depth + 2 * value_depth) + 2 * content


def scores_first_flops(query: Sizes, values: Sizes, table: Sizes, backward: bool) -> float:
    batch, height, width, heads, _ = query
    _, context_height, context_width, intra_depth, _ = values
    return scores_first_products(
        query, batch * heads * height * width * context_height * context_width * intra_depth, values[3:], backward
    )


def scores_kernel_flops(query: Sizes, values: Sizes, table: Sizes, backward: bool) -> float:
    batch, height, width, heads, _ = query
    _, context_height, context_width, intra_depth, _ = values
    rows = kernel.visible_pairs(height, context_height, table[2])
    columns = kernel.visible_pairs(width, context_width, table[3])
    return scores_first_products(query, batch * heads * rows * columns * intra_depth, values[3:], backward)


def tiled_scores_flops(query: Sizes, values: Sizes, table: Sizes, backward: bool) -> float:
    batch, height, width, heads, _ = query
    pairs = batch * heads * values[3]
    for side, scope in zip((height, width), table[2:], strict=True):
        tile = tiles.best_tile_side(side, scope)
        pairs *= ceil(side / tile) * tile * (tile + scope - 1)
    return scores_first_products(query, pairs, values[3:], backward)


def row_fft_flops(query: Sizes, values: Sizes, table: Sizes, backward: bool) -> float:
    batch, height, width, heads, key_depth = query
    intra_depth, value_depth = values[3:]
    reach = min(table[2] // 2, height - 1), min(table[3] // 2, width - 1)
    frequencies = (height + reach[0]) // 2 + 1
    spectra = batch * 2 * frequencies * height * intra_depth * width * value_depth
    spectra += 2 * frequencies * (2 * reach[0] + 1) * key_depth * intra_depth * (2 * width - 1)
    in_frequency = 0
    step = row_fft.columns_per_chunk(width, 2 * frequencies * key_depth * value_depth)
    for start in range(0, width, step):
        stop = min(width, start + step)
        visible = min(width, stop + reach[1]) - max(0, start - reach[1])
        in_frequency += batch * frequencies * 4 * (stop - start) * key_depth * intra_depth * visible * value_depth
    transformed = batch * height * 2 * frequencies * width * key_depth * value_depth
    applied = batch * height * width * heads * key_depth * value_depth
    if not backward:
        return 2 * (spectra + in_frequency + transformed + applied)
    recomputed = 0 if table[2] >= 2 * height - 1 and table[3] >= 2 * width - 1 else 1  # see row_fft.saved_size
    return 2 * (2 * spectra + (2 + recomputed) * in_frequency + (1 + recomputed) * transformed + 2 * applied)


def fourier_flops(query: Sizes, values: Sizes, table: Sizes, backward: bool) -> float:
    batch, height, width, heads, key_depth = query
    intra_depth, value_depth = values[3:]
    reach = min(table[2] // 2, height - 1), min(table[3] // 2, width - 1)
    size = fourier.fast_length(height + reach[0]), fourier.fast_length(width + reach[1])
    images, points = batch * value_depth, size[0] * size[1]
    transform = 2.5 * points * log2(points)
    multiplied = 8 * images * intra_depth * key_depth * size[0] * (size[1] // 2 + 1)  # complex multiply-adds
    applied = 2 * batch * height * width * heads * key_depth * value_depth
    forward = (images * intra_depth + key_depth * intra_depth + key_depth * images) * transform
    if not backward:
        return forward + multiplied + 2 * applied
    more = (key_depth * images + images * intra_depth + key_depth * intra_depth) * transform
    return forward + more + 3 * multiplied + 4 * applied


def triton_lambdas_flops(query: Sizes, values: Sizes, table: Sizes, backward: bool) -> float:
    batch, height, width, heads, key_depth = query
    _, context_height, context_width, intra_depth, value_depth = values
    rows = kernel.visible_pairs(height, context_height, table[2])
    tile = Tiling.of(batch, width, key_depth, value_depth, torch.bfloat16).queries
    columns = sum(
        min(context_width, first + tile + table[3] // 2) - max(0, first - table[3] // 2)
        for first in range(0, width, tile)
    )
    summed = batch * rows * columns * tile * intra_depth * key_depth * value_depth
    applied = batch * height * width * heads * key_depth * value_depth
    return 2 * (3 * summed + 3 * applied if backward else summed + applied)


FORMULAS: dict[str, Formula] = {
    "scores_first": scores_first_flops,
    "scores_kernel": scores_kernel_flops,
    "tiled_scores": tiled_scores_flops,
    "row_fft": row_fft_flops,
    "fourier": fourier_flops,
    "triton_lambdas": triton_lambdas_flops,
}


def register(name: str, formula: Formula) -> None:
    def forward(query: Sizes, values: Sizes, table: Sizes, *rest: Any, **options: Any) -> int:
        return round(formula(query, values, table, False)) if query[0] else 0

    def backward(grad: Sizes, query: Sizes, values: Sizes, table: Sizes, *rest: Any, **options: Any) -> int:
        return round(formula(query, values, table, True)) if query[0] else 0

    register_flop_formula(getattr(torch.ops.lambdanets, name))(forward)
    register_flop_formula(getattr(torch.ops.lambdanets, f"{name}_backward"))(backward)


for name, formula in FORMULAS.items():
    register(name, formula)
