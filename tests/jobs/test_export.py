"""job=export: every format for every mixer."""

import copy
import json

import pytest
import torch
from omegaconf import OmegaConf

import lambdanets
from lambdanets.data import Digits
from lambdanets.errors import UserError
from lambdanets.export.formats import FORMATS
from lambdanets.jobs import export
from lambdanets.tasks import Classification, Detection
from tests.checkpoints import CLASSES, SHALLOW, write_checkpoint
from tests.configs import FOLDER
from tests.in_process import refusal_of

# Every choice of configs/mixer, and options of mixers that compute in another way.
CASES = [
    *([f"mixer={file.stem}"] for file in sorted((FOLDER / "mixer").glob("*.yaml")) if file.stem != "patchwise"),
    ["mixer=patchwise", "mixer.scope=3"],  # exporting 7 × 7 takes a minute
    ["mixer=linear_attention", "mixer.form=efficient"],
    ["mixer=lambda", "mixer.scope=global", "mixer.intra_depth=4"],
    ["mixer=lambda", "mixer.scope=global", "model.stem=strided", "data=random", "data.image_size=48"],  # another method
    ["mixer=lambda", "mixer.causal=true"],
    ["mixer=lambda", "mixer.position=false", "mixer.key_norm=l2"],
    ["mixer=lambda_conv", "mixer.dilation=2", "mixer.strided=true"],
]


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_every_format_round_trips(case, tmp_path):
    config, network, images = write_checkpoint(tmp_path, [*case, *SHALLOW])
    config.format = ["safetensors", *FORMATS]
    out = tmp_path / "out"
    metrics = export.run(config, out)
    with torch.no_grad():
        expected = network(images)
    scale = expected.abs().max()
    assert scale > 1e-2
    for name, file in {"safetensors": "model.safetensors", **{name: f.file for name, f in FORMATS.items()}}.items():
        assert metrics[f"difference/{name}"] <= export.TOLERANCE
        model = lambdanets.load(out / file)
        assert model.classes == CLASSES
        for batch in (1, 5):  # the exporter's example has another size
            with torch.no_grad():
                logits = model(images[:batch])
            torch.testing.assert_close(logits, expected[:batch], rtol=0, atol=1e-4 * scale.item())


LOCAL = [
    ["mixer=conv"],
    ["mixer=se"],
    ["mixer=lambda", "mixer.scope=5"],
    ["mixer=lambda", "mixer.scope=3", "mixer.intra_depth=2", "mixer.key_norm=l2"],
    ["mixer=lambda_conv", "mixer.dilation=2", "mixer.strided=true"],
]


@pytest.mark.parametrize("case", LOCAL, ids=" ".join)
def test_a_graph_takes_images_of_several_sizes(case, tmp_path):
    config, network, _ = write_checkpoint(tmp_path, [*case, *SHALLOW, "job=export", "job.dynamic_size=true"])
    config.format = [*FORMATS]
    out = tmp_path / "out"
    export.run(config, out)
    for graph in FORMATS.values():
        model = lambdanets.load(out / graph.file)
        for shape in [(1, 1, 8, 8), (5, 1, 6, 9), (2, 1, 31, 20)]:
            images = torch.randn(shape)
            with torch.no_grad():
                expected = network(images)
                torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_a_global_scope_has_one_size(tmp_path):
    overrides = ["mixer=lambda", "mixer.scope=global", *SHALLOW, "job=export", "job.dynamic_size=true"]
    config, _, _ = write_checkpoint(tmp_path, overrides)
    config.format = "onnx"
    with pytest.raises(UserError, match="job.dynamic_size=true needs lambda layers with a local scope"):
        export.run(config, tmp_path / "out")


def test_the_folder_describes_the_model(tmp_path):
    config, network, _ = write_checkpoint(tmp_path, ["mixer=lambda", *SHALLOW])
    (tmp_path / "composed.yaml").touch()
    (tmp_path / "metrics.json").write_text(json.dumps({"test/top1": 0.5, "weights": 1, "difference/onnx": 1.0}))
    out = tmp_path / "out"
    config.ckpt = str((tmp_path / "best.ckpt").rename(tmp_path / "model.ckpt"))
    metrics = export.run(config, out)
    weights = sum(tensor.numel() for tensor in network.state_dict().values())
    assert metrics == {"weights": weights, "difference/safetensors": 0.0}
    # The run's scores are kept, an earlier export's are not.
    assert json.loads((out / "metrics.json").read_text()) == {"test/top1": 0.5, **metrics}
    assert json.loads((out / "labels.json").read_text()) == {"classes": CLASSES}
    preprocessing = json.loads((out / "preprocessing.json").read_text())
    assert (preprocessing["channels"], preprocessing["image_size"]) == (1, [8, 8])
    text = (out / "config.yaml").read_text()
    assert "ckpt" not in text
    assert "${" not in text
    card = (out / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert "| test/top1 | 0.5 |" in card
    assert "`model.safetensors`" in card


def test_half_precision_is_that_of_all_files(tmp_path):
    overrides = ["mixer=lambda", *SHALLOW, "job=export", "job.dtype=float16"]
    config, network, images = write_checkpoint(tmp_path, overrides)
    config.format = ["safetensors", "onnx"]
    out = tmp_path / "out"
    metrics = export.run(config, out)
    assert metrics["difference/safetensors"] == 0
    for tensor in network.state_dict().values():
        if tensor.ndim >= 2:
            tensor.copy_(tensor.half())
    with torch.no_grad():
        expected = network(images)
        assert torch.equal(lambdanets.load(out)(images), expected)
        scale = expected.abs().max().item()
        torch.testing.assert_close(lambdanets.load(out / "model.onnx")(images), expected, rtol=0, atol=1e-4 * scale)


def test_graphs_of_other_weights_are_removed(tmp_path):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW])
    out = tmp_path / "out"
    config.format = "torchscript"
    export.run(config, out)
    config.format = "safetensors"
    export.run(config, out)
    assert "`model.ts`" in (out / "README.md").read_text(), "of the same weights"
    checkpoint = torch.load(config.ckpt)
    checkpoint["state_dict"]["model.classifier.weight"] *= 2
    torch.save(checkpoint, config.ckpt)
    export.run(config, out)
    assert not (out / "model.ts").exists()
    assert "`model.ts`" not in (out / "README.md").read_text()


