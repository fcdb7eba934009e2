"""The skeleton against torchvision's ResNet and published parameter counts; its options."""

from functools import partial

import pytest
import torch
import torchvision

from lambdanets.errors import UserError
from lambdanets.mixers import (
    SE,
    Attention,
    Augmented,
    Axial,
    Conv,
    LambdaConv,
    LambdaLayer,
    LinearAttention,
    LocalAttention,
    squeeze_excitation,
)
from lambdanets.models import ResNet
from lambdanets.models.resnet import DEPTHS, parse_layout

NAMES = {
    "conv1": "stem.0",
    "bn1": "stem.1",
    "fc": "classifier",
    "downsample": "shortcut",
    "bn2": "norm2",
    "bn3": "norm3",
    "conv2": "mixer",
}


def from_torchvision(name):
    """Our name of a parameter of torchvision's ResNet."""
    first, *rest = name.split(".")
    if not first.startswith("layer"):
        return ".".join([NAMES[first], *rest])
    block, layer, *rest = rest
    layer = {"conv1": "conv1", "bn1": "norm1"}.get(layer, NAMES.get(layer, layer))
    return ".".join(["stages", str(int(first[-1]) - 1), block, layer, *rest])


def millions(model):
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def small(mixer=LambdaLayer, **options):
    options = {
        "depth": [1, 1, 1, 1],
        "width": 0.25,
        "stem": "small",
        "image_size": (16, 16),
        "num_classes": 7,
    } | options
    return ResNet(mixer, **options)


@pytest.mark.parametrize(("depth", "peer"), [(50, "resnet50"), (101, "resnet101")])
def test_a_resnet_of_convolutions_equals_torchvisions(depth, peer):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, peer)().double().eval()
    ours = ResNet(Conv, depth=depth).double().eval()
    ours.load_state_dict({from_torchvision(name): tensor for name, tensor in theirs.state_dict().items()})
    images = torch.randn(2, 3, 65, 96, dtype=torch.float64)
    torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("mixer", [Conv, Attention, LambdaLayer])
def test_channels_last_is_the_memory_format_of_features(mixer, channels_last):
    model = ResNet(mixer, depth=26, image_size=(64, 64), channels_last=channels_last).eval()
    order = torch.channels_last if channels_last else torch.contiguous_format
    for feature in model.features(torch.randn(2, 3, 64, 64)):
        assert feature.is_contiguous(memory_format=order)


@pytest.mark.parametrize(
    ("mixer", "options", "published", "tolerance"),
    [
        (Conv, {}, 25.557, 0.005),
        (SE(), {}, 28.088, 0.005),
        (LambdaLayer, {}, 14.996, 0.005),
        (LambdaConv, {}, 14.873, 0.001),  # 8464 − 784 entries less than 23×23 in each of 16 tables
        (Attention, {}, 18.045, 0.001),  # 3 d² instead of 9 d² per layer, and its tables
        (LocalAttention, {}, 18.0, 0.05),  # published
        (Augmented, {"layout": "CLLL"}, 25.8, 0.05),  # published; in the last three stages
        (Axial, {}, 21.818, 0.001),  # 6 d² per layer, and its tables
        # Each of the 10 blocks of c3 and c4 gets 4 · C · C / 4; published are 33.0 M, for unknown blocks.
        (LinearAttention("double"), {"layout": "CLLC"}, 25.557 + (4 * 512**2 + 6 * 1024**2) / 1e6, 0.05),
        (LinearAttention("efficient"), {"layout": "CLLC"}, 25.557 + (4 * 512**2 + 6 * 1024**2) / 1e6, 0.05),
        (partial(LambdaLayer, scope=7, intra_depth=4), {}, 16.040, 0.005),
        (LambdaLayer, {"layout": "CCLL"}, 15.56, 0.005),
        (LambdaLayer, {"layout": "CLLL"}, 15.06, 0.005),
        (LambdaLayer, {"layout": "CCCL"}, 18.83, 0.005),
        (LambdaLayer, {"layout": "LLLC"}, 21.73, 0.005),
        (Conv, {"stem": "deep", "shortcut": "pool"}, 25.58, 0.005),  # timm's resnet50d
        (SE(4), {"stem": "deep_strided", "shortcut": "pool"}, 35.692, 0.0005),  # timm's resnetrs50
        (SE(4), {"stem": "deep_strided", "shortcut": "pool", "depth": 152}, 86.622, 0.0005),  # and resnetrs152
        (Conv, {"depth": 101}, 44.55, 0.005),
        (Conv, {"depth": 152}, 60.19, 0.005),
    ],
)
def test_parameter_counts(mixer, options, published, tolerance):
    with torch.device("meta"):
        model = ResNet(mixer, **options)
    assert abs(millions(model) - published) <= tolerance


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_named_depth_is_the_number_of_layers(depth):
    # Three layers per block, the stem and the classifier; ResNet-RS rounds its names.
    assert abs(3 * sum(DEPTHS[depth]) + 2 - depth) <= 2


