"""The benchmark job on small shapes: what it prints and writes, not how fast anything is."""

import json
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image

from lambdanets.benchmarks import (
    compare_experiments,
    compare_layers,
    compare_methods,
    compare_networks,
    measure_input_pipeline,
    measure_scaling,
)
from lambdanets.benchmarks.experiment_networks import NetworkSpec
from lambdanets.benchmarks.measure import Setting, measure_matrix_rate
from lambdanets.benchmarks.plots import save_plot
from lambdanets.benchmarks.scaling import fit_exponent
from lambdanets.errors import UserError
from lambdanets.mixers import Attention, Conv, LambdaLayer
from lambdanets.models import MaskRCNN, ResNet
from lambdanets.ops import METHODS, kernel_error
from tests.command import run

WAYS = ["data=imagefolder", "data=packed"]
QUICK = Setting(device="cpu", threads=1, repeats=2, seconds=0.01)


def test_times_are_medians_of_each_step():
    naps = {"short": 0.01, "long": 0.03}
    steps = {name: (lambda nap=nap: time.sleep(nap)) for name, nap in naps.items()}
    found = Setting(device="cpu", repeats=3).measure_times(steps)
    assert found["short"] == pytest.approx(0.01, rel=0.5)
    assert found["short"] < found["long"]


def test_peak_is_what_a_step_adds():
    held = torch.ones(2**20)

    def step():
        extra = torch.ones(16 * 2**20)  # 64 MiB
        return (extra + held[0]).sum()  # and as much again

    peak = QUICK.measure_peaks({"step": step})["step"]
    assert peak == pytest.approx(128, rel=0.01)


def test_layers():
    pytest.importorskip("timm")
    result = compare_layers(QUICK, batch=1, shapes=[(4, 16)], scopes=["global", 3])
    assert [row["layer"] for row in result.rows] == 2 * [
        "ours",
        "lambda-networks",
        "timm",
        "3×3 conv",
        "BoTNet attention",
    ]
    for row in result.rows:
        assert row["train ms"] > 0
        assert (row["ours faster"] == 1) == (row["layer"] == "ours")
    assert "4²×16, global:" in result.notes[0]


def test_what_needs_too_much_memory_is_left_out():
    pytest.importorskip("timm")
    tight = Setting(device="cpu", threads=1, repeats=2, seconds=0.01, memory_gib=1e-4)
    result = compare_layers(tight, batch=1, shapes=[(8, 16)], scopes=["global"])
    assert [row["layer"] for row in result.rows] == ["ours", "3×3 conv"]


def test_methods():
    result = compare_methods(
        QUICK, shapes=[(1, 6, 16, 3), (1, 4, 16, "global")], key_depth=4, heads=2, intra_depth=1, slowest=1e9
    )
    assert len(result.rows) == 2 * (len(METHODS) - (kernel_error() is not None))
    assert all(row["train: measured ms"] > 0 and row["train: predicted ms"] > 0 for row in result.rows)
    chosen = [row["chosen"] for row in result.rows]
    assert sum("train" in choice for choice in chosen) == 2
    assert sum("infer" in choice for choice in chosen) == 2
    assert measure_matrix_rate(QUICK) > 1e8


def test_scaling(tmp_path):
    pytest.importorskip("timm")
    result = measure_scaling(QUICK, batch=1, channels=16, sides=[4, 8], scopes=["global", 3], fit=(4, 8))
    names = {row["layer"] for row in result.rows}
    assert {"ours, global", "ours, 3×3", "3×3 conv"} <= names
    assert any(note.startswith("ours, global: training time grows as n^") for note in result.notes)
    pytest.importorskip("matplotlib")
    save_plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_exponent_of_a_power():
    assert fit_exponent([(n, 3 * n**1.7) for n in (10, 20, 80)]) == pytest.approx(1.7)


def test_networks_with_the_same_weights():
    pytest.importorskip("timm")
    result = compare_networks(QUICK, batch=1, compare=["lambda_resnet26t"])
    theirs, ours = result.rows
    assert ours["M parameters"] == pytest.approx(theirs["M parameters"])
    assert theirs["train ratio"] == 1


def test_rows_of_a_table_at_the_batch_that_fits():
    options = {"depth": [1], "layout": "L", "strides": [1], "width": 0.25, "stem": "small", "num_classes": 4}
    networks = {
        "table4/attention": NetworkSpec(partial(ResNet, Attention, image_size=(24, 24), **options), 3, (24, 24)),
        "table4/lambda": NetworkSpec(partial(ResNet, LambdaLayer, image_size=(24, 24), **options), 3, (24, 24)),
    }
    tight = replace(QUICK, memory_gib=0.046)
    result = compare_experiments(
        tight, title="Rows", networks=networks, batch=4, paper_batch=128, reference="table4/lambda",
        pairs=[("table4/lambda", "table4/attention")],
    )  # fmt: skip
    attention, lambdas = result.rows
    assert (attention["batch"], lambdas["batch"]) == ("2", "4")
    assert lambdas["train ratio"] == 1
    assert attention["train ratio"] == pytest.approx(lambdas["train img/s"] / attention["train img/s"])
    # Eight heads' maps of 576² positions in float32, and what their gradients take, are most of what an image needs.
    maps = 8 * 576**2 * 4
    assert 128 * maps < attention["GiB at batch 128"] * 2**30 < 128 * 6 * maps
    notes = " ".join(result.notes)
    assert "Global self-attention: batch 4 was counted to need up to" in notes
    assert "measured at batch 2, as batch 4 may need" in notes
    assert "more than benchmark.setting.memory_gib=0.046." in notes
    assert "Lambda layer against Global self-attention: " in notes
    needed = attention["GiB at batch 128"] * 2**30
    assert f"Global self-attention: batch 128 would need {needed:,.0f} bytes." in notes


