"""Several processes give what one gives; FSDP trains, saves and goes on."""

import csv
import json

import pytest
import torch

from tests.command import run
from tests.endurance.kills import one_run

QUIET = ("trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1")


def column(folder, name):
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_two_processes_are_one_with_the_double_batch(tmp_path):
    # Nothing here is random by process; the splits of 1,294 and 144 images don't divide evenly either.
    same = (
        "trainer=cpu", "trainer.precision=64-true", "trainer.max_epochs=1", "trainer.limit_train_batches=8",
        "recipe/optimizer=sgd", "recipe.lr_batch=64", "recipe.augment.crop_padding=0", "data.val_size=143",
    )  # fmt: skip
    run(*same, *QUIET, "name=one", "recipe.batch_size=64", cwd=tmp_path)
    run(
        *same, *QUIET, "name=two", "recipe.batch_size=32", "trainer=ddp", "trainer.devices=2",
        "trainer.sync_batchnorm=true", cwd=tmp_path,
    )  # fmt: skip
    one, two = (next(tmp_path.glob(f"outputs/{name}/*")) for name in ("one", "two"))
    for name in ("train/loss", "train/top1", "train/grad_norm", "val/loss", "val/top1"):
        assert len(column(one, name)) == (8 if name in ("train/loss", "train/grad_norm") else 1)
        assert column(two, name) == pytest.approx(column(one, name), rel=1e-6), name
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (one, two))
    for name in ("test/loss", "test/top1", "test/top5"):
        assert second[name] == pytest.approx(first[name], rel=1e-6), name


def test_fsdp_trains_saves_and_goes_on(tmp_path):
    pair = ("trainer=fsdp", "trainer.devices=2", "mixer=lambda", *QUIET, "trainer.limit_train_batches=6")
    run(*pair, "trainer.max_epochs=1", cwd=tmp_path)
    folder = one_run(tmp_path)
    first = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert first["global_step"] == 6
    done = run(*pair, "trainer.max_epochs=2", "ckpt=last", cwd=tmp_path)
    assert "after step 6" in done.stdout
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 12
    # Whole weights are in the checkpoint: one process tests it.
    run("job=test", f"ckpt={folder.relative_to(tmp_path)}", "trainer=cpu", *QUIET, cwd=tmp_path)
    alone = json.loads((folder / "test" / "metrics.json").read_text())
    together = json.loads((folder / "metrics.json").read_text())
    assert alone["test/top1"] == together["test/top1"]
    assert alone["test/loss"] == pytest.approx(together["test/loss"], rel=1e-5)
