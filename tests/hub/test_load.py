"""lambdanets.load: runs, checkpoints, exported folders and the hub, of this version and of 0.1.0."""

import pytest
import torch

import lambdanets
from lambdanets.errors import UserError
from lambdanets.jobs import export
from lambdanets.tasks import Classification
from tests.checkpoints import CLASSES, SHALLOW, write_checkpoint
from tests.command import ROOT

OLD_RUN = ROOT / "tests" / "fixtures" / "version-0.1.0" / "run"


def test_a_run_and_an_export_of_version_0_1_0():
    run, exported = lambdanets.load(OLD_RUN), lambdanets.load(OLD_RUN / "export")
    stored = torch.load(OLD_RUN / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    for model in (run, exported):
        assert model.classes == CLASSES
        assert model.task is Classification
        state = model.network.state_dict()
        assert {f"model.{name}" for name in state} <= stored.keys()
        assert all(torch.equal(tensor, stored[f"model.{name}"]) for name, tensor in state.items())
    pixels = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    assert run.predict(pixels) == exported.predict(pixels)


def test_a_model_comes_from_the_hub(hub, tmp_path):
    config, network, images = write_checkpoint(tmp_path, ["mixer=lambda", *SHALLOW])
    export.run(config, hub("someone/digits"))
    with torch.no_grad():
        assert torch.equal(lambdanets.load("hf-hub:someone/digits")(images), network(images))


def test_published_weights_are_loaded_by_their_name(weights, tmp_path):
    _, network = weights
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(lambdanets.load("digits/lambda")(images), network(images))
    assert lambdanets.load("digits/lambda").classes == CLASSES
    with pytest.raises(UserError, match="does not exist: .* Published weights of a similar name: digits/lambda"):
        lambdanets.load("digits/lamda")
    (tmp_path / "cwd" / "digits" / "lambda").mkdir(parents=True)
    with pytest.raises(UserError, match="there is no model in it"):
        lambdanets.load("digits/lambda")


def test_a_config_may_not_call_just_anything(tmp_path):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW])
    checkpoint = torch.load(config.ckpt)
    for group in ("mixer", "task"):
        bad = {group: {"_target_": "os.system", "command": f"touch {tmp_path}/ran"}}
        torch.save(checkpoint | {"config": checkpoint["config"] | bad}, tmp_path / "bad.ckpt")
        with pytest.raises(UserError, match=rf"{group}\._target_=os\.system"):
            lambdanets.load(tmp_path / "bad.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "does not exist"),
        ("empty", "there is no model in it"),
        ("started", "the run has no checkpoint yet"),
        ("lone.onnx", r"without its config\.yaml"),
        ("cut.ckpt", "damaged or cut off|not a checkpoint"),
    ],
)
def test_unusable_paths_have_their_own_messages(name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "started").mkdir()
    (tmp_path / "started" / "composed.yaml").touch()
    (tmp_path / "lone.onnx").write_bytes(b"0")
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=message):
        lambdanets.load(tmp_path / name)


def test_a_damaged_graph_has_its_own_message(tmp_path):
    config, _, _ = write_checkpoint(tmp_path, ["mixer=conv", *SHALLOW])
    export.run(config, tmp_path / "out")
    (tmp_path / "out" / "model.ts").write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"model\.ts' is damaged, or of another version"):
        lambdanets.load(tmp_path / "out" / "model.ts")


def test_model_is_the_former_name_of_trained_model():
    assert lambdanets.Model is lambdanets.TrainedModel
    assert set(lambdanets.__all__) <= set(dir(lambdanets))
    for name in lambdanets.__all__:
        assert callable(getattr(lambdanets, name))
