"""job=gpu: without a GPU, in a rehearsal, and its options."""

import json

import pytest
from omegaconf import OmegaConf

from lambdanets.benchmarks.measure import Setting
from lambdanets.jobs.gpu import expand_grid
from tests.command import run
from tests.configs import EXPERIMENTS, FOLDER
from tests.in_process import refusal_of

CONFIG = OmegaConf.to_container(OmegaConf.load(FOLDER / "job" / "gpu.yaml"))


def test_without_a_gpu_it_ends_in_one_sentence(tmp_path):
    done = run("job=gpu", cwd=tmp_path, code=1)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: There is no GPU here that torch can use: ")
    assert not (tmp_path / "results").exists()


def test_unknown_parts_are_named(tmp_path):
    error = refusal_of("job=gpu", "job.device=cpu", "job.part=speed", cwd=tmp_path)
    assert "job.part=speed is not known: choose one of tests, layers, networks, scaling, methods, loop, input" in error


def test_a_second_call_measures_nothing_again(tmp_path):
    command = ("job=gpu", "job.device=cpu", "job.part=scaling", "job.output_dir=out")
    pytest.importorskip("timm")
    run(*command, cwd=tmp_path)
    first = json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert set(first["cases"].values()) == {"measured"}
    assert {row["side"] for row in first["rows"]} == {4, 8}
    assert {row["precision"] for row in first["rows"]} == {"bfloat16"}
    assert first["origin"]["packages"]["torch"]
    run(*command, cwd=tmp_path)
    assert json.loads((tmp_path / "out" / "scaling.json").read_text())["rows"] == first["rows"]


def test_the_cost_models_rates_are_fitted(tmp_path):
    run("job=gpu", "job.device=cpu", "job.part=methods", "job.output_dir=out", cwd=tmp_path)
    rates = json.loads((tmp_path / "out" / "methods.json").read_text())["rates"]
    assert rates.keys() == {"bfloat16", "float32"}
    assert all(sum(fitted.values()) > 0 for fitted in rates.values())


def test_tests_are_reported_one_by_one(tmp_path):
    arguments = "job.pytest=[-k,'measured_rates or (convolution and dilation_and_stride)']"
    run("job=gpu", "job.device=cpu", "job.part=tests", "job.output_dir=out", arguments, cwd=tmp_path)
    document = json.loads((tmp_path / "out" / "tests.json").read_text())
    outcomes = [(row["outcome"], row["reason"]) for row in document["rows"]]
    assert outcomes.count(("passed", None)) == 2
    assert outcomes.count(("skipped", "Skipped: a rehearsal on the CPU")) == 2
    assert "2 passed, 0 failed, 2 skipped, of 4 tests." in (tmp_path / "out" / "tests.md").read_text()


def test_a_missing_sweep_is_named(tmp_path):
    command = ("job=gpu", "job.device=cpu", "job.part=reproduction", "job.reproduction.sweep=none")
    assert "There is no sweep=none" in refusal_of(*command, cwd=tmp_path)


@pytest.mark.parametrize("name", CONFIG["measurements"])
def test_the_options_for_a_gpu_are_options_of_the_benchmark(name):
    """A rehearsal on the CPU does not use them."""
    measurement = CONFIG["measurements"][name]
    known = OmegaConf.load(FOLDER / "benchmark" / f"{measurement['benchmark']}.yaml")
    for scale in (measurement, measurement["rehearsal"]):
        for label, case in expand_grid(scale["grid"]):
            for key, value in {**scale["options"], **case}.items():
                if key.startswith("setting."):
                    Setting(device="cpu", **{**CONFIG["setting"], key.removeprefix("setting."): value})
                else:
                    assert key in known, label
            assert set(case.get("experiments", [])) <= set(EXPERIMENTS)
    names = [label for label, _ in expand_grid(measurement["grid"])]
    assert len(names) == len(set(names))


def test_a_grid_has_all_combinations():
    grid = {"setting.precision": ["bfloat16", "float32"], "pair": [{"a": 1, "b": [2]}, {"a": 3, "b": [4]}]}
    cases = dict(expand_grid(grid))
    assert next(iter(cases)) == 'precision="bfloat16", a=1, b=[2]'
    assert cases['precision="float32", a=3, b=[4]'] == {"setting.precision": "float32", "a": 3, "b": [4]}
    assert len(cases) == 4
