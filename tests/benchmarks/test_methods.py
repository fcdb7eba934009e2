"""benchmark=methods on small shapes."""

from lambdanets.benchmarks import compare_methods
from lambdanets.benchmarks.measure import Setting
from lambdanets.ops import METHODS, kernel_error

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
