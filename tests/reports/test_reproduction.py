"""The page on the paper's claims against the archived runs and the protocol."""

import json
import re

import matplotlib
import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy import stats

from lambdanets.jobs.report_claims import write_claims_page
from lambdanets.reports.claims import CONTRADICTED, INCONCLUSIVE, SUPPORTED
from tests.command import ROOT

RESULTS = ROOT / "results"
PAGE = (RESULTS / "reproduction.md").read_text()
VERDICTS = (SUPPORTED, CONTRADICTED, INCONCLUSIVE)
CLAIMS = OmegaConf.load(ROOT / "configs" / "claims" / "reproduction.yaml")


def test_the_page_and_its_figures_are_a_function_of_the_archived_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    claims = CLAIMS.copy()
    claims.page = str(tmp_path / "reproduction.md")
    results = write_claims_page(claims)
    assert (tmp_path / "reproduction.md").read_text() == PAGE
    assert results["missing"] == 0
    written = sorted((tmp_path / "reproduction").iterdir())
    assert [file.name for file in written] == sorted(file.name for file in (RESULTS / "reproduction").glob("*.svg"))
    for file in written:
        stored = (RESULTS / "reproduction" / file.name).read_text()
        if f"Matplotlib v{matplotlib.__version__}," in stored:  # another version lays out text differently
            assert file.read_text() == stored, file.name


@pytest.mark.parametrize("part", [part for part in CLAIMS.parts.values() if part.claims], ids=lambda part: part.title)
def test_its_means_and_intervals_are_those_of_the_archived_scores(part):
    top1: dict[str, dict[int, float]] = {}
    for line in (ROOT / part.runs / "runs.jsonl").read_text().splitlines():
        run = json.loads(line)
        top1.setdefault(run["config"]["experiment"], {})[run["config"]["seed"]] = 100 * run["metrics"]["test/top1"]
    by_score = [claim for claim in part.claims if claim.get("criterion", "superior") in ("superior", "non_inferior")]
    assert by_score
    for claim in by_score:
        a, b = (np.array([score for _, score in sorted(top1[name].items())]) for name in (claim.a, claim.b))
        assert len(a) == len(b) >= 3
        half = stats.t.ppf(0.975, len(a) - 1) * (a - b).std(ddof=1) / len(a) ** 0.5
        mean = (a - b).mean()
        limit = -1 if claim.get("criterion") == "non_inferior" else 0
        verdict = "holds" if mean - half > limit else "doesn't hold" if mean + half < limit else "can't tell"
        ours = f"{a.mean():.2f} against {b.mean():.2f} | {mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"
        section = PAGE.split(f"\n## {part.title}\n")[1].split("\n## ")[0]
        (line,) = [line for line in section.splitlines() if line.startswith(f"| {claim.statement} |")]
        assert line.endswith(f"| {ours} | {verdict} |")


@pytest.mark.parametrize(("page", "name"), [("protocol_v1.md", "reproduction"), ("protocol.md", "reproduction_v2")])
def test_the_protocol_lists_the_claims_that_are_judged(page, name):
    parts = OmegaConf.load(ROOT / "configs" / "claims" / f"{name}.yaml").parts
    words = {"more": "superior", "within a point": "non_inferior", "smaller": "fewer_parameters", "faster": "faster"}
    protocol = (RESULTS / "reproduction" / page).read_text()
    planned = [cells(line) for line in protocol.splitlines() if line.startswith("| ") and cells(line)[-1] in words]
    judged = [claim for part in parts.values() if part.title != "Pathfinder again" for claim in part.claims]
    assert len(planned) == len(judged)
    for row, claim in zip(planned, judged, strict=True):
        assert words[row[-1]] == claim.get("criterion", "superior")
        experiments = [
            re.sub(r"^(reproduction|pathfinder|cifar10|fashion_mnist|pathfinder_scope)/", "", name)
            for name in (claim.a, claim.b)
        ]
        assert [cell.strip("`") for cell in row[-3:-1]] == experiments


def test_the_readme_agrees_with_the_page():
    rows = [cells(line) for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ")]
    quoted = [row for row in rows if row[-1] in VERDICTS]
    page = [cells(line) for line in PAGE.splitlines() if line.startswith("| ")]
    assert len(quoted) >= 5
    for claim, *rest in quoted:
        statement = claim.removesuffix(" (five new seeds)")
        assert any(row[0] == statement and row[-len(rest) :] == rest for row in page), claim


def cells(line):
    return [cell.strip() for cell in line.strip("| ").split("|")]
