"""The lambda convolution: stride, dilation, mistakes."""

import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import LambdaConv
from tests.mixers.test_lambda_layer import SMALL, by_definition, close, randomize


def test_a_strided_lambda_convolution_gives_every_second_position():
    torch.manual_seed(0)
    strided = randomize(LambdaConv(8, stride=2, strided=True, scope=3, dilation=2, **SMALL))
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64)
    close(strided(x), by_definition(strided, x)[:, :, ::2, ::2])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scope": "global", "feature_size": (4, 4)}, "has a local scope"),
        ({"dilation": 0}, "dilation=0"),
        ({"strided": True, "causal": True}, "strided=true can't"),
    ],
)
def test_mistakes_with_a_convolution(options, words):
    with pytest.raises(UserError, match=words):
        LambdaConv(16, **options)
