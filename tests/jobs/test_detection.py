"""Detectors on the command line: fit, resume, two processes, predict, and errors."""

import json
import shutil

import pytest
import torch
from PIL import Image
from pycocotools import mask as api
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.coco import make_coco
from tests.command import run as run_process
from tests.command import single_run_folder
from tests.endurance.kills import compare_runs, kill_repeatedly
from tests.in_process import refusal_of, run

SMALL = (
    "task=detection", "model=mask_rcnn_small", "recipe=coco_small", "mixer=lambda", "mixer.heads=2",
    "mixer.scope=global", "model.channels=16", "model.hidden=32", "recipe.image_size=64", "recipe.batch_size=2",
    "data.num_workers=0", "data.val_size=3", "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1",
    "model.score_threshold=0.01",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with a small data set and a finished run of two epochs."""
    trained = tmp_path_factory.mktemp("detection")
    make_coco(trained / "coco", train=11, val=5)
    run_process(*SMALL, "data.root=coco", "recipe.epochs=2", cwd=trained)
    return trained


def test_a_resumed_run_equals_the_run_that_was_never_stopped(trained, tmp_path):
    whole = single_run_folder(trained)
    assert "test/mask_ap_small" in json.loads((whole / "metrics.json").read_text())
    arguments = (*SMALL, f"data.root={trained / 'coco'}", "recipe.epochs=2", "checkpoint.every_n_steps=1")
    assert kill_repeatedly(tmp_path, arguments, 2) >= 1
    tags = ("train/loss", "train/loss_mask", "val/box_ap", "val/mask_ap")
    assert compare_runs(whole, single_run_folder(tmp_path), tags) == []


def test_tensorboard_has_the_true_objects_above_the_detected_ones(trained):
    events = EventAccumulator(str(single_run_folder(trained)), size_guidance={"images": 0}).Reload()
    tags = [tag for tag in events.Tags()["images"] if tag.startswith("val/image")]
    assert tags == ["val/image 1", "val/image 2", "val/image 3"]
    for tag in tags:
        first, second = events.Images(tag)
        assert first.step < second.step
        assert (second.width, second.height) in {(64, 2 * 48), (48, 2 * 64)}


def test_two_processes_share_a_detector_in_half_precision(trained, tmp_path):
    options = ("trainer=fsdp", "trainer.devices=2", "trainer.precision=bf16-mixed", "recipe.epochs=1")
    run_process(*SMALL, *options, f"data.root={trained / 'coco'}", cwd=tmp_path)
    folder = single_run_folder(tmp_path)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 <= metrics["test/mask_ap"] <= 1
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
    run_process("job=test", f"ckpt={folder.relative_to(tmp_path)}", "trainer.devices=1", cwd=tmp_path)


def test_the_largest_batch_of_a_detector(trained, tmp_path):
    options = ("job=find_batch_size", "job.initial_batch_size=1", "job.max_batch_size=4", "hydra.run.dir=out")
    run_process(*SMALL, *options, f"data.root={trained / 'coco'}", cwd=tmp_path)
    assert 1 <= json.loads((tmp_path / "out" / "metrics.json").read_text())["batch_size"] <= 4


def test_two_processes_give_the_scores_of_one(trained):
    folder = single_run_folder(trained)
    expected = json.loads((folder / "metrics.json").read_text())
    entries = json.loads((folder / "boxes.json").read_text())
    assert {entry["category_id"] for entry in entries} <= {3, 7, 90}
    options = (f"ckpt={folder.relative_to(trained)}", "trainer=ddp", "trainer.devices=2")
    run_process("job=test", *options, "trainer.enable_progress_bar=false", cwd=trained)
    scores = json.loads((folder / "test" / "metrics.json").read_text())
    assert len(scores) == 24
    assert {name: expected[name] for name in scores} == scores
    again = json.loads((folder / "test" / "boxes.json").read_text())
    assert len(again) == len(entries)


def test_a_test_names_the_images_and_annotations_that_it_leaves_out(trained, tmp_path):
    folder = single_run_folder(trained)
    shutil.copytree(trained / "coco", tmp_path / "coco")
    broken = tmp_path / "coco" / "val2017" / "000000000104.png"
    broken.write_bytes(b"no image")
    annotations = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    document = json.loads(annotations.read_text())
    document["annotations"][0]["bbox"][0] = float("nan")
    annotations.write_text(json.dumps(document))
    options = (
        f"ckpt={folder}",
        "data=coco",
        "data.root=coco",
        "data.max_corrupt=0.5",
        f"hydra.run.dir={tmp_path / 'out'}",
    )
    output = run("job=test", *options, "trainer.enable_progress_bar=false", cwd=tmp_path).text
    assert "1 of 5 images are left out" in output
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["corrupt_images"] == 2
    first, second = (tmp_path / "out" / "corrupt.txt").read_text().splitlines()
    assert first.startswith("instances_val2017.json: Annotation ")
    assert second == "coco/val2017/000000000104.png"
    error = refusal_of("job=test", *options[:3], f"hydra.run.dir={tmp_path / 'none'}", cwd=tmp_path)
    assert "more than data.max_corrupt=0.01 allows. The first reason: Annotation " in error
    assert "Traceback" not in error


def test_prediction_draws_pictures_and_writes_coco_results(trained, tmp_path):
    folder = single_run_folder(trained)
    (tmp_path / "photos").mkdir()
    for name, size, mode in (("1", (1, 1), "RGB"), ("2", (900, 30), "L"), ("3", (400, 300), "RGBA")):
        Image.new(mode, size, 90).save(tmp_path / "photos" / f"{name}.png")
    options = (f"ckpt={folder / 'checkpoints' / 'best.ckpt'}", f"input={tmp_path / 'photos'}", "job.threshold=0.02")
    run("job=predict", *options, f"hydra.run.dir={tmp_path / 'out'}", cwd=trained)
    images = {image["id"]: image for image in json.loads((tmp_path / "out" / "images.json").read_text())}
    assert set(images) == {1, 2, 3}
    for image_id, (width, height) in ((1, (1, 1)), (2, (900, 30)), (3, (400, 300))):
        assert Image.open(tmp_path / "out" / f"{image_id}.png").size == (width, height)
    for entry in json.loads((tmp_path / "out" / "masks.json").read_text()):
        image = images[entry["image_id"]]
        assert api.decode(entry["segmentation"]).shape == (image["height"], image["width"])


def test_a_detector_starts_from_a_classification_run(trained, tmp_path):
    skeleton = ("mixer=lambda", "mixer.heads=2", "mixer.scope=global")
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.enable_progress_bar=false")
    classes = ("data=random", "data.size=64", "recipe=cifar", "recipe.batch_size=8", "model=small")
    run(*classes, *skeleton, *short, "model.stem=imagenet", "model.strides=[1,2,2,2]", "name=classes", cwd=tmp_path)
    (start,) = tmp_path.glob("outputs/classes/*")
    options = (
        *SMALL,
        f"data.root={trained / 'coco'}",
        f"model.backbone_ckpt={start}",
        *short[:2],
        "recipe.norm=frozen",
    )
    done = run(*options, "trainer.limit_val_batches=1", "trainer.limit_test_batches=1", cwd=tmp_path)
    assert "Initialized all weights from" in done.text
    assert "are interpolated to" in done.text
    error = refusal_of(*options, "mixer.heads=4", cwd=tmp_path)
    assert "does not match the model in " in error
    assert "qkv.weight is [" in error
    assert "Traceback" not in error


def test_a_training_that_would_round_the_boxes_is_refused(trained):
    error = refusal_of(*SMALL, "data.root=coco", "trainer.precision=bf16-true", cwd=trained)
    assert "trainer.precision=bf16-true would round boxes to several pixels: set bf16-mixed." in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "model=resnet50 data.root=coco data.val_size=3",
            "task=detection needs model=mask_rcnn, and ResNet is not a detector.",
        ),
        (
            "data=digits",
            "data.augment refers to recipe.augment, but the chosen recipe has no such key: choose another ",
        ),
        ("task=classification data=coco data.root=coco", "or recipe=…."),
        (
            "data=digits +recipe.augment=none recipe/start=scratch",
            "Digits is a data set for classification, and the task needs one",
        ),
        (
            "data.root=coco recipe.flip=${flips}",
            "refers to flips, which is not a key of the config: set data.flip",
        ),
        ("data.root=coco", "This recipe starts from pretrained weights, and none are given: set model.backbone_ckpt="),
        (
            "data.root=nowhere recipe/start=scratch",
            "There is no 'nowhere/annotations/instances_train2017.json': data.root must name",
        ),
    ],
)
def test_mistakes_are_errors_of_one_line(trained, arguments, message):
    assert message in refusal_of("task=detection", *arguments.split(), cwd=trained)
