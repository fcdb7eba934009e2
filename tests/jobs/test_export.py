"""Weights in and out: every format for every mixer, models by name, from hubs and in timm."""

import copy
import json

import pytest
import timm
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

import lambdanets
from lambdanets.config import experiments
from lambdanets.config.build import ImageSpec, build_model
from lambdanets.errors import UserError
from lambdanets.export.formats import FORMATS
from lambdanets.hub.pretrained import load_pretrained
from lambdanets.jobs import export
from lambdanets.runs import checkpoints
from tests.command import run
from tests.configs import FOLDER, composing

CLASSES = [str(digit) for digit in range(10)]
SMALL = ("model.depth=[1,1]", "model.layout=LL", "model.strides=[1,2]")
# Every choice of configs/mixer, and those of their options that compute differently.
CASES = [
    *([f"mixer={file.stem}"] for file in sorted((FOLDER / "mixer").glob("*.yaml")) if file.stem != "patchwise"),
    ["mixer=patchwise", "mixer.scope=3"],  # 7 × 7 takes the exporters a minute
    ["mixer=linear_attention", "mixer.form=efficient"],
    ["mixer=lambda", "mixer.scope=global", "mixer.intra_depth=4"],
    ["mixer=lambda", "mixer.scope=global", "model.stem=strided", "data=random", "data.image_size=48"],  # another method
    ["mixer=lambda", "mixer.causal=true"],
    ["mixer=lambda", "mixer.position=false", "mixer.key_norm=l2"],
    ["mixer=lambda_conv", "mixer.dilation=2", "mixer.strided=true"],
]


def trained(folder, overrides):
    """A config and a checkpoint of a network with weights and statistics that no initialisation has."""
    with composing():
        config = experiments.compose_config(overrides)
    torch.manual_seed(0)
    size = config.data.get("image_size", 8)
    channels = 3 if config.data.get("image_size") else 1
    network = build_model(config, ImageSpec(channels, (size, size), len(CLASSES)))
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(0.05 * torch.rand_like(tensor) if "running_var" in name else 0.05 * torch.randn_like(tensor))
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    ckpt = folder / "best.ckpt"
    torch.save({"state_dict": state, "config": OmegaConf.to_container(config), "classes": CLASSES}, ckpt)
    config.ckpt = str(ckpt)
    return config, network.eval(), torch.randn(5, channels, size, size)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_every_format_round_trips(case, tmp_path):
    config, network, images = trained(tmp_path, [*case, "model=tiny", *SMALL])
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
        for batch in (1, 5):  # neither is the example's
            with torch.no_grad():
                found = model(images[:batch])
            torch.testing.assert_close(found, expected[:batch], rtol=0, atol=1e-4 * scale.item())
    kept = json.loads((out / "labels.json").read_text())
    assert kept["classes"] == CLASSES
    for file in ("config.yaml", "preprocessing.json", "metrics.json", "README.md"):
        assert (out / file).is_file()


def test_a_graph_needs_nothing_of_ours(tmp_path):
    """A graph of torch.export's and one of ONNX have only operators that every runtime knows."""
    import onnx

    config, _, _ = trained(tmp_path, ["mixer=lambda", "model=tiny", *SMALL])
    config.format = ["onnx", "torch_export"]
    export.run(config, tmp_path / "out")
    graph = onnx.load(tmp_path / "out" / "model.onnx")
    assert {opset.domain for opset in graph.opset_import} <= {"", "ai.onnx"}
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    program = torch.export.load(tmp_path / "out" / "model.pt2")
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert called
    assert {name.split(".")[0] for name in called} <= {"aten", "<built-in function getitem>"}


