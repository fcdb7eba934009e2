"""Published numbers: each experiment has an entry, and our networks have the trusted numbers of parameters."""

import pytest
import torch

from lambdanets.config.build import ImageSpec, build_model
from lambdanets.reports.published import load_published, published_value, row_label
from tests.configs import EXPERIMENTS, SWEEPS, experiment


def millions(name):
    config = experiment(name)
    size = (config.recipe.image_size, config.recipe.image_size)
    with torch.device("meta"):
        model = build_model(config, ImageSpec(3, size, 1000))
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


# Small versions of a row are shown beside its published numbers but have another size.
OWN = [name for name in EXPERIMENTS if "of" not in load_published().get(name, {})]
TRUSTED = [name for name in OWN if (number := published_value(name, "params")) and number.trust in "DS"]


@pytest.mark.parametrize("name", [name for name in TRUSTED if not name.startswith(("lambda_resnet", "efficien"))])
def test_parameters_are_the_published_ones(name):
    # Another implementation's count of the ablation's rows differs by up to 0.2 M from the published one.
    loose = name.startswith("ablation/hyperparameters") and not name.endswith(("k16_h4_u1", "k16_h4_u4"))
    assert abs(millions(name) - published_value(name, "params").value) <= (0.25 if loose else 0.05) + 1e-9


@pytest.mark.parametrize(("name", "expected"), [("table3/augmented", 25.8), ("table3/local_attention", 18.0)])
def test_parameters_of_attention_networks_are_those_of_the_unconfirmed_numbers(name, expected):
    assert abs(millions(name) - expected) <= 0.05
    assert published_value(name, "params") == (expected, "R")


@pytest.mark.parametrize(
    ("name", "efficientnet", "expected"),
    [("efficiency/params_152", "efficientnet/b6", 35), ("efficiency/params_200", "efficientnet/b7", 42)],
)
def test_the_efficient_networks_are_smaller_than_the_large_efficientnets(name, efficientnet, expected):
    assert round(millions(name)) == expected
    assert millions(name) < millions(efficientnet)


def test_each_experiment_has_an_entry_and_each_entry_an_experiment():
    entries = {name: entry for name, entry in load_published().items() if "points" not in entry}
    assert set(entries) == set(EXPERIMENTS)
    for name, entry in entries.items():
        assert row_label(name) != name
        assert set(entry.get("of", [])) <= set(EXPERIMENTS)
        for quantity, (value, trust, *_) in ((key, entry[key]) for key in entry if key not in ("label", "of")):
            assert quantity in ("params", "top1", "throughput", "memory", "seconds", "speedup") or quantity.startswith(
                ("box_ap", "mask_ap")
            )
            assert value > 0
            assert trust in ("D", "S", "R")


def test_recalled_numbers_are_shown_as_unconfirmed():
    assert str(published_value("table3/conv", "params")) == "25.6"
    assert str(published_value("table3/conv", "top1")) == "76.9 (unconfirmed)"
    assert published_value("table3/efficient_attention", "params") is None
    assert published_value(None, "top1") is None


def test_the_baseline_of_a_sweep_is_an_experiment():
    for name, sweep in SWEEPS.items():
        assert sweep.baseline in EXPERIMENTS, name
