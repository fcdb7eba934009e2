"""benchmark=mobilenet on small networks."""

from functools import partial

import pytest
import torch

from lambdanets.benchmarks import compare_runtimes
from lambdanets.benchmarks.experiment_networks import NetworkSpec
from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.runtimes import calibrate, logit_difference
from lambdanets.mixers import Conv, LambdaConv
from lambdanets.models import MobileNet, ResNet

SETTING = Setting(device="cpu", threads=1, repeats=3, seconds=0.1)


def test_both_runtimes_compute_the_same_logits():
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    size, layer = (64, 64), partial(LambdaConv, scope=5, key_depth=8)
    small = partial(ResNet, Conv, depth=[1], layout="C", strides=[1], width=0.25)  # for a quick export
    light = partial(MobileNet, layer, blocks=[10, 16], expansion=1, width=0.25, image_size=size)
    networks = {"mobilenet/v2": NetworkSpec(small, 3, size), "mobilenet/lambda_v2": NetworkSpec(light, 3, size)}
    pairs = [("mobilenet/lambda_v2", "mobilenet/v2")]
    result = compare_runtimes(SETTING, title="Runtimes", networks=networks, batch=1, pairs=pairs)
    plain, lambdas = result.rows
    assert plain["published MFLOPs"] == "603"
    assert lambdas["published M"] == "3.21"
    for row in result.rows:
        # Float32 has 2^-24; a sum of a thousand terms may lose a factor of 30, and 50 layers follow one another.
        assert 0 <= float(row["difference"]) < 1e-4
        assert len(row["ONNX ms"].samples) >= 2
        assert row["ONNX speedup"] == pytest.approx(row["PyTorch ms"] / row["ONNX ms"])
    ratio = lambdas["PyTorch ms"] / plain["PyTorch ms"]
    assert f"LambdaMobileNet-v2 takes {ratio:.2f} times the time of MobileNet-v2 in PyTorch" in result.notes[-1]


def test_calibrated_networks_have_a_signal():
    torch.manual_seed(0)
    model, images = MobileNet(width=0.25, num_classes=5), torch.randn(4, 3, 64, 64)
    assert model.eval()(images).std() < 1e-6
    calibrate(model, images)
    assert model(images).std() > 1e-3
    assert not model.training


def test_the_difference_is_in_units_of_the_largest_logit():
    model = torch.nn.Identity()
    logits = torch.tensor([[1.0, -4.0], [2.0, 0.0]])
    assert logit_difference(model, lambda x: x + torch.tensor([0.0, 0.2]), logits) == pytest.approx(0.05)
