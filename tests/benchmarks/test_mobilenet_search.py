"""benchmark=mobilenet_search against networks that are built as a whole, and on one design."""

from functools import partial

import pytest
import torch

from lambdanets.benchmarks import search_mobilenets
from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.mobilenet_search import Design, Search, Size, block_sets
from lambdanets.costs.count import count_costs, sum_costs
from lambdanets.errors import UserError
from lambdanets.mixers import LambdaConv
from lambdanets.models import MobileNet
from lambdanets.reports.published import row_label
from tests.command import ROOT

LIGHT = Design(8, 4, 5, "input")
NETWORKS = {
    "v2": ["mobilenet/v2", "mobilenet/lambda_v2"],
    "v3_large": ["mobilenet/v3_large", "mobilenet/lambda_v3_large"],
}


def search(variant, side=224):
    plain, target = NETWORKS[variant]
    return Search(variant, plain=plain, target=target, image_size=(side, side))


@pytest.mark.parametrize(
    ("variant", "blocks", "design", "expansion"),
    [
        ("v2", (10, 16), LIGHT, 1),
        ("v2", (6, 7, 8), Design(16, 4, 3, "half"), 3),  # with a stride
        ("v3_large", (4, 13), Design(8, 2, 7, "input"), 1),  # with strides and squeeze-and-excitation
        ("v3_large", (15,), Design(4, 8, 3, "expanded"), None),
    ],
)
def test_sums_of_blocks_are_whole_networks(variant, blocks, design, expansion):
    counted = search(variant, 64).count(blocks, design)
    layer = partial(LambdaConv, scope=design.scope, key_depth=design.key_depth, heads=design.heads)
    make = partial(MobileNet, layer, variant=variant, blocks=blocks, expansion=expansion, image_size=(64, 64))
    whole = Size.of(sum_costs(count_costs(make, channels=3, image_size=(64, 64))))
    assert counted.size.parameters == pytest.approx(whole.parameters, rel=1e-9)
    assert counted.size.flops == pytest.approx(whole.flops, rel=1e-9)


def test_flops_of_a_block_by_hand():
    # Block 16 of MobileNet-v2: 160 channels on 7² positions, k = 8, h = 4, v = 40.
    n, channels, k, h, v = 49, 160, 8, 4, 40
    convolutions = 2 * n * channels**2
    projections = n * channels * (h * k + k + v)
    content, position, applied = n * k * v, n * 5**2 * k * v, n * h * k * v
    size = search("v2").block_size(16, Design(k, h, 5, "input"))
    assert size.flops == pytest.approx(2 * (convolutions + projections + content + position + applied) / 1e6, rel=1e-9)


def test_the_sweeps_networks_have_the_published_sizes():
    v2 = search("v2").count((10, 16), LIGHT)
    assert round(v2.size.parameters, 2) == 3.21
    assert round(v2.size.flops) == 563  # as counted; with the plain network's shift it is 565
    v3 = search("v3_large")
    size = v3.count((10,), LIGHT).size + v3.shift
    assert (round(size.parameters, 2), round(size.flops)) == (5.47, 435)


def test_the_page_on_mobilenets_has_the_counts():
    page = (ROOT / "docs" / "mixers.md").read_text()
    for variant, blocks in (("v2", (10, 16)), ("v3_large", (10,))):
        counts = search(variant)
        for name, size in zip(NETWORKS[variant], (counts.plain, counts.count(blocks, LIGHT).size), strict=True):
            row = next(line for line in page.splitlines() if line.startswith(f"| {row_label(name)} |"))
            _, parameters, _, flops, shifted, _ = row.strip("| ").split(" | ")
            assert (parameters, flops) == (f"{size.parameters:.3f}", f"{size.flops:.1f}")
            assert float(shifted) == pytest.approx((size + counts.shift).flops, abs=0.05)


def test_the_nearest_networks_are_listed_first():
    named = {"mine": {"key_depth": 8, "heads": 4, "scope": 5, "channels": "input", "blocks": {"v2": [10, 16]}}}
    result = search_mobilenets(
        Setting(), networks=NETWORKS, key_depths=[8], heads=[4], scopes=[5], channels=["input"], named=named, show=3
    )
    groups = [row["search"] for row in result.rows]
    assert groups == 6 * ["one network"] + 2 * ["one design for both"] + ["mine"]
    for rows in (result.rows[:3], result.rows[3:6]):
        distances = [row["distance"] for row in rows]
        assert distances == sorted(distances)
    nearest, mine = result.rows[0], result.rows[-1]
    assert nearest["blocks"] == mine["blocks"] == "10, 16"
    assert nearest["alike"] == "6"  # blocks 8, 9, 10 and blocks 15, 16 are equal
    assert (mine["as printed"], result.rows[3]["as printed"]) == ("parameters", "parameters, FLOPs")
    assert mine["distance"] == pytest.approx(
        abs(float(mine["M parameters"]) - 3.21) / 0.01 + abs(float(mine["shifted"]) - 563), abs=0.15
    )


def test_sets_of_blocks():
    assert [*block_sets(4)] == [(2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4)]


def test_heads_that_do_not_divide_the_channels_are_left_out():
    assert search("v2", 32).count((2,), Design(8, 5, 3, "input")) is None


def test_unknown_channels_are_refused():
    with pytest.raises(UserError, match=r"\['third'\] are not known; choose among input, half, expanded"):
        search_mobilenets(
            Setting(), networks=NETWORKS, key_depths=[8], heads=[4], scopes=[5], channels=["third"], named={}, show=1
        )


def test_nothing_is_allocated():
    assert all(parameter.device == torch.device("meta") for parameter in search("v2").network.parameters())
