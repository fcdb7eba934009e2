"""Quantized graphs: format=onnx_int8."""

import json
import sys

import onnx
import pytest
import torch
from torch.utils.data import TensorDataset

import lambdanets
from lambdanets.config.build import build_data
from lambdanets.data import RandomImages
from lambdanets.errors import UserError
from lambdanets.export import int8
from lambdanets.export.evaluate import classify_images, read_images
from lambdanets.jobs import export
from lambdanets.tasks import Detection
from tests.checkpoints import SHALLOW, write_checkpoint

MOBILENET = ("model=mobilenet_v2", "model.blocks=[2]", "model.width=0.25", "mixer=lambda_conv", "mixer.scope=5")


def write_int8_checkpoint(folder, *overrides):
    config, network, images = write_checkpoint(folder, ["job=export", *overrides])
    config.format = "onnx_int8"
    return config, network, images


@pytest.mark.parametrize(
    "overrides", [("mixer=conv", *SHALLOW), ("mixer=lambda", *SHALLOW), MOBILENET], ids=["conv", "lambda", "mobilenet"]
)
def test_a_quantized_graph_agrees_with_its_network(overrides, tmp_path):
    config, network, _ = write_int8_checkpoint(tmp_path, *overrides)
    out = tmp_path / "out"
    metrics = export.run(config, out)
    assert not (out / "model.onnx").exists()
    data = build_data(config)
    data.setup("test")
    pixels, labels = data.test_set.tensors
    images = data.normalize(pixels)
    model = lambdanets.load(out / "model_int8.onnx")
    with torch.no_grad():
        expected, logits = network(images), model(images)
        one = model(images[:1])
    torch.testing.assert_close(one, logits[:1], rtol=0, atol=1e-3 * expected.abs().max().item())
    error = (logits - expected).abs().max() / expected.abs().max()
    assert 0 < error < 0.15  # it is quantized, and close
    assert metrics["onnx/top1"] == pytest.approx((expected.argmax(1) == labels).float().mean().item())
    assert metrics["onnx_int8/top1"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    agreement = (expected.argmax(1) == logits.argmax(1)).float().mean().item()
    assert metrics["onnx_int8/agreement"] == pytest.approx(agreement)
    assert metrics["onnx_int8/images"] == len(labels) == 359
    assert metrics["onnx_int8/bytes"] == (out / "model_int8.onnx").stat().st_size < metrics["onnx/bytes"]
    assert min(metrics["onnx/ms"], metrics["onnx_int8/ms"]) > 0
    assert lambdanets.load(out).network is not None  # the weights come first
    (out / "model.safetensors").unlink()
    with torch.no_grad():
        assert torch.equal(lambdanets.load(out)(images), logits)


@pytest.mark.parametrize("mixer", ["conv", "lambda", "attention"])
def test_products_of_activations_and_embeddings_stay_floats(mixer, tmp_path):
    config, network, _ = write_int8_checkpoint(tmp_path, f"mixer={mixer}", *SHALLOW)
    export.run(config, tmp_path / "out")
    nodes = onnx.load(tmp_path / "out" / "model_int8.onnx").graph.node
    producers = {name: node.op_type for node in nodes for name in node.output}
    inputs = [(node.op_type, {producers.get(name) for name in node.input}) for node in nodes]
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    quantized = [kind for kind, kinds in inputs if kind in ("Conv", "Gemm", "MatMul") and "DequantizeLinear" in kinds]
    assert len(quantized) == len(layers)  # each with a weight, and nothing else
    assert all("DequantizeLinear" not in kinds for kind, kinds in inputs if kind == "Softmax")


def test_layers_of_timm_are_mixers():
    assert int8.is_of_mixer("lambdanets.peers.layers.BiasedLambda")
    assert not int8.is_of_mixer("torch.nn.modules.conv.Conv2d")


def test_the_card_and_the_metrics_state_accuracy_size_and_latency(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(export, "MAX_ACCURACY_LOSS", -1.0)
    config, _, _ = write_int8_checkpoint(tmp_path, "mixer=conv", *SHALLOW)
    (tmp_path / "composed.yaml").touch()
    (tmp_path / "metrics.json").write_text(json.dumps({"test/top1": 0.5, "onnx_int8/top1": 0.9, "onnx/ms": 1.0}))
    config.ckpt = str((tmp_path / "best.ckpt").rename(tmp_path / "model.ckpt"))
    out = tmp_path / "out"
    metrics = export.run(config, out)
    assert json.loads((out / "metrics.json").read_text()) == {"test/top1": 0.5, **metrics}
    card = (out / "README.md").read_text()
    size = (out / "model_int8.onnx").stat().st_size
    assert f"| int8 | {100 * metrics['onnx_int8/top1']:.2f} % | {size:,} | " in card
    assert "359 images of the test split" in card
    assert "Quantization costs" in caplog.text
    config.format = "safetensors"
    assert "onnx/ms" not in export.run(config, out)
    assert "onnx" not in (out / "metrics.json").read_text()


def test_what_cannot_be_quantized_is_refused(tmp_path, monkeypatch):
    config, _, _ = write_int8_checkpoint(tmp_path, "mixer=conv", *SHALLOW)
    config.job.calibration_images = 0
    with pytest.raises(UserError, match=r"job\.calibration_images=0 leaves no images: set 1 or more"):
        export.run(config, tmp_path / "out")
    config.job.calibration_images = 8
    config.data.val_size = 10**6
    with pytest.raises(UserError, match="format=onnx_int8 calibrates on validation images, which can't be read: "):
        export.run(config, tmp_path / "out")
    config.data.val_size = 0.1
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="format=onnx_int8 needs onnxruntime, which is not installed: pip install"):
        export.run(config, tmp_path / "out")
    config.task._target_ = "lambdanets.tasks.Detection"
    with pytest.raises(UserError, match=f"format=onnx_int8 can't hold this model: {Detection.NO_GRAPH}"):
        export.run(config, tmp_path / "out")


def test_images_are_spread_over_a_split_that_is_sorted_by_class():
    data = RandomImages(size=10, image_size=4)
    pixels, labels = torch.zeros(100, 3, 4, 4, dtype=torch.uint8), torch.arange(10).repeat_interleave(10)
    for split in (TensorDataset(pixels, labels), [*zip(pixels, labels, strict=True)]):
        batches = [*read_images(data, split, 10)]
        assert torch.cat([targets for _, targets in batches]).tolist() == [*range(10)]
        assert len(torch.cat([images for images, _ in read_images(data, split, 1000)])) == 100
    torch.testing.assert_close(batches[0][0], torch.full((10, 3, 4, 4), -0.5 / 0.29))


def test_accuracy_is_counted_over_batches_of_any_size():
    batches = iter([(torch.eye(4)[:3], torch.tensor([0, 1, 3])), (torch.eye(4)[3:], torch.tensor([3]))])
    predictions, labels = classify_images({"same": lambda x: x, "inverse": lambda x: -x}, batches)
    assert (predictions["same"] == labels).tolist() == [True, True, False, True]
    assert not (predictions["inverse"] == labels).any()
