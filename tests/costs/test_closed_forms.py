"""The closed forms against the memory column of Table 4 and against explicit sums."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lambdanets.costs.closed_forms import (
    FORMS,
    INTRODUCTION_EXAMPLES,
    LayerSizes,
    total_memory_gib,
    total_multiply_adds,
)
from lambdanets.mixers import PatchwiseAttention
from lambdanets.reports.published import published_value

BLOCKS = {56: (3, 64), 28: (4, 128), 14: (6, 256), 7: (3, 512)}


def layers(*, heads=8, key_depth=16, scope=None):
    return [
        LayerSizes((side, side), channels, heads, key_depth, scope=scope and (scope, scope))
        for side, (count, channels) in BLOCKS.items()
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("kind", "options", "digits", "row"),
    [
        ("attention", {}, "122.8", "table4/attention"),
        ("axial", {}, "4.82", "table4/axial"),
        ("lambda", {}, "1.92", "table4/lambda"),
        ("lambda", {"key_depth": 8}, "0.96", "table4/lambda_k8"),
        ("shared", {}, "0.625", "table4/lambda_shared"),
    ],
)
def test_the_memory_column_of_table_4(kind, options, digits, row):
    actual = total_memory_gib(kind, layers(**options), 128)
    decimals = len(digits.split(".")[1])
    assert f"{actual:.{decimals}f}" == digits
    printed = published_value(row, "memory")
    assert printed.trust == "D"
    assert actual == pytest.approx(printed.value, rel=0.03)  # the paper rounds down, some of it to two digits


def test_the_submission_printed_half_of_the_memory_of_embeddings():
    for row in ("lambda", "lambda_k8", "lambda_shared"):
        printed = published_value(f"table4/{row}", "memory")
        assert printed.others["submission"] == pytest.approx(printed.value / 2, abs=0.011)


def test_the_attention_maps_of_the_introduction():
    final, submission = INTRODUCTION_EXAMPLES
    assert (final.batch, submission.batch) == (128, 256)
    assert final.entries == 128 * 8 * 4096 * 4096 == 17_179_869_184
    assert submission.entries == 34_359_738_368
    assert final.entries * 4 == final.printed_gb * 2**30  # float32
    assert submission.printed_gb * 2**30 == final.entries * 2  # bfloat16, of half of the images
    assert submission.printed_gb * 2**30 not in (submission.entries * 4, submission.entries * 2)


def test_explicit_sums():
    n = [side**2 for side, (count, _) in BLOCKS.items() for _ in range(count)]
    assert total_memory_gib("local", layers(scope=7), 128) == pytest.approx(
        sum(128 * 8 * 49 * m * 4 for m in n) / 2**30
    )
    assert total_memory_gib("convolution", layers(scope=7), 128) == pytest.approx(
        sum(16 * 49 * m * 4 for m in n) / 2**30
    )
    # Attention with d channels and h·k = d: b·n²·2d. Lambdas: b·n²·k·d/h.
    wide = [(side**2, channels) for side, (count, channels) in BLOCKS.items() for _ in range(count)]
    every = [LayerSizes((int(m**0.5),) * 2, d, 8, d // 8) for m, d in wide]
    assert total_multiply_adds("attention", every, 2) == sum(2 * m * m * 2 * d for m, d in wide)
    assert total_multiply_adds("lambda", layers(heads=4), 2) == sum(2 * m * m * 16 * d / 4 for m, d in wide)
    assert total_multiply_adds("axial", every) == sum(2 * m**1.5 * 2 * d for m, d in wide)


def test_patchwise_attention_is_a_convolution_of_its_scope():
    with torch.device("meta"):
        layer, x = PatchwiseAttention(64, stride=1, feature_size=(6, 5)), torch.empty(1, 64, 6, 5)
    hidden = layer.psi(x)
    with FlopCounterMode(display=False) as counter:  # what sees several positions, but for the weighted sum of values
        layer.from_patch(hidden)
        layer.weigh(hidden)
    sizes = LayerSizes((6, 5), 64, layer.groups, hidden.shape[1], scope=(7, 7))
    assert total_multiply_adds("patchwise", [sizes]) == counter.get_total_flops() / 2 + 30 * 49 * 64


def test_axial_attention_of_a_map_that_is_not_square():
    # Each of 2·6 positions sees its column of 2 and its row of 6, with h·k = d = 16.
    layer = LayerSizes((2, 6), 16, 2, 8)
    assert total_multiply_adds("axial", [layer]) == 12 * (2 + 6) * (16 + 16)
    assert FORMS["axial"].elements(layer, 1) == 2 * 12 * (2 + 6)


def test_attention_maps_grow_with_the_batch_but_embeddings_do_not():
    for kind in FORMS:
        grows = total_memory_gib(kind, layers(), 64) / total_memory_gib(kind, layers(), 32)
        assert grows == (1 if kind in ("lambda", "shared", "convolution") else 2)
