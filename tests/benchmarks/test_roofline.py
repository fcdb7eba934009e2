"""Arithmetic of layers, counted by hand."""

import pytest
import torch

from lambdanets.benchmarks.roofline import Roofline, count_multiply_adds, lambda_multiply_adds
from lambdanets.mixers import Conv, LambdaLayer


def test_the_longer_of_arithmetic_and_traffic_counts():
    roofline = Roofline(matrix_rate=100.0, bandwidth=10.0, element_bytes=2)
    assert roofline.floor(1000, 10, training=False) == 10  # 2 maps of 20 bytes take 4 s
    assert roofline.floor(1000, 10, training=True) == 30
    assert roofline.floor(10, 100, training=False) == 40
    assert roofline.floor(10, 100, training=True) == 100


@pytest.mark.parametrize("scope", ["global", 3])
@pytest.mark.parametrize(("heads", "key_depth"), [(1, 8), (4, 2)])
def test_lambda_layers_count_the_cheaper_order(scope, heads, key_depth):
    layer = LambdaLayer(16, feature_size=(3, 3), scope=scope, heads=heads, key_depth=key_depth)
    pairs = 81 if scope == "global" else (2 + 3 + 2) ** 2
    value_depth = 16 // heads
    position = pairs * min(heads * (key_depth + value_depth), key_depth * value_depth)
    projections = 9 * 16 * (heads * key_depth + key_depth + value_depth)
    content = 9 * key_depth * value_depth + 9 * heads * key_depth * value_depth
    assert lambda_multiply_adds(layer, 5, 3) == 5 * (projections + content + position)


def test_other_layers_count_their_operators():
    assert count_multiply_adds(Conv(4, stride=1), torch.randn(2, 4, 5, 5)) == 2 * 25 * 9 * 4 * 4
