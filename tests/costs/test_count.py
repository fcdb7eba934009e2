"""Predicted costs against those of networks that run, and against published ones."""

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from lambdanets.costs.count import count_costs, sum_costs
from lambdanets.mixers import SE, Attention, Conv, LambdaLayer, LocalAttention, SharedLambda
from lambdanets.models import EfficientNet, MobileNet, ResNet

SMALL = {"depth": [1, 2, 1, 1], "width": 0.25, "stem": "small", "image_size": (16, 12), "num_classes": 7}


@pytest.mark.parametrize(
    ("make", "weights", "side"),
    [
        (lambda: ResNet(Conv), models.ResNet50_Weights.IMAGENET1K_V1, 224),
        (lambda: EfficientNet(variant="b0"), models.EfficientNet_B0_Weights.IMAGENET1K_V1, 224),
        (lambda: EfficientNet(variant="b4"), models.EfficientNet_B4_Weights.IMAGENET1K_V1, 380),
        (lambda: MobileNet(variant="v2"), models.MobileNet_V2_Weights.IMAGENET1K_V1, 224),
        (lambda: MobileNet(variant="v3_large"), models.MobileNet_V3_Large_Weights.IMAGENET1K_V1, 224),
    ],
)
def test_torchvisions_published_counts(make, weights, side):
    costs = sum_costs(count_costs(make, channels=3, image_size=(side, side)))
    assert costs.parameters == weights.meta["num_params"]
    assert costs.flops / 2e9 == pytest.approx(weights.meta["_ops"], abs=2e-3)  # in billions of multiply-adds


@pytest.mark.parametrize(
    "mixer",
    [Conv, SE(ratio=4), Attention, LocalAttention, partial(LambdaLayer, scope=5), partial(LambdaLayer, scope="global")],
)
def test_costs_equal_those_of_a_run(mixer):
    make = partial(ResNet, mixer, in_channels=1, **SMALL)
    model, images, saved = make(), torch.randn(3, 1, 16, 12), {}
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers(), images]}

    def save(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(save, lambda t: t):
        y = model(images)
    assert y.shape == (3, 7)
    costs = count_costs(make, channels=1, image_size=(16, 12), batch=3)
    assert sum_costs(costs).parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sum_costs(costs).flops * 3 == counter.get_total_flops()
    measured = sum(t.untyped_storage().nbytes() for pointer, t in saved.items() if pointer not in own)
    assert sum_costs(costs).activations * 3 == pytest.approx(measured, rel=0.02)


def test_the_papers_order_is_counted_from_its_formula():
    side, channels, k, h = 14, 16, 4, 2

    def flops(position):
        layer = partial(LambdaLayer, scope="global", key_depth=k, heads=h, position=position)
        make = partial(ResNet, layer, depth=[1], layout="L", strides=[1], width=0.25, stem="small", in_channels=1,
                       image_size=(side, side), num_classes=2)  # fmt: skip
        return sum_costs(count_costs(make, channels=1, image_size=(side, side), batch=2)).paper_flops

    # A position lambda for each query: n·m·k·v multiply-adds, whatever the heads.
    difference = flops(True) - flops(False)
    assert difference == 2 * side**4 * k * channels // h


def test_parts_add_up_and_shared_parameters_count_once():
    make = partial(ResNet, SharedLambda(scope="global"), **SMALL)
    costs = count_costs(make, channels=3, image_size=(16, 12))
    assert list(costs)[:5] == ["stem", "stage 1", "stage 2", "stage 3", "stage 4"]
    assert sum_costs(costs).parameters == sum(parameter.numel() for parameter in make().parameters())
    assert costs["(shared)"].parameters < 0
