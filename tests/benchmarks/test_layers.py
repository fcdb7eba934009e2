"""benchmark=layers on small shapes."""

import sys
from dataclasses import replace

import pytest

from lambdanets.benchmarks import compare_layers
from lambdanets.benchmarks.measure import Setting

QUICK = Setting(device="cpu", threads=1, repeats=2, seconds=0.01)


def test_ratios_refer_to_our_layer():
    pytest.importorskip("timm")
    result = compare_layers(QUICK, batch=1, shapes=[(4, 16)], scopes=["global", 3])
    layers = ["ours", "lambda-networks", "timm", "3×3 conv", "BoTNet attention"]
    assert [row["layer"] for row in result.rows] == 2 * layers
    for rows in (result.rows[:5], result.rows[5:]):
        for row in rows:
            assert row["ours faster"] == pytest.approx(row["train ms"] / rows[0]["train ms"])
            assert row["its MiB / ours"] == pytest.approx(row["peak MiB"] / rows[0]["peak MiB"])
    assert "4²×16, global:" in result.notes[0]


def test_layers_that_need_too_much_memory_are_left_out():
    pytest.importorskip("timm")
    result = compare_layers(replace(QUICK, memory_gib=1e-4), batch=1, shapes=[(8, 16)], scopes=["global"])
    assert [row["layer"] for row in result.rows] == ["ours", "3×3 conv"]


def test_a_missing_library_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "lambda_networks", None)
    result = compare_layers(QUICK, batch=1, shapes=[(4, 16)], scopes=[3])
    assert "lambda-networks" not in [row["layer"] for row in result.rows]
    assert result.notes[0].startswith("lambda-networks is left out: ")
