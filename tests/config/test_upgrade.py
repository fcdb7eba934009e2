"""Configs that version 0.1.0 stored compose to today's, so that its runs and checkpoints stay usable.

tests/fixtures/version-0.1.0/configs.yaml holds what version 0.1.0 composed: the default config, and for each choice of
a group the parts that differ from it.
"""

from typing import Any

import pytest
from hydra import compose
from hydra.utils import get_object
from omegaconf import OmegaConf

from lambdanets.config.allowlist import find_targets
from lambdanets.config.keys import COMMAND_KEYS, LABEL_KEYS
from lambdanets.config.upgrade import upgrade_config
from tests.command import ROOT
from tests.configs import composing

FIXTURE = ROOT / "tests" / "fixtures" / "version-0.1.0" / "configs.yaml"
STORED: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(FIXTURE))
DEFAULT = STORED.pop("default")
# Overrides whose words have changed since then.
TODAY = {"mixer.method=rows": "mixer.method=row_fft"}


def resolved(config):
    """The groups that make an experiment, without interpolations."""
    parts: Any = OmegaConf.to_container(config) if OmegaConf.is_config(config) else config
    rest = (*COMMAND_KEYS, *LABEL_KEYS, "experiment")
    experiment = OmegaConf.create({key: value for key, value in parts.items() if key not in rest})
    values: Any = OmegaConf.to_container(experiment, resolve=True)
    values["recipe"].pop("start", None)  # a stored config has none, and a training then accepts any initial weights
    return values


@pytest.mark.parametrize("overrides", STORED)
def test_a_stored_config_is_upgraded_to_the_one_that_is_composed_today(overrides):
    with composing():
        composed = compose("config", overrides=[TODAY.get(override, override) for override in overrides.split()])
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
