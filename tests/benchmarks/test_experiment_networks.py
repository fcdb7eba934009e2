"""benchmark=table4, figure2 and coco on small networks."""

from dataclasses import replace
from functools import partial

import pytest

from lambdanets.benchmarks import compare_experiments
from lambdanets.benchmarks.experiment_networks import NetworkSpec
from lambdanets.benchmarks.measure import Setting
from lambdanets.mixers import Attention, Conv, LambdaLayer
from lambdanets.models import MaskRCNN, ResNet

QUICK = Setting(device="cpu", threads=1, repeats=2, seconds=0.01)


def test_networks_are_measured_at_the_batch_that_fits():
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
    # The maps of eight heads over 576² positions in float32, and their gradients, are most of the memory of an image.
    maps = 8 * 576**2 * 4
    assert 128 * maps < attention["GiB at batch 128"] * 2**30 < 128 * 6 * maps
    notes = " ".join(result.notes)
    assert "Global self-attention: measured at batch 2, as batch 4 may need" in notes
    assert "more than benchmark.setting.memory_gib=0.046." in notes
    assert "Lambda layer against Global self-attention: " in notes
    needed = attention["GiB at batch 128"] * 2**30
    assert f"Global self-attention: batch 128 would need {needed:,.0f} bytes." in notes


def test_maps_are_counted_for_lambda_layers_only():
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
