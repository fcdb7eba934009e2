"""Batch norms folded into the layers before them."""

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from lambdanets.inference.folding import fold_batch_norms, norm_to_affine
from lambdanets.mixers import LambdaLayer
from lambdanets.models.batch_norm import FrozenBatchNorm2d
from tests.inference.networks import NETWORKS, make_network, randomize_norms


@pytest.mark.parametrize("choice", NETWORKS, ids=str)
def test_a_folded_network_computes_the_same(choice):
    network = make_network(*choice).double()
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold_batch_norms(network)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-9, atol=1e-9)
    # The network itself stays as it is.
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("choice", NETWORKS, ids=str)
def test_the_only_norms_left_are_those_behind_mixers_without_a_last_convolution(choice):
    folded = fold_batch_norms(make_network(*choice).train())
    kinds = (nn.modules.batchnorm._BatchNorm, nn.Dropout, StochasticDepth)
    left = {name.rpartition(".")[2] for name, module in folded.named_modules() if isinstance(module, kinds)}
    assert left <= ({"norm"} if choice[0] == "mobilenet_v2" else {"norm2"})
    assert not left or choice[1] not in ("conv", "se", "linear_attention")
    assert not folded.training


def test_norms_without_fixed_statistics_stay():
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm).eval()
    assert isinstance(fold_batch_norms(network)[1], nn.BatchNorm2d)


def test_frozen_norms_are_folded():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4)).train()
    randomize_norms(network)
    folded = fold_batch_norms(network)
    assert isinstance(folded[1], nn.Identity)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x))


def test_the_factors_of_a_norm_are_its_function():
    norm = nn.BatchNorm2d(5).double()
    randomize_norms(norm)
    norm.eval()
    scale, shift = norm_to_affine(norm)
    x = torch.randn(2, 5, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(x * scale[:, None, None] + shift[:, None, None], norm(x))


@pytest.mark.parametrize("size", [7, 20])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_folded_lambda_layer_takes_a_context_of_its_own(size, memory_format):
    layer = LambdaLayer(16, scope=5).double()
    randomize_norms(layer)
    layer.eval()
    x, context = torch.randn(2, 2, 16, size, size, dtype=torch.float64)
    x, context = (maps.contiguous(memory_format=memory_format) for maps in (x, context))
    with torch.no_grad():
        torch.testing.assert_close(fold_batch_norms(layer)(x, context), layer(x, context), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(fold_batch_norms(layer)(x), layer(x), rtol=1e-9, atol=1e-9)
