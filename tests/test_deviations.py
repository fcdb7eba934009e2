"""docs/deviations.md is written from docs/deviations.yaml, and what the list says of configs and code is true."""

import importlib.util
import inspect
import math
import re
from functools import cache, partial

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torchvision.models import detection
from torchvision.transforms import v2

from lambdanets.config.build import build_model, image_spec
from lambdanets.config.experiments import compose_config
from lambdanets.costs.count import count_costs, sum_costs
from lambdanets.mixers import Attention, Axial, LambdaLayer, LinearAttention, LocalAttention
from lambdanets.mixers.interface import stride_pool
from lambdanets.models import MaskRCNN, ResNet
from lambdanets.models.resnet import DEPTHS, parse_layout
from lambdanets.ops.content import normalize_keys
from lambdanets.reports.published import load_published, published_value
from tests.command import ROOT
from tests.configs import EXPERIMENTS, FOLDER, composing, experiment

SPEC = importlib.util.spec_from_file_location("deviations", ROOT / "docs" / "deviations.py")
deviations = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(deviations)
GROUPS = deviations.read_groups()
ENTRIES = {entry["title"]: entry for group in GROUPS for entry in group["entries"]}
CHECKS = [(title, check) for title, entry in ENTRIES.items() for check in entry.get("checks", [])]


def checks_with(key):
    """Return parameters of pytest: text of the entry, and the check."""
    return [
        pytest.param(f"{ENTRIES[title]['paper']} {ENTRIES[title]['ours']}", check, id=title)
        for title, check in CHECKS
        if key in check
    ]


@cache
def count_millions(name):
    """Return the parameters of an experiment in millions."""
    config = experiment(name, "data.root=/data")
    with torch.device("meta"):
        model = build_model(config, image_spec(config))
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def count_flops(name):
    """Return the FLOPs of an experiment's network in the paper's order, two per multiply-add."""
    config = experiment(name, "data.root=/data")
    images = image_spec(config)
    parts = count_costs(partial(build_model, config, images), channels=3, image_size=images.size, batch=1)
    return sum_costs(parts).paper_flops


def test_the_page_is_written_from_the_list():
    assert deviations.PAGE.read_text() == deviations.make_page(GROUPS), "run make deviations"


def test_entries_are_complete():
    assert len(ENTRIES) == sum(len(group["entries"]) for group in GROUPS)  # no title twice
    for group in GROUPS:
        assert set(group) == {"topic", "kind", "entries"}
        assert group["kind"] in deviations.KINDS
        for entry in group["entries"]:
            assert set(entry) - {"checks", "unchecked"} == {"title", "paper", "ours"}
            assert bool(entry.get("checks")) != bool(entry.get("unchecked")), entry["title"]
            # What is recalled is marked.
            for sentence in re.split(r"(?<=\.) ", f"{entry['paper']} {entry['ours']}"):
                assert ("recalled" in sentence) == ("(unconfirmed)" in sentence), sentence


def test_each_check_is_of_a_known_kind():
    for title, check in CHECKS:
        assert set(check) in ({"overrides", "values"}, {"counted"}, {"printed"}, {"code"}, {"test"}), title


@pytest.mark.parametrize(("text", "check"), checks_with("overrides"))
def test_configs_have_the_values(text, check):
    with composing():
        config = compose_config(check["overrides"])
    for key, expected in check["values"].items():
        value = OmegaConf.select(config, key, throw_on_missing=True)
        assert (OmegaConf.to_container(value) if OmegaConf.is_config(value) else value) == expected, key
        parent = key.rpartition("[")[0]
        assert value is not None or (parent and OmegaConf.select(config, parent) is not None), key


@pytest.mark.parametrize(("text", "check"), checks_with("counted"))
def test_experiments_have_the_parameters(text, check):
    for name, millions in check["counted"].items():
        assert count_millions(name) == pytest.approx(millions, abs=0.0051), name
        assert f"{millions:.2f} M" in text


@pytest.mark.parametrize(("text", "check"), checks_with("printed"))
def test_printed_numbers_are_those_of_the_reports(text, check):
    for name, number in check["printed"].items():
        row, quantity = name.rsplit(".", 1)
        assert published_value(row, quantity).value == number
        assert f"{number} M" in text or f"{number:.1f} M" in text


@pytest.mark.parametrize(("text", "check"), checks_with("test"))
def test_named_tests_exist(text, check):
    file, name = check["test"].split("::")
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


# The checks in code, by their names in the list.


