"""The lambda layer as one autograd node, against the layer by PyTorch's operators in float64."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lambdanets.mixers import LambdaLayer
from tests.methods import needs_compiler

pytestmark = needs_compiler
CASES = [
    {"scope": "global"},
    {"scope": 3, "intra_depth": 2},
    {"scope": (5, 3), "heads": 3, "key_depth": 5},
    {"scope": "global", "content": False},
    {"scope": "global", "stride": 2},
]


class Spy:
    """Count how often layers run as one node."""

    def __init__(self, monkeypatch):
        self.calls = 0
        run = LambdaLayer.run_node

        def run_node(layer, x):
            self.calls += 1
            return run(layer, x)

        monkeypatch.setattr(LambdaLayer, "run_node", run_node)


@pytest.fixture
def node(monkeypatch):
    return Spy(monkeypatch)


def make_layer(dtype=torch.float32, **options):
    torch.manual_seed(0)
    options = {"heads": 2, "key_depth": 4, "feature_size": (5, 6), "method": "kernel"} | options
    layer = LambdaLayer(12, **options).to(dtype)
    for norm in (layer.query_norm, layer.value_norm):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return layer


def make_map(dtype=torch.float32, *, channels_last=False):
    x = torch.randn(3, 12, 5, 6, dtype=dtype)
    return (x.contiguous(memory_format=torch.channels_last) if channels_last else x).requires_grad_()


def by_operators(layer):
    """A copy in float64 that computes the lambdas by another method, which has no node."""
    layer = copy.deepcopy(layer).double()
    layer.set_method("lambdas")
    return layer


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("options", CASES, ids=str)
def test_results_gradients_and_statistics_are_those_of_operators(node, dtype, tolerance, channels_last, options):
    layer, x = make_layer(dtype, **options), make_map(dtype, channels_last=channels_last)
    exact, exact_x = by_operators(layer), x.detach().double().requires_grad_()
    y, expected = layer(x), exact(exact_x)
    assert node.calls == 1
    grad = torch.randn_like(y)
    y.backward(grad)
    expected.backward(grad.double())
    assert y.stride() == expected.stride()
    pairs = [(y, expected), (x.grad, exact_x.grad), *zip(layer.buffers(), exact.buffers(), strict=True)]
    pairs += [(a.grad, b.grad) for a, b in zip(layer.parameters(), exact.parameters(), strict=True)]
    for actual, wanted in pairs:
        torch.testing.assert_close(actual.double(), wanted.double(), rtol=tolerance, atol=tolerance * 10)


def test_derivatives_of_both_orders_are_numerical_ones(node):
    x = torch.randn(2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    layer = LambdaLayer(4, heads=2, key_depth=2, feature_size=(2, 2), scope="global", method="kernel").double()
    inputs = x, layer.qkv.weight, layer.query_norm.weight, layer.value_norm.bias, layer.table

    def apply(x, *parameters):
        return layer(x)

    assert torch.autograd.gradcheck(apply, inputs)
    assert torch.autograd.gradgradcheck(apply, inputs)
    assert node.calls > 1


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_is_as_exact_as_the_operators(node, x_dtype):
    layer, x = make_layer(scope="global"), make_map(channels_last=True)
    exact, errors = by_operators(layer), []
    rounded = copy.deepcopy(layer)
    rounded.set_method("lambdas")
    expected = exact(x.detach().double())
    grad = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [*exact.parameters()], grad)
    for network in (layer, rounded):
        with torch.autocast("cpu", torch.bfloat16):
            y = network(x.detach().to(x_dtype).requires_grad_())
        assert y.dtype is torch.bfloat16
        grads = torch.autograd.grad(y, [*network.parameters()], grad.to(y.dtype))
        errors.append(
            [(a.double() - b).norm() / b.norm() for a, b in zip([y, *grads], [expected, *wanted], strict=True)]
        )
    assert node.calls == 1
    assert all(ours < 1.5 * theirs + 1e-3 for ours, theirs in zip(*errors, strict=True))


def test_a_checkpointed_layer_has_the_same_gradients(node):
    layer, x = make_layer(torch.float64), make_map(torch.float64)
    plain = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    recomputed = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).square().sum(), [x, *layer.parameters()])
    assert node.calls == 3
    for a, b in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(a, b)


def test_several_gradients_at_once(node):
    layer, x = make_layer(torch.float64), make_map(torch.float64)
    y = layer(x)
    grads = torch.randn(2, *y.shape, dtype=y.dtype)
    batched = torch.autograd.grad(y, x, grads, is_grads_batched=True, retain_graph=True)[0]
    for grad, actual in zip(grads, batched, strict=True):
        torch.testing.assert_close(actual, torch.autograd.grad(y, x, grad, retain_graph=True)[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.eval(),
        lambda layer: layer.query_norm.eval(),
        lambda layer: layer.value_norm.register_forward_hook(lambda *_: None),
        lambda layer: setattr(layer, "query_softmax", True),
        lambda layer: setattr(layer, "causal", True),
        lambda layer: setattr(layer, "key_norm", "l2"),
        lambda layer: layer.set_method("scores"),
    ],
)
def test_other_layers_use_operators(node, change):
    layer = make_layer()
    layer(make_map())
    assert node.calls == 1
    change(layer)
    layer(make_map())
    assert node.calls == 1


def test_counters_of_operations_see_operators(node):
    layer, x = make_layer(), make_map()
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    assert node.calls == 0
    assert counter.get_total_flops() > 3 * 2 * layer.qkv.weight.numel() * 3 * 30


def test_a_layer_with_a_part_of_its_own_uses_operators(node):
    class Doubled(LambdaLayer):
        def content_lambda(self, value, key):
            return 2 * super().content_lambda(value, key)

    layer = make_layer()
    doubled = Doubled(12, heads=2, key_depth=4, feature_size=(5, 6), method="kernel", scope=layer.scope)
    doubled.load_state_dict(layer.state_dict())
    x = make_map()
    assert not torch.allclose(doubled(x), layer(x))
    assert node.calls == 1
