"""Networks made faster for inference compute the same."""

import copy
import pickle
from functools import partial

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from lambdanets import optimize_for_inference
from lambdanets.errors import UserError
from lambdanets.inference.fused import FusedBottleneck, FusedConv
from lambdanets.mixers import Conv, LambdaLayer
from lambdanets.models import ResNet
from lambdanets.models.resnet import Bottleneck
from tests.inference.networks import NETWORKS, make_network, randomize_norms
from tests.methods import needs_compiler

pytestmark = pytest.mark.filterwarnings("ignore:.*lru_cache.*")


def assert_equal_logits(network, optimized, images):
    """Compare by the rounding that the network itself has in float32."""
    with torch.no_grad():
        exact = copy.deepcopy(network).double()(images.double())
        rounding = (network(images) - exact).abs().max()
        error = (optimized(images) - exact).abs().max()
    assert error <= max(1e-5 * exact.abs().max(), 4 * rounding)


@pytest.mark.parametrize("choice", NETWORKS, ids=str)
def test_logits_are_equal_for_any_batch_and_size(choice):
    network = make_network(*choice)
    optimized = optimize_for_inference(network)
    assert type(optimized) is type(network)
    for batch, size in ((3, 32), (1, 32), (2, 48 if fits_any_size(network) else 32)):
        assert_equal_logits(network, optimized, torch.randn(batch, 3, size, size))


def test_gates_under_autocast_are_those_of_the_network():
    network = make_network("small", "se", ())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, logits = network(images), optimize_for_inference(network)(images)
    torch.testing.assert_close(logits.float(), expected.float(), rtol=0, atol=0.05 * expected.abs().max().item())


@pytest.mark.parametrize("mixer", ["conv", "lambda", "se"])
def test_an_empty_batch_gives_no_logits(mixer):
    network = make_network("small", mixer, ())
    with torch.no_grad():
        assert optimize_for_inference(network)(torch.randn(0, 3, 32, 32)).shape == (0, 10)


def fits_any_size(network):
    with torch.no_grad():
        try:
            network(torch.randn(1, 3, 48, 48))
        except Exception:
            return False
    return True


def test_the_network_itself_stays_trainable():
    network = make_network("small", "lambda", ()).train()
    optimize_for_inference(network)
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_blocks_are_fused():
    optimized = optimize_for_inference(make_network("small", "lambda", ()))
    assert sum(isinstance(module, FusedBottleneck) for module in optimized.modules()) == 2
    assert isinstance(optimized.stem[0], FusedConv)


@needs_compiler
def test_inputs_that_it_can_not_take_are_refused():
    optimized = optimize_for_inference(make_network("small", "conv", ()))
    with pytest.raises(UserError, match="needs a gradient"):
        optimized(torch.randn(1, 3, 32, 32, requires_grad=True))
    with pytest.raises(UserError, match=r"\(B, 16, H, W\)"):
        optimized.stages(torch.randn(1, 4, 8, 8))
    with pytest.raises(UserError, match="optimized for a CPU"):
        optimized.stages(torch.randn(1, 16, 8, 8, device="meta"))


def test_feature_maps_are_equal():
    network = make_network("small", "lambda", ())
    optimized = optimize_for_inference(network)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        pairs = zip(
            optimized.forward_intermediates(images, intermediates_only=True),
            network.forward_intermediates(images, intermediates_only=True),
            strict=True,
        )
        for fused, plain in pairs:
            assert (fused - plain).abs().max() <= 1e-4 * plain.abs().max()


def test_an_optimized_network_can_be_copied_and_stored():
    optimized = optimize_for_inference(make_network("small", "se", ()))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = optimized(images)
        for other in (copy.deepcopy(optimized), pickle.loads(pickle.dumps(optimized))):
            torch.testing.assert_close(other(images), expected, rtol=0, atol=0)


def test_other_precisions_are_folded_only():
    network = make_network("small", "lambda", ()).double()
    optimized = optimize_for_inference(network)
    assert not any(isinstance(module, FusedConv) for module in optimized.modules())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(optimized(images), network(images))


class OwnMixer(nn.Module):
    """A mixer that reads the weights of its convolution."""

    def __init__(self, channels, *, stride, feature_size):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, padding=1)

    def forward(self, x):
        return nn.functional.conv2d(x, self.conv.weight, stride=self.conv.stride, padding=1).tanh()