def a_layer_stores_its_table_only(text):
    assert LambdaLayer(8, scope="global", feature_size=(5, 7), key_depth=3, intra_depth=2).table.shape == (3, 2, 9, 13)
    assert LambdaLayer(8, scope=7, key_depth=3, intra_depth=2).table.shape == (3, 2, 7, 7)


def attention_layers_have_these_projections_and_tables(text):
    column, row, _ = Axial(16, feature_size=(5, 7), heads=8)
    assert (column.axis, row.axis) == (2, 3)
    assert column.qkv is not row.qkv
    assert (column.table.shape, row.table.shape) == ((9, 2), (13, 2))  # offsets, depth of a head
    layer = Attention(16, feature_size=(5, 7), heads=8)
    assert (layer.row_table.shape, layer.column_table.shape) == ((9, 2), (13, 2))
    assert LocalAttention(16, scope=7, heads=8).row_table.shape[:2] == (7, 8)


def border_windows_average_over_existing_positions(text):
    assert torch.equal(stride_pool(2)(torch.ones(1, 1, 5, 5)), torch.ones(1, 1, 3, 3))
    ramp = torch.arange(4.0).view(1, 1, 1, 4)
    assert stride_pool(2)(ramp).flatten().tolist() == [0.5, 2.0]


def batch_norms_have_the_defaults_of_pytorch(text):
    norms = [module for module in ResNet(LambdaLayer, depth=[1] * 4).modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.1, 1e-5)}


def initial_weights_have_these_scales(text):
    torch.manual_seed(0)
    layer = Attention(256, feature_size=(7, 7))
    assert layer.qkv.weight.std().item() == pytest.approx(256**-0.5, rel=0.02)
    conv = ResNet(LambdaLayer, depth=[1, 1], layout="CC", strides=[1, 2]).stages[1][0].mixer
    fan_out = 9 * 128
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.02)
    assert not LinearAttention().gate(16).norm.weight.any()


def normalizations_have_these_axes(text):
    keys = torch.randn(2, 5, 1, 3)  # images, positions, intra-depth, key channels
    assert torch.allclose(normalize_keys(keys, "l2", 1).square().sum(1), torch.ones(2, 1, 3))
    assert torch.allclose(normalize_keys(keys, "softmax", 1).sum(1), torch.ones(2, 1, 3))
    layer = LambdaLayer(8, scope=3, heads=2, key_depth=3, query_softmax=True)
    x = torch.randn(1, 8, 4, 4)
    query, _, _ = layer.project(x, x, torch.contiguous_format)
    assert torch.allclose(query.sum(-1), torch.ones(1, 4, 4, 2))


def the_deep_networks_have_the_printed_counts(text):
    rows = [name for name in load_published() if name.startswith(("resnet101/", "resnet152/"))]
    assert len(rows) == 8
    for row in rows:
        assert f"{count_millions(row):.1f}" == f"{published_value(row, 'params').value:.1f}", row


def a_convolutional_c3_adds_half_a_million(text):
    assert count_millions("hybrids/CCLL") - count_millions("hybrids/CLLL") == pytest.approx(0.5, abs=0.05)
    assert count_millions("hybrids/CLLL") == pytest.approx(15.1, abs=0.05)


def other_hyperparameter_counts_are_close(text):
    rows = [name for name in load_published() if name.startswith("ablation/hyperparameters/")]
    named = [f"ablation/hyperparameters/{row}" for row in ("k8_h2_u1", "k2_h8_u1", "k8_h16_u1")]
    assert set(named) < set(rows)
    differences = {row: abs(count_millions(row) - published_value(row, "params").value) for row in rows}
    assert max(difference for row, difference in differences.items() if row not in named) < 0.15
    assert min(differences[row] for row in named) > 0.15


def lambda_layers_of_c4_are_evenly_spaced(text):
    counts = {50: 1, 101: 3, 152: 6, 200: 6, 270: 6, 350: 6, 420: 8}
    steps = {50: 3, 101: 6, 152: 5, 200: 5, 270: 8, 350: 10, 420: 10}
    for depth, count in counts.items():
        with composing():
            model = compose_config([f"model=lambda_resnet{depth}"]).model
        c2, c3, c4, c5 = parse_layout(model.layout, DEPTHS[depth])
        assert not any(c2 + c3)
        assert all(c5)
        assert [number for number, mixes in enumerate(c4, 1) if mixes] == [
            steps[depth] * i for i in range(1, count + 1)
        ]


