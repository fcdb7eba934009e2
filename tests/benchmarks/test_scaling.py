"""benchmark=scaling on small shapes."""

import numpy as np
import pytest

from lambdanets.benchmarks import measure_scaling
from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.plots import save_plot
from lambdanets.benchmarks.scaling import fit_exponent

QUICK = Setting(device="cpu", threads=1, repeats=2, seconds=0.01)


def test_exponents_are_noted_and_lines_plotted(tmp_path):
    pytest.importorskip("timm")
    result = measure_scaling(QUICK, batch=1, channels=16, sides=[4, 8], scopes=["global", 3], fit=(4, 8))
    names = {row["layer"] for row in result.rows}
    assert {"ours, global", "ours, 3×3", "3×3 conv"} <= names
    assert any(note.startswith("ours, global: training time grows as n^") for note in result.notes)
    pytest.importorskip("matplotlib")
    save_plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_exponent_of_a_power_law():
    assert fit_exponent([(n, 3 * n**1.7) for n in (10, 20, 80)]) == pytest.approx(1.7)
    points = [(10, 2.0), (20, 7.0), (80, 30.0)]
    slope, _ = np.polyfit(*np.log(points).T, 1)
    assert fit_exponent(points) == pytest.approx(slope)
