"""The published weights in weights/: they load, and give the logits and the scores that were recorded with them."""

import json
import os

import pytest
import torch

import lambdanets
from lambdanets.export.evaluate import pattern_image
from lambdanets.export.published_card import published_page
from tests.command import ROOT
from tests.in_process import invoke

FOLDER = ROOT / "weights"
NAMES = lambdanets.list_models(pretrained=True)
CIFAR10 = os.environ.get("LAMBDANETS_CIFAR10")  # its folder, with train/ and test/ below
# Of the largest logit; float32 on another processor or version of torch differs by less.
TOLERANCE = 1e-4


@pytest.mark.skipif(not NAMES, reason="no weights are published yet")
def test_all_files_are_small_and_on_the_page():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 25e6
    assert (FOLDER / "README.md").read_text() == published_page(FOLDER)
    for folder in (file.parent for file in FOLDER.rglob("*.json")):
        assert folder.relative_to(FOLDER).as_posix() in NAMES


@pytest.mark.parametrize("name", NAMES or [pytest.param(None, marks=pytest.mark.skip(reason="no weights yet"))])
def test_the_logits_are_those_at_publishing(name):
    model = lambdanets.load(name)
    with torch.no_grad():
        logits = model(model.preprocess(pattern_image(model.data.channels, model.data.image_size))[None])[0]
    recorded = torch.tensor(json.loads((FOLDER / name / "published.json").read_text())["logits"])
    torch.testing.assert_close(logits, recorded, rtol=0, atol=TOLERANCE * recorded.abs().max().item())


@pytest.mark.skipif(CIFAR10 is None, reason="LAMBDANETS_CIFAR10 names no folder")
@pytest.mark.parametrize("name", lambdanets.list_models("cifar10/*", pretrained=True))
def test_the_scores_are_those_at_publishing(name, tmp_path):
    """To the digit; a processor of another kind may give another class to a few images."""
    assert invoke("job=test", f"ckpt={name}", f"data.root={CIFAR10}", cwd=tmp_path).code == 0
    (file,) = tmp_path.glob("outputs/test/*/metrics.json")
    recorded = json.loads((FOLDER / name / "metrics.json").read_text())
    assert json.loads(file.read_text()) == {key: recorded[key] for key in recorded if key.startswith("test/")}
