"""Properties that all mixers have in common."""

from functools import partial

import pytest
import torch

from lambdanets.mixers import (
    SE,
    Attention,
    Augmented,
    Axial,
    Conv,
    GatedMixer,
    LambdaConv,
    LambdaLayer,
    LinearAttention,
    LocalAttention,
    LocalRelation,
    PatchwiseAttention,
    SharedLambda,
)


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


def test_only_some_mixers_have_a_gate():
    assert all(isinstance(mixer, GatedMixer) for mixer in (SE(), LinearAttention()))
    assert not any(isinstance(mixer, GatedMixer) for mixer in (Conv, partial(LambdaLayer, scope=3), SharedLambda()))