def test_all_files_are_for_the_size_of_the_command(tmp_path):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", "data=random", "data.image_size=16", *SHALLOW])
    out = tmp_path / "out"
    config.format = "torchscript"
    export.run(config, out)
    config.format, config.data.image_size = "safetensors", 24
    export.run(config, out)
    assert lambdanets.load(out).data.image_size == (24, 24)
    assert OmegaConf.load(out / "config.yaml").data.image_size == 24
    assert not (out / "model.ts").exists()


def test_a_page_of_ones_own_is_not_replaced(tmp_path):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW])
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("# My project\n")
    with pytest.raises(UserError, match=r"README\.md' would be replaced by the model's card"):
        export.run(config, out)
    assert [file.name for file in out.iterdir()] == ["README.md"]


def test_an_unknown_dtype_is_refused(tmp_path):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW, "job=export", "job.dtype=float8"])
    with pytest.raises(UserError, match="job.dtype=float8 is not known; choose among float32, float16"):
        export.run(config, tmp_path / "out")


def test_a_file_that_is_tested_has_scores_of_its_own(tmp_path):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW, "job=export", "job.evaluate=true"])
    (tmp_path / "composed.yaml").touch()
    (tmp_path / "metrics.json").write_text(json.dumps({"test/top1": 0.5, "val/top1": 0.25}))
    config.ckpt = str((tmp_path / "best.ckpt").rename(tmp_path / "model.ckpt"))
    config.trainer.enable_progress_bar = False
    out = tmp_path / "out"
    export.run(config, out)
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["run/test/top1"], metrics["val/top1"]) == (0.5, 0.25)
    model, digits = lambdanets.load(out), Digits()
    digits.setup("test")
    images, labels = digits.test_set.tensors
    with torch.no_grad():
        top1 = (model(digits.normalize(images)).argmax(-1) == labels).float().mean().item()
    assert metrics["test/top1"] == pytest.approx(top1, abs=1e-6)
    assert f"| test/top1 | {top1:.6g} | 0.5 |\n" in (out / "README.md").read_text()
    assert "| val/top1 | – | 0.25 |" in (out / "README.md").read_text()


@pytest.mark.parametrize("factor", [1.01, torch.nan])
def test_a_graph_that_differs_from_its_network_is_removed(factor, tmp_path, monkeypatch):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW])
    config.format = "torchscript"

    def perturbed_copy(network, images, **options):
        network = copy.deepcopy(network)
        for parameter in network.parameters():
            parameter.data *= factor
        return network

    monkeypatch.setattr(export, "portable_copy", perturbed_copy)
    with pytest.raises(UserError, match=r"The logits of model\.ts differ from the network's by"):
        export.run(config, tmp_path / "out")
    assert not (tmp_path / "out" / "model.ts").exists()
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_weights_that_the_disk_changed_are_found(tmp_path, monkeypatch):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW])
    monkeypatch.setattr(Classification, "NO_GRAPH", "its logits are not compared")
    pack_weights = export.pack_weights

    def pack_other_weights(checkpoint, **options):
        name = next(iter(checkpoint["state_dict"]))
        state = checkpoint["state_dict"] | {name: checkpoint["state_dict"][name] + 1e-3}
        return pack_weights(checkpoint | {"state_dict": state}, **options)

    monkeypatch.setattr(export, "pack_weights", pack_other_weights)
    with pytest.raises(UserError, match=r"model\.safetensors doesn't hold the weights that were written to it"):
        export.run(config, tmp_path / "out")


def test_a_task_without_graphs_is_refused_before_anything_is_read(tmp_path):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW])
    config.task._target_ = "lambdanets.tasks.Detection"
    config.format = ["safetensors", "onnx"]
    config.ckpt = "nowhere"
    with pytest.raises(UserError, match=f"format=onnx can't hold this model: {Detection.NO_GRAPH}"):
        export.run(config, tmp_path / "out")


def test_an_unknown_format_is_an_error_of_one_line(tmp_path):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW])
    error = refusal_of("job=export", f"ckpt={config.ckpt}", "format=tflite", cwd=tmp_path)
    known = ", ".join(("safetensors", *FORMATS, "onnx_int8"))
    assert f"format=tflite is not known; choose among {known}." in error
    error = refusal_of("job=export", f"ckpt={config.ckpt}", "format=null", cwd=tmp_path)
    assert "format=None is not known; choose among" in error
