"""Runtimes of networks: the same logits in each."""

import time
from contextlib import suppress
from functools import partial

import pytest
import torch

from lambdanets.benchmarks.runtimes import (
    RUNTIMES,
    PreparationTimeoutError,
    calibrate,
    logit_difference,
    preparation_limit,
)
from lambdanets.mixers import LambdaLayer
from lambdanets.models import MobileNet, ResNet


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    layer = partial(LambdaLayer, scope=3, heads=2, key_depth=4)
    model = ResNet(layer, depth=[1, 1], layout="CL", strides=[1, 2], width=0.25, image_size=(32, 32), num_classes=4)
    calibrate(model, torch.randn(4, 3, 32, 32))
    return model


@pytest.mark.parametrize("name", [name for name in RUNTIMES if name != "int8"])
def test_each_runtime_computes_the_same_logits(name, network, tmp_path):
    if name == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network.double()(images.double())
    run = RUNTIMES[name].prepare(network.float(), images, tmp_path)
    # Float32 has 2^-24; a sum of a thousand terms may lose a factor of 30, and ten layers follow one another.
    assert (run(images) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_int8_logits_are_near(network, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    images = torch.randn(2, 3, 32, 32)
    run = RUNTIMES["int8"].prepare(network, images, tmp_path)
    assert 1e-6 < logit_difference(network, run, images) < 0.1


def test_calibrated_networks_have_a_signal():
    torch.manual_seed(0)
    model, images = MobileNet(width=0.25, num_classes=5), torch.randn(4, 3, 64, 64)
    assert model.eval()(images).std() < 1e-6
    calibrate(model, images)
    assert model(images).std() > 1e-3
    assert not model.training


def test_the_signal_of_calibrated_networks_does_not_grow():
    torch.manual_seed(0)
    layer = partial(LambdaLayer, scope="global")
    deep = ResNet(layer, depth=[1, 1, 1, 16], layout="CCLL", width=0.25, image_size=(64, 64), drop_path=0.5)
    images = torch.randn(2, 3, 64, 64)  # eight values per channel in the last stage
    calibrate(deep, images)
    for stage in deep.forward_features(images), deep(images):
        assert 1e-3 < stage.abs().max() < 1e3


def test_errors_in_any_block_of_a_calibrated_network_change_the_logits(network):
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before = network(images)
        for stage in network.stages:
            (block,) = stage
            weight = block.conv1.weight
            weight.neg_()
            assert (network(images) - before).abs().max() > 1e-2 * before.abs().max()
            weight.neg_()


def test_the_difference_is_in_units_of_the_largest_logit():
    model = torch.nn.Identity()
    logits = torch.tensor([[1.0, -4.0], [2.0, 0.0]])
    assert logit_difference(model, lambda x: x + torch.tensor([0.0, 0.2]), logits) == pytest.approx(0.05)


def test_a_preparation_that_takes_too_long_is_stopped_although_exceptions_are_caught():
    def prepare():
        with suppress(Exception):
            time.sleep(60)
        time.sleep(60)

    start = time.monotonic()
    with pytest.raises(PreparationTimeoutError, match=r"more than 0\.1 s"), preparation_limit(0.1):
        prepare()
    assert time.monotonic() - start < 30
    with preparation_limit(0.2):
        prepared = True
    assert prepared
    time.sleep(0.3)  # the limit is over with its block
