"""Patchwise self-attention against its definition."""

import numpy as np
import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import PatchwiseAttention
from tests.mixers.comparison import array, compare, matrix, random_images
from tests.reference.neighborhood import patchwise


@pytest.mark.parametrize("size", [(4, 4), (3, 7)])
@pytest.mark.parametrize("stride", [1, 2])
def test_patchwise_attention(size, stride):
    torch.manual_seed(0)
    layer = PatchwiseAttention(8, stride=stride, scope=3, group_channels=4, reduction=2).double()
    patch = array(layer.from_patch.weight).transpose(0, 2, 3, 1).reshape(4, -1)
    first = np.concatenate([matrix(layer.from_query), patch], 1)
    weights = first, array(layer.from_query.bias), matrix(layer.weigh), array(layer.weigh.bias)
    x = random_images(8, size)
    expected = [
        patchwise(image, matrix(layer.phi), matrix(layer.psi), *weights, scope=3, group_channels=4)
        for image in x.numpy()
    ]
    compare(layer, x, expected, stride)


def test_mistakes():
    with pytest.raises(UserError, match="reduction=32 must be from 1 to the 16 channels"):
        PatchwiseAttention(16, reduction=32)
