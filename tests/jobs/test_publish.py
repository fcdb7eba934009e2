"""job=publish: what it writes, which seed it chooses, and how its weights are used."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open

import lambdanets
from lambdanets.errors import UserError
from lambdanets.export.evaluate import pattern_image
from lambdanets.jobs import publish
from lambdanets.jobs.publish import choose_seed, describe_data, score_weights, training_command, without_places
from lambdanets.mixers import Conv
from lambdanets.reports.runs import ExperimentRuns, RunRecord
from lambdanets.runs import published
from lambdanets.runs.checkpoints import read_checkpoint
from tests.in_process import invoke, refusal_of, tree

SWEEP = """# @package _global_
defaults:
  - /sweep/grid
  - override /experiment: digits/conv
sweep:
  base: {data: digits, model: tiny, recipe: digits, trainer: cpu, trainer.max_epochs: 1, trainer.limit_train_batches: 8,
         trainer.precision: bf16-mixed, trainer.enable_progress_bar: false, callbacks: scalars}
  rows:
    digits/conv: {mixer: conv}
    digits/lambda: {mixer: lambda, mixer.scope: global}
"""
NAMES = ["digits/conv", "digits/lambda"]
FILES = {
    "README.md",
    "config.yaml",
    "labels.json",
    "metrics.json",
    "model.safetensors",
    "preprocessing.json",
    "published.json",
}
# By seed: the better validation score belongs to the worse test score.
SCORES = {0: {"val/top1": 0.9, "test/top1": 0.25}, 1: {"val/top1": 0.5, "test/top1": 0.75}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Train two rows with two seeds, change their scores to SCORES, publish them, and return the working directory."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "configs" / "sweep").mkdir(parents=True)
    (folder / "configs" / "sweep" / "rows.yaml").write_text(SWEEP)
    assert invoke("--multirun", "sweep=rows", "seed=0,1", cwd=folder).code == 0
    for row in ("conv", "lambda"):
        for seed, scores in SCORES.items():
            file = folder / "multirun" / "rows" / f"digits_{row}_seed-{seed}" / "metrics.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | scores))
    done = invoke("job=publish", "sweep_dir=multirun/rows", cwd=folder)
    assert done.code == 0, done.text
    return folder


@pytest.fixture
def weights(place, monkeypatch):
    """Let the package have the published weights, and return their folder."""
    monkeypatch.setattr(published, "published_folder", lambda: place / "weights")
    return place / "weights"


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_each_row_has_its_files_and_a_line_on_the_page(weights):
    page = (weights / "README.md").read_text()
    for name in NAMES:
        assert {file.name for file in (weights / name).iterdir()} == FILES
        # Mean of 25 and 75 % with Student's interval of two values: 12.706 × 50 / 2 on either side.
        assert re.search(rf"\| \[{name}\].* \| 90\.00 \| .* \| 50\.00 \[-267\.66, 367\.66\] \| \*\*0\*\*, 1 \|", page)
    assert str(weights.parent) not in page


def test_the_seed_is_chosen_by_validation(weights, place):
    for name in NAMES:
        run = place / "multirun" / "rows" / f"{name.replace('/', '_')}_seed-0"
        trained = read_checkpoint(run / "checkpoints" / "best.ckpt")["state_dict"]
        stored = read_checkpoint(weights / name / "model.safetensors")["state_dict"]
        for key, tensor in trained.items():
            torch.testing.assert_close(stored[key], tensor, rtol=2**-11, atol=2**-24)
        metrics = metrics_of(weights / name)
        assert (metrics["val/top1"], metrics["run/test/top1"]) == (0.9, 0.25)
        card = (weights / name / "README.md").read_text()
        assert "| **0** | 90.00 | 25.00 |\n| 1 | 50.00 | 75.00 |" in card
        assert f"`python run.py experiment={name} seed=0`" in card


def test_matrices_are_stored_in_half_precision(weights):
    for name in NAMES:
        with safe_open(weights / name / "model.safetensors", "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        assert {t.dtype for t in tensors.values() if t.ndim >= 2} == {torch.float16}
        assert {t.dtype for t in tensors.values() if t.ndim < 2} == {torch.float32, torch.int64}
        network = lambdanets.load(name).network
        assert {t.dtype for t in network.state_dict().values()} == {torch.float32, torch.int64}
        assert metrics_of(weights / name)["difference/safetensors"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_job_test_gives_the_score_of_the_file_to_the_digit(name, weights, tmp_path):
    before = tree(weights)
    done = invoke("job=test", f"ckpt={name}", cwd=tmp_path)
    assert done.code == 0, done.text
    (folder,) = tmp_path.glob("outputs/test/*")
    again = metrics_of(folder)
    assert again
    assert again == {key: value for key, value in metrics_of(weights / name).items() if key.startswith("test/")}
    assert tree(weights) == before


def test_the_logits_of_a_pattern_are_recorded(weights):
    # By hand: channel 0, row 1, column 2 has 37 + 2 · 101 = 239; channel 2, row 7, column 0 has 7 · 37 + 118 = 377.
    image = pattern_image(3, (8, 4))
    assert (image[0, 1, 2], image[2, 7, 0]) == (239, 377 - 256)
    for name in NAMES:
        model = lambdanets.load(name)
        with torch.no_grad():
            logits = model(model.preprocess(pattern_image(1, (8, 8)))[None])[0]
        recorded = torch.tensor(json.loads((weights / name / "published.json").read_text())["logits"])
        torch.testing.assert_close(recorded, logits, rtol=0, atol=1e-4 * logits.abs().max().item())


def test_publishing_again_gives_the_same_bytes(weights, place):
    before = tree(weights)
    assert invoke("job=publish", "sweep_dir=multirun/rows", "job.output_dir=again/weights", cwd=place).code == 0
    assert tree(place / "again" / "weights") == before


def test_a_refused_row_changes_no_file(weights, place, tmp_path):
    before = tree(weights)
    copy_run(place / "multirun" / "rows" / "digits_conv_seed-1", tmp_path / "runs" / "digits_conv_seed-1")
    damaged = tmp_path / "runs" / "digits_lambda_seed-1"
    copy_run(place / "multirun" / "rows" / "digits_lambda_seed-1", damaged)
    checkpoint = read_checkpoint(damaged / "checkpoints" / "best.ckpt")
    checkpoint["state_dict"]["model.classifier.weight"] *= 1e9
    torch.save(checkpoint, damaged / "checkpoints" / "best.ckpt")
    message = refusal_of("job=publish", f"sweep_dir={tmp_path / 'runs'}", cwd=place)
    assert "set job.dtype=float32" in message
    assert tree(weights) == before
    options = (f"sweep_dir={tmp_path / 'runs'}", "job.dtype=float32")
    assert invoke("job=publish", *options, cwd=tmp_path).code == 0
    with safe_open(tmp_path / "weights" / "digits" / "lambda" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float32, torch.int64}  # noqa: SIM118
    assert "are float32, norms" in (tmp_path / "weights" / "digits" / "lambda" / "README.md").read_text()


def test_cards_name_the_files_that_they_describe(weights, place, monkeypatch):
    card = (weights / "digits" / "conv" / "README.md").read_text()
    assert 'model = lambdanets.load("weights/digits/conv")' in card
    assert "`python run.py job=test ckpt=weights/digits/conv`" in card
    assert "create(" not in card
    assert 'lambdanets.load("weights/<data>/<row>")' in (weights / "README.md").read_text()
    monkeypatch.chdir(place)
    assert lambdanets.load("weights/digits/conv").classes == [*"0123456789"]
    package = place / "package" / "weights"
    monkeypatch.setattr(published, "published_folder", lambda: package)
    assert invoke("job=publish", "sweep_dir=multirun/rows", "job.output_dir=package/weights", cwd=place).code == 0
    card = (package / "digits" / "conv" / "README.md").read_text()
    assert 'network = lambdanets.create("digits/conv", pretrained=True)' in card
    assert "`python run.py job=test ckpt=digits/conv`" in card


def test_other_rows_stay_on_the_page(weights, place, tmp_path):
    for row in ("conv", "lambda"):
        sweep_dir = place / "multirun" / "rows" / f"digits_{row}_seed-1"
        assert invoke("job=publish", f"sweep_dir={sweep_dir}", cwd=tmp_path).code == 0
    page = (tmp_path / "weights" / "README.md").read_text()
    for name in NAMES:
        assert re.search(rf"\| \[{name}\].* \| 75\.00 \| \*\*1\*\* \|", page)


def test_archived_seeds_count_and_the_best_one_needs_its_folder(weights, place, tmp_path):
    archive = tmp_path / "archive"
    assert invoke("job=report", "sweep_dir=multirun/rows", f"job.archive_to={archive}", cwd=place).code == 0
    best = [str(place / "multirun" / "rows" / f"digits_{row}_seed-0") for row in ("conv", "lambda")]
    folders = f"sweep_dir=[{','.join([*best, str(archive)])}]"
    assert invoke("job=publish", folders, cwd=tmp_path).code == 0
    assert tree(tmp_path / "weights") == tree(weights)
    message = refusal_of("job=publish", f"sweep_dir={archive}", "job.output_dir=elsewhere", cwd=tmp_path)
    assert "the best seed of digits/conv, has no checkpoint" in message


def test_archived_seeds_are_added_to_the_card_of_published_weights(weights, place, tmp_path):
    archive = tmp_path / "archive"
    assert invoke("job=report", "sweep_dir=multirun/rows", f"job.archive_to={archive}", cwd=place).code == 0
    for seed, output_dir in ((0, "weights"), (1, "elsewhere")):
        folders = [str(place / "multirun" / "rows" / f"digits_{row}_seed-{seed}") for row in ("conv", "lambda")]
        options = (f"sweep_dir=[{','.join(folders)}]", f"job.output_dir={output_dir}")
        assert invoke("job=publish", *options, cwd=tmp_path).code == 0
    assert tree(tmp_path / "weights") != tree(weights)
    assert invoke("job=publish", f"sweep_dir={archive}", cwd=tmp_path).code == 0
    assert tree(tmp_path / "weights") == tree(weights)
    before = tree(tmp_path / "elsewhere")
    message = refusal_of("job=publish", f"sweep_dir={archive}", "job.output_dir=elsewhere", cwd=tmp_path)
    assert "the best seed of digits/conv, has no checkpoint" in message
    assert tree(tmp_path / "elsewhere") == before


def test_the_weights_predict_and_are_exported_again(weights, tmp_path):
    Image.new("L", (8, 8), 128).save(tmp_path / "photo.png")
    assert invoke("job=predict", "ckpt=digits/conv", "input=photo.png", cwd=tmp_path).code == 0
    assert list(tmp_path.glob("outputs/predict/*/predictions.json"))
    done = invoke("job=export", "ckpt=digits/conv", "job.dtype=float16", "job.evaluate=true", cwd=tmp_path)
    assert done.code == 0, done.text
    (folder,) = tmp_path.glob("outputs/export/*")
    exported, ours = metrics_of(folder), metrics_of(weights / "digits/conv")
    assert all(exported[key] == ours[key] for key in ours)
    assert (folder / "model.safetensors").stat().st_size == (weights / "digits/conv/model.safetensors").stat().st_size
    assert "| test/top1 |" in (folder / "README.md").read_text()


def test_a_training_starts_from_the_weights_and_none_resumes(weights, tmp_path):
    start = ("data=digits", "model=tiny", "mixer=conv", "trainer=cpu", "trainer.max_epochs=1", "callbacks=scalars")
    brief = ("trainer.limit_train_batches=1", "recipe.optimizer.lr=0", "trainer.enable_progress_bar=false")
    done = invoke(*start, *brief, "model.pretrained=digits/conv", cwd=tmp_path)
    assert done.code == 0, done.text
    (last,) = tmp_path.glob("outputs/*/*/checkpoints/last.ckpt")
    stored = read_checkpoint(weights / "digits/conv" / "model.safetensors")["state_dict"]
    weight = "model.classifier.weight"
    assert torch.equal(read_checkpoint(last)["state_dict"][weight], stored[weight])
    assert "start a new training from them with model.pretrained=" in refusal_of("ckpt=digits/conv", cwd=tmp_path)


def test_machine_paths_are_left_out(place, tmp_path):
    run = place / "multirun" / "rows" / "digits_conv_seed-0"
    assert invoke("job=publish", f"sweep_dir={run}", cwd=tmp_path).code == 0
    command = json.loads((run / "provenance.json").read_text())[-1]["command"]
    for file in (tmp_path / "weights").rglob("*"):
        if file.is_file():
            content = file.read_bytes().replace(command.encode(), b"")
            assert os.fsencode(str(tmp_path.parent)) not in content, file


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda run: (run / "metrics.json").unlink(), "None of the runs has finished"),
        (lambda run: (run / "metrics.json").write_text('{"test/top1": 0.5}'), "lack val/top1 or test/top1"),
        (lambda run: [file.unlink() for file in (run / "checkpoints").iterdir()], "has no checkpoint"),
        (lambda run: (run / "provenance.json").unlink(), "lacks provenance.json"),
        (lambda run: rename(run, "conv-digits"), "is named conv-digits and not after an experiment <data>/<row>"),
        (lambda run: rename(run, "null", name="my/run"), "is named my/run and not after an experiment <data>/<row>"),
        (lambda run: rename(run, "../conv"), "name='../conv' cannot name a run"),
    ],
)
def test_runs_that_cannot_be_published_are_refused(prepare, message, place, tmp_path):
    run = tmp_path / "runs" / "run"
    source = place / "multirun" / "rows" / "digits_conv_seed-0"
    copy_run(source, run)
    prepare(run)
    assert message in refusal_of("job=publish", "sweep_dir=runs", cwd=tmp_path)
    assert not (tmp_path / "weights").exists()


def test_another_page_is_not_replaced(place, tmp_path):
    (tmp_path / "README.md").write_text("# My project")
    message = refusal_of("job=publish", f"sweep_dir={place / 'multirun' / 'rows'}", "job.output_dir=.", cwd=tmp_path)
    assert "'README.md' would be replaced by the page of published weights, and is another one" in message
    assert (tmp_path / "README.md").read_text() == "# My project"
    assert not (tmp_path / "digits").exists()


def test_weights_for_other_classes_are_not_replaced(weights, place, tmp_path):
    shutil.copytree(weights, tmp_path / "weights", copy_function=shutil.copyfile)
    labels = tmp_path / "weights" / "digits" / "lambda" / "labels.json"
    labels.write_text(labels.read_text().replace('"9"', '"ten"'))
    before = tree(tmp_path / "weights")
    message = refusal_of("job=publish", f"sweep_dir={place / 'multirun' / 'rows'}", cwd=tmp_path)
    assert "digits/lambda' holds weights for other classes than these runs, 10: `0`, " in message
    assert tree(tmp_path / "weights") == before


def test_a_row_whose_weights_are_missing_is_not_on_the_page(weights, place, tmp_path):
    shutil.copytree(weights, tmp_path / "weights", copy_function=shutil.copyfile)
    (tmp_path / "weights" / "digits" / "lambda" / "model.safetensors").unlink()
    sweep_dir = place / "multirun" / "rows" / "digits_conv_seed-0"
    assert invoke("job=publish", f"sweep_dir={sweep_dir}", cwd=tmp_path).code == 0
    page = (tmp_path / "weights" / "README.md").read_text()
    assert "digits/conv" in page
    assert "digits/lambda" not in page


def test_a_row_with_other_data_has_no_description_of_its_names_data():
    descriptions = {"cifar10": "Ten classes."}
    for setting, expected in (((), "Ten classes."), (("seed=1", "data.val_size=0.2"), "Ten classes.")):
        assert describe_data(ExperimentRuns("cifar10/conv", setting), descriptions) == expected
    for row in (ExperimentRuns("cifar10/conv", ("data=digits",)), ExperimentRuns("digits/conv", ())):
        assert describe_data(row, descriptions).startswith("See the config")


def rename(run, experiment, name=None):
    for file in (run / "config.yaml", run / "composed.yaml"):
        config = OmegaConf.load(file)
        config.experiment, config.name = None if experiment == "null" else experiment, name or config.name
        OmegaConf.save(config, file)


def copy_run(source, run):
    """Copy a run without hard links, which a test that changes a file would change as well."""
    shutil.copytree(source, run, copy_function=shutil.copyfile)


def image_run(**changes):
    """Return the record of a run on images, whose config and overrides name places."""
    config = {
        "experiment": "images/conv",
        "seed": 2,
        "data": {"root": "/home/me/photos"},
        "model": {"pretrained": "/home/me/runs/first"},
        "trainer": {"devices": 1, "accelerator": "gpu"},
    }
    overrides = ("data.root=/home/me/photos", "model.pretrained=/home/me/runs/first", "recipe.epochs=3")
    return RunRecord(Path("run"), OmegaConf.merge(config, changes), overrides)


@pytest.mark.parametrize(
    ("key", "place", "published"),
    [
        ("data.root", "/home/me/photos", "data/photos"),
        ("data.root", "../../me/photos", "data/photos"),
        ("data.root", "data/photos", "data/photos"),
        ("model.pretrained", "/home/me/runs/first", "first"),
        ("model.pretrained", "cifar10/conv", "cifar10/conv"),
        ("model.backbone_ckpt", "../runs/first/", "first"),
    ],
)
def test_places_on_this_machine_are_left_out(key, place, published):
    config = OmegaConf.create({"data": {"root": None}, "model": {}, "base_run": "/home/me", "ckpt": "/home/me"})
    OmegaConf.update(config, key, place)
    found = without_places(config)
    assert OmegaConf.select(found, key) == published
    assert "/home" not in OmegaConf.to_yaml(found)


@pytest.mark.parametrize(("devices", "ending"), [(1, ""), ("auto", ""), (4, " trainer.devices=4")])
def test_the_command_that_trains_again_has_settings_and_devices_but_no_places(devices, ending):
    run = image_run(trainer={"devices": devices})
    command = training_command(ExperimentRuns("images/conv", run.setting, {2: run}), run)
    expected = "python run.py experiment=images/conv seed=2 model.pretrained=first recipe.epochs=3"
    assert command == expected + ending


@pytest.mark.parametrize(
    ("options", "root", "accelerator"),
    [
        ({}, "/home/me/photos", "gpu"),
        ({"job.data_root": "/data"}, "/data", "gpu"),
        ({"job.data_root": {"images": "/data"}}, "/data", "gpu"),
        ({"job.data_root": {"cifar10": "/data"}}, "/home/me/photos", "gpu"),
        ({"trainer.accelerator": "cpu"}, "/home/me/photos", "cpu"),
    ],
)
def test_the_command_says_where_the_weights_are_tested(options, root, accelerator, monkeypatch):
    config = OmegaConf.create({"job": {"data_root": None}, "trainer": {"accelerator": "auto"}, "allow_targets": None})
    for key, value in options.items():
        OmegaConf.update(config, key, value)
    monkeypatch.setattr(publish, "score_file", lambda tested, weights, folder: {"tested": tested})
    tested = score_weights(image_run(), config, Path("file"), Path("job"))["tested"]
    assert (tested.data.root, tested.trainer.accelerator) == (root, accelerator)


def test_missing_test_images_are_named_with_the_option_for_others(monkeypatch):
    def refuse(*_):
        raise UserError("'/home/me/photos' does not exist.")

    config = OmegaConf.create({"job": {"data_root": None}, "trainer": {"accelerator": "auto"}, "allow_targets": None})
    monkeypatch.setattr(publish, "score_file", refuse)
    with pytest.raises(UserError, match="nothing was published. '/home/me/photos' does not exist. .* job.data_root"):
        score_weights(image_run(), config, Path("file"), Path("job"))


class ForeignConv(Conv):
    """A mixer outside of this package."""


def test_a_config_may_call_a_target_that_is_allowed(place, tmp_path):
    run = tmp_path / "runs" / "run"
    copy_run(place / "multirun" / "rows" / "digits_conv_seed-0", run)
    checkpoint = read_checkpoint(run / "checkpoints" / "best.ckpt")
    target = f"{ForeignConv.__module__}.{ForeignConv.__name__}"
    checkpoint["config"]["mixer"]["_target_"] = target
    torch.save(checkpoint, run / "checkpoints" / "best.ckpt")
    for file in (run / "config.yaml", run / "composed.yaml"):
        config = OmegaConf.load(file)
        config.mixer._target_ = target
        OmegaConf.save(config, file)
    done = invoke("job=publish", "sweep_dir=runs", "allow_targets=[tests]", cwd=tmp_path)
    assert done.code == 0, done.text


def test_of_equal_scores_the_lowest_seed_is_published():
    assert choose_seed({3: 0.5, 1: 0.75, 2: 0.75, 0: 0.25}) == 1
