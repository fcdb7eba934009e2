"""Stand-alone local self-attention against its definition."""

import numpy as np
import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import LocalAttention
from tests.mixers.comparison import SIZES, array, compare, matrix, random_images
from tests.reference.neighborhood import local_attention


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
def test_local_attention(size, stride):
    torch.manual_seed(0)
    layer = LocalAttention(12, stride=stride, scope=5, heads=2).double()
    x = random_images(12, size)
    weights = np.split(matrix(layer.qkv), 3)
    tables = array(layer.row_table), array(layer.column_table)
    compare(layer, x, [local_attention(image, *weights, *tables, heads=2) for image in x.numpy()], stride)


def test_local_attention_over_the_whole_map_is_global_attention():
    torch.manual_seed(0)
    layer = LocalAttention(8, scope=11, heads=2).double()
    with torch.no_grad():
        layer.row_table.zero_()
        layer.column_table.zero_()
    x = random_images(8, (6, 5))
    query, key, value = layer.qkv(x).flatten(2).unflatten(1, (3, 2, 4)).mT.unbind(1)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(layer(x), expected.mT.reshape(x.shape))


def test_memory_of_local_attention_grows_with_the_positions():
    saved = []

    def save(tensor):
        saved.append(tensor)
        return tensor

    sizes = {}
    for side in (16, 32):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            LocalAttention(8, scope=7, heads=2)(torch.randn(1, 8, side, side))
        sizes[side] = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}.values())
    assert sizes[32] < 4.2 * sizes[16]


def test_mistakes():
    with pytest.raises(UserError, match="scope=4 has no middle"):
        LocalAttention(16, scope=4)
