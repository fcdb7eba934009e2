"""The tables in results/ that have the measurements of their cells."""

import json
from pathlib import Path

import pytest

from lambdanets.benchmarks.result import restore_measurements
from lambdanets.measured import Measured

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "results").glob("**/*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_committed_cell_is_noisy(file):
    document = json.loads(file.read_text())
    if not isinstance(document, dict) or not document.get("measurements"):
        pytest.skip("measured before the measurements were kept")
    rows = restore_measurements(document["rows"], document["measurements"])
    cells = [cell for row in rows for cell in row.values() if isinstance(cell, Measured)]
    assert cells
    assert not [cell for cell in cells if cell.is_noisy]
    assert " noisy |" not in file.with_suffix(".md").read_text()
