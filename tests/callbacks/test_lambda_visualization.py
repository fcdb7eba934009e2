"""Maps, lambdas and entropies of lambda layers against the layer's definition in float64."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch import nn

import lambdanets
from lambdanets.callbacks.lambda_visualization import draw_maps, key_entropy, lambda_layers, layer_inputs, query_maps
from lambdanets.mixers import LambdaLayer
from tests.reference.lambda_layer import lambda_layer

HEADS, KEY_DEPTH, VALUE_DEPTH = 2, 4, 4
MIDDLE = 3, 3  # of 6 × 7 positions


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = LambdaLayer(8, scope=5, key_depth=KEY_DEPTH, heads=HEADS, intra_depth=1).double().eval()
    for norm in (layer.query_norm, layer.value_norm):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(tensor)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return layer


def test_maps_and_lambdas_give_the_layers_output_by_definition(layer):
    x = torch.randn(1, 8, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        results = query_maps(layer, x)
    assert set(results) == {"content", "position"}
    image = x[0].numpy()
    weight_q, weight_v, weight_k = np.split(layer.qkv.weight.detach().numpy(), [8, 12])
    norms = {
        name: [t.detach().numpy() for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
        for name, norm in (("norm_q", layer.query_norm), ("norm_v", layer.value_norm))
    }
    table = layer.table.detach().numpy()

    def batch_norm(vector, name):
        mean, var, gain, bias = norms[name]
        return ((vector.T - mean) / np.sqrt(var + 1e-5) * gain + bias).T

    query = batch_norm(weight_q @ image[:, MIDDLE[0], MIDDLE[1]], "norm_q").reshape(HEADS, KEY_DEPTH)
    values = batch_norm(np.einsum("vd,dyx->vyx", weight_v, image).reshape(VALUE_DEPTH, -1), "norm_v")
    for kind, options in (
        ("content", {"weight_k": weight_k, "table": None}),
        ("position", {"weight_k": None, "table": table}),
    ):
        expected = lambda_layer(
            image, weight_q=weight_q, weight_v=weight_v, heads=HEADS, key_depth=KEY_DEPTH, intra_depth=1,
            **norms, **options,
        )[:, MIDDLE[0], MIDDLE[1]].reshape(HEADS, VALUE_DEPTH)  # fmt: skip
        maps, function = (tensor.double().numpy() for tensor in results[kind])
        np.testing.assert_allclose(query @ function.T, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(maps.reshape(HEADS, -1) @ values.T, expected, rtol=1e-5, atol=1e-5)


def test_the_position_map_is_zero_outside_of_the_scope(layer):
    with torch.no_grad():
        maps, _ = query_maps(layer, torch.randn(1, 8, 6, 7, dtype=torch.float64))["position"]
    inside = torch.zeros(6, 7, dtype=torch.bool)
    inside[1:6, 1:6] = True
    assert (maps[:, inside] != 0).all()
    assert (maps[:, ~inside] == 0).all()


def test_the_maps_of_all_heads_are_drawn_above_the_lambda():
    maps, function = torch.zeros(2, 6, 7), torch.zeros(4, 3)
    maps[1, 0, 0] = 1.0  # red in the second map
    function[0, 0] = -1.0  # blue in the lambda
    red, _, blue = draw_maps(maps, function)
    rows, columns = torch.where((red > 0.9) & (blue < 0.2))
    assert columns.min() > red.shape[1] / 2
    below, _ = torch.where((red < 0.2) & (blue > 0.9))
    assert below.min() > rows.max()


@torch.no_grad()
def test_entropy_of_keys_is_scipys():
    torch.manual_seed(0)
    layer = LambdaLayer(8, scope=3, key_depth=4, heads=2).eval()
    x = torch.randn(2, 8, 5, 5)
    weight = layer.qkv.weight.detach().numpy()[-4:]  # queries, values, keys
    keys = np.einsum("kd,bdn->bkn", weight, x.flatten(2).numpy())
    expected = entropy(softmax(keys, axis=-1), axis=-1).mean() / np.log(25)
    assert 0.5 < expected < 0.999
    assert key_entropy(layer, x) == pytest.approx(expected, abs=1e-5)
    nn.init.zeros_(layer.qkv.weight)
    assert key_entropy(layer, x) == pytest.approx(1, abs=1e-6)  # equal weights
    nn.init.constant_(layer.qkv.weight, 1e4)
    assert key_entropy(layer, x) == pytest.approx(0, abs=1e-3)  # one position has all the weight
    assert key_entropy(LambdaLayer(8, scope=3, key_norm="l2"), x) is None


def test_layers_come_with_their_inputs():
    torch.manual_seed(0)
    network = lambdanets.create("tiny", mixer="lambda", image_size=8, in_channels=1, num_classes=10).eval()
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        inputs = layer_inputs(network, x)
    assert [name for name, _, _ in inputs] == [name for name, _ in lambda_layers(network)]
    assert inputs[0][0] == "c2/block1"
    with torch.no_grad():
        block = network.stages[0][0]
        torch.testing.assert_close(inputs[0][2], block.act(block.norm1(block.conv1(network.stem(x)))))
    assert not any(layer._forward_pre_hooks for _, layer, _ in inputs)


@torch.no_grad()
def test_layers_of_a_mobilenet_are_named_by_their_blocks():
    options = ["model.blocks=[3,16]", "model.expansion=1"]
    network = lambdanets.create("mobilenet_v2", mixer="lambda_conv", image_size=64, overrides=options).eval()
    inputs = layer_inputs(network, torch.randn(2, 3, 64, 64))
    assert [(name, x.shape) for name, _, x in inputs] == [("block3", (2, 24, 16, 16)), ("block16", (2, 160, 2, 2))]
