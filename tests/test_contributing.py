"""The examples of CONTRIBUTING.md, followed to the letter in a fresh copy of the repository."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from tests.command import ROOT

BLOCK = re.compile(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", re.DOTALL)
QUIET = "trainer.enable_progress_bar=false"


def add_example(name, root):
    """Write the files of the section "Add a <name>" into a repository, and lint them."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    start = text.index(f"## Add a {name}\n")
    files = dict(BLOCK.findall(text[start : text.find("\n## ", start + 1)]))
    assert sorted(path.rpartition(".")[2] for path in files) == ["py", "yaml"]
    for path, content in files.items():
        assert not (root / path).exists(), "the repository already has a file of that name"
        (root / path).write_text(content)
    modules = [path for path in files if path.endswith(".py")]
    linted = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), *modules],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert linted.returncode == 0, linted.stdout


@pytest.fixture
def repository(tmp_path):
    """Return a copy of the repository."""
    for name in ("configs", "src", "run.py"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return tmp_path


def python(root, *arguments, code=0):
    paths = os.pathsep.join(map(str, (root / "src", ROOT)))  # ROOT has the tests
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=root, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


# Commands in one process, so that torch is imported once. An argument is a list of commands, each after its exit code.
COMMANDS = """
import json, sys
from tests.in_process import run
for code, *arguments in json.loads(sys.argv[1]):
    print(run(*arguments, cwd=".", code=code).text)
"""


def run_commands(root, *commands):
    """Run commands in a repository, each with its exit code before it, and return their output."""
    return python(root, "-c", COMMANDS, json.dumps(commands))


def train(root, *arguments, epochs=2):
    """Run a short training, and return its folder and its metrics."""
    python(root, "run.py", *arguments, f"trainer.max_epochs={epochs}", "callbacks=scalars", QUIET)
    (file,) = root.glob("outputs/*/*/metrics.json")
    metrics = json.loads(file.read_text())
    assert metrics["epochs"] == epochs
    return file.parent, metrics


def test_a_mixer_is_one_python_file_and_one_yaml(repository):
    add_example("mixer", repository)
    folder, metrics = train(repository, "mixer=depthwise", "mixer.scope=5")
    assert metrics["test/top1"] > 0.1  # of ten classes
    assert "depthwise" in python(repository, "run.py", "--help")
    code = "import sys, lambdanets; m = lambdanets.load(sys.argv[1]).network; print(m.stages[0][0].mixer)"
    assert "Depthwise(16, 16, kernel_size=(5, 5)" in python(repository, "-c", code, folder)


def test_a_data_set_is_one_python_file_and_one_yaml(repository):
    add_example("data set", repository)
    _, metrics = train(repository, "mixer=lambda", "data=stripes", "model=small")
    assert metrics["test/top1"] > 0.5  # of four classes


def test_a_task_is_one_python_file_and_one_yaml(repository):
    add_example("task", repository)
    folder, metrics = train(repository, "task=expectation", "mixer=lambda", epochs=4)
    assert metrics["test/cs1"] > 0.4  # a constant of 4.5 has 0.2
    assert 0 < metrics["test/mae"] < 3

    photo = repository / "photo.png"
    Image.new("L", (20, 30), 200).save(photo)
    export = ("job=export", f"ckpt={folder}", "hydra.run.dir=exported")
    output = run_commands(
        repository,
        (0, "job=test", f"ckpt={folder}", QUIET),
        (0, "job=predict", f"ckpt={folder}", f"input={photo}", "hydra.run.dir=predicted", QUIET),
        (0, *export),
        (1, *export, "format=onnx"),
        (0, "job=report", "sweep_dir=outputs", "hydra.run.dir=reported"),
    )
    tested = json.loads((folder / "test" / "metrics.json").read_text())
    assert tested == {name: metrics[name] for name in ("test/cs1", "test/mae")}
    ((file, value),) = json.loads((repository / "predicted" / "values.json").read_text()).items()
    assert file == str(photo)
    code = "import sys, lambdanets; print(*(lambdanets.load(path).predict(sys.argv[1]) for path in sys.argv[2:]))"
    values = python(repository, "-c", code, photo, folder, "exported").split()[-2:]
    assert [float(text) for text in values] == pytest.approx([value, value], abs=1e-4)
    assert "format=onnx can't hold this model: a graph would hold the classifier without the expected value" in output

    report = (repository / "reported" / "report.md").read_text()
    assert "| row | runs | test/cs1 % | published CS(1) |" in report
    assert f"| 1 | {100 * metrics['test/cs1']:.2f} |" in report
