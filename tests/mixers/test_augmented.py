"""Attention-augmented convolution against convolution and attention."""

import numpy as np
import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import Augmented
from tests.mixers.comparison import array, matrix, random_images
from tests.reference.attention import attention
from tests.reference.pooling import average_pool


@pytest.mark.parametrize("stride", [1, 2])
def test_augmented_convolution_is_the_two_side_by_side(stride):
    torch.manual_seed(0)
    layer = Augmented(
        16, stride=stride, feature_size=(6, 5), heads=2, value_ratio=0.5, key_ratio=0.5, min_key_depth=1
    ).double()
    assert layer.depths == [4, 4, 4]
    x = random_images(16, (6, 5))
    qkv = matrix(layer.qkv).reshape(2, 3, 4, 16).transpose(1, 0, 2, 3).reshape(3, 8, 16)
    tables = array(layer.row_table), array(layer.column_table)
    convolved = array(torch.nn.functional.conv2d(x, layer.conv.weight, stride=stride, padding=1))
    for image, conv, actual in zip(x.numpy(), convolved, array(layer(x)), strict=True):
        read = average_pool(image) if stride == 2 else image
        expected = np.einsum("oc,chw->ohw", matrix(layer.out), attention(read, *qkv, *tables, heads=2))
        np.testing.assert_allclose(actual, np.concatenate([conv, expected]), rtol=1e-10, atol=1e-12)


def test_mistakes():
    with pytest.raises(UserError, match="leave the convolution none"):
        Augmented(16, feature_size=(4, 4), value_ratio=1.0)
