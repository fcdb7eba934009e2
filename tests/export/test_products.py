"""The lambda layer's product as exported graphs compute it, against the definition in float64."""

import pytest
import torch

from lambdanets.export.products import (
    MAX_CONSTANT,
    BandedScores,
    LambdaConvolution,
    LambdasFirst,
    WholeMapScores,
    candidates,
    make_product,
)
from lambdanets.ops import Shape
from tests.ops.test_lambda_map import inputs
from tests.reference.lambda_map import lambda_map as by_definition

# Map, scope, heads, u.
CASES = [
    ((4, 5), (7, 9), 2, 1),
    ((5, 3), (5, 5), 1, 3),
    ((9, 10), (3, 5), 3, 1),
    ((1, 9), (1, 3), 1, 2),
    ((3, 2), (9, 9), 2, 2),
]
PRODUCTS = {
    "whole map": WholeMapScores,
    "lambdas first": LambdasFirst,
    "rows": lambda table, size: BandedScores(table, size, 1),
    "bands of 2 rows": lambda table, size: BandedScores(table, size, 2),
    "one band": lambda table, size: BandedScores(table, size, size[0]),
    "convolution": lambda table, size: LambdaConvolution(table),
}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", PRODUCTS)
def test_each_product_is_the_definition(name, case):
    query, values, table, content = (tensor.detach() for tensor in inputs(*case))
    y = PRODUCTS[name](table, case[0])(query, values, content)
    torch.testing.assert_close(y, by_definition(query, values, table, content), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dilation", "stride"), [(2, 1), (3, 1), (1, 2), (2, 2)])
def test_each_candidate_for_a_dilated_or_strided_layer_is_the_definition(dilation, stride):
    query, values, table, content = (tensor.detach() for tensor in inputs((9, 10), (3, 5), 3, 2, stride=stride))
    shape = Shape.of(query, values, table, dilation=dilation, stride=stride)
    expected = by_definition(query, values, table, content, dilation=dilation, stride=stride)
    products = [candidate.make(table) for candidate in candidates(shape)]
    assert len(products) == (1 if stride > 1 else 12)
    for product in products:
        torch.testing.assert_close(product(query, values, content), expected, rtol=0, atol=1e-12)


def resnet_shape(side, channels, scope, heads=4):
    """Return the product of a layer of LambdaResNet-50."""
    return Shape(1, side, side, (side, side), heads, 16, channels // heads, 1, (scope, scope))


@pytest.mark.parametrize("shape", [resnet_shape(28, 256, 55), resnet_shape(14, 256, 27), resnet_shape(28, 128, 23)])
def test_constants_are_counted_as_they_are_stored(shape):
    table = torch.randn(shape.key_depth, shape.intra_depth, *shape.scope)
    kinds = set()
    for candidate in candidates(shape):
        product = candidate.make(table)
        kinds.add(type(product))
        if not isinstance(product, LambdaConvolution):
            stored = sum(buffer.numel() for buffer in product.buffers())
            assert stored == candidate.constant
            assert 4 * stored <= MAX_CONSTANT
    assert (WholeMapScores in kinds) == (shape.queries == 196)


# What was measured to be fastest in ONNX Runtime by more than a quarter.
FASTEST = {
    "c5, global": (resnet_shape(7, 512, 13), WholeMapScores),
    "c4, global": (resnet_shape(14, 256, 27), WholeMapScores),
    "c4's first, global": (resnet_shape(28, 256, 55), BandedScores),
    "c4, 7×7": (resnet_shape(14, 256, 7), BandedScores),
    "c2, 7×7": (resnet_shape(56, 64, 7), LambdaConvolution),
    "one value per head": (resnet_shape(14, 16, 27, heads=16), LambdasFirst),
}


@pytest.mark.parametrize("name", FASTEST)
def test_the_fastest_product_is_chosen(name):
    shape, kind = FASTEST[name]
    assert isinstance(make_product(torch.zeros(16, 1, *shape.scope), shape, "onnx"), kind)
