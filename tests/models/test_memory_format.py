"""Maps and their gradients keep one order in memory and one type through whole networks."""

from functools import partial

import pytest
import torch

from lambdanets.mixers import SE, Conv, LambdaConv, LambdaLayer
from lambdanets.models import EfficientNet, MobileNet, ResNet
from lambdanets.models.memory_format import lay_out_convolutions

SIDE = 64
# By tiles, since other methods on a CPU return the gradient of the values in another order.
Lambda = partial(LambdaLayer, scope=5, method="tiles")
GlobalLambda = partial(LambdaLayer, scope="global", method="tiles")
small_resnet = partial(
    ResNet, depth=[1, 1, 1, 1], width=0.25, image_size=(SIDE, SIDE), num_classes=8, drop_path=0.1, zero_init=False
)
NETWORKS = {
    "conv": partial(small_resnet, Conv),
    "se": partial(small_resnet, SE(4)),
    "lambda": partial(small_resnet, Lambda),
    "global lambda": partial(small_resnet, GlobalLambda),
    "lambda_conv": partial(small_resnet, partial(LambdaConv, method="tiles")),
    "hybrid": partial(small_resnet, Lambda, layout="CCLL", gate=SE(4).gate, stem="deep", shortcut="pool", act="silu"),
    "mobilenet": partial(MobileNet, Lambda, blocks=[7, 8], image_size=(SIDE, SIDE), num_classes=8),
    "efficientnet": partial(EfficientNet, num_classes=8),
}


def is_map(value):
    return isinstance(value, torch.Tensor) and value.ndim == 4 and value.shape[2] * value.shape[3] > 1


def watch(network):
    """Return a list that fills with the modules whose output or its gradient is no channels_last map, and the types."""
    others, dtypes = [], set()

    def check(value, description):
        if not value.is_contiguous(memory_format=torch.channels_last):
            others.append(description)

    def hook(module, inputs, output, name):
        if is_map(output):
            check(output, f"{name}: output")
            dtypes.add(output.dtype)
            output.register_hook(lambda gradient: check(gradient, f"{name}: gradient"))

    for name, module in network.named_modules():
        module.register_forward_hook(partial(hook, name=name))
    return others, dtypes


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_and_gradients_are_channels_last_and_bfloat16_under_autocast(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    lay_out_convolutions(network)
    others, dtypes = watch(network)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.randn(4, 3, SIDE, SIDE))
    logits.float().square().sum().backward()
    assert others == []
    assert dtypes == {torch.bfloat16}


def test_the_order_of_weights_changes_no_result_and_only_that_of_convolutions():
    torch.manual_seed(0)
    network = small_resnet(partial(LambdaLayer, scope=5, intra_depth=2)).double().eval()
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    expected = network(images)
    layer = network.stages[0][0].mixer
    strides = layer.table.stride()
    lay_out_convolutions(network)
    assert network.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert layer.table.stride() == strides
    torch.testing.assert_close(network(images), expected)

    contiguous = small_resnet(Conv, channels_last=False)
    lay_out_convolutions(contiguous)
    assert contiguous.stem[0].weight.is_contiguous()
