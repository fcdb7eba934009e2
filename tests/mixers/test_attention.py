"""Global self-attention against its definition."""

import numpy as np
import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import Attention
from tests.reference.attention import attention
from tests.reference.pooling import average_pool


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_attention_is_the_definition(size, stride):
    torch.manual_seed(0)
    layer = Attention(8, stride=stride, feature_size=size, heads=2).double()
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    weights = np.split(layer.qkv.weight[:, :, 0, 0].detach().numpy(), 3)
    tables = [table.detach().numpy() for table in (layer.row_table, layer.column_table)]
    expected = [attention(image.numpy(), *weights, *tables, heads=2) for image in x]
    if stride == 2:
        expected = [average_pool(image) for image in expected]
    np.testing.assert_allclose(layer(x).detach().numpy(), np.stack(expected), rtol=1e-10, atol=1e-12)


def test_mistakes():
    with pytest.raises(UserError, match="heads=5 does not divide the 16 channels"):
        Attention(16, feature_size=(4, 4), heads=5)
