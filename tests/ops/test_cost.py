"""The choice among the methods by the cost model."""

import json

import pytest
import torch

from lambdanets.ops import kernel, triton_kernel
from lambdanets.ops.cost import OpCounts, Shape, find_rates, predict_costs
from lambdanets.ops.lambda_map import fastest_method
from tests.command import ROOT

STAGES = ((56, 64), (28, 128), (14, 256), (7, 512))


def shape(side, channels, scope, *, batch=8, training=True):
    reach = 2 * side - 1 if scope == "global" else scope
    return Shape(batch, side, side, (side, side), 4, 16, channels // 4, 1, (reach, reach), training=training)


def fastest(*args, **options):
    costs = predict_costs.__wrapped__(shape(*args, **options))
    return min(costs, key=lambda name: costs[name].seconds)


def test_the_choice_follows_the_shape(monkeypatch):
    """As measured on a CPU: see benchmark=methods."""
    monkeypatch.setattr(kernel, "kernel_error", lambda: "there is no C compiler")
    assert fastest(14, 256, "global") == "scores"
    assert fastest(56, 64, 7) == "tiles"
    assert fastest(28, 128, 23) == "row_fft"
    assert fastest(112, 64, "global", batch=1) == "fourier"


def test_the_kernel_is_chosen_for_small_contexts(monkeypatch):
    monkeypatch.setattr(kernel, "kernel_error", lambda: None)
    assert fastest(14, 256, "global") == fastest(56, 64, 7) == fastest(28, 128, 23) == "kernel"
    assert fastest(112, 64, "global", batch=1) == "fourier"


def test_a_larger_map_costs_more_and_training_more_than_inference():
    small, large = predict_costs(shape(14, 64, 7)), predict_costs(shape(28, 64, 7))
    inference = predict_costs(shape(14, 64, 7, training=False))
    assert all(small[name].seconds < large[name].seconds for name in small)
    assert all(inference[name].seconds < small[name].seconds for name in small)


def on_gpu(side, channels, scope, *, dtype=torch.bfloat16, training=True):
    return shape(side, channels, scope, batch=128, training=training)._replace(device="cuda", dtype=dtype)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scope", [7, 23, "global"])
def test_on_a_gpu_the_choices_are_those_of_the_model_on_paper(scope, training, monkeypatch):
    monkeypatch.setattr(triton_kernel, "triton_error", lambda: None)
    rows = json.loads((ROOT / "results" / "gpu-predicted.json").read_text())["rows"]
    for side, channels in STAGES:
        costs = predict_costs.__wrapped__(on_gpu(side, channels, scope, training=training))
        label = f"128×{side}²×{channels} {scope if scope == 'global' else f'{scope}×{scope}'}"
        passes = "forward, backward" if training else "forward"
        (row,) = [row for row in rows if (row["GPU"], row["shape"], row["pass"]) == ("H100", label, passes)]
        assert 0.6 < 1e6 * costs["triton"].seconds / row["predicted µs"] < 1.7
        others = [name for name in costs if name != "triton"]
        fastest_other = min(others, key=lambda name: costs[name].seconds)
        ratio = row["PyTorch µs"] / row["predicted µs"]
        if not 0.7 < ratio < 1.4:  # too near to tell
            assert (costs["triton"].seconds < costs[fastest_other].seconds) == (ratio > 1)


def test_a_large_global_context_is_left_to_one_matrix_product(monkeypatch):
    monkeypatch.setattr(triton_kernel, "triton_error", lambda: None)
    choices = {}
    for side, channels in STAGES:
        for scope in (7, 23, "global"):
            costs = predict_costs.__wrapped__(on_gpu(side, channels, scope))
            choices[side, scope] = min(costs, key=lambda name: costs[name].seconds)
    assert {case for case, name in choices.items() if name == "lambdas"} == {(56, "global"), (28, "global")}
    assert set(choices.values()) == {"lambdas", "triton"}


def test_embeddings_of_more_than_a_gib_are_not_expanded(monkeypatch):
    monkeypatch.setattr(triton_kernel, "triton_error", lambda: None)
    predict_costs.cache_clear()
    chosen = {side: fastest_method(*on_gpu(side, 64, "global")) for side in (56, 64, 96, 128)}
    dilated = on_gpu(112, 64, 111)._replace(dilation=2)  # four maps of 56×56, with all offsets
    chosen_dilated = fastest_method(*dilated)
    predict_costs.cache_clear()
    assert {side: on_gpu(side, 64, "global").expanded_bytes for side in (64, 96)} == {64: 2**29, 96: 16 * 96**4 * 2}
    assert chosen[56] == chosen[64] == "lambdas"
    assert "lambdas" not in (chosen[96], chosen[128])
    assert dilated.phases.expanded_bytes == on_gpu(56, 64, "global").expanded_bytes
    assert chosen_dilated == "lambdas"


def test_float64_has_no_programs_for_a_gpu(monkeypatch):
    monkeypatch.setattr(triton_kernel, "triton_error", lambda: None)
    assert "triton" not in predict_costs.__wrapped__(on_gpu(14, 256, 7, dtype=torch.float64))


def test_products_of_float32_are_slower_on_a_gpu():
    single, half = (find_rates("cuda", dtype) for dtype in (torch.float32, torch.float16))
    assert 8 < single.products / half.products < 25  # without tensor cores, by the data sheets
    assert 8 < single.tensor_core / half.tensor_core < 25
    assert find_rates("cuda", torch.float64) == single
    assert find_rates("cpu", torch.bfloat16) == find_rates("cpu", torch.float32)


def test_seconds_are_rates_times_counts(monkeypatch):
    case = shape(14, 64, 7)
    monkeypatch.setattr("lambdanets.ops.cost.find_rates", lambda device, dtype: OpCounts(products=2.0, calls=3.0))
    for cost in predict_costs.__wrapped__(case).values():
        assert cost.seconds == 2 * cost.ops.products + 3 * cost.ops.calls
