"""Mixers within PyTorch's tools: transforms, gradient penalties, meta tensors, traces and copies."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch.func import functional_call
from torch.nn.utils.parametrizations import weight_norm

from lambdanets.mixers import (
    Attention,
    Augmented,
    Axial,
    Conv,
    LambdaConv,
    LambdaLayer,
    LocalAttention,
    LocalRelation,
    PatchwiseAttention,
    SharedLambda,
)

MIXERS = {
    "attention": partial(Attention, heads=2),
    "augmented": partial(Augmented, heads=2, value_ratio=0.5),
    "axial": partial(Axial, heads=2),
    "conv": Conv,
    "lambda_conv": partial(LambdaConv, scope=3, heads=2, key_depth=2),
    "lambda": partial(LambdaLayer, scope=3, heads=2, key_depth=2),
    "lambda_global": partial(LambdaLayer, scope="global", heads=2, key_depth=2),
    "lambda_causal": partial(LambdaLayer, scope=3, heads=2, key_depth=2, causal=True),
    "lambda_shared": SharedLambda(scope=3, heads=2, key_depth=2),
    "local_attention": partial(LocalAttention, scope=3, heads=2),
    "local_relation": partial(LocalRelation, scope=3),
    "patchwise": partial(PatchwiseAttention, scope=3),
}


@pytest.fixture(params=MIXERS)
def mixer(request):
    torch.manual_seed(0)
    return MIXERS[request.param](8, stride=1, feature_size=(3, 4)).double().eval()


@pytest.fixture
def x():
    return torch.randn(3, 8, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_per_sample_gradients_are_those_of_a_loop(mixer, x):
    parameters, buffers = (
        {k: v.detach() for k, v in named} for named in (mixer.named_parameters(), mixer.named_buffers())
    )

    def loss(parameters, image):
        return functional_call(mixer, (parameters, buffers), (image[None],)).square().sum()

    per_sample = torch.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for index in range(len(x)):
        mixer.zero_grad()
        mixer(x[index : index + 1]).square().sum().backward()
        for name, parameter in mixer.named_parameters():
            torch.testing.assert_close(per_sample[name][index], parameter.grad)


def test_forward_mode_agrees_with_the_backward(mixer, x):
    direction = torch.randn_like(x)
    y, derivative = torch.func.jvp(mixer, (x,), (direction,))
    torch.testing.assert_close(y, mixer(x))
    grad = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(mixer(x.requires_grad_()), x, grad)
    torch.testing.assert_close((derivative * grad).sum(), (gradient * direction).sum())


def test_gradient_penalties_have_gradients(mixer, x):
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(mixer(x).square().sum(), x, create_graph=True)
    (penalty,) = torch.autograd.grad(gradient.square().sum(), x)
    # By forward mode over the gradient: the product of the Hessian with the gradient.
    first = torch.func.grad(lambda image: mixer(image).square().sum())
    (_, product) = torch.func.jvp(first, (x.detach(),), (gradient.detach(),))
    torch.testing.assert_close(penalty, 2 * product)


def test_a_forward_without_data_has_the_right_shape(mixer, x):
    on_meta = copy.deepcopy(mixer).to("meta").train()
    y = on_meta(x.to("meta"))
    assert y.shape == x.shape
    y.sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in on_meta.parameters())


def test_an_empty_batch_has_an_empty_result(mixer, x):
    y = mixer(x[:0])
    assert y.shape == (0, 8, 3, 4)
    y.sum().backward()


def test_copies_traces_and_reparametrized_mixers_give_the_same(mixer, x):
    expected = mixer(x)
    torch.testing.assert_close(pickle.loads(pickle.dumps(mixer))(x), expected)
    torch.testing.assert_close(torch.jit.trace(mixer, x)(x), expected)
    torch.testing.assert_close(torch.optim.swa_utils.AveragedModel(mixer)(x), expected)
    strided = torch.randn(3, 8, 6, 8, dtype=x.dtype)[:, :, ::2, ::2].copy_(x)
    torch.testing.assert_close(mixer(strided), expected)
    normalized = copy.deepcopy(mixer)
    for layer in [*normalized.modules()]:
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            weight_norm(layer)
    torch.testing.assert_close(normalized(x), expected)


def test_training_goes_on_after_inference_mode(mixer, x):
    with torch.inference_mode():
        expected = mixer(x).clone()
    y = mixer(x)
    y.sum().backward()
    torch.testing.assert_close(y, expected)
