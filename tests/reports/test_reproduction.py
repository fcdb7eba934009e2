"""The page on the paper's claims is what its command makes of the runs that are kept beside it."""

import json

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy import stats

from lambdanets.jobs.report_claims import write_claims_page
from lambdanets.reports.claims import CONTRADICTED, INCONCLUSIVE, SUPPORTED
from tests.command import ROOT

RESULTS = ROOT / "results"
PAGE = (RESULTS / "reproduction.md").read_text()


def test_the_page_has_the_digits_of_its_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    chosen = OmegaConf.load(ROOT / "configs" / "claims" / "reproduction.yaml")
    chosen.page = str(tmp_path / "reproduction.md")
    found = write_claims_page(chosen)
    assert (tmp_path / "reproduction.md").read_text() == PAGE
    assert found["missing"] == 0


@pytest.mark.parametrize(
    ("folder", "a", "b", "seeds"),
    [
        ("cifar10", "reproduction_lambda_u1", "reproduction_conv", (0, 1, 2)),
        ("pathfinder", "pathfinder_lambda", "pathfinder_conv", (0, 1, 2)),
        ("pathfinder_again", "pathfinder_lambda", "pathfinder_conv", (3, 4, 5, 6, 7)),
    ],
)
def test_its_intervals_are_students_of_the_kept_scores(folder, a, b, seeds):
    scores = np.array(
        [
            [
                json.loads((RESULTS / "reproduction" / folder / f"{row}_seed-{seed}" / "metrics.json").read_text())
                for seed in seeds
            ]
            for row in (a, b)
        ]
    )
    tops = 100 * np.vectorize(lambda metrics: metrics["test/top1"])(scores)
    difference = stats.ttest_rel(*tops)
    low, high = difference.confidence_interval()
    ours = f"{tops[0].mean():.2f} against {tops[1].mean():.2f}"
    assert f"| {ours} | {(tops[0] - tops[1]).mean():+.2f} [{low:+.2f}, {high:+.2f}] |" in PAGE


def test_the_readme_says_what_the_page_says():
    section = (ROOT / "README.md").read_text().split("## The claims, tested\n")[1].split("\n## ")[0]
    ours = [cells(line) for line in section.splitlines() if line.startswith("| ")]
    theirs = [cells(line) for line in PAGE.splitlines() if line.startswith("| ")]
    verdicts = [row for row in ours if row[-1] in (SUPPORTED, CONTRADICTED, INCONCLUSIVE)]
    assert len(verdicts) == sum(row[-1] in (SUPPORTED, CONTRADICTED, INCONCLUSIVE) for row in theirs)
    for claim, *rest in verdicts:
        name = claim.removesuffix(" (five new seeds)")
        assert any(row[0] == name and row[-len(rest) :] == rest for row in theirs), claim


def cells(line):
    return [cell.strip() for cell in line.strip("| ").split("|")]
