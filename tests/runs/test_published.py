"""The published weights of the package, by name."""

import subprocess
import sys

import pytest

from lambdanets.runs import published
from tests.command import ROOT, environment


@pytest.fixture(autouse=True)
def weights(tmp_path, monkeypatch):
    """Let the package have three published weights, and work in another folder."""
    folder = tmp_path / "weights"
    for name in ("cifar10/conv", "cifar10/lambda_u1", "fashion_mnist/conv"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").touch()
    (folder / "README.md").touch()
    (folder / "cifar10" / "unfinished").mkdir()
    monkeypatch.setattr(published, "published_folder", lambda: folder)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return folder


def test_a_name_is_a_folder_with_weights(weights):
    assert published.published_names() == ["cifar10/conv", "cifar10/lambda_u1", "fashion_mnist/conv"]
    assert published.published_file("cifar10/conv") == weights / "cifar10/conv/model.safetensors"
    for other in ("cifar10", "cifar10/unfinished", "cifar10/conv/", "../weights/cifar10/conv", "", "."):
        assert published.published_file(other) is None


def test_an_existing_path_wins(tmp_path):
    assert published.find_published("cifar10/conv") is not None
    (tmp_path / "cwd" / "cifar10" / "conv").mkdir(parents=True)
    assert published.find_published("cifar10/conv") is None
    assert published.published_file("cifar10/conv") is not None


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("cifar10/lamda_u1", ["cifar10/lambda_u1"]),
        ("cifar-10/conv", ["cifar10/conv"]),
        ("cifar10/attention", ["cifar10/conv", "cifar10/lambda_u1"]),
        ("fashion_mnist", ["fashion_mnist/conv"]),
        ("someone/resnet50", []),
        ("outputs/lambda-digits/2026-01-01_00-00-00", []),
    ],
)
def test_names_like_a_wrong_one(source, names):
    assert published.similar_names(source) == names
    assert all(name in published.suggest_names(source) for name in names)
    assert bool(published.suggest_names(source)) == bool(names)


def test_the_folder_is_that_of_the_repository(monkeypatch):
    monkeypatch.undo()
    assert published.published_folder() == ROOT / "weights"


def test_the_command_line_finds_weights_without_torch():
    code = "import sys, lambdanets.runs.find; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 0
