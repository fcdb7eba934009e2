"""The keys that don't belong to an experiment are said once, and the configs agree."""

import pytest
from hydra import compose
from omegaconf import OmegaConf

from lambdanets.config import keys
from tests.configs import FOLDER, composing


def test_names_of_run_folders_leave_out_these_keys():
    config = OmegaConf.load(FOLDER / "config.yaml")
    assert set(config.hydra.job.config.override_dirname.exclude_keys) == set(keys.UNNAMED_KEYS)


def test_every_key_is_one_of_the_config():
    with composing():
        config = compose("config", overrides=["data=imagefolder", "recipe=cifar", "sweep=table3", "benchmark=layers"])
        config = OmegaConf.to_container(config)
    for key in {*keys.RESTART_KEYS, *keys.UNNAMED_KEYS, *keys.NETWORK_KEYS} - {"claims"}:
        parent, _, last = key.rpartition(".")
        assert last in (config[parent] if parent else config), key


def test_every_key_of_the_config_is_a_commands_a_machines_or_an_experiments():
    """A new key at the top of config.yaml must be given a place here."""
    experiment = {"seed", "mixer", "model", "data", "recipe", "task", "trainer", "logger", "callbacks"}
    experiment |= {"experiment", "compile", "checkpoint"}
    with composing():
        config = compose("config", overrides=["sweep=table3"])
    assert set(config) - experiment <= {*keys.COMMAND_KEYS, *keys.LABEL_KEYS}


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("mixer.heads=8", "mixer.heads"),
        ("+model.gate=null", "model.gate"),
        ("~sweep", "sweep"),
        ("recipe/optimizer=sgd", "recipe.optimizer"),
        ("data@data=cifar10", "data"),
        ("name=a=b", "name"),
    ],
)
def test_the_key_of_an_override(override, key):
    assert keys.override_key(override) == key


def test_a_key_lies_in_those_above_it():
    assert keys.is_key_in("sweep.experiments", ("sweep",))
    assert keys.is_key_in("sweep", ("sweep",))
    assert not keys.is_key_in("sweep_dir", ("sweep",))
