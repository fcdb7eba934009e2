"""Any value of any key composes to objects that can be built, or is refused with a sentence."""

import math

import pytest
import torch
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lambdanets.config.allowlist import check_targets
from lambdanets.config.arguments import prepare_arguments
from lambdanets.config.build import (
    ImageSpec,
    build_data,
    build_model,
    build_trainer,
    check_numbers,
    explained_options,
)
from lambdanets.config.overrides import apply_overrides, check_resumable
from lambdanets.config.upgrade import write_new_options
from lambdanets.error_messages import error_message
from lambdanets.errors import UserError
from lambdanets.runs.sweeps import flatten
from tests.configs import composing
from tests.in_process import SMALL, invoke, tree

IMAGES = ("data=imagefolder", "data.root=x")


def configured_keys():
    with composing():
        config = compose("config", overrides=[*IMAGES, "recipe=cifar", "callbacks=scalars"])
        config.name = config.experiment = "x"
        return sorted({key for key in flatten(config) if not key.startswith(("hydra", "ckpt", "base_run"))})


KEYS = configured_keys()
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20), st.sampled_from([0, -1, 1, 10**9, 2**63]), st.floats().map(lambda x: x)
)
WORDS = st.sampled_from(
    ["null", "true", "nan", "inf", "''", "${seed}", "${nowhere}", "${oc.env:HOME}", "${", "[]", "{}", "~", "a=b", "a,b",
     "${hydra:runtime.cwd}", "lambdanets.mixers.Conv", "os.system", "[1,[2,{a:3}]]", "1e400", "-0.0", "x y", "../.."]
)  # fmt: skip
LISTS = st.recursive(NUMBERS | st.booleans(), lambda item: st.lists(item, max_size=3), max_leaves=5).map(
    lambda value: str(value).replace(" ", "").replace("True", "true").replace("False", "false")
)
VALUES = st.one_of(NUMBERS.map(str), WORDS, LISTS, TEXT)


def build_parts(config):
    """Build what a training builds before it reads data: all but the logger and callbacks with a folder."""
    write_new_options(config)
    OmegaConf.resolve(config)
    check_targets(config)
    check_numbers(config)
    data = build_data(config)
    with torch.device("meta"):
        model = build_model(config, ImageSpec(data.channels, data.image_size, 10))
    with explained_options("task"):
        instantiate(config.task)(model, num_classes=10)
    build_trainer(config, logger=False)


@pytest.fixture(scope="module")
def composed():
    with composing():
        config = compose("config", overrides=[*SMALL, "mixer=lambda", *IMAGES])
        OmegaConf.set_struct(config, True)
        config.name, config.experiment = "x", None
        return config


@given(st.sampled_from(KEYS), VALUES)
def test_any_value_of_any_key_is_built_or_answered_with_a_sentence(composed, key, value):
    config = composed.copy()
    try:
        (override,) = OverridesParser.create().parse_overrides([f"{key}={value}"])
        if override.is_sweep_override():
            return
        OmegaConf.update(config, key, override.value(), merge=False)
        build_parts(config)
    except Exception as error:
        message = error_message(error)
        if message is None:
            raise
        assert message.strip()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with a run of one epoch."""
    place = tmp_path_factory.mktemp("place")
    done = invoke(*SMALL, "trainer.max_epochs=1", "hydra.run.dir=r", cwd=place)
    assert done.code == 0, done.text
    return place


@given(st.sampled_from(KEYS), VALUES)
def test_a_finished_run_stays_as_it_is_under_any_override(fuzzing, place, key, value):
    """A run without an epoch left is not changed, whether a command on it is accepted or refused."""
    before = tree(place)
    done = invoke("ckpt=r", f"{key}={value}", "trainer.max_epochs=1", cwd=place)
    assert tree(place) == before
    assert done.code == 0 or "error: " in done.text


STORED = OmegaConf.create(
    {"seed": 0, "recipe": {"epochs": 1, "optimizer": {"_target_": "a", "lr": 0.1}}, "data": {"root": "x"}}
)


@given(
    st.sampled_from(["seed", "recipe.epochs", "recipe.optimizer.lr", "data.root", "data.seed", "new", "a.b"]), VALUES
)
def test_a_value_of_a_run_is_the_given_one(key, value):
    (override,) = prepare_arguments([f"{key}={value}"])
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
        if parsed.is_sweep_override():
            return
        given_value = parsed.value()
        composed = OmegaConf.create()
        OmegaConf.update(composed, key, given_value, force_add=True)
    except Exception:  # Hydra's to refuse
        return
    known = OmegaConf.select(STORED, key) is not None
    try:
        config = apply_overrides(STORED, composed, [override], source="r")
    except UserError:
        assert not known
        return
    assert known or "." not in key
    actual = OmegaConf.to_container(config)
    for part in key.split("."):
        actual = actual.get(part) if isinstance(actual, dict) else actual
    expected = OmegaConf.to_container(composed)
    for part in key.split("."):
        expected = expected[part]
    assert actual == expected or (isinstance(actual, float) and math.isnan(actual))
    if key == "seed" and actual != 0 and not str(actual).startswith("${"):
        with pytest.raises(UserError, match="seed"):
            check_resumable(STORED, config, source="r")
