"""Overrides of a run: each key is applied or refused with a sentence, and a refused command changes no file."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from lambdanets.runs.checkpoints import read_checkpoint
from tests.in_process import SMALL, invoke, tree

EPOCHS = 2


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with a finished run, r."""
    place = tmp_path_factory.mktemp("place")
    done = invoke(*SMALL, f"trainer.max_epochs={EPOCHS}", "hydra.run.dir=r", cwd=place)
    assert done.code == 0, done.text
    return place


@pytest.fixture
def copied(place, tmp_path):
    shutil.copytree(place / "r", tmp_path / "r")
    return tmp_path


def checkpoint(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


FURTHER = f"trainer.max_epochs={EPOCHS + 1}"
REFUSED = [
    ([FURTHER, "mixer.heads=2"], "mixer.heads is not a key of the config of 'r'"),
    ([FURTHER, "data.augment.flip=true"], "set recipe.augment.flip."),
    ([FURTHER, "model.width=0.25"], "does not match the model"),
    ([FURTHER, "seed=1"], "seed=1 cannot be applied to a training that resumes"),
    ([FURTHER, "recipe/optimizer=sgd"], "Leave recipe/optimizer out"),
    ([FURTHER, "+recipe.optimizer.amsgrad=true"], "The checkpoint's optimizer has no max_exp_avg_sq"),
    ([FURTHER, "recipe.decay_norm_and_bias=true"], "it determines the optimizer's parameter groups"),
    ([FURTHER, "recipe.ema_decay=0.9"], "whether the checkpoints hold averaged weights"),
    ([FURTHER, "data.val_size=0.2"], "the images of the training and validation splits"),
    ([FURTHER, "trainer.limit_train_batches=5"], "would go on with 5 steps per epoch"),
    ([FURTHER, "trainer.accumulate_grad_batches=2"], "would go on with 2 steps per epoch"),
    ([FURTHER, "recipe.optimizer.lr=nan"], "recipe.optimizer.lr=nan must be a number"),
    ([FURTHER, "trainer=fsdp"], "which was trained with trainer.strategy=auto"),
    ([FURTHER, "data=random"], "data._target_=lambdanets.data.RandomImages cannot be applied"),
    ([FURTHER, "data=packed", "data.root=shards"], "Leave data out"),  # in another order, so with another split
    (["trainer.max_epochs=1"], "is less than the 2 epochs"),
    (["recipe.optimizer.lr=0.5"], "recipe.optimizer.lr would have no effect"),
    (["job=test", "model.width=0.25"], "does not match the model"),
    (["job=predict", "input=nowhere"], "nowhere"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[" ".join(overrides) for overrides, _ in REFUSED])
def test_a_refused_override_leaves_the_run_byte_for_byte_as_it_was(overrides, message, place):
    before = tree(place)
    done = invoke("ckpt=r", *overrides, cwd=place)
    assert done.code == 1
    assert message in done.text.rpartition("error: ")[2]
    assert tree(place) == before


def test_a_finished_run_stays_as_it_is(place):
    before = tree(place)
    done = invoke("ckpt=r", cwd=place)
    assert (done.code, "r has finished its 2 epochs: nothing is left to do" in done.text) == (0, True)
    assert tree(place) == before


def test_a_refused_new_run_leaves_no_folder(tmp_path):
    assert invoke(*SMALL, "recipe.batch_size=0", cwd=tmp_path).code == 1
    assert invoke(*SMALL, "mixer=wrong", cwd=tmp_path).code == 2
    assert invoke("--multirun", "data.root=1,2", cwd=tmp_path).code == 2
    assert tree(tmp_path) == {}


def test_options_of_optimizer_and_schedule_apply_from_the_next_step(copied):
    overrides = ["recipe.optimizer.lr=0.001", "recipe.optimizer.weight_decay=0.9", "+recipe.optimizer.betas=[0.8,0.9]"]
    done = invoke("ckpt=r", "trainer.max_epochs=4", *overrides, "recipe.warmup_epochs=0", cwd=copied)
    assert done.code == 0, done.text
    decayed, spared = checkpoint(copied / "r")["optimizer_states"][0]["param_groups"]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.9, 0.0)
    assert [*decayed["betas"]] == [0.8, 0.9]
    with (copied / "r" / "metrics.csv").open() as file:
        names, *rows = [line.rstrip().split(",") for line in file]
    column = names.index("lr-AdamW/pg1")
    rates = {int(row[0]): float(row[column]) for row in rows if row[column]}
    # Without warm-up, a cosine over 4 epochs of 4 steps; steps of epochs 3 and 4 are logged from step 8 on.
    expected = {step: 0.001 * 0.5 * (1 + math.cos(math.pi * step / 16)) for step in rates if step >= 8}
    assert expected
    assert {step: rates[step] for step in expected} == pytest.approx(expected)


def test_a_shorter_last_part_of_a_schedule_ends_at_zero(copied):
    done = invoke("ckpt=r", FURTHER, cwd=copied)
    assert done.code == 0, done.text
    assert checkpoint(copied / "r")["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-9)


def test_the_other_options_apply_to_the_objects_that_are_built_anew(copied, monkeypatch):
    from lambdanets.jobs import fit

    trainings = []
    build = fit.build_training
    monkeypatch.setattr(fit, "build_training", lambda *args: trainings.append(build(*args)) or trainings[-1])
    applied = {
        "recipe.label_smoothing": (0.3, lambda t: t.task.label_smoothing),
        "recipe.batch_size": (32, lambda t: t.data.batch_size),
        "recipe.augment.mixup": (0.2, lambda t: t.data.augment.mixup),
        "recipe.augment.erasing": (0.1, lambda t: t.data.augment.erasing),
        "recipe.dropout": (0.2, lambda t: t.task.model.dropout.p),
        "recipe.skip_nonfinite": (True, lambda t: next(c.skip for c in t.trainer.callbacks if hasattr(c, "skip"))),
        "recipe.lr_batch": (128, lambda t: t.task.lr_batch),
        "trainer.gradient_clip_val": (0.5, lambda t: t.trainer.gradient_clip_val),
        "trainer.precision": ("bf16-mixed", lambda t: t.trainer.precision),
        "trainer.log_every_n_steps": (1, lambda t: t.trainer.log_every_n_steps),
        "trainer.limit_val_batches": (2, lambda t: t.trainer.limit_val_batches),
        "checkpoint.every_n_steps": (3, lambda t: t.checkpoints.every_n_steps),
    }
    overrides = [f"{key}={value}" for key, (value, _) in applied.items()]
    done = invoke("ckpt=r", FURTHER, "logger=csv", *overrides, cwd=copied)
    assert done.code == 0, done.text
    (training,) = trainings
    values = {key: read(training) for key, (_, read) in applied.items()}
    assert values == {key: value for key, (value, _) in applied.items()}
    stored = OmegaConf.load(copied / "r" / "config.yaml")
    assert {key: OmegaConf.select(stored, key) for key in applied} == {
        key: value for key, (value, _) in applied.items()
    }
    assert training.trainer.optimizers[0].param_groups[0]["initial_lr"] == pytest.approx(0.003 * 32 / 128)


def test_averaging_goes_on_with_another_decay_and_cannot_be_switched_off(tmp_path):
    invoke(*SMALL, "recipe.ema_decay=0.9", "trainer.max_epochs=1", "hydra.run.dir=r", cwd=tmp_path)
    before = tree(tmp_path)
    assert invoke("ckpt=r", "recipe.ema_decay=null", "trainer.max_epochs=2", cwd=tmp_path).code == 1
    assert tree(tmp_path) == before
    # With a decay of 0 the averages are the weights of the last step.
    assert invoke("ckpt=r", "recipe.ema_decay=0.0", "trainer.max_epochs=2", cwd=tmp_path).code == 0
    state = checkpoint(tmp_path / "r")
    weights = [name for name, tensor in state["state_dict"].items() if tensor.is_floating_point()]
    assert all(torch.equal(state["state_dict"][name], state["current_model_state"][name]) for name in weights)


def test_the_seconds_of_a_run_are_those_of_all_its_starts(copied):
    first = metrics(copied / "r")["seconds"]
    state = checkpoint(copied / "r")["callbacks"]["TrainingStart"]
    assert 0 < state["seconds"] <= first + 0.01
    assert invoke("ckpt=r", FURTHER, cwd=copied).code == 0
    assert metrics(copied / "r")["seconds"] > state["seconds"]


def test_a_checkpoint_outside_of_its_run_goes_on_in_a_folder_of_its_own(copied):
    source = copied / "epoch=2.ckpt"
    shutil.copy(copied / "r" / "checkpoints" / "last.ckpt", source)
    state = torch.load(source, weights_only=True)
    state["callbacks"]["Checkpoints"]["best_score"] = 2.0  # which no epoch can reach
    torch.save(state, source)
    before = tree(copied)
    done = invoke(f"ckpt={source}", cwd=copied)
    assert (done.code, "has finished its 2 epochs: train it further" in done.text) == (1, True)
    assert tree(copied) == before

    done = invoke(f"ckpt={source}", FURTHER, "hydra.run.dir=new", cwd=copied)
    assert done.code == 0, done.text
    assert {"test/top1", "val/top1"} <= metrics(copied / "new").keys()
    assert metrics(copied / "new")["val/top1"] <= 1.0
    assert (copied / "new" / "checkpoints" / "best.ckpt").is_file()
    assert tree(copied / "r") == {path.removeprefix("r/"): content for path, content in before.items() if "r/" in path}


@pytest.mark.parametrize("missing", [["best"], ["best", "last"]])
def test_a_finished_run_without_its_best_checkpoint_is_tested_with_the_newest(missing, copied):
    run = copied / "r"
    for name in missing:
        (run / "checkpoints" / f"{name}.ckpt").unlink()
    (run / "metrics.json").unlink()
    done = invoke("ckpt=r", cwd=copied)
    assert done.code == 0, done.text
    assert "test/top1" in metrics(run)


def test_weights_alone_do_not_resume(copied):
    assert invoke("job=export", "ckpt=r", cwd=copied).code == 0
    before = tree(copied)
    for ckpt, message in (("r/export", "holds exported weights"), ("r/export/model.safetensors", "holds weights")):
        done = invoke(f"ckpt={ckpt}", FURTHER, "hydra.run.dir=new", cwd=copied)
        assert (done.code, message in done.text) == (1, True), done.text
        assert tree(copied) == before


def test_a_run_that_was_moved_goes_on(copied):
    (copied / "r").rename(copied / "moved")
    assert invoke("ckpt=moved", FURTHER, cwd=copied).code == 0
    assert metrics(copied / "moved")["epochs"] == EPOCHS + 1


def write_images(root, classes, splits=("train", "test")):
    generator = np.random.default_rng(0)
    for split in splits:
        for index, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for number in range(10):
                pixels = generator.integers(0, 60, (32, 32, 3)) + 60 * index
                Image.fromarray(pixels.astype("uint8")).save(root / split / name / f"{number}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A run on a folder of images, f, with options of its own, and other folders."""
    place = tmp_path_factory.mktemp("photos")
    write_images(place / "first", "ab")
    write_images(place / "moved", "ab")
    write_images(place / "other", "xy")
    write_images(place / "tests", "ax", splits=("test",))
    options = ("data=imagefolder", "data.root=first", "data.val_size=0.3", "data.num_workers=0", "recipe.batch_size=4")
    done = invoke(*SMALL, *options, "trainer.max_epochs=1", "hydra.run.dir=f", cwd=place)
    assert done.code == 0, done.text
    return place


@pytest.mark.parametrize(
    ("continued", "overrides"),
    [
        ("ckpt=f", ["data.root=moved"]),
        ("ckpt=f", ["data=imagefolder", "data.root=moved"]),
        ("base_run=f", ["data=imagefolder", "data.root=moved"]),
    ],
)
def test_a_moved_data_set_keeps_the_other_options_of_the_data(continued, overrides, photos, tmp_path):
    shutil.copytree(photos / "f", tmp_path / "f")
    (tmp_path / "moved").symlink_to(photos / "moved")
    done = invoke(continued, *overrides, "trainer.max_epochs=2", "trainer=cpu", "hydra.run.dir=f2", cwd=tmp_path)
    assert done.code == 0, done.text
    before, after = (OmegaConf.load(tmp_path / run / "config.yaml") for run in ("f", "f2"))
    assert OmegaConf.to_container(after.data) == OmegaConf.to_container(before.data) | {"root": "moved"}
    assert (after.data.val_size, after.trainer.limit_val_batches) == (0.3, 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.max_epochs=2", "data.root=other"], "they have the class 'x' where the checkpoint has 'a'"),
        (["job=test", "data.root=other"], "they have the class 'x' where the checkpoint has 'a'"),
        (["job=test", "data.root=tests"], "which is none of the classes that the model was trained on: a, b"),
        (["trainer.max_epochs=2", "data.vals=0.3"], "did you mean data.val_size?"),
    ],
)
def test_data_with_other_classes_or_unknown_options_are_refused(overrides, message, photos):
    before = tree(photos)
    done = invoke("ckpt=f", *overrides, cwd=photos)
    assert (done.code, message in done.text) == (1, True), done.text
    assert tree(photos) == before


def test_a_new_run_in_a_used_folder_leaves_the_old_checkpoints_aside(tmp_path):
    run = ("mixer=conv", "trainer=cpu", "trainer.limit_train_batches=1", "hydra.run.dir=r", "callbacks=scalars")
    checkpoints = tmp_path / "r" / "checkpoints"
    for number, seed in enumerate((0, 1, 2)):
        of_run = ("checkpoints/*.ckpt", "metrics.json", "metrics.csv", "provenance.json")
        former = {file.name: file.read_bytes() for name in of_run for file in (tmp_path / "r").glob(name)}
        done = invoke(*run, "trainer.max_epochs=1", f"seed={seed}", cwd=tmp_path)
        assert done.code == 0, done.text
        assert read_checkpoint(checkpoints / "last.ckpt")["config"]["seed"] == seed
        if former:
            aside = {file.name: file.read_bytes() for file in (tmp_path / "r" / f"checkpoints-{number}").iterdir()}
            assert aside == former
            assert f"were moved to 'checkpoints-{number}'" in done.text
        assert len(json.loads((tmp_path / "r" / "provenance.json").read_text())) == 1
        done = invoke("job=report", "sweep_dir=r", "job.archive_to=archive", cwd=tmp_path)
        assert done.code == 0, done.text
    lines = (tmp_path / "archive" / "runs.jsonl").read_text().splitlines()
    assert [json.loads(line)["config"]["seed"] for line in lines] == [0, 1, 2]


def test_a_run_that_goes_on_in_the_folder_of_another_one_takes_nothing_of_it(copied):
    former = invoke(*SMALL, "trainer.max_epochs=1", "seed=7", "hydra.run.dir=b", cwd=copied)
    assert former.code == 0, former.text
    other = (copied / "b" / "checkpoints" / "best.ckpt").read_bytes()
    done = invoke("ckpt=r", "hydra.run.dir=b", f"trainer.max_epochs={EPOCHS + 1}", cwd=copied)
    assert done.code == 0, done.text
    assert (copied / "b" / "checkpoints-1" / "best.ckpt").read_bytes() == other
    best = read_checkpoint(copied / "b" / "checkpoints" / "best.ckpt")
    assert best["config"]["seed"] != 7
    with (copied / "b" / "metrics.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["val/top1"]]
    assert [int(row["epoch"]) for row in rows] == [EPOCHS]
    assert metrics(copied / "b")["val/top1"] == pytest.approx(float(rows[0]["val/top1"]))


def test_a_copy_of_its_checkpoints_in_a_runs_folder_continues_that_run(copied):
    shutil.copytree(copied / "r" / "checkpoints", copied / "r" / "backup")
    done = invoke("ckpt=r/backup/last.ckpt", FURTHER, cwd=copied)
    assert done.code == 0, done.text
    assert not (copied / "r" / "checkpoints-1").exists()
    with (copied / "r" / "metrics.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["val/top1"]]
    assert [int(row["epoch"]) for row in rows] == [*range(EPOCHS + 1)]
    assert len(json.loads((copied / "r" / "provenance.json").read_text())) == 2
    done = invoke("ckpt=r/backup/last.ckpt", FURTHER, cwd=copied)  # from before the run's last epoch
    assert done.code == 0, done.text
    assert (copied / "r" / "checkpoints-1").is_dir()


def test_a_number_is_a_name(tmp_path):
    done = invoke(*SMALL, "trainer.max_epochs=1", "name=2026", cwd=tmp_path)
    assert done.code == 0, done.text
    (run,) = (tmp_path / "outputs" / "2026").iterdir()
    assert OmegaConf.load(run / "config.yaml").name == "2026"
    done = invoke("job=report", f"sweep_dir={run}", cwd=tmp_path)
    assert done.code == 0, done.text


def test_another_job_does_not_write_over_a_run(copied):
    before = tree(copied / "r")
    for job in ("test", "report"):
        done = invoke(f"job={job}", "ckpt=r", "sweep_dir=r", "hydra.run.dir=r", cwd=copied)
        assert (done.code, f"is the folder of a run, which job={job} would write over" in done.text) == (1, True)
    assert tree(copied / "r") == before


def test_another_job_ends_its_sweep_before_it_writes_into_trainings(tmp_path):
    sweep = ("--multirun", *SMALL, "trainer.max_epochs=1", "seed=0,1", "hydra.sweep.dir=s")
    done = invoke(*sweep, cwd=tmp_path)
    assert done.code == 0, done.text
    runs = [folder for folder in (tmp_path / "s").iterdir() if folder.is_dir()]
    before = [tree(run) for run in runs]
    done = invoke(*sweep, "job=find_batch_size", cwd=tmp_path)
    assert done.code == 1
    assert "which job=find_batch_size would write over: set another hydra.sweep.dir=<folder>" in done.text
    assert [tree(run) for run in runs] == before


def test_a_name_that_is_no_name_of_a_folder_fails_its_run_alone(tmp_path):
    names = "name='a','../b','c'"
    done = invoke("--multirun", *SMALL, "trainer.max_epochs=1", names, "hydra.sweep.dir=s", cwd=tmp_path)
    assert done.code == 1
    assert "name='../b'" in done.text
    assert len([*tmp_path.glob("s/*/metrics.json")]) == 2


def test_commands_to_copy_quote_the_folder(tmp_path):
    done = invoke(*SMALL, "trainer.max_epochs=1", "hydra.run.dir='out A'", cwd=tmp_path)
    assert done.code == 0, done.text
    assert "job=predict ckpt='out A' input=<image>" in done.text
    assert "tensorboard --logdir 'out A'\n" in done.text


def test_checkpoints_that_were_set_aside_continue_their_own_run_elsewhere(copied):
    former = checkpoint(copied / "r")
    done = invoke(*SMALL, "trainer.max_epochs=1", "seed=7", "hydra.run.dir=r", cwd=copied)
    assert "were moved to 'checkpoints-1'" in done.text
    before = tree(copied / "r")
    options = (f"trainer.max_epochs={EPOCHS + 1}", "trainer.limit_train_batches=4")
    done = invoke("ckpt=r/checkpoints-1/last.ckpt", *options, cwd=copied)
    assert done.code == 0, done.text
    assert tree(copied / "r") == before
    (run,) = (copied / "outputs").glob("*/*")
    assert OmegaConf.load(run / "config.yaml").seed != 7
    assert checkpoint(run)["global_step"] == former["global_step"] * (EPOCHS + 1) / EPOCHS
