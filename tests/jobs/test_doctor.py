"""job=doctor."""

import json

import pytest
import torch

from lambdanets.costs.count import count_costs, sum_costs
from lambdanets.jobs import doctor
from lambdanets.models import ResNet
from lambdanets.ops import kernel_error
from tests.command import run


def test_it_says_what_there_is_and_which_batch_fits(tmp_path):
    done = run("job=doctor", "sweep=hybrids", "hydra.run.dir=out", cwd=tmp_path)
    found = json.loads((tmp_path / "out" / "doctor.json").read_text())
    tried = {row["what"]: row for row in found["What was tried"]}
    assert tried["the lambda layer's kernel"]["here"] == ("no" if kernel_error() else "yes")
    assert tried["trainer.precision=16-mixed"]["here"] == "no"
    assert "there is no GPU" in tried["trainer.precision=16-mixed"]["otherwise"]
    assert tried["decoding JPEG and PNG"]["here"] == "yes"
    assert tried["trainer=ddp, fsdp, torchrun"]["here"] == "yes"
    assert tried["LARS, monitors"]["here"] == "yes"
    ray = tried["hydra/launcher=ray"]
    assert ray["here"] == "yes" or (ray["otherwise"] == "pip install -e '.[ray]'" and "'.[ray]'" in done.stdout)
    (title,) = [title for title in found if title.startswith("Batches in ")]
    rows = {row["row"]: row for row in found[title]}
    assert len(rows) == 8
    gib = float(title.split()[2])
    for row in rows.values():
        room = doctor.USABLE * gib * 1024 - row["fixed MiB"]
        assert int(row["batch"]) == pytest.approx(room / row["MiB / image"], rel=0.02, abs=1)
    assert "none: trainings run on the CPU" in done.stdout


def test_what_fails_is_said_and_ends_nothing():
    def broken():
        raise RuntimeError("no\nsuch library")

    assert doctor.attempted(broken) == "no such library"
    assert doctor.attempted(lambda: None) is None
    assert doctor.trains(torch.device("cpu"), torch.bfloat16) is None


def test_batches_grow_with_memory_and_are_none_where_weights_alone_fill_it():
    from lambdanets.mixers import Conv

    cost = sum_costs(count_costs(lambda: ResNet(Conv, depth=[1, 1, 1, 1]), channels=3, image_size=(64, 64), batch=2))
    small, large = (int(doctor.needs(cost, free)["batch"]) for free in (1e9, 2e9))
    assert 2 * small < large + 1
    assert large > small > 0
    assert doctor.needs(cost, 1e6)["batch"] == "0"
