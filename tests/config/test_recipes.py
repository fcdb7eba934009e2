"""Recipes state their own numbers, and their heads what to expect and how to run them."""

import re
import shlex

import pytest
from hydra import compose
from omegaconf import OmegaConf

from lambdanets.reports.published import published_value
from tests.command import ROOT
from tests.configs import FOLDER, composing

RECIPES = {file.stem: file for file in sorted((FOLDER / "recipe").glob("*.yaml"))}


def read_head(name):
    """Return the comments before the first key, a field per line."""
    lines = RECIPES[name].read_text().splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(lines[:end]).replace("\n#   ", " ").replace("# ", "")


def compose_recipe(overrides):
    config = compose("config", overrides=overrides, return_hydra_config=True)
    OmegaConf.set_struct(config, False)
    return config.hydra.runtime.choices.recipe, config.recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_includes_nothing_but_its_optimizer_and_start(name):
    *parts, itself = OmegaConf.load(RECIPES[name]).defaults
    assert [key for part in parts for key in part] == ["optimizer", *(["start"] if name == "coco_mask_rcnn" else [])]
    assert itself == "_self_"


@pytest.mark.parametrize("name", RECIPES)
def test_the_head_states_what_to_expect_and_a_command_that_composes(name):
    head = read_head(name)
    assert "Not run by us" in head or ("measured by us" in head and re.search("^Time: ", head, re.MULTILINE))
    command = re.search(r"^Command: python run.py (.*)$", head, re.MULTILINE)[1]
    words = [re.sub(r"^seed=.*", "seed=0", word) for word in shlex.split(command) if word != "--multirun"]
    with composing():
        choice, _ = compose_recipe(words)
        assert choice == name
        sweep = compose("config", overrides=words).get("sweep")
        for row in sweep.experiments if sweep else ():
            choice, _ = compose_recipe(
                [word for word in words if not word.startswith("sweep=")] + [f"experiment={row}"]
            )
            assert choice == name


@pytest.mark.parametrize("name", RECIPES)
def test_measured_numbers_are_in_the_results(name):
    head = read_head(name)
    measured = re.search(r"^Accuracy: (.*measured by us.*)$", head, re.MULTILINE)
    if measured is None:
        assert "Not run by us" in head
        return
    page = (ROOT / re.search(r"results/\w+\.md", head)[0]).read_text()
    scores = re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?", measured[1])
    assert scores
    for score in scores:
        assert score in page or f"{float(score) / 100:.4f}" in page


@pytest.mark.parametrize(
    ("name", "experiment", "quantity"),
    [
        ("imagenet90", "table3/conv", "top1"),
        ("imagenet90", "table3/lambda_u1", "top1"),
        ("imagenet350", "lambda_resnet/420_320", "top1"),
        ("coco_mask_rcnn", "coco/lambda_resnet101", "box_ap"),
        ("coco_mask_rcnn", "coco/lambda_resnet101", "mask_ap"),
    ],
)
def test_published_numbers_are_those_of_the_reports(name, experiment, quantity):
    number = published_value(experiment, quantity)
    accuracy = re.search("^Accuracy: .*$", read_head(name), re.MULTILINE)[0]
    assert f"{number.value:.1f}" in accuracy
    assert ("(unconfirmed)" in accuracy) == (number.trust == "R")


@pytest.mark.parametrize("name", RECIPES)
def test_the_comment_on_the_optimizer_has_its_numbers(name):
    comment = re.search(r"optimizer: \w+ # (.*)", RECIPES[name].read_text())
    with composing():
        optimizer = compose("config", overrides=[f"recipe={name}"]).recipe.optimizer
    if comment is None:
        assert {"lr", "weight_decay"} <= set(OmegaConf.load(RECIPES[name]).optimizer)
        return
    for key, pattern in (
        ("lr", r"lr (\S+?)(?:,|$)"),
        ("weight_decay", r"weight decay (\S+)"),
        ("momentum", r"momentum (\S+?),"),
    ):
        number = re.search(pattern, comment[1])
        stated = OmegaConf.load(RECIPES[name]).get("optimizer", {}).get(key)
        assert (float(number[1]) if number else stated) == optimizer.get(key), key
    assert ("Nesterov" in comment[1]) == optimizer.get("nesterov", False)


def test_the_papers_recipes_have_the_papers_numbers():
    with composing():
        short, long = (compose("config", overrides=[f"recipe=imagenet{epochs}"]).recipe for epochs in (90, 350))
    for recipe in (short, long):
        assert (recipe.optimizer.lr, recipe.lr_batch, recipe.optimizer.momentum) == (0.1, 256, 0.9)
        assert (recipe.warmup_epochs, recipe.label_smoothing) == (5, 0.1)
    assert short.optimizer.lr * 4096 / short.lr_batch == 1.6
    assert (short.epochs, short.optimizer.weight_decay, short.ema_decay) == (90, 1e-4, None)
    assert (short.augment.crop_scale, short.augment.flip, short.augment.rand_augment) == ([0.08, 1.0], True, None)
    assert (long.epochs, long.optimizer.weight_decay, long.ema_decay) == (350, 4e-5, 0.9999)
    assert long.augment.rand_augment == {"num_ops": 2, "magnitude": 15}


def test_detectors_start_from_pretrained_weights_or_train_longer_from_scratch():
    with composing():
        default, pretrained, scratch = (
            compose("config", overrides=["task=detection", "data.root=/data", *start])
            for start in ([], ["recipe/start=pretrained"], ["recipe/start=scratch"])
        )
    assert default == pretrained
    assert (pretrained.recipe.start.pretrained, pretrained.trainer.max_epochs) == (True, 50)
    # The whole number of epochs that is nearest to 130,000 steps of 256 images.
    assert scratch.recipe.start.pretrained is False
    assert scratch.trainer.max_epochs == round(130_000 * 256 / 118_287)
    assert scratch.task.warmup_epochs == scratch.recipe.start.warmup_epochs
    # The epochs are values of their own still.
    with composing():
        longer = compose("config", overrides=["task=detection", "data.root=/data", "recipe.epochs=60"])
    assert longer.trainer.max_epochs == 60
