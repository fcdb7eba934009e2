"""The weights that a new training starts from, and what is recorded of its start."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from lambdanets.errors import UserError
from lambdanets.jobs.fit import check_initial_weights, initialize_weights, training_gpus
from lambdanets.mixers import Conv
from lambdanets.models import MaskRCNN, ResNet
from lambdanets.runs import provenance
from tests.checkpoints import write_checkpoint
from tests.images import encode_jpeg, make_image_folder
from tests.in_process import SMALL, refusal_of

BACKBONE = {"depth": [1, 1], "layout": "CC", "strides": [1, 2], "width": 0.25}


def detection_task():
    backbone = partial(ResNet, **BACKBONE)
    model = MaskRCNN(Conv, backbone=backbone, image_size=(64, 64), num_classes=2, channels=8, hidden=16)
    return SimpleNamespace(model=model)


def test_a_detector_starts_from_the_weights_of_a_classifier(tmp_path):
    options = ["model.depth=[1,1]", "model.layout=CC", "model.strides=[1,2]", "model.stem=imagenet"]
    config, network, _ = write_checkpoint(tmp_path, ["mixer=conv", "model=tiny", "data=random", *options])
    task = detection_task()
    initialize_weights(OmegaConf.create({"model": {"backbone_ckpt": config.ckpt}}), task)
    state = task.model.skeleton.state_dict()
    assert state
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in state.items())


def test_weights_of_the_backbone_have_one_key(tmp_path):
    config = OmegaConf.create({"model": {"backbone": {"pretrained": "run"}, "backbone_ckpt": None}})
    with pytest.raises(UserError, match="model.backbone.pretrained is not used: .* model.backbone_ckpt"):
        initialize_weights(config, detection_task())


def test_without_sources_the_weights_stay_new():
    task = detection_task()
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    initialize_weights(OmegaConf.create({"model": {"backbone_ckpt": None}}), task)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())


def training(start=None, **model):
    recipe = {} if start is None else {"start": {"pretrained": start}}
    return OmegaConf.create({"model": model, "recipe": recipe})


@pytest.mark.parametrize(
    "config",
    [
        training(True, backbone_ckpt="run", norm="frozen"),
        training(True, pretrained="run"),
        training(False, backbone_ckpt=None, norm="sync"),
        training(None, backbone_ckpt=None, norm="sync"),  # of a recipe without this choice, as in earlier versions
        training(None, backbone_ckpt="run", norm="frozen"),
        training(None),
        training(True, pretrained=None),  # no detector, which the task says
    ],
)
def test_a_training_with_the_weights_of_its_recipe_is_accepted(config):
    check_initial_weights(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (training(True, backbone_ckpt=None), r"set model\.backbone_ckpt=.* or train .* with recipe/start=scratch"),
        (training(False, backbone_ckpt="run"), r"model\.backbone_ckpt=run is given: .* recipe/start=pretrained"),
        (
            training(False, backbone_ckpt=None, norm="frozen"),
            r"recipe\.norm=frozen keeps .* pretrained weights",
        ),
        (training(None, backbone_ckpt=None, norm="frozen"), r"recipe\.norm=frozen keeps .* pretrained weights"),
    ],
)
def test_a_training_without_the_weights_of_its_recipe_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        check_initial_weights(config)


def test_a_test_split_that_cannot_be_read_ends_the_run_before_its_training(tmp_path):
    root = make_image_folder(tmp_path / "images", train=8, val=4)
    (root / "test").mkdir()
    (root / "test" / "0.jpg").write_bytes(encode_jpeg(20, 20))
    data = ("data=imagefolder", "data.root=images", "data.image_size=16", "recipe=digits", "recipe.batch_size=4")
    assert "or move a folder of unlabeled images away" in refusal_of(*SMALL, *data, "recipe.epochs=1", cwd=tmp_path)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("device", "processes", "gpus"),
    [("cpu", 2, None), ("cuda:1", 1, "Card 1"), ("cuda:1", 8, "8 × Card 1")],
)
def test_a_training_names_its_gpus(monkeypatch, device, processes, gpus):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    strategy = SimpleNamespace(root_device=torch.device(device))
    assert training_gpus(SimpleNamespace(strategy=strategy, world_size=processes)) == gpus


def test_a_start_records_the_gpus_of_its_training(tmp_path):
    for folder, gpus in (("gpu", "Card"), ("cpu", None)):
        provenance.announce_start(provenance.Start(tmp_path / folder, training()))
        provenance.record_pending_start(gpus)
        (start,) = json.loads((tmp_path / folder / "provenance.json").read_text())
        assert start.get("gpus") == gpus
        assert "failed" not in start
