"""The notebooks run from a clean kernel, and their .ipynb and .py files have the same cells."""

import json
import os
import re
import subprocess
import sys

import jupytext
import pytest

from tests.command import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


def sources(notebook):
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]


def test_the_docs_list_all_notebooks():
    page = (ROOT / "docs" / "notebooks.md").read_text()
    assert re.findall(r"^\| `(\d+-.*?)` \|", page, re.MULTILINE) == [file.stem for file in NOTEBOOKS]
    assert sorted(file.stem for file in (ROOT / "notebooks").glob("*.ipynb")) == [file.stem for file in NOTEBOOKS]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_the_stored_outputs_belong_to_the_code_and_are_small(file):
    stored = file.with_suffix(".ipynb")
    assert sources(jupytext.read(stored)) == sources(jupytext.read(file)), "run make notebooks"
    assert stored.stat().st_size < 300_000
    code = [cell for cell in json.loads(stored.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert str(ROOT) not in stored.read_text()


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs_from_a_clean_kernel(file, tmp_path):
    out = tmp_path / f"{file.stem}.ipynb"
    command = [sys.executable, "-m", "jupytext", "--to", "ipynb", "--execute"]
    command += ["--run-path", str(ROOT / "notebooks"), "--output", str(out), str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(
        command, cwd=ROOT / "notebooks", env=environment, capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    text = "".join(
        "".join(output.get("text", []))
        for cell in json.loads(out.read_text())["cells"]
        for output in cell.get("outputs", [])
    )
    if file.stem == "01-lambda-layer":  # it claims that all methods are exact
        differences = re.findall(r"\d\.\de[+-]\d\d", text)  # a method that takes the same path differs by 0.0e+00
        assert len(differences) == 8
        assert all(float(difference) < 1e-12 for difference in differences)
