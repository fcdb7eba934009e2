"""MobileNets against torchvision's, hand counts of blocks with lambda layers, every mixer in them, their options."""

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
    LocalRelation,
    PatchwiseAttention,
    SharedLambda,
)
from lambdanets.models import MobileNet

VARIANTS = ["v2", "v3_large"]
# Strides of the inverted bottlenecks: Sandler et al. (2018), Table 2, and Howard et al. (2019), Table 1.
STRIDES = {
    "v2": [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1],
    "v3_large": [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1],
}
LIGHT = partial(LambdaConv, scope=5, key_depth=8, heads=4)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_mixers_it_is_torchvisions_network(variant):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"mobilenet_{variant}")(num_classes=7).double()
    images = torch.randn(2, 3, 65, 96, dtype=torch.float64)
    torch.optim.swa_utils.update_bn([images], theirs)  # otherwise the logits of new networks are almost zero
    ours = MobileNet(variant=variant, num_classes=7).double().eval()
    ours.load_state_dict(theirs.state_dict())
    expected = theirs.eval()(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours(images), expected)


@pytest.mark.parametrize(("variant", "expected"), [("v2", 3_504_872), ("v3_large", 5_483_032)])
def test_parameters_are_those_that_torchvision_publishes(variant, expected):
    assert count(MobileNet(variant=variant)) == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_new_blocks_are_initialized_as_torchvisions(variant):
    torch.manual_seed(0)
    plain, mixed = (MobileNet(Conv, variant=variant, blocks=blocks) for blocks in ([], [12, 15]))
    for number in (12, 15):
        convs = [layer for layer in plain.features[number].modules() if isinstance(layer, torch.nn.Conv2d)]
        block = mixed.features[number]
        for ours, theirs in ((block.expand[0], convs[0]), (block.project[0], convs[-1])):
            assert ours.weight.shape == theirs.weight.shape
            assert float(ours.weight.std()) == pytest.approx(float(theirs.weight.std()), rel=0.03)


def conv_norm(inputs, outputs):
    return inputs * outputs + 2 * outputs


def lambda_conv(channels, k, h, r):
    """Parameters of a lambda convolution: queries, keys and values, two batch norms, and the r × r embeddings."""
    v = channels // h
    return channels * (h * k + k + v) + 2 * (h * k + v) + k * r**2


@pytest.mark.parametrize(
    ("variant", "number", "expansion", "inputs", "channels", "outputs", "gate"),
    [
        ("v2", 10, 1, 64, 64, 64, 0),
        ("v2", 16, 1, 160, 160, 160, 0),
        ("v2", 17, None, 160, 960, 320, 0),
        ("v2", 2, 3, 16, 48, 24, 0),
        ("v3_large", 10, 1, 80, 80, 80, 0),
        ("v3_large", 9, None, 80, 184, 80, 0),
        # Squeeze-and-excitation has a quarter of the channels, in multiples of 8, and biases.
        ("v3_large", 15, None, 160, 960, 160, 2 * 960 * 240 + 240 + 960),
        ("v3_large", 15, 2, 160, 320, 160, 2 * 320 * 80 + 80 + 320),
    ],
)
def test_parameters_of_a_block_by_hand(variant, number, expansion, inputs, channels, outputs, gate):
    model = MobileNet(LIGHT, variant=variant, blocks=[number], expansion=expansion)
    expected = conv_norm(inputs, channels) + lambda_conv(channels, 8, 4, 5) + 2 * channels + gate
    assert count(model.features[number]) == expected + conv_norm(channels, outputs)


def test_a_block_without_an_expanding_convolution_stays_so():
    model = MobileNet(LIGHT, blocks=[1], expansion=3)
    assert count(model.features[1]) == lambda_conv(32, 8, 4, 5) + 2 * 32 + conv_norm(32, 16)


