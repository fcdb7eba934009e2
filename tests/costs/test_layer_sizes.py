"""Sizes of layers in ResNet-50 against the architecture's published table."""

from functools import partial

import pytest
import torch

from lambdanets.costs.closed_forms import LayerSizes
from lambdanets.costs.layer_sizes import mixing_layers
from lambdanets.mixers import (
    SE,
    Attention,
    Axial,
    Conv,
    LambdaLayer,
    LinearAttention,
    LocalAttention,
    PatchwiseAttention,
    SharedLambda,
)
from lambdanets.models import EfficientNet, MobileNet, ResNet

# He et al. (2016), Table 1: blocks, side of the output for images of 224×224, channels of the 3×3 convolution.
STAGES = [(3, 56, 64), (4, 28, 128), (6, 14, 256), (3, 7, 512)]


def expected_sizes(*arguments, **options):
    return [
        LayerSizes((side, side), channels, *arguments, **options)
        for count, side, channels in STAGES
        for _ in range(count)
    ]


def sizes(mixer, **options):
    with torch.device("meta"):
        return mixing_layers(ResNet(mixer, **options), (224, 224))


@pytest.mark.parametrize(
    ("mixer", "kind", "arguments"),
    [
        (partial(LambdaLayer, scope="global"), "lambda", (4, 16, 1, None)),
        (partial(LambdaLayer, scope=7, intra_depth=4), "convolution", (4, 16, 4, (7, 7))),
        (SharedLambda(scope="global"), "shared", (4, 16, 1, None)),
    ],
)
def test_lambda_layers(mixer, kind, arguments):
    assert sizes(mixer) == (kind, expected_sizes(*arguments))


@pytest.mark.parametrize(
    ("mixer", "kind", "scope"),
    [(Attention, "attention", None), (Axial, "axial", None), (LocalAttention, "local", (7, 7))],
)
def test_attention_has_an_eighth_of_the_channels_per_head(mixer, kind, scope):
    expected = [
        LayerSizes((side, side), channels, 8, channels // 8, scope=scope)
        for count, side, channels in STAGES
        for _ in range(count)
    ]
    assert sizes(mixer) == (kind, expected)


def test_patchwise_attention_has_groups_of_8_channels_and_weights_from_a_quarter_of_the_channels():
    kind, layers = sizes(PatchwiseAttention, layout="CCCL")
    assert (kind, layers) == ("patchwise", 3 * [LayerSizes((7, 7), 512, 64, 128, scope=(7, 7))])


def test_linear_attention_is_on_the_output_of_its_blocks():
    kind, layers = sizes(LinearAttention(), layout="CLCC")
    assert (kind, layers) == ("linear", 4 * [LayerSizes((28, 28), 128, 1, 128)])


def test_blocks_of_a_mobilenet():
    # Sandler et al. (2018), Table 2: blocks 10 and 16 have 64 and 160 channels, on maps of 14² and 7².
    model = MobileNet(partial(LambdaLayer, scope=5, key_depth=8), blocks=[10, 16], expansion=1)
    expected = [LayerSizes((side, side), channels, 4, 8, 1, (5, 5)) for side, channels in ((14, 64), (7, 160))]
    assert mixing_layers(model, (224, 224)) == ("convolution", expected)
    assert mixing_layers(MobileNet(LambdaLayer), (224, 224)) is None


def test_maps_and_scopes_that_are_not_square():
    with torch.device("meta"):
        network = ResNet(partial(LambdaLayer, scope=(1, 15)), layout="CCCL", image_size=(64, 256))
        kind, layers = mixing_layers(network, (64, 256))
    assert (kind, layers) == ("convolution", 3 * [LayerSizes((2, 8), 512, 4, 16, 1, (1, 8))])
    assert (layers[0].positions, layers[0].context) == (16, 8)


def test_networks_without_such_layers_have_no_sizes():
    assert sizes(Conv) is None
    assert sizes(SE()) is None
    assert mixing_layers(EfficientNet(), (224, 224)) is None