def resnets_have_the_largest_size_of_their_depth(text):
    largest: dict[int, int] = {}
    for name in EXPERIMENTS:
        if depth_and_size := re.fullmatch(r"lambda_resnet/(\d+)_(\d+)", name):
            depth, size = map(int, depth_and_size.groups())
            largest[depth] = max(size, largest.get(depth, 0))
    largest[200] = largest[270]
    assert len(largest) == 7
    for depth, size in largest.items():
        for network in ("resnet", "se_resnet"):
            assert experiment(f"{network}/{depth}", "data.root=/data").recipe.image_size == size


def mobilenets_have_these_flops(text):
    for row, millions in (("v2", 602), ("lambda_v2", 563), ("v3_large", 433), ("lambda_v3_large", 430)):
        assert round(count_flops(f"mobilenet/{row}") / 1e6) == millions
        assert f"{millions} M" in text
    for row in ("v2", "lambda_v2", "v3_large", "lambda_v3_large"):
        assert f"{1000 * published_value(f'mobilenet/{row}', 'flops').value:.0f} M" in text


def magnitude_15_is_half_of_the_largest_strength(text):
    transform = v2.RandAugment(num_ops=2, magnitude=15)
    magnitudes, _ = transform._AUGMENTATION_SPACE["Rotate"]
    strengths = magnitudes(transform.num_magnitude_bins, 224, 224)
    assert strengths[15] == strengths.max() / 2


def the_detector_is_torchvisions(text):
    backbone = partial(ResNet, depth=[1, 1], layout="CC", strides=[1, 2], width=0.25)
    model = MaskRCNN(LambdaLayer, backbone=backbone, image_size=(64, 64), num_classes=2, channels=8, hidden=16)
    assert isinstance(model, detection.MaskRCNN)
    heads = (model.backbone.fpn, model.rpn, model.roi_heads)
    assert not any(isinstance(module, nn.BatchNorm2d) for head in heads for module in head.modules())
    shapes = []
    model.backbone.register_forward_pre_hook(lambda module, arguments: shapes.append(arguments[0].shape))
    model.eval()([torch.zeros(3, 32, 50), torch.zeros(3, 20, 60)])
    assert shapes == [(2, 3, 32, 64)]  # a multiple of the last stride, 8


def a_strided_lambda_layer_works_on_its_input(text):
    layer = LambdaLayer(8, stride=2, scope="global", feature_size=(6, 6), heads=2, key_depth=3)
    assert layer.table.shape[2:] == (11, 11)
    assert layer(torch.randn(1, 8, 6, 6)).shape == (1, 8, 3, 3)


def flops_in_the_papers_order(text):
    billions = {}
    for row in ("content_position/content", "scope/r3", "scope/r7", "scope/r31", "scope/global"):
        billions[row] = count_flops(f"ablation/{row}") / 1e9
    content = billions.pop("content_position/content")
    assert f"{content:.3g}" in text
    printed = {"scope/r3": 5.7, "scope/r7": 6.1, "scope/r31": 12.4, "scope/global": 19.4}
    ratios = {row: (value - content) / (printed[row] - 5.0) for row, value in billions.items()}
    for row in ("scope/r31", "scope/global"):
        assert f"{billions[row]:.1f}" in text
        assert ratios[row] == pytest.approx(2, abs=0.05)
    assert ratios["scope/r3"] < 1
    assert ratios["scope/r7"] < 1


def entries_of_the_motivating_example(text):
    for images, billions, gib in ((128, "17.2", 64), (256, "34.4", 128)):
        entries = images * 8 * (64 * 64) ** 2
        assert billions in text
        assert f"{entries / 1e9:.1f}" == billions
        assert 4 * entries == gib * 2**30
    assert 2 * 256 * 8 * (64 * 64) ** 2 == 64 * 2**30
    assert 2 * 128 * 8 * (64 * 64) ** 2 == 32 * 2**30


def recipes_of_imagenet_and_coco_say_that_they_were_not_run(text):
    files = [file for pattern in ("imagenet*.yaml", "coco_mask*.yaml") for file in (FOLDER / "recipe").glob(pattern)]
    assert len(files) == 4
    assert all("Not run by us." in file.read_text() for file in files)


CODE = {
    function.__name__: function
    for function in globals().copy().values()
    if inspect.isfunction(function) and [*inspect.signature(function).parameters] == ["text"]
}


@pytest.mark.parametrize(("text", "check"), checks_with("code"))
def test_code_is_as_the_list_says(text, check):
    CODE[check["code"]](text)


def test_all_functions_are_in_the_list():
    assert sorted(CODE) == sorted(check["code"] for _, check in CHECKS if "code" in check)
