"""benchmark=methods on small shapes."""

from dataclasses import asdict

import pytest

from lambdanets.benchmarks import compare_methods
from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.methods import fit_rates, summarize_rates
from lambdanets.benchmarks.result import Result
from lambdanets.ops import METHODS, kernel_error
from lambdanets.ops.cost import OpCounts

QUICK = Setting(device="cpu", threads=1, repeats=2, seconds=0.01)


def test_each_case_has_all_methods_and_one_choice():
    result = compare_methods(
        QUICK, shapes=[(1, 6, 16, 3), (1, 4, 16, "global")], key_depth=4, heads=2, intra_depth=1, slowest=1e9
    )
    assert len(result.rows) == 2 * (len(METHODS) - 1 - (kernel_error() is not None))  # triton needs a GPU
    assert all(row["train: measured ms"] > 0 and row["train: predicted ms"] > 0 for row in result.rows)
    chosen = [row["chosen"] for row in result.rows]
    assert sum("train" in choice for choice in chosen) == 2
    assert sum("infer" in choice for choice in chosen) == 2


def rows_of(rates, cases):
    """Rows of compare_methods whose measured times follow from rates; cases are (products, moved, calls)."""
    rows = []
    for index, counts in enumerate(cases):
        row = {"map": "8×7²×16", "context": "global", "method": f"m{index}", "precision": "float32", "chosen": ""}
        for mode, factor in (("train", 3), ("infer", 1)):
            ops = OpCounts(**{kind: factor * count for kind, count in counts.items()})
            row |= {f"{mode}: {kind}": count for kind, count in asdict(ops).items()}
            row[f"{mode}: measured ms"] = 1e3 * factor * sum(rates[kind] * count for kind, count in counts.items())
        rows.append(row)
    return rows


def test_rates_are_recovered_from_exact_times():
    rates = {"products": 2e-12, "moved": 5e-11, "calls": 6e-6}
    cases = [
        {"products": 1e9, "moved": 1e6, "calls": 10},
        {"products": 1e7, "moved": 1e8, "calls": 20},
        {"products": 1e8, "moved": 1e7, "calls": 900},
        {"products": 1e10, "moved": 1e9, "calls": 5},
    ]
    fitted, ratios = fit_rates(rows_of(rates, cases))
    assert {kind: fitted[kind] for kind in rates} == pytest.approx(rates)
    assert sum(fitted.values()) == pytest.approx(sum(rates.values()))
    assert ratios == pytest.approx([1] * 8)


def test_wrong_choices_are_noted():
    rates = {"products": 1e-9}
    rows = rows_of(rates, [{"products": 1e6}, {"products": 3e6}])
    rows[1]["chosen"] = "train"
    rows[0]["chosen"] = "infer"
    result = Result("Exact methods", [], rows)
    summary = summarize_rates(result)
    assert summary["rates"]["float32"]["products"] == pytest.approx(1e-9)
    assert result.notes[1:] == ["8×7²×16, global, train: m1 was chosen, m0 is 3.00 times as fast."]
