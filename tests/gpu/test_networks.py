"""Whole networks on the GPU against the same ones on the CPU."""

from functools import partial

import pytest
import torch

import lambdanets
from lambdanets.benchmarks.measure import Setting, measure_bandwidth, measure_matrix_rate
from lambdanets.export.formats import FORMATS, write_graph
from lambdanets.export.portable import portable_copy
from lambdanets.mixers import LambdaLayer
from lambdanets.models import MaskRCNN, ResNet
from tests.gpu.conftest import needs_cuda

NETWORKS = {
    "LLLL": ("lambda", []),
    "CCLL": ("lambda", ["model.layout=CCLL"]),
    "global": ("lambda", ["mixer.scope=global"]),
    "u4": ("lambda", ["mixer.scope=7", "mixer.intra_depth=4"]),
    "lambda_conv": ("lambda_conv", []),
    "attention": ("attention", []),
    "axial": ("axial", []),
    "local_attention": ("local_attention", []),
    "conv": ("conv", []),
}


def make_network(name):
    """Return a network with 16 layers whose blocks all count, and images."""
    torch.manual_seed(0)
    mixer, overrides = NETWORKS[name]
    overrides = [*overrides, "model.depth=[1,1,1,2]", "model.zero_init=false"]
    network = lambdanets.create("resnet50", mixer=mixer, image_size=64, num_classes=10, overrides=overrides)
    return network, torch.randn(4, 3, 64, 64)


def run(network, images, device, dtype=torch.float32):
    """Return the logits with the norms' statistics of the batch, in float64 on the CPU."""
    network, images = network.to(device), images.to(device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        return network.train()(images).double().cpu()


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_cpu(name, device):
    network, images = make_network(name)
    cpu = torch.device("cpu")
    expected = run(network.double(), images.double(), cpu)
    network = network.float()
    for dtype, slack in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        allowed, error = (
            ((run(network, images, on, dtype) - expected).norm() / expected.norm()).item() for on in (cpu, device)
        )
        assert error <= 2 * allowed + slack, dtype


def small_network(device, **options):
    torch.manual_seed(0)
    return ResNet(
        partial(LambdaLayer, heads=2, **options), depth=[1, 1], layout="CL", strides=[1, 2], width=0.25,
        zero_init=False, image_size=(16, 16), num_classes=5,
    ).to(device)  # fmt: skip


def step(network, images):
    network.zero_grad()
    logits = network(images)
    logits.square().sum().backward()
    return [logits.detach().clone(), *(parameter.grad.clone() for parameter in network.parameters())]


@pytest.mark.parametrize("scope", ["global", 5])
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_steps_are_those_of_eager_mode(mode, scope, device):
    torch.compiler.reset()
    network = small_network(device, scope=scope)
    images = torch.randn(3, 3, 16, 16, device=device)
    expected = step(network, images)
    compiled = torch.compile(network, mode=mode, fullgraph=True)
    for _ in range(3):  # graphs are recorded in the second call
        actual = step(compiled, images)
    largest = max(gradient.abs().max().item() for gradient in expected[1:])  # some gradients are 0 but for rounding
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.parametrize("name", ["onnx", "torch_export"])
def test_exported_graphs_give_the_same_logits(name, device, tmp_path):
    if name == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    network = small_network(device, scope=5).eval()
    images = torch.randn(3, 3, 16, 16, device=device)
    portable = portable_copy(network, images, runtime=FORMATS[name].runtime)
    write_graph(name, portable, images, tmp_path / "graph")
    with torch.no_grad():
        actual, expected = FORMATS[name].read(tmp_path / "graph")(images), network(images)
    torch.testing.assert_close(actual.cpu(), expected.cpu(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_a_detectors_step_has_finite_losses_and_gradients(precision, device):
    torch.manual_seed(0)
    model = MaskRCNN(
        partial(LambdaLayer, heads=2), backbone=partial(ResNet, depth=[1, 1, 1, 1], width=0.25), image_size=(128, 128),
        num_classes=3, channels=16, hidden=32, proposals=50,
    ).to(device)  # fmt: skip
    boxes = torch.tensor([[8.0, 8, 60, 70], [40, 30, 120, 100]], device=device)
    masks = torch.zeros(2, 128, 128, dtype=torch.uint8, device=device)
    masks[:, 40:60, 45:55] = 1
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2], device=device), "masks": masks}] * 2
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        losses = model([torch.randn(3, 128, 128, device=device) for _ in range(2)], targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in gradients)


@needs_cuda
@pytest.mark.parametrize("hide_launches", [False, True])
def test_measured_rates_are_those_of_a_gpu(hide_launches, device):
    setting = Setting(device="cuda", precision="bfloat16", hide_launches=hide_launches)
    assert 1e13 < measure_matrix_rate(setting) < 1e16
    assert 1e11 < measure_bandwidth(setting) < 1e14
