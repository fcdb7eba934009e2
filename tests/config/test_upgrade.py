"""Configs that version 0.1.0 stored compose to today's, so that its runs and checkpoints stay usable.

tests/fixtures/version-0.1.0/configs.yaml holds what version 0.1.0 composed: the default config, and for each choice of
a group the parts that differ from it.
"""

import inspect
from typing import Any

import pytest
from hydra import compose
from hydra.utils import get_object
from omegaconf import OmegaConf

from lambdanets.config.allowlist import find_targets
from lambdanets.config.keys import COMMAND_KEYS, LABEL_KEYS
from lambdanets.config.upgrade import upgrade_config, write_new_options
from lambdanets.mixers import LambdaLayer
from tests.command import ROOT
from tests.configs import composing

FIXTURE = ROOT / "tests" / "fixtures" / "version-0.1.0" / "configs.yaml"
STORED: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(FIXTURE))
DEFAULT = STORED.pop("default")
# Overrides whose words have changed since then.
TODAY = {"mixer.method=rows": "mixer.method=row_fft"}
# Defaults that have changed; an old config keeps its own: one gate for all stages, the stem, LambdaResNet-50's blocks.
GATE = {"_target_": "lambdanets.mixers.squeeze_excitation", "_partial_": True, "ratio": 4}
RESNET_D = {"model.gate": GATE, "model.stem": "deep"}
FORMER = {f"model=lambda_resnet{depth}": RESNET_D for depth in (101, 152, 200, 270, 350, 420)}
FORMER |= {"model=lambda_resnet50": RESNET_D | {"model.layout": "CCLL"}}


def set_former_defaults(config, overrides):
    """Give a config that is composed today the defaults of version 0.1.0."""
    if "init" in config.mixer:
        config.mixer.init = "small"
    for key, value in (item for override in overrides for item in FORMER.get(override, {}).items()):
        OmegaConf.update(config, key, value, merge=False)


def resolved(config):
    """The groups that make an experiment, without interpolations."""
    parts: Any = OmegaConf.to_container(config) if OmegaConf.is_config(config) else config
    rest = (*COMMAND_KEYS, *LABEL_KEYS, "experiment")
    experiment = OmegaConf.create({key: value for key, value in parts.items() if key not in rest})
    values: Any = OmegaConf.to_container(experiment, resolve=True)
    values["data"].pop("decoder", None)  # a choice for the machine, which no earlier version had
    values["recipe"].pop("start", None)  # a stored config has none, and a training then accepts any initial weights
    return values


@pytest.mark.parametrize("overrides", STORED)
def test_a_stored_config_is_upgraded_to_the_one_that_is_composed_today(overrides):
    words = [TODAY.get(override, override) for override in overrides.split()]
    with composing():
        composed = compose("config", overrides=words)
        set_former_defaults(composed, words)
        upgraded = upgrade_config(DEFAULT | STORED[overrides])
        assert resolved(upgraded) == resolved(composed)


def test_every_stored_target_exists_today():
    targets = {target for parts in STORED.values() for _, target in find_targets(upgrade_config(DEFAULT | parts))}
    assert len(targets) > 40
    for target in targets:
        get_object(target)


def test_an_upgraded_config_stays_as_it_is():
    for parts in STORED.values():
        upgraded = upgrade_config(DEFAULT | parts)
        assert upgrade_config(upgraded) == upgraded


def test_a_config_without_a_new_option_is_told_from_an_old_one():
    config = OmegaConf.create(
        {"mixer": {"_target_": "my.Mixer", "inner": {"_target_": "lambdanets.mixers.LambdaLayer"}}}
    )
    assert upgrade_config(OmegaConf.to_container(config))["mixer"]["inner"]["init"] == "small"
    write_new_options(config)
    assert config.mixer.inner.init == "paper" == inspect.signature(LambdaLayer).parameters["init"].default
    assert upgrade_config(OmegaConf.to_container(config)) == config
    given = OmegaConf.create({"mixer": {"_target_": "lambdanets.mixers.LambdaConv", "init": "small"}})
    write_new_options(given)
    assert given.mixer.init == "small"
