"""Every row that has a config has its published numbers, and ours come to those that can be trusted."""

import pytest
import torch
from omegaconf import OmegaConf

from lambdanets.config.build import ImageSpec, build_model
from lambdanets.reports.published import load_published, published_value, row_label
from tests.configs import EXPERIMENTS, FOLDER, experiment


def millions(name):
    config = experiment(name)
    size = (config.recipe.image_size, config.recipe.image_size)
    with torch.device("meta"):
        model = build_model(config, ImageSpec(3, size, 1000))
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


# Small versions of a row have its printed numbers beside them, not its size.
OWN = [name for name in EXPERIMENTS if "of" not in load_published().get(name, {})]
TRUSTED = [name for name in OWN if (found := published_value(name, "params")) and found.trust in "DS"]


@pytest.mark.parametrize("name", [name for name in TRUSTED if not name.startswith(("lambda_resnet", "efficien"))])
def test_parameters_are_the_published_ones(name):
    # Another implementation's count of the ablation's rows differs by up to 0.2 M from the published one.
    loose = name.startswith("ablation/hyperparameters") and not name.endswith(("k16_h4_u1", "k16_h4_u4"))
    assert abs(millions(name) - published_value(name, "params").value) <= (0.25 if loose else 0.05) + 1e-9


@pytest.mark.parametrize(("name", "said"), [("table3/augmented", 25.8), ("table3/local_attention", 18.0)])
def test_parameters_of_the_attentions(name, said):
    assert abs(millions(name) - said) <= 0.05


@pytest.mark.parametrize(
    ("name", "rival", "said"),
    [("efficiency/params_152", "efficientnet/b6", 35), ("efficiency/params_200", "efficientnet/b7", 42)],
)
def test_the_efficient_networks_are_smaller_than_the_large_efficientnets(name, rival, said):
    assert round(millions(name)) == said
    assert millions(name) < millions(rival)


def test_there_are_numbers_for_each_row_and_rows_for_all_numbers():
    assert set(load_published()) == set(EXPERIMENTS)
    for name, found in load_published().items():
        assert row_label(name) != name
        assert set(found.get("of", [])) <= set(EXPERIMENTS)
        for quantity, (value, trust) in ((key, found[key]) for key in found if key not in ("label", "of")):
            assert quantity in ("params", "top1", "throughput", "memory") or quantity.startswith(("box_ap", "mask_ap"))
            assert value > 0
            assert trust in ("D", "S", "R")


def test_what_was_only_recalled_is_shown_as_unconfirmed():
    assert str(published_value("table3/conv", "params")) == "25.6"
    assert str(published_value("table3/conv", "top1")) == "76.9 (unconfirmed)"
    assert published_value("table3/efficient_attention", "params") is None
    assert published_value(None, "top1") is None


def test_sweeps_name_experiments_that_exist_and_all_are_in_one():
    named = set()
    for file in (FOLDER / "sweep").rglob("*.yaml"):
        sweep = OmegaConf.load(file).get("sweep")
        named |= set(sweep.experiments)
        assert sweep.baseline is None or sweep.baseline in EXPERIMENTS
    assert named == set(EXPERIMENTS)
