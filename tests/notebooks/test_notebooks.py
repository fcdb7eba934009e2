"""The notebooks run from a clean kernel, and are what their .py files say."""

import json
import os
import re
import subprocess
import sys

import jupytext
import pytest

from tests.command import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
NAMES = ["01-lambda-layer", "02-ablations", "03-speed-and-memory", "04-detection"]


def cells(notebook):
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]


def test_there_are_four():
    assert [file.stem for file in NOTEBOOKS] == NAMES


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_the_kept_outputs_belong_to_the_code_and_are_small(file):
    kept = file.with_suffix(".ipynb")
    assert cells(jupytext.read(kept)) == cells(jupytext.read(file)), "make notebooks writes it anew"
    assert kept.stat().st_size < 300_000
    notebook = json.loads(kept.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert str(ROOT) not in kept.read_text()


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs_from_a_clean_kernel(file, tmp_path):
    out = tmp_path / f"{file.stem}.ipynb"
    command = [sys.executable, "-m", "jupytext", "--to", "ipynb", "--execute"]
    command += ["--run-path", str(ROOT / "notebooks"), "--output", str(out), str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT / "notebooks", env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    printed = "".join(
        "".join(output.get("text", []))
        for cell in json.loads(out.read_text())["cells"]
        for output in cell.get("outputs", [])
    )
    if file.stem == "01-lambda-layer":  # what it calls exact
        differences = re.findall(r"\d\.\de-\d\d", printed)
        assert len(differences) > 5
        assert all(float(difference) < 1e-12 for difference in differences)