@pytest.mark.parametrize(
    "mixer", [Conv, SE(), Attention, LambdaLayer, partial(LambdaLayer, scope="global"), LambdaConv]
)
@pytest.mark.parametrize(
    ("stem", "size"),
    [("small", (16, 16)), ("imagenet", (65, 40)), ("deep", (33, 64)), ("deep_strided", (33, 20)), ("fine", (33, 20))],
)
def test_features_have_the_announced_channels_and_strides(mixer, stem, size):
    model = small(mixer, stem=stem, image_size=size, shortcut="pool")
    features = model.features(torch.randn(2, 3, *size))
    for feature, channels, stride in zip(features, model.feature_channels, model.feature_strides, strict=True):
        assert feature.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
    assert model(torch.randn(2, 3, *size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("stem", "size"),
    [
        ("small", (16, 16)),
        ("strided", (17, 9)),
        ("imagenet", (65, 40)),
        ("deep", (33, 64)),
        ("deep_strided", (33, 64)),
        ("tiered", (31, 70)),
    ],
)
@pytest.mark.parametrize("strides", [(1, 2, 2, 2), (2, 1, 2, 1)])
def test_each_mixer_is_made_for_the_size_of_its_input(stem, size, strides):
    announced, actual = [], []

    def mixer(channels, *, stride, feature_size):
        announced.append((channels, *feature_size))
        layer = Conv(channels, stride=stride)
        layer.register_forward_pre_hook(lambda layer, inputs: actual.append(tuple(inputs[0].shape[1:])))
        return layer

    model = small(mixer, depth=[1, 2, 1, 2], stem=stem, strides=strides, image_size=size, shortcut="pool")
    model(torch.randn(2, 3, *size))
    assert len(actual) == 6
    assert actual == announced


def test_layout_selects_the_blocks_with_the_mixer():
    assert parse_layout("CCLL", (1, 2, 1, 2)) == [[False], [False, False], [True], [True, True]]
    assert parse_layout(["C", [2, 4], "L"], (1, 4, 1)) == [[False], [False, True, False, True], [True]]
    model = small(depth=[1, 1, 3, 1], layout=["C", "C", [2], "L"])
    kinds = [[type(block.mixer).__name__ for block in stage] for stage in model.stages]
    assert kinds == [["Conv"], ["Conv"], ["Conv", "LambdaLayer", "Conv"], ["LambdaLayer"]]


def test_gates_are_on_convolutional_blocks_and_on_blocks_of_gated_mixers():
    gate = partial(squeeze_excitation, ratio=4)
    gated = [type(stage[0].gate).__name__ for stage in small(layout="CCLL", gate=gate).stages]
    assert gated == ["SqueezeExcitation", "SqueezeExcitation", "Identity", "Identity"]
    by_stage = small(layout="CCCL", gate=[gate, None, partial(squeeze_excitation, ratio=2), gate])
    hidden = [getattr(stage[0].gate, "fc1", None) for stage in by_stage.stages]
    assert [layer and layer.out_channels for layer in hidden] == [16, None, 128, None]
    own_gates = [type(stage[0].gate).__name__ for stage in small(SE(), layout="CLLL").stages]
    assert own_gates == ["Identity", "SqueezeExcitation", "SqueezeExcitation", "SqueezeExcitation"]


def test_blocks_start_as_identities():
    torch.manual_seed(0)
    model = small(LambdaLayer, depth=[2, 1, 1, 1]).eval()
    block = model.stages[0][1]
    x = torch.rand(2, model.feature_channels[0], 16, 16)
    torch.testing.assert_close(block(x), x)
    assert not torch.allclose(small(LambdaLayer, depth=[2, 1, 1, 1], zero_init=False).eval().stages[0][1](x), x)


def test_stochastic_depth_grows_linearly_to_the_last_block():
    model = small(depth=[2, 1, 1, 1], drop_path=0.4)
    rates = [block.drop_path.p for stage in model.stages for block in stage]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert model.dropout.p == 0
    assert small(dropout=0.3).dropout.p == 0.3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 51}, "depth=51 is not a known ResNet"),
        ({"depth": [1, 0, 1, 1]}, "at least one block"),
        ({"layout": "CCL"}, "has 3 entries, but the model has 4 stages"),
        ({"layout": "CCXL"}, "layout has 'X'"),
        ({"layout": ["C", "C", [2], "L"]}, r"blocks \[2\] of a stage that has blocks 1 to 1"),
        ({"stem": "big"}, "stem=big is not known"),
        ({"shortcut": "none"}, "shortcut=none is not known"),
        ({"strides": (1, 2, 2)}, "strides"),
        ({"gate": [None, SE().gate, None]}, "gate has 3 entries, but the model has 4 stages"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(UserError, match=words):
        small(**options)
