"""FLOPs of archived runs against torch's counter on real tensors."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from lambdanets.config.build import ImageSpec, build_model
from lambdanets.ops import kernel
from lambdanets.ops.cost import Shape, supported_methods
from lambdanets.reports.flops import count_flops, run_flops
from lambdanets.reports.runs import read_archive
from tests.command import ROOT


def test_flops_are_those_of_the_network_with_the_classes_that_its_parameters_tell():
    runs = read_archive(ROOT / "results" / "reproduction" / "v1" / "cifar10" / "runs.jsonl")
    run = next(run for run in runs if run.experiment == "reproduction/conv")
    assert run.config.data._target_ == "lambdanets.data.ImageFolder"
    model = build_model(run.config, ImageSpec(3, (32, 32), 10))
    assert run.metrics["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert run_flops(run) == counter.get_total_flops()
    run.metrics.clear()
    assert run_flops(run) - counter.get_total_flops() == 2 * 990 * model.classifier.in_features, "1,000 classes"


def test_another_network_than_the_runs_has_no_flops():
    run = read_archive(ROOT / "results" / "reproduction" / "v1" / "cifar10" / "runs.jsonl")[0]
    assert run_flops(run)
    run.metrics["parameters"] += 1  # not of any number of classes
    assert run_flops(run) is None


def test_a_network_that_no_longer_exists_has_no_flops():
    assert count_flops('{"model": {"_target_": "gone"}, "mixer": {}, "data": {}}', None) is None


def test_flops_are_the_same_without_a_compiler(monkeypatch):
    runs = read_archive(ROOT / "results" / "reproduction" / "v2" / "pathfinder_scope" / "runs.jsonl")
    run = next(run for run in runs if run.experiment == "pathfinder_scope/r7")
    monkeypatch.setattr(kernel, "try_kernel", lambda: "there is no C compiler")
    monkeypatch.setattr(kernel, "load_kernel", None)
    count_flops.cache_clear()
    assert f"{run_flops(run) / 1e6:.1f}" == "37.2", "results/reproduction.md"
    shape = Shape(8, 8, 8, (8, 8), 4, 16, 16, 1, (7, 7))
    assert "kernel" not in supported_methods(shape), "outside of reports"
