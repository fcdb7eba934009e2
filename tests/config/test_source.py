"""Rows of sweeps and variants of models are choices of their groups, in any folder of configs."""

import json
import os
import re

import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from lambdanets.errors import UserError
from tests.command import ROOT
from tests.configs import composing, experiment
from tests.in_process import run

SWEEP = """# @package _global_
defaults:
  - /sweep/grid
  - override /experiment: widths/narrow
sweep:
  title: Widths
  baseline: widths/narrow
  base: {mixer: lambda, mixer.scope: 3, trainer: cpu, seed: 7}
  rows:
    widths/narrow: {model.width: 0.125}
    widths/wide: {model: small, model.width: 0.5, mixer: conv}
    table3/conv: # defined by the project's own sweep
    widths/file: # defined by a file
"""
FILE = """# @package _global_
defaults: [{override /model: small_deep}]
recipe: {epochs: 2}
"""
MODEL = """defaults: [small]
width: 0.5
variants:
  small_deep: {depth: [2, 2, 2, 2]}
"""


@pytest.fixture
def folder(tmp_path):
    """Write a user's own folder of configs."""
    for path, text in {
        "sweep/own/widths.yaml": SWEEP,
        "experiment/widths/file.yaml": FILE,
        "model/wide.yaml": MODEL,
    }.items():
        file = tmp_path / "own" / path
        file.parent.mkdir(parents=True)
        file.write_text(text)
    return tmp_path / "own"


def test_a_row_is_the_base_with_the_overrides_of_the_row(folder):
    with composing():
        config = compose("config", overrides=[f"hydra.searchpath=[{folder}]", "experiment=widths/narrow"])
        assert (config.mixer.scope, config.model.width, config.seed) == (3, 0.125, 7)
        assert config.trainer.accelerator == "cpu"
        config = compose("config", overrides=[f"hydra.searchpath=[{folder}]", "sweep=own/widths", "mixer.heads=2"])
        assert (config.mixer.scope, config.mixer.heads, config.model.width) == (3, 2, 0.125)  # the first row
        assert config.sweep == {
            "title": "Widths",
            "baseline": "widths/narrow",
            "objective": None,
            "experiments": ["widths/narrow", "widths/wide", "table3/conv", "widths/file"],
        }


def test_a_row_without_values_is_defined_elsewhere(folder):
    with composing():
        config = compose("config", overrides=[f"hydra.searchpath=[{folder}]", "experiment=widths/file"])
        assert (config.recipe.epochs, config.model.width, config.model.depth) == (2, 0.5, [2, 2, 2, 2])
        config = compose("config", overrides=[f"hydra.searchpath=[{folder}]", "experiment=table3/conv", "data.root=/x"])
        assert config.recipe.epochs == 90


def test_the_command_line_precedes_the_row():
    config = experiment("table3/lambda_u4", "mixer.scope=23", "model=resnet101", "recipe=imagenet350")
    assert (config.mixer.scope, config.mixer.intra_depth) == (23, 4)
    assert (config.model.depth, config.recipe.epochs) == (101, 350)


def test_groups_list_rows_and_variants(folder):
    with composing():
        loader = GlobalHydra.instance().config_loader()
        assert "experiment" in loader.list_groups("")
        assert loader.list_groups("experiment/pathfinder") == ["64", "equal_time"]
        assert loader.get_group_options("experiment/pathfinder") == ["conv", "lambda", "lambda_conv"]
        models = loader.get_group_options("model", ObjectType.CONFIG)
    assert {"resnet26", "resnet50", "lambda_resnet420", "lambda_resnet50ts", "tiny"} <= set(models)
    with composing(), pytest.raises(MissingConfigException, match="table3/nothing"):
        compose("config", overrides=["experiment=table3/nothing"])


def test_a_row_that_is_no_mapping_is_an_error(tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "own.yaml").write_text("sweep: {rows: {own: mixer=conv}}")
    with composing(), pytest.raises(UserError, match="row own of a sweep has the value mixer=conv: write it as {key"):
        compose("config", overrides=[f"hydra.searchpath=[{tmp_path}]", "experiment=own"])


def test_a_modified_file_is_read_again(folder):
    overrides = [f"hydra.searchpath=[{folder}]", "experiment=widths/narrow"]
    with composing():
        assert compose("config", overrides=overrides).model.width == 0.125
        file = folder / "sweep" / "own" / "widths.yaml"
        file.write_text(file.read_text().replace("0.125", "0.25"))
        os.utime(file, (1, 1))
        assert compose("config", overrides=overrides).model.width == 0.25


def test_values_keep_their_interpolations(tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "own.yaml").write_text("sweep: {rows: {own: {recipe.epochs: '${seed}', seed: 5}}}")
    with composing():
        config = compose("config", overrides=[f"hydra.searchpath=[{tmp_path}]", "experiment=own", "seed=6"])
        assert config.recipe.epochs == 6


def test_the_sweep_of_the_documentation_composes(tmp_path):
    (block,) = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs" / "reproduction.md").read_text(), re.DOTALL | re.MULTILINE
    )
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "widths.yaml").write_text(block)
    with composing():
        names = compose("config", overrides=[f"hydra.searchpath=[{tmp_path}]", "sweep=widths"]).sweep.experiments
        configs = [
            compose("config", overrides=[f"hydra.searchpath=[{tmp_path}]", f"experiment={name}"]) for name in names
        ]
    assert [config.model.width for config in configs] == [0.125, 0.5, 1.0]
    assert [config.recipe.epochs for config in configs] == [30, 60, 90]


@pytest.mark.parametrize("depth", [26, 101, 152, 200, 270, 350, 420])
def test_variants_of_resnet50_differ_in_depth(depth):
    with composing():
        models = [
            OmegaConf.to_container(compose("config", overrides=[f"model={name}"]).model)
            for name in (f"resnet{depth}", "resnet50")
        ]
    assert models[0] == models[1] | {"depth": depth}


def test_a_users_own_sweep_runs(folder, tmp_path):
    limits = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
    arguments = (f"hydra.searchpath=[{folder}]", "sweep=own/widths", "sweep.experiments=[widths/narrow,widths/file]")
    run("--multirun", *arguments, *limits, "trainer.enable_progress_bar=false", cwd=tmp_path)
    files = sorted((tmp_path / "multirun" / "own" / "widths").glob("*/metrics.json"))
    assert [file.parent.name.split("_trainer")[0] for file in files] == ["widths_file", "widths_narrow"]
    wide, narrow = (json.loads(file.read_text())["parameters"] for file in files)
    assert wide > 4 * narrow


def test_several_rows_run_by_name(tmp_path):
    arguments = ("experiment=reproduction/conv,reproduction/CCLL", "data=digits", "model=tiny", "recipe=digits")
    limits = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
    run("--multirun", *arguments, *limits, "trainer.enable_progress_bar=false", cwd=tmp_path)
    configs = [OmegaConf.load(file) for file in tmp_path.glob("multirun/*/*/config.yaml")]
    assert {(config.experiment, config.model.layout) for config in configs} == {
        ("reproduction/conv", "LLLL"),
        ("reproduction/CCLL", "CCLL"),
    }