def test_detectors_beside_the_maps_of_attention():
    backbone = partial(ResNet, depth=[1, 1], layout="CL", strides=[1, 2], width=0.25)
    options = {"image_size": (64, 64), "channels": 8, "hidden": 16, "proposals": 40, "detections": 10}
    networks = {
        name: NetworkSpec(partial(MaskRCNN, mixer, backbone=backbone, **options), 3, (64, 64))
        for name, mixer in (("conv", Conv), ("lambda", partial(LambdaLayer, scope="global")))
    }
    result = compare_experiments(
        QUICK, title="Detectors", networks=networks, batch=2, paper_batch=None, reference=None, pairs=[],
        attention_heads=8,
    )  # fmt: skip
    conv, lambdas = result.rows
    assert conv["maps MiB"] is None
    # One layer on 8 × 8 positions, at 64 / 8 pixels: eight maps of 64² in float32, of two images.
    assert lambdas["maps MiB"] == pytest.approx(2 * 8 * 64**2 * 4 / 2**20)
    assert conv["peak MiB"] > 0
    assert any(note.startswith("Detectors train on 8 objects") for note in result.notes)


def test_the_job_measures_experiments(tmp_path):
    done = run(
        "job=benchmark", "benchmark=table4", "benchmark.setting.repeats=2", "benchmark.batch=2", "data=digits",
        "recipe=digits", "model=tiny", "benchmark.experiments=[table4/axial,table4/lambda,table4/lambda_shared]",
        "+benchmark.variants={here: ['mixer=conv']}", "hydra.run.dir=out", cwd=tmp_path,
    )  # fmt: skip
    document = json.loads((tmp_path / "out/table4.json").read_text())
    assert [row["row"] for row in document["rows"]][2:] == ["Lambda layer, shared embeddings", "here"]
    assert "Lambda layer, shared embeddings" in done.stdout
    assert document["rows"][0]["published img/s"] == "960 (unconfirmed)"


def test_mistakes():
    with pytest.raises(UserError, match="precision=int8"):
        Setting(precision="int8")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device=cuda needs a GPU"):
            Setting(device="cuda")


def test_the_job_prints_and_writes_its_table(tmp_path):
    shapes = "benchmark.shapes=[[1,4,16,3]]"
    done = run(
        "job=benchmark", "benchmark=methods", "benchmark.setting.repeats=2", shapes, "hydra.run.dir=out", cwd=tmp_path
    )
    assert "Exact methods" in done.stdout
    document = json.loads((tmp_path / "out/methods.json").read_text())
    assert {row["method"] for row in document["rows"]} >= {"scores", "tiles"}
    assert "benchmark=methods" in document["origin"]["command"]
    text = (tmp_path / "out/methods.md").read_text()
    assert "| map | context | method |" in text
    assert "torch " in text
    assert "needs a benchmark" in run("job=benchmark", cwd=tmp_path, code=1).stderr


def test_input_reads_the_same_images_in_three_ways(tmp_path):
    for number in range(6):
        folder = tmp_path / "images" / "train" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (40 * number, 0, 0)).save(folder / f"{number}.jpg")
    result = measure_input_pipeline(
        QUICK, root=str(tmp_path / "images"), shards=str(tmp_path / "shards"), image_size=16, batch=4, workers=2,
        networks={"small": NetworkSpec(lambda: torch.nn.Conv2d(3, 2, 3), 3, (16, 16))},
    )  # fmt: skip
    assert [row["input"] for row in result.rows[:3]] == ["ImageFolder, transforms per image", *WAYS]
    for row in result.rows:
        assert row["worker img/s"] > 0
        assert (row["device img/s"] is None) == row["input"].startswith("ImageFolder")
    assert "is the limit" in result.notes[-1]
    with pytest.raises(UserError, match="has no class folders with images"):
        measure_input_pipeline(QUICK, root=str(tmp_path / "none"), shards="", image_size=16, batch=4, workers=2)


def test_the_loop_beside_a_bare_one(tmp_path):
    train = 'benchmark.trainings=[["mixer=conv","data=random","data.size=256"]]'
    done = run(
        "job=benchmark",
        "benchmark=loop",
        "benchmark.setting.repeats=1",
        "benchmark.setting.threads=1",
        train,
        "hydra.run.dir=out",
        cwd=tmp_path,
    )
    (row,) = json.loads((tmp_path / "out/loop.json").read_text())["rows"]
    assert row["bare ms/step"] > 0
    assert "overhead %" in done.stdout


def test_what_the_looks_cost(tmp_path):
    options = ["mixer=lambda", "data=random", "data.size=256", "data.image_size=16", "trainer.max_epochs=1"]
    train = f"benchmark.trainings=[{json.dumps(options)}]"
    run(
        "job=benchmark",
        "benchmark=callbacks",
        "benchmark.setting.repeats=1",
        "benchmark.setting.threads=1",
        train,
        "hydra.run.dir=out",
        cwd=tmp_path,
    )
    (row,) = json.loads((tmp_path / "out/callbacks.json").read_text())["rows"]
    assert 0 < row["visualizations, s"] < row["default, s"]
    rest = row["default, s"] - row["visualizations, s"]
    assert row["visualizations %"] == pytest.approx(100 * row["visualizations, s"] / rest, rel=0.02)
