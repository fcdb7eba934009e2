"""job=doctor."""

import json

import pytest
import torch

from lambdanets.costs.count import count_costs, sum_costs
from lambdanets.jobs import doctor
from lambdanets.models import ResNet
from lambdanets.ops import kernel_error, triton_error
from tests.command import run


def test_features_and_largest_batches(tmp_path):
    done = run("job=doctor", "sweep=hybrids", "hydra.run.dir=out", cwd=tmp_path)
    tables = json.loads((tmp_path / "out" / "doctor.json").read_text())
    checks = {row["check"]: row for row in tables["Checks"]}
    assert checks["the lambda layer's kernel"]["available"] == ("no" if kernel_error() else "yes")
    assert checks["the lambda layer's programs for a GPU"]["available"] == ("no" if triton_error() else "yes")
    assert checks["trainer.precision=16-mixed"]["available"] == "no"
    assert checks["trainer.precision=16-mixed"]["advice"] == "no GPU; use bf16-mixed, or a GPU"
    assert checks["decoding JPEG and PNG"]["available"] == "yes"
    assert checks["trainer=ddp, fsdp, torchrun"]["available"] == "yes"
    assert checks["LARS, monitors"]["available"] == "yes"
    ray = checks["hydra/launcher=ray"]
    assert ray["available"] == "yes" or (ray["advice"] == "pip install -e '.[ray]'" and "'.[ray]'" in done.stdout)
    (title,) = [title for title in tables if title.startswith("Batches in ")]
    rows = {row["row"]: row for row in tables[title]}
    assert len(rows) == 8
    gib = float(title.split()[2])
    for row in rows.values():
        free_mib = 0.85 * gib * 1024 - row["fixed MiB"]
        assert int(row["batch"]) == pytest.approx(free_mib / row["MiB / image"], rel=0.02, abs=1)
    assert "none: training runs on the CPU" in done.stdout


def test_a_failed_check_is_reported_in_one_line():
    def broken():
        raise RuntimeError("no\nsuch library")

    assert doctor.failure_of(broken) == "no such library"
    assert doctor.failure_of(lambda: None) is None
    assert doctor.check_precision(torch.device("cpu"), torch.bfloat16) is None


def test_largest_batch_grows_with_memory_and_is_0_if_the_weights_alone_fill_it():
    from lambdanets.mixers import Conv

    cost = sum_costs(count_costs(lambda: ResNet(Conv, depth=[1, 1, 1, 1]), channels=3, image_size=(64, 64), batch=2))
    small, large = (int(doctor.largest_batch(cost, free)["batch"]) for free in (1e9, 2e9))
    assert 2 * small < large + 1
    assert large > small > 0
    assert doctor.largest_batch(cost, 1e6)["batch"] == "0"
