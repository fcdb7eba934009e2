"""Attention, SE and convolution against their definitions; what all mixers have in common."""

import numpy as np
import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import (
    SE,
    Attention,
    Augmented,
    Axial,
    Conv,
    LambdaConv,
    LambdaLayer,
    LocalAttention,
    LocalRelation,
    PatchwiseAttention,
    squeeze_excitation,
)
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


def test_squeeze_excitation_is_the_definition():
    torch.manual_seed(0)
    gate = squeeze_excitation(32, ratio=4).double()
    (w1, b1, w2, b2) = [parameter.detach().numpy().squeeze() for parameter in gate.parameters()]
    x = torch.randn(3, 32, 4, 5, dtype=torch.float64)
    for image, found in zip(x.numpy(), gate(x).detach().numpy(), strict=True):
        hidden = np.maximum(w1 @ image.mean((1, 2)) + b1, 0)
        scale = 1 / (1 + np.exp(-(w2 @ hidden + b2)))
        np.testing.assert_allclose(found, image * scale[:, None, None], rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        Conv,
        SE(),
        Attention,
        Augmented,
        Axial,
        LambdaConv,
        LambdaLayer,
        LocalAttention,
        LocalRelation,
        PatchwiseAttention,
    ],
)
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_mixer_keeps_channels_and_divides_the_size_by_its_stride(make, size, stride):
    mixer = make(16, stride=stride, feature_size=size)
    x = torch.randn(2, 16, *size, requires_grad=True)
    y = mixer(x)
    assert y.shape == (2, 16, -(-size[0] // stride), -(-size[1] // stride))
    y.square().sum().backward()
    assert all(parameter.grad is not None for parameter in mixer.parameters())
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("make", [Attention, Augmented, Axial, LocalAttention, LocalRelation, PatchwiseAttention])
def test_mixers_compile_to_one_graph(make):
    torch.manual_seed(0)
    mixer = make(16, stride=2, feature_size=(9, 10))
    x = torch.randn(2, 16, 9, 10)
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), mixer(x))


@pytest.mark.parametrize("make", [Attention, Augmented, Axial, LocalAttention, LocalRelation, PatchwiseAttention])
def test_mixers_train_under_autocast(make):
    torch.manual_seed(0)
    mixer = make(16, feature_size=(9, 10))
    x = torch.randn(2, 16, 9, 10)
    exact = mixer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = mixer(x)
    y.float().sum().backward()
    assert (y.float() - exact).abs().max() < 0.1 * exact.abs().max()
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())


def test_mistakes():
    with pytest.raises(UserError, match="heads=5 does not divide the 16 channels"):
        Attention(16, feature_size=(4, 4), heads=5)
    with pytest.raises(UserError, match="SE ratio must be from 1 to a block's 16 channels, not 32"):
        squeeze_excitation(16, ratio=32)
    with pytest.raises(UserError, match="dilation=0"):
        LambdaConv(16, dilation=0)