class StandardizedConv(Conv):
    """A convolution with standardized weights."""

    def forward(self, x):
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return nn.functional.conv2d(x, weight, None, self.stride, self.padding)


class RoundedConv(Conv):
    """A convolution that computes in its own way, called by PyTorch's forward."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight.sign(), bias)


class GatedLambda(LambdaLayer):
    """A lambda layer with a gate behind it."""

    def forward(self, x):
        return super().forward(x) * x.mean((2, 3), keepdim=True).sigmoid()


class NormalizedLambda(LambdaLayer):
    """A lambda layer whose projection has columns of norm 1."""

    def project(self, x, context, memory_format):
        with torch.no_grad():
            self.qkv.weight /= self.qkv.weight.norm(dim=0)
        return super().project(x, context, memory_format)


OWN_MIXERS = [
    OwnMixer,
    StandardizedConv,
    RoundedConv,
    partial(GatedLambda, scope=3),
    partial(NormalizedLambda, scope=3),
]


@pytest.mark.parametrize("act", ["relu", "silu"])
@pytest.mark.parametrize("mixer", OWN_MIXERS)
def test_what_is_not_known_stays(mixer, act):
    network = ResNet(mixer, depth=[1, 1], layout="LL", strides=[1, 2], width=0.25, stem="small", act=act).eval()
    randomize_norms(network)
    assert_equal_logits(network, optimize_for_inference(network), torch.randn(2, 3, 16, 16))


@pytest.mark.parametrize("names", [("norm1",), ("norm3",), ("norm1", "norm2", "norm3")])
@pytest.mark.parametrize(
    "make_norm", [partial(nn.GroupNorm, 4), partial(nn.BatchNorm2d, track_running_stats=False), BatchNormAct2d]
)
def test_norms_that_cannot_be_folded_stay(make_norm, names):
    network = make_network("small", "lambda", ())
    for block in (module for module in network.modules() if isinstance(module, Bottleneck)):
        for name in names:
            norm = make_norm(getattr(block, name).num_features)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            setattr(block, name, norm.eval())
    assert_equal_logits(network, optimize_for_inference(network), torch.randn(2, 3, 32, 32))


class Reversed(nn.Sequential):
    """Layers that run from the last to the first."""

    def forward(self, x):
        for layer in reversed(self):
            x = layer(x)
        return x


class DoubledBlock(Bottleneck):
    """A block with twice the output."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_blocks_and_sequences_of_ones_own_stay():
    layers = Reversed(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(3, 4, 1)).eval()
    randomize_norms(layers)
    assert_equal_logits(layers, optimize_for_inference(layers), torch.randn(2, 3, 8, 8))
    network = make_network("small", "conv", ())
    for module in network.modules():
        if type(module) is Bottleneck:
            module.__class__ = DoubledBlock
    assert_equal_logits(network, optimize_for_inference(network), torch.randn(2, 3, 32, 32))


def test_a_network_may_be_optimized_twice():
    network = make_network("small", "lambda", ())
    images = torch.randn(2, 3, 32, 32)
    assert_equal_logits(network, optimize_for_inference(optimize_for_inference(network)), images)
    exact, images = copy.deepcopy(network).double(), images.double()  # is folded only
    twice = optimize_for_inference(optimize_for_inference(exact))
    with torch.no_grad():
        torch.testing.assert_close(twice(images), exact(images))


def test_a_layer_of_its_own_is_optimized():
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 8, 1)).eval()
    randomize_norms(layers)
    optimized = optimize_for_inference(layers)
    assert isinstance(optimized[0], FusedConv)  # 3 channels
    assert_equal_logits(layers, optimized, torch.randn(2, 3, 9, 9))
    assert isinstance(optimize_for_inference(LambdaLayer(8, scope=3)), LambdaLayer)


@needs_compiler
def test_a_compiled_network_is_equal():
    network = make_network("small", "lambda", ("model.depth=[1]", "model.layout=L", "model.strides=[1]"))
    optimized = optimize_for_inference(network, compile=True)
    assert type(optimized) is ResNet
    assert_equal_logits(network, optimized, torch.randn(2, 3, 32, 32))
