"""Published numbers: each experiment has an entry, and our networks have the trusted numbers of parameters."""

import pytest
import torch

from lambdanets.config.build import ImageSpec, build_model
from lambdanets.reports.published import (
    LARGEST_DIFFERENCE,
    PublishedValue,
    format_published,
    load_published,
    published_value,
    row_label,
    row_note,
)
from tests.configs import EXPERIMENTS, SWEEPS, experiment


def millions(name):
    config = experiment(name)
    size = (config.recipe.image_size, config.recipe.image_size)
    with torch.device("meta"):
        model = build_model(config, ImageSpec(3, size, 1000))
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


# Small versions of a row are shown beside its published numbers but have another size.
OWN = [name for name in EXPERIMENTS if "of" not in load_published().get(name, {})]
CONFIRMED = [name for name in OWN if (number := published_value(name, "params")) and number.trust in "DS"]
QUANTITIES = {"params", "top1", "gain", "throughput", "memory", "flops", "seconds", "speedup"}
# Counts between half of the last printed digit and 0.12 M beside the published number.
SMALL_DIFFERENCES = {
    "ablation/content_position/both": "Tables 3 and 4 print 15.0 for this network",
    "ablation/hyperparameters/k2_h4_u1": "printed like that of k = 4, which has 0.06 M more",
    "ablation/hyperparameters/k32_h8_u1": "printed rounded down",
    "table3/double_attention": "which blocks have the layer isn't known",
}


@pytest.mark.parametrize("name", CONFIRMED)
def test_parameters_are_the_published_ones_but_for_named_differences(name):
    published = published_value(name, "params")
    difference = abs(millions(name) - published.value)
    assert abs(millions(name) - published.others.get("counted", millions(name))) <= 0.005
    if row_note(name):
        assert difference > max(LARGEST_DIFFERENCE, published.rounding)
    elif name in SMALL_DIFFERENCES:
        assert published.rounding < difference <= LARGEST_DIFFERENCE
    else:
        assert difference <= published.rounding + 1e-9


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet101/conv", 44.605),
        ("resnet101/se", 63.619),
        ("resnet101/lambda_few", 36.867),
        ("resnet101/lambda_all", 25.982),
        ("resnet152/conv", 60.249),
        ("resnet152/se", 86.622),
        ("resnet152/lambda_few", 51.405),
        ("resnet152/lambda_all", 35.077),
        ("efficiency/params_152", 35.077),
        ("efficiency/params_200", 41.666),
        ("hybrids/CCLL", 15.56),
    ],
)
def test_counts_of_deep_networks_and_of_the_hybrid(name, expected):
    assert millions(name) == pytest.approx(expected, abs=0.005)


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
        assert set(entry.get("notes", {})) <= {"params", "flops"} & set(entry)
        assert all(note.endswith(".") for note in entry.get("notes", {}).values())
        for quantity in set(entry) - {"label", "of", "notes"}:
            assert quantity in QUANTITIES or quantity.startswith(("box_ap", "mask_ap"))
            number = published_value(name, quantity)
            assert number.trust in ("D", "S", "R")
            assert number.value > 0 or quantity == "gain"
            assert set(number.others) <= {"submission", "counted", "Tan and Le 2019"}
            assert number.value not in number.others.values()


def test_numbers_are_shown_as_printed_with_their_other_values():
    assert str(PublishedValue(25.6, "D")) == "25.6"
    assert str(PublishedValue(33.0, "S")) == "33.0"
    assert str(PublishedValue(35, "S")) == "35"
    assert str(PublishedValue(83.22, "S")) == "83.22"
    assert str(PublishedValue(81.8, "R")) == "81.8 (unconfirmed)"
    assert str(published_value("hybrids/CCLL", "params")) == "15.4 (counted: 15.56)"
    assert str(published_value("table4/lambda", "memory")) == "1.9 (submission: 0.96)"
    assert str(published_value("reproduction/CCLL", "throughput")) == "4980"
    assert published_value("table3/efficient_attention", "params") is None
    assert published_value(None, "top1") is None


def test_gains_have_their_sign():
    assert format_published("table3/lambda_u1", "gain") == "+1.5"
    assert format_published("table3/conv", "gain") == "+0.0"
    assert format_published("table3/double_attention", "gain") is None


def test_a_printed_number_is_exact_to_half_of_its_last_digit():
    assert PublishedValue(25.6, "S").rounding == pytest.approx(0.05)
    assert PublishedValue(0.96, "S").rounding == pytest.approx(0.005)
    assert PublishedValue(35, "S").rounding == 0.5


def test_the_baseline_of_a_sweep_is_an_experiment():
    for name, sweep in SWEEPS.items():
        assert sweep.baseline in EXPERIMENTS, name
