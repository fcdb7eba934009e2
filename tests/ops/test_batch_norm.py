"""Batch norm, sum and ReLU in one pass against PyTorch's layers in float64."""

import copy

import pytest
import torch
from torch import nn

from lambdanets.ops.batch_norm import can_fuse, norm_act
from tests.methods import needs_compiler

pytestmark = needs_compiler


def make_norm(channels, **options):
    norm = nn.BatchNorm2d(channels, **options)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def make_map(shape, dtype, *, mean=0.0):
    x = (torch.randn(shape, dtype=torch.float64) + mean).to(dtype)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def by_layers(x, norm, relu, summand):
    """The same by PyTorch's layers in float64."""
    y = norm(x)
    y = y if summand is None else y + summand
    return y.relu() if relu else y


def relative_error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-6), (torch.bfloat16, 5e-3)], ids=str
)
@pytest.mark.parametrize("shape", [(2, 16, 3, 3), (3, 21, 5, 7), (4, 40, 6, 6), (2, 3, 1, 4)], ids=str)
@pytest.mark.parametrize(("relu", "adds"), [(False, False), (True, False), (False, True), (True, True)])
def test_results_gradients_and_statistics_are_those_of_layers(dtype, tolerance, shape, relu, adds):
    torch.manual_seed(0)
    norm = make_norm(shape[1]).to(torch.float64 if dtype is torch.float64 else torch.float32)
    exact = copy.deepcopy(norm).double()
    x, summand = make_map(shape, dtype, mean=2.0), make_map(shape, dtype) if adds else None
    act = nn.ReLU(inplace=True) if relu else None
    assert can_fuse(x, norm, act, summand)
    y = norm_act(x, norm, act, summand)
    inputs = [x, *([summand] if adds else [])]
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = by_layers(doubles[0], exact, relu, doubles[1] if adds else None)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(y, expected) < tolerance
    grad = torch.randn_like(y)
    # A result that rounds across zero would have another gradient: compare where the ReLU agrees.
    grad = grad * ((y > 0) == (expected > 0)) if relu else grad
    grads = torch.autograd.grad(y, [*inputs, *norm.parameters()], grad)
    exact_grads = torch.autograd.grad(expected, [*doubles, *exact.parameters()], grad.double())
    for actual, wanted in zip(grads, exact_grads, strict=True):
        assert (actual.double() - wanted).norm() <= 3 * tolerance * (wanted.norm() + grad.double().norm())
    for actual, wanted in zip(norm.buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(actual.double(), wanted.double(), rtol=1e-5, atol=1e-6)


def test_statistics_far_from_zero_do_not_cancel():
    x = make_map((8, 16, 9, 9), torch.float32, mean=3000.0)
    norm = make_norm(16)
    expected = by_layers(x.detach().double(), copy.deepcopy(norm).double(), False, None)
    assert relative_error(norm_act(x, norm), expected) < 1e-3  # float32 resolves 0.0002 at 3000


@pytest.mark.parametrize("relu", [False, True])
def test_derivatives_of_both_orders_are_numerical_ones(relu):
    torch.manual_seed(0)
    norm = make_norm(3).double()
    x, summand = make_map((2, 3, 2, 2), torch.float64), make_map((2, 3, 2, 2), torch.float64)
    act = nn.ReLU() if relu else None

    def apply(x, summand, *parameters):
        return norm_act(x, norm, act, summand)

    assert torch.autograd.gradcheck(apply, (x, summand, norm.weight, norm.bias))
    assert torch.autograd.gradgradcheck(apply, (x, summand, norm.weight, norm.bias))


def test_a_cumulative_average_of_statistics():
    norm = make_norm(4, momentum=None)
    exact = copy.deepcopy(norm).double()
    for _ in range(3):
        x = make_map((2, 4, 3, 3), torch.float32)
        norm_act(x, norm)
        exact(x.detach().double())
    torch.testing.assert_close(norm.running_var.double(), exact.running_var)
    assert norm.num_batches_tracked == 3


def test_other_maps_norms_and_hooked_layers_use_their_modules():
    x, norm, act = make_map((2, 4, 3, 3), torch.float32), make_norm(4), nn.ReLU()
    assert can_fuse(x, norm, act, None)
    assert not can_fuse(x.contiguous(memory_format=torch.contiguous_format), norm, act, None)
    assert not can_fuse(x, copy.deepcopy(norm).eval(), act, None)
    assert not can_fuse(x, nn.BatchNorm2d(4, affine=False), act, None)
    assert not can_fuse(x, norm, nn.SiLU(), None)
    with torch.no_grad():
        assert not can_fuse(x, norm, act, None)
    seen = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.testing.assert_close(norm_act(x, norm, act), seen[0].relu())
