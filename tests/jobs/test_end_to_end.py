"""fit, test, predict, resume and their kin through the command line, on digits."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import in_process
from tests.command import run

EPOCHS = 4


def scalars(folder, tag):
    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with one finished run, outputs/lambda-digits/<time>."""
    place = tmp_path_factory.mktemp("place")
    run(f"trainer.max_epochs={EPOCHS}", cwd=place)
    return place


@pytest.fixture(scope="module")
def finished(place):
    (folder,) = place.glob("outputs/lambda-digits/*")
    return folder


def test_a_run_leaves_everything_to_judge_and_to_repeat_it(place, finished):
    assert not [path for path in finished.rglob("*") if "=" in path.name]
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["test/top1"] > 0.5
    assert metrics["epochs"] == EPOCHS
    assert metrics["images_per_s"] > 0
    (start,) = json.loads((finished / "provenance.json").read_text())
    assert start["command"].endswith(f"run.py trainer.max_epochs={EPOCHS}")
    assert start["packages"]["torch"] == torch.__version__.split("+")[0]
    assert "${" not in (finished / "config.yaml").read_text()
    assert (finished / "checkpoints" / "best.ckpt").is_file()
    assert (finished / "checkpoints" / "last.ckpt").is_file()
    steps = scalars(finished, "val/top1")
    assert len(steps) == EPOCHS
    assert len(set(steps)) == EPOCHS
    for tag in ("lr-AdamW/pg1", "train/loss", "speed/images_per_s", "speed/peak_memory_gib", "test/top1", "test/top5"):
        assert scalars(finished, tag)

    run(f"base_run={finished.relative_to(place)}", "name=again", cwd=place)
    (repeated,) = place.glob("outputs/again/*")
    again = json.loads((repeated / "metrics.json").read_text())
    assert {k: again[k] for k in ("test/loss", "test/top1")} == {k: metrics[k] for k in ("test/loss", "test/top1")}


def test_tensorboard_shows_the_network(finished):
    events = EventAccumulator(str(finished))
    events.Reload()
    tags = events.Tags()
    layers = [f"c{stage}/block1" for stage in (2, 3, 4, 5)]
    kinds = [f"lambdas/{layer}/{kind}" for layer in layers for kind in ("content", "position")]
    expected = {*kinds, *(f"embeddings/{layer}" for layer in layers), "receptive_field", "predictions", "confusion"}
    assert set(tags["images"]) == expected
    assert {f"gradients/{part}" for part in ("stem", "c2", "c3", "c4", "c5", "classifier")} <= set(tags["scalars"])
    assert {f"entropy/{layer}" for layer in layers} <= set(tags["scalars"])
    assert {f"class_top1/{digit}" for digit in range(10)} <= set(tags["scalars"])
    assert {"config/text_summary", "class_top1/text_summary"} <= set(tags["tensors"])
    (text,) = events.Tensors("config/text_summary")
    assert b"key_depth: 16" in text.tensor_proto.string_val[0]


def test_hparams_tab_can_sort_runs_by_the_test_score(finished):
    events = EventAccumulator(str(finished))
    events.Reload()
    metadata = events.summary_metadata
    (tag,) = [tag for tag in metadata if tag.startswith("_hparams_/session_start_info")]
    content = metadata[tag].plugin_data.content
    assert b"mixer.scope" in content
    assert b"recipe.optimizer.lr" in content
    experiment = metadata["_hparams_/experiment"].plugin_data.content
    assert b"test/top1" in experiment


def test_testing_again_gives_the_same_score_in_one_process_and_in_two(place, finished):
    expected = json.loads((finished / "metrics.json").read_text())
    for options in ([], ["trainer=ddp", "trainer.devices=2"]):
        run("job=test", f"ckpt={finished.relative_to(place)}", *options, cwd=place)
        actual = json.loads((finished / "test" / "metrics.json").read_text())
        assert actual["test/top1"] == expected["test/top1"]
        assert actual["test/top5"] == expected["test/top5"]
        assert actual["test/loss"] == pytest.approx(expected["test/loss"], rel=1e-6)


def test_exported_weights_give_the_same_score(place, finished):
    expected = json.loads((finished / "metrics.json").read_text())
    in_process.run("job=export", f"ckpt={finished.relative_to(place)}", cwd=place)
    file = finished / "export" / "model.safetensors"
    assert "stages.0.0.mixer.table" in load_file(file)
    in_process.run("job=test", f"ckpt={file.parent}", f"hydra.run.dir={place}/exported", cwd=place)
    actual = json.loads((place / "exported" / "metrics.json").read_text())
    assert actual["test/top1"] == expected["test/top1"]


