"""Counted steps against the matrix products that the programs compute in Triton's interpreter."""

import pytest
import torch

from lambdanets.ops import triton_kernel, triton_partition
from lambdanets.ops.triton_kernel import triton_lambdas
from lambdanets.ops.triton_partition import Partition, Tiling, choose_patch
from tests.methods import needs_programs
from tests.ops.test_lambda_map import inputs


@needs_programs
@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter replaces the GPU only where there is none")
@pytest.mark.parametrize("context", [None, (5, 2), (2, 30)], ids=str)
@pytest.mark.parametrize(
    ("size", "scope", "batch", "intra_depth"),
    [((7, 7), (13, 13), 2, 1), ((9, 20), (5, 3), 3, 2), ((2, 33), (3, 23), 9, 1), ((12, 5), (7, 1), 1, 4)],
    ids=str,
)
def test_steps_are_the_products_of_the_programs(size, scope, batch, intra_depth, context, monkeypatch):
    from triton.runtime.interpreter import InterpreterBuilder

    products, create_dot = [], InterpreterBuilder.create_dot

    def count(builder, a, b, *rest):
        products.append((*sorted((a.data.shape[0], b.data.shape[1])), a.data.shape[1]))
        return create_dot(builder, a, b, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", count)
    tensors = inputs(size, scope, 2, intra_depth, batch=batch, key_depth=8, value_depth=20, dtype=torch.float32)
    if context:
        tensors[1] = torch.randn(batch, *context, intra_depth, 20, requires_grad=True)
    partition = Partition(
        batch,
        size,
        context or size,
        key_depth=8,
        value_depth=20,
        intra_depth=intra_depth,
        scope=scope,
        dtype=torch.float32,
    )
    y = triton_lambdas(*tensors)
    assert len(products) == partition.lambdas_steps()
    y.sum().backward()
    rows, columns = partition.tiling.rows, partition.tiling.columns
    values_patch, windows_patch = (side[0] * side[1] for side in (partition.values_patch, partition.windows_patch))
    expected = [((rows, columns), partition.step)] * (2 * partition.lambdas_steps())
    expected += [((values_patch, columns), partition.values_step)] * partition.values_steps(batch)
    expected += [((windows_patch, rows), partition.windows_step)] * partition.windows_steps(batch)
    expected = [(*sorted(sides), step) for sides, step in expected]  # some sum the transposed product
    assert sorted(products) == sorted(expected)


@pytest.mark.parametrize(
    ("area", "size", "patch"),
    [
        ((23, 30), 64, (2, 32)),
        ((56, 56), 64, (8, 8)),
        ((14, 14), 64, (4, 16)),
        ((1, 100), 64, (1, 64)),
        ((9, 1), 16, (16, 1)),
    ],
)
def test_patches_cover_an_area_with_least_waste(area, size, patch):
    assert choose_patch(*area, size) == patch


@pytest.mark.parametrize("dtype", triton_kernel.DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [(128, 56, 16, 16), (1, 7, 16, 128), (4, 1, 1, 1), (3, 100, 128, 300), (2, 5, 3, 7)])
def test_tiles_fit_tensor_cores(dtype, sizes):
    tiling = Tiling.of(*sizes, dtype)
    assert 16 <= tiling.rows <= triton_partition.TILE
    assert 16 <= tiling.columns <= triton_partition.TILE
