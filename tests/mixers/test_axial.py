"""Axial self-attention against attention in columns and rows."""

import numpy as np
import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import Axial
from tests.mixers.comparison import array, compare, matrix, random_images
from tests.reference.attention import attention


@pytest.mark.parametrize("size", [(4, 4), (3, 7)])
@pytest.mark.parametrize("stride", [1, 2])
def test_axial_attention_is_attention_in_each_column_then_in_each_row(size, stride):
    torch.manual_seed(0)
    layer = Axial(8, stride=stride, feature_size=size, heads=2).double()
    columns, rows = layer[0], layer[1]
    none = np.zeros((1, 4))
    expected = []
    for image in random_images(8, size).numpy():
        weights = np.split(matrix(columns.qkv), 3)
        lines = [
            attention(image[:, :, j : j + 1], *weights, array(columns.table), none, heads=2) for j in range(size[1])
        ]
        image = np.concatenate(lines, 2)
        weights = np.split(matrix(rows.qkv), 3)
        lines = [attention(image[:, i : i + 1], *weights, none, array(rows.table), heads=2) for i in range(size[0])]
        expected.append(np.concatenate(lines, 1))
    compare(layer, random_images(8, size), expected, stride)


def test_mistakes():
    with pytest.raises(UserError, match="heads=3 does not divide the 16 channels"):
        Axial(16, feature_size=(4, 4), heads=3)