def test_prediction_names_the_likeliest_classes(place, finished, tmp_path):
    scans = load_digits()
    for number in range(6):
        pixels = (scans.images[number] * (255 / 16)).round().astype("uint8")
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    # A checkpoint that was carried off alone is enough.
    lone = tmp_path / "lone.ckpt"
    lone.write_bytes((finished / "checkpoints" / "best.ckpt").read_bytes())
    done = in_process.run(
        "job=predict", f"ckpt={lone}", f"input={tmp_path}", f"hydra.run.dir={tmp_path}/out", cwd=place
    )
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [Path(prediction["file"]).name for prediction in predictions] == [f"{n}.png" for n in range(6)]
    for prediction in predictions:
        probabilities = [guess["probability"] for guess in prediction["classes"]]
        assert len(probabilities) == 5
        assert probabilities == sorted(probabilities, reverse=True)
        assert prediction["file"] in done.text
    right = sum(prediction["classes"][0]["name"] == str(n) for n, prediction in enumerate(predictions))
    assert right >= 4


def test_multirun_puts_runs_side_by_side_with_monitors_lars_and_bfloat16(tmp_path):
    run(
        "--multirun",
        "mixer=conv,lambda",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=10",
        "trainer.precision=bf16-mixed",
        "recipe/optimizer=lars",
        "callbacks=gradient_check",
        "callbacks.data_monitor.log_every_n_steps=10",
        "callbacks.module_monitor.log_every_n_steps=10",
        cwd=tmp_path,
    )
    folders = sorted(tmp_path.glob("multirun/*/*/metrics.json"))
    assert len(folders) == 2
    assert len({file.parent.parent for file in folders}) == 1
    for file, mixer in zip(folders, ("conv", "lambda"), strict=True):
        assert mixer in file.parent.name
        assert "=" not in file.parent.name
        events = EventAccumulator(str(file.parent))
        events.Reload()
        histograms = events.Tags()["histograms"]
        assert any(tag.startswith("training_step/0") for tag in histograms)
        assert any(tag.startswith("output/model.stages.0.0.mixer") for tag in histograms)


def test_two_processes_train_together_and_average_weights(tmp_path):
    arguments = ("mixer=se", "trainer=ddp", "trainer.devices=2", "recipe.ema_decay=0.9", "trainer.max_epochs=1")
    run(*arguments, cwd=tmp_path)
    (folder,) = tmp_path.glob("outputs/se-digits/*")
    assert len(scalars(folder, "val/top1")) == 1
    metrics = json.loads((folder / "metrics.json").read_text())
    # Alone, the averaged weights of the checkpoint give the score that the run printed.
    in_process.run("job=test", "ckpt=last", "mixer=se", "trainer=cpu", cwd=tmp_path)
    again = json.loads((folder / "test" / "metrics.json").read_text())
    assert again["test/top1"] == metrics["test/top1"]
    assert os.listdir(tmp_path) == ["outputs"]


def test_the_largest_batch_that_fits_is_found(tmp_path):
    pytest.importorskip("resource")
    arguments = (
        "job=find_batch_size",
        "data=random",
        "data.size=2048",
        "recipe=cifar",
        "model=small",
        "job.initial_batch_size=4",
    )
    done = run(*arguments, "job.memory_gib=0.5", "hydra.run.dir=out", cwd=tmp_path)
    actual = json.loads((tmp_path / "out/metrics.json").read_text())
    assert 4 <= actual["batch_size"] < 1024
    assert actual["lr"] == pytest.approx(0.1 * actual["batch_size"] / 128)
    assert f"recipe.batch_size={actual['batch_size']:.0f}" in done.stdout + done.stderr
    assert "Not even one image fits" in run(*arguments, "job.memory_gib=0.001", cwd=tmp_path, code=1).stderr


def test_a_profile_on_request(tmp_path):
    options = ("callbacks.profiler.wait=1", "callbacks.profiler.steps=2", "trainer.limit_train_batches=6")
    run("callbacks=profiler", "trainer.max_epochs=1", *options, cwd=tmp_path)
    (folder,) = tmp_path.glob("outputs/*/*/profile")
    trace = json.loads((folder / "trace.json").read_text())
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert sum(name.startswith("ProfilerStep#") for name in names) >= 2
    assert "aten::convolution" in (folder / "operators.txt").read_text()
    events = EventAccumulator(str(folder.parent))
    events.Reload()
    assert "profile/text_summary" in events.Tags()["tensors"]