def test_a_graph_that_differs_from_its_network_is_removed_and_said(tmp_path, monkeypatch):
    config, _, _ = trained(tmp_path, ["mixer=conv", "model=tiny", *SMALL])
    config.format = "torchscript"

    def off(network, images):
        network = copy.deepcopy(network)
        for parameter in network.parameters():
            parameter.data *= 1.01
        return network

    monkeypatch.setattr(export, "portable", off)
    with pytest.raises(UserError, match=r"model\.ts gives logits that differ from the network's by"):
        export.run(config, tmp_path / "out")
    assert not (tmp_path / "out" / "model.ts").exists()
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_model_predicts_from_files_pictures_and_pixels(tmp_path):
    config, network, _ = trained(tmp_path, ["mixer=lambda", "model=tiny", *SMALL])
    export.run(config, tmp_path / "out")
    model = lambdanets.load(tmp_path / "out")
    assert isinstance(model.network, lambdanets.ResNet)
    assert not model.training
    pixels = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    picture.save(tmp_path / "photo.png")
    expected = network(model.preprocess(pixels)[None]).softmax(-1)[0]
    for given in (pixels, picture, tmp_path / "photo.png", str(tmp_path / "photo.png")):
        guesses = model.predict(given, top=3)
        assert len(guesses) == 3
        for name, probability in guesses:
            assert probability == pytest.approx(expected[CLASSES.index(name)].item(), abs=1e-6)
    with pytest.raises(UserError, match=r"An image is \(C, H, W\) uint8"):
        model.preprocess(pixels.float())


def test_a_config_in_a_model_may_not_call_just_anything(tmp_path):
    config, _, _ = trained(tmp_path, ["mixer=conv", "model=tiny", *SMALL])
    checkpoint = torch.load(config.ckpt)
    checkpoint["config"]["mixer"] = {"_target_": "os.system", "command": f"touch {tmp_path}/ran"}
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=r"mixer\._target_=os\.system is refused"):
        lambdanets.load(tmp_path / "bad.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nothing", "does not exist"),
        ("empty", "there is no model in it"),
        ("lone.onnx", r"without its config\.yaml"),
        ("cut.ckpt", "damaged or cut off|not a checkpoint"),
    ],
)
def test_what_cannot_be_loaded_is_said(what, said, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "lone.onnx").write_bytes(b"0")
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=said):
        lambdanets.load(tmp_path / what)


def test_mistakes_on_the_command_line(tmp_path):
    config, _, _ = trained(tmp_path, ["mixer=conv", "model=tiny", *SMALL])
    done = run("job=export", f"ckpt={config.ckpt}", "format=tflite", cwd=tmp_path, code=1)
    assert "format=tflite is not known; choose among safetensors, onnx, torch_export, torchscript." in done.stderr
    done = run("job=fit", "model.pretrained=nowhere", "trainer.max_epochs=1", cwd=tmp_path, code=1)
    assert "error: 'nowhere' does not exist" in done.stderr


def test_create_is_what_the_command_line_builds():
    network = lambdanets.create("resnet50", mixer="lambda", overrides=["model.layout=CCLL"])
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(15.560e6, abs=500)
    assert (
        lambdanets.create("tiny", mixer="conv", image_size=8, in_channels=1, num_classes=7).classifier.out_features == 7
    )
    with pytest.raises(UserError, match="model=resnet49 is not known; choose one of"):
        lambdanets.create("resnet49")
    with pytest.raises(UserError, match="depht is not a key of the config; did you mean model.depth"):
        lambdanets.create("tiny", overrides=["model.depht=3"])


