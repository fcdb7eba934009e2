"""FLOP formulas of our operators against the FLOPs of their matrix products."""

from itertools import product
from math import prod

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lambdanets.ops import flops, fourier, lambda_map, row_fft, scores, tiles
from tests.methods import needs_compiler

CASES = [
    # batch, height, width, heads, key_depth, value_depth, intra_depth, scope
    (2, 5, 7, 2, 3, 4, 1, (9, 13)),
    (3, 6, 4, 1, 2, 5, 2, (3, 5)),
    (1, 17, 18, 4, 16, 8, 1, (7, 7)),
    (2, 12, 12, 2, 16, 64, 1, (23, 23)),
]


# PyTorch counts the sum with a product, but not the one in place.
IN_PLACE = {torch.ops.aten.baddbmm_: lambda c, a, b, **rest: 2 * prod(a) * b[-1]}


def tensors(case):
    batch, height, width, heads, key_depth, value_depth, intra_depth, scope = case
    return (
        torch.randn(batch, height, width, heads, key_depth),
        torch.randn(batch, height, width, intra_depth, value_depth),
        torch.randn(key_depth, intra_depth, *scope),
        torch.randn(batch, key_depth, value_depth),
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "module"), [("scores_first", scores), ("tiled_scores", tiles), ("row_fft", row_fft)])
def test_counts_are_those_of_the_matrix_products(name, module, case):
    inputs = tensors(case)
    query, values, table, _ = inputs
    saved = torch.empty(module.saved_size(query, values, table) if module is row_fft else 0)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        y = module.forward(*inputs, saved)
    sizes = query.shape, values.shape, table.shape
    assert flops.FORMULAS[name](*sizes, False) == counter.get_total_flops()
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        module.backward(torch.randn_like(y), *inputs, saved)
    assert flops.FORMULAS[name](*sizes, True) == counter.get_total_flops()


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_counts_the_pairs_within_the_scope(case):
    inputs = tensors(case)
    batch, height, width, heads, key_depth, value_depth, intra_depth, scope = case
    pairs = sum(
        abs(n[0] - m[0]) <= scope[0] // 2 and abs(n[1] - m[1]) <= scope[1] // 2
        for n, m in product(product(range(height), range(width)), repeat=2)
    )
    with FlopCounterMode(display=False) as counter:
        lambda_map(*inputs, method="kernel")
    content = height * width * heads * key_depth * value_depth
    assert counter.get_total_flops() == 2 * batch * (pairs * heads * intra_depth * (key_depth + value_depth) + content)


def test_the_programs_in_triton_count_what_their_tiles_see():
    for case in CASES:
        query, values, table, _ = (tensor.shape for tensor in tensors(case))
        batch, height, width, heads, key_depth, value_depth, intra_depth, scope = case
        queries = max(min(128 // (1 << (key_depth - 1).bit_length()), 1 << (width - 1).bit_length()), 16 // key_depth)
        seen = 0
        for y, first in product(range(height), range(0, width, queries)):
            for row, column in product(range(height), range(width)):
                near = any(abs(column - x) <= scope[1] // 2 for x in range(first, first + queries))
                seen += queries * (near and abs(row - y) <= scope[0] // 2)
        summed = batch * seen * intra_depth * key_depth * value_depth
        applied = batch * height * width * heads * key_depth * value_depth
        formula = flops.FORMULAS["triton_lambdas"]
        assert formula(query, values, table, False) == 2 * (summed + applied)
        assert formula(query, values, table, True) == 2 * (3 * summed + 3 * applied)


@pytest.mark.parametrize("method", ["scores", "tiles", "row_fft", "fourier"])
def test_the_counter_counts_forward_and_backward(method):
    inputs = [tensor.requires_grad_() for tensor in tensors(CASES[0])]
    with FlopCounterMode(display=False) as counter:
        y = lambda_map(*inputs, method=method)
        forward = counter.get_total_flops()
        y.sum().backward()
    assert 0 < forward < counter.get_total_flops() - forward


def test_transforms_grow_as_n_log_n():
    counts = {}
    for side in (32, 64):
        sizes = (1, side, side, 4, 16), (1, side, side, 1, 16), (16, 1, 2 * side - 1, 2 * side - 1)
        counts[side] = {name: flops.FORMULAS[name](*sizes, False) for name in ("fourier", "scores_first")}
    assert counts[64]["scores_first"] > 15 * counts[32]["scores_first"]
    assert counts[64]["fourier"] < 4.8 * counts[32]["fourier"]
    assert fourier.fast_length(64 + 63) == 128