MIXERS = [
    Conv, SE(ratio=4), LinearAttention("double"), LinearAttention("efficient", heads=2), Attention,
    partial(Augmented, heads=2), Axial,
    LocalAttention, LocalRelation, PatchwiseAttention, LambdaLayer, partial(LambdaLayer, scope="global"),
    SharedLambda(scope="global"), LambdaConv, partial(LambdaConv, strided=True),
]  # fmt: skip


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_mixer_learns_in_every_block(variant, mixer):
    torch.manual_seed(0)
    size = (63, 34)  # odd sides on the way: 32 × 17, 16 × 9, 8 × 5, 4 × 3, 2 × 2
    model = MobileNet(
        mixer, variant=variant, blocks=range(1, len(STRIDES[variant]) + 1), width=0.25, image_size=size, num_classes=5
    )
    assert len(model.mixed_blocks()) == len(STRIDES[variant])
    y = model(torch.randn(2, 3, *size))
    assert y.shape == (2, 5)
    y.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(224, 224), (75, 33)])
def test_mixers_get_the_stride_channels_and_feature_size_of_their_block(variant, size):
    calls, inputs = [], []

    class Recorder(Conv):
        def __init__(self, channels, *, stride, feature_size):
            calls.append((stride, channels, *feature_size))
            super().__init__(channels, stride=stride)

        def forward(self, x):
            inputs.append(x.shape[1:])
            return super().forward(x)

    blocks = range(1, len(STRIDES[variant]) + 1)
    model = MobileNet(Recorder, variant=variant, blocks=blocks, width=0.25, image_size=size).eval()
    output = model.features(torch.randn(1, 3, *size))
    assert [(stride, *shape) for stride, shape in zip(STRIDES[variant], inputs, strict=True)] == calls
    assert model.feature_sizes[len(blocks)] == output.shape[2:]


def test_a_gate_is_at_the_end_of_the_residual_branch():
    torch.manual_seed(0)
    model = MobileNet(SE(ratio=4), blocks=[3], width=0.25).eval()
    block, x = model.features[3], torch.randn(2, 8, 10, 10)
    torch.nn.init.zeros_(block.gate.fc2.weight)
    torch.nn.init.constant_(block.gate.fc2.bias, -100.0)  # the gate is closed
    torch.testing.assert_close(block(x), x)


def test_grey_images():
    assert MobileNet(in_channels=1, num_classes=3)(torch.randn(2, 1, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("mixer", [Conv, Attention, LambdaConv])
def test_channels_last_is_the_memory_format_of_features(mixer):
    model = MobileNet(mixer, blocks=[3, 7, 16], image_size=(64, 64)).eval()
    features = []
    for block in model.features:
        block.register_forward_hook(lambda _, inputs, output: features.append(output))
    model(torch.randn(2, 3, 64, 64))
    assert all(feature.is_contiguous(memory_format=torch.channels_last) for feature in features)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "v4"}, "variant=v4 of MobileNet is not known; choose one of v2, v3_large"),
        ({"blocks": [0, 3, 18]}, r"names \[0, 18\], but MobileNet-v2 has blocks 1 to 17"),
        ({"blocks": [16], "variant": "v3_large"}, "MobileNet-v3_large has blocks 1 to 15"),
        ({"blocks": [3], "expansion": 0.01}, "leaves no channels of 24"),
        ({"mixer": None, "blocks": [3]}, "need a mixer"),
        ({"blocks": [3], "mixer": partial(LambdaConv, heads=5)}, "heads=5 does not divide the 144 channels"),
    ],
)
def test_options_that_make_no_network_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        MobileNet(**({"mixer": LambdaConv} | options))


def test_two_models_of_one_shared_mixer_have_their_own_tables():
    mixer = SharedLambda(scope="global")
    first, second = (MobileNet(mixer, blocks=[15, 16], image_size=(64, 64)) for _ in range(2))
    tables = [model.features[number].mixer.table for model in (first, second) for number in (15, 16)]
    assert tables[0] is tables[1]
    assert tables[2] is tables[3]
    assert tables[0] is not tables[2]