def test_a_run_is_fine_tuned_to_other_classes_and_sizes(tmp_path):
    config, network, _ = trained(tmp_path, ["mixer=lambda", "mixer.scope=global", "model=tiny"])
    export.run(config, tmp_path / "out")
    given = {"mixer": "lambda", "in_channels": 1, "overrides": ["mixer.scope=global"]}
    same = lambdanets.create("tiny", pretrained=str(tmp_path / "out"), image_size=8, num_classes=10, **given)
    for name, tensor in network.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor)
    other = lambdanets.create("tiny", pretrained=config.ckpt, image_size=16, num_classes=3, **given)
    assert other.classifier.out_features == 3
    assert torch.equal(other.stages[0][0].conv1.weight, network.stages[0][0].conv1.weight)
    assert other.stages[0][0].mixer.table.shape[2:] == (31, 31)
    with pytest.raises(
        UserError, match=r"doesn't fit in \d+ of \d+ tensors: .* which is of mixer LambdaLayer and depth="
    ):
        lambdanets.create("tiny", mixer="conv", pretrained=config.ckpt, image_size=8, in_channels=1)
    # And on the command line the training starts from them.
    options = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "recipe.optimizer.lr=0", "mixer.scope=global")
    done = run(f"model.pretrained={tmp_path}/out", *options, cwd=tmp_path)
    assert "all of its tensors fit." in done.stdout + done.stderr
    (last,) = tmp_path.glob("outputs/*/*/checkpoints/last.ckpt")
    state = checkpoints.read_checkpoint(last)["state_dict"]
    assert torch.equal(state["model.stages.0.0.mixer.table"], network.stages[0][0].mixer.table)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub's own client that holds what a test puts into it; without a network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)

    def put(name):
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        commit = "0" * 40
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(commit)
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        return snapshot

    return put


@pytest.mark.parametrize(
    ("name", "tag"),
    [("lambda_resnet26t", "c1_in1k"), ("lambda_resnet26rpt_256", "c1_in1k"), ("lambda_resnet50ts", "a1h_in1k")],
)
def test_timms_weights_come_from_the_hub_exactly(name, tag, hub):
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=20)
    torch.nn.init.normal_(theirs.head.fc.weight)
    x = torch.randn(2, 3, 256, 256)
    with torch.no_grad():
        theirs(x)
        expected = theirs.eval()(x)
    source = f"timm/{name}.{tag}"
    save_file(theirs.state_dict(), hub(source) / "model.safetensors")
    ours = lambdanets.create(name, pretrained=source, image_size=256, num_classes=20).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-4)
    fresh = lambdanets.create(name, pretrained=source, image_size=256, num_classes=5)
    assert fresh.classifier.out_features == 5
    assert torch.equal(fresh.stem[0].weight, theirs.stem.conv1.conv.weight)
    with pytest.raises(UserError, match=f"weights of another network than this one: choose model={name}"):
        load_pretrained(lambdanets.create("tiny", mixer="conv"), source)


def test_a_model_of_ours_comes_from_the_hub(hub, tmp_path):
    config, network, images = trained(tmp_path, ["mixer=lambda", "model=tiny", *SMALL])
    export.run(config, hub("someone/digits"))
    with torch.no_grad():
        assert torch.equal(lambdanets.load("hf-hub:someone/digits")(images), network(images))
    with pytest.raises(UserError, match="'no/such' can't be had from the Hugging Face hub"):
        lambdanets.load("hf-hub:no/such")
    with pytest.raises(UserError, match="is no lambda network of timm's; choose among lambda_resnet26t"):
        load_pretrained(network, "timm/resnet50.a1_in1k")


def test_timm_creates_ours():
    import lambdanets.timm_models

    assert set(lambdanets.timm_models.NAMES) <= set(timm.list_models())
    network = timm.create_model("lambda_resnet50", num_classes=7, in_chans=1, img_size=64)
    assert isinstance(network, lambdanets.ResNet)
    assert network(torch.randn(2, 1, 64, 64)).shape == (2, 7)
    assert timm.data.resolve_data_config({}, model=network)["input_size"] == (1, 64, 64)
    with pytest.raises(UserError, match="no published weights of lambda_resnet50"):
        timm.create_model("lambda_resnet50", pretrained=True)
    with pytest.raises(UserError, match="has no features_only"):
        lambdanets.timm_models.create_network("lambda_resnet50", features_only=True)
