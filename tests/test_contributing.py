"""CONTRIBUTING's examples, followed to the letter in a fresh copy of the repository."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.command import ROOT

BLOCK = re.compile(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", re.DOTALL)
SECTIONS = {
    "mixer": ["mixer=depthwise", "mixer.scope=5"],
    "data set": ["mixer=lambda", "data=stripes", "model=small"],
    "task": ["task=focal", "mixer=lambda", "task.gamma=1"],
}


def section(name):
    """The files of one section, by path."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    start = text.index(f"## Add a {name}\n")
    return dict(BLOCK.findall(text[start : text.find("\n## ", start + 1)]))


@pytest.fixture
def copy(tmp_path):
    for name in ("configs", "src", "run.py"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return tmp_path


def python(copy, *arguments):
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SECTIONS)
def test_one_python_file_and_one_yaml_are_enough(name, copy):
    files = section(name)
    assert sorted(path.rpartition(".")[2] for path in files) == ["py", "yaml"]
    for path, text in files.items():
        assert not (copy / path).exists(), "an example must not be there already"
        (copy / path).write_text(text)
    options = ["trainer.max_epochs=2", "trainer.enable_progress_bar=false", "callbacks=scalars"]
    python(copy, "run.py", *SECTIONS[name], *options)
    (file,) = copy.glob("outputs/*/*/metrics.json")
    metrics = json.loads(file.read_text())
    assert metrics["epochs"] == 2
    assert metrics["test/top1"] > (0.5 if name == "data set" else 0.1)  # four classes, or ten
    if name == "mixer":
        assert "depthwise" in python(copy, "run.py", "--help")
        # Two blocks' weights as the docstring says: 25 for each of the inner channels.
        code = "import sys, lambdanets; m = lambdanets.load(sys.argv[1]).network; print(m.stages[0][0].mixer)"
        assert "Depthwise(16, 16, kernel_size=(5, 5)" in python(copy, "-c", code, str(file.parent))
    modules = [path for path in files if path.endswith(".py")]
    linted = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), *modules],
        cwd=copy, capture_output=True, text=True,
    )  # fmt: skip
    assert linted.returncode == 0, linted.stdout
