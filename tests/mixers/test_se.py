"""Squeeze-and-excitation against its definition."""

import numpy as np
import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import squeeze_excitation


def test_squeeze_excitation_is_the_definition():
    torch.manual_seed(0)
    gate = squeeze_excitation(32, ratio=4).double()
    (w1, b1, w2, b2) = [parameter.detach().numpy().squeeze() for parameter in gate.parameters()]
    x = torch.randn(3, 32, 4, 5, dtype=torch.float64)
    for image, actual in zip(x.numpy(), gate(x).detach().numpy(), strict=True):
        hidden = np.maximum(w1 @ image.mean((1, 2)) + b1, 0)
        scale = 1 / (1 + np.exp(-(w2 @ hidden + b2)))
        np.testing.assert_allclose(actual, image * scale[:, None, None], rtol=1e-12)


def test_mistakes():
    with pytest.raises(UserError, match="SE ratio must be from 1 to a block's 16 channels, not 32"):
        squeeze_excitation(16, ratio=32)
