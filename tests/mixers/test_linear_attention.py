"""The 3×3 convolution with linear attention as its gate."""

import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import Conv, LinearAttention


@pytest.mark.parametrize("form", ["double", "efficient"])
def test_linear_attention_brings_its_gate_and_starts_as_the_convolution(form):
    mixer = LinearAttention(form)
    assert isinstance(mixer(16, stride=1, feature_size=(4, 4)), Conv)
    gate = mixer.gate(64)
    x = torch.randn(2, 64, 4, 4)
    torch.testing.assert_close(gate(x), x)


def test_mistakes():
    with pytest.raises(UserError, match="form=triple of linear attention is not known; choose one of double"):
        LinearAttention("triple")
