"""The pages on the paper's claims against the archived runs and the protocols."""

import json
import re

import matplotlib
import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy import stats

from lambdanets.jobs.report_claims import write_claims_page
from lambdanets.reports.claims import CONTRADICTED, INCONCLUSIVE, NOT_RUN, SUPPORTED
from lambdanets.reports.published import row_label
from tests.command import ROOT

RESULTS = ROOT / "results"
VERDICTS = (SUPPORTED, CONTRADICTED, INCONCLUSIVE)
PROTOCOLS = {"reproduction": "protocol.md", "reproduction_v1": "protocol_v1.md"}
CLAIMS = {name: OmegaConf.load(ROOT / "configs" / "claims" / f"{name}.yaml") for name in PROTOCOLS}
PAGES = {name: (RESULTS / f"{name}.md").read_text() for name in PROTOCOLS}
PARTS = [(name, part) for name in PROTOCOLS for part in CLAIMS[name].parts.values() if part.get("claims")]
each_part = pytest.mark.parametrize(("name", "part"), PARTS, ids=[f"{name}, {part.title}" for name, part in PARTS])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_page_and_its_figures_are_a_function_of_the_archived_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    claims = CLAIMS[name].copy()
    claims.page = str(tmp_path / f"{name}.md")
    write_claims_page(claims)
    assert (tmp_path / f"{name}.md").read_text() == PAGES[name]
    written = sorted((tmp_path / name).iterdir())
    assert [file.name for file in written] == sorted(file.name for file in (RESULTS / name).glob("*.svg"))
    for file in written:
        stored = (RESULTS / name / file.name).read_text()
        if f"Matplotlib v{matplotlib.__version__}," in stored:  # another version lays out text differently
            assert file.read_text() == stored, file.name


def finished_runs(part):
    """Read the finished runs of a part's archive, by experiment and seed."""
    runs: dict[str, dict[int, dict]] = {}
    archive = ROOT / part.runs / "runs.jsonl"
    for line in archive.read_text().splitlines() if archive.is_file() else ():
        run = json.loads(line)
        if run["metrics"]:
            runs.setdefault(run["config"]["experiment"], {})[run["config"]["seed"]] = run
    return runs


def section(name, part):
    return PAGES[name].split(f"\n## {part.title}\n")[1].split("\n## ")[0]


def rows(text):
    return [cells(line) for line in text.splitlines() if line.startswith("| ")]


@each_part
def test_its_means_and_intervals_are_those_of_the_archived_scores(name, part):
    runs = finished_runs(part)
    if not runs:
        assert section(name, part).count("Not run yet") == 1
        return
    table = {row[0].removesuffix(" †"): row for row in rows(section(name, part))}
    by_score = [claim for claim in part.claims if claim.get("criterion", "superior") in ("superior", "non_inferior")]
    for claim in by_score:
        a, b = (runs.get(experiment, {}) for experiment in (claim.a, claim.b))
        seeds = sorted(a.keys() & b.keys())
        a, b = (np.array([100 * row[seed]["metrics"]["test/top1"] for seed in seeds]) for row in (a, b))
        ours, difference, verdict = "–", "–", NOT_RUN
        if seeds:
            mean, half = (a - b).mean(), np.nan
            if len(seeds) > 1:
                half = stats.t.ppf(0.975, len(a) - 1) * (a - b).std(ddof=1) / len(a) ** 0.5
            limit = -1 if claim.get("criterion") == "non_inferior" else 0
            verdict = SUPPORTED if mean - half > limit else CONTRADICTED if mean + half < limit else INCONCLUSIVE
            ours = f"{a.mean():.2f} against {b.mean():.2f}"
            difference = f"{mean:+.2f}" + (f" [{mean - half:+.2f}, {mean + half:+.2f}]" if len(seeds) > 1 else "")
        pairs = []
        if "seeds" in part:
            planned = claim.get("seeds", part.seeds)
            pairs = [str(len(seeds)) if len(seeds) >= planned else f"{len(seeds)} of {planned}"]
        assert table[claim.statement][4:] == [ours, difference, *pairs, verdict]


@each_part
def test_rows_that_still_gained_at_the_end_and_their_claims_are_marked(name, part):
    runs = finished_runs(part)
    if not runs or "max_gain" not in part:
        assert "†" not in section(name, part)
        return
    claims, table = (block for block in re.split(r"\n(?=\| row \|)", section(name, part))[:2])
    (header, *body) = rows(table.split("\n\n")[0])
    printed = {row[0]: row[header.index("gain per epoch")] for row in body}
    marked = set()
    for experiment, by_seed in runs.items():
        gains = []
        for run in by_seed.values():
            curve = [100 * row["val/top1"] for row in run["log"] if "val/top1" in row]
            gains.append(np.diff(curve)[-3:].mean())
        gain = np.mean(gains)
        mark = " †" if gain >= part.max_gain else ""
        assert printed[row_label(experiment)] == f"{gain:+.2f}{mark}"
        if mark:
            marked.add(experiment)
    criteria = {claim.statement: claim for claim in part.claims}
    for row in rows(claims):
        claim = criteria.get(row[0].removesuffix(" †"))
        if claim is not None:
            by_score = claim.get("criterion", "superior") in ("superior", "non_inferior") and row[-1] != NOT_RUN
            assert row[0].endswith(" †") == (by_score and bool(marked & {claim.a, claim.b})), row[0]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_archived_run_is_on_the_page(name):
    lines = [
        json.loads(line)
        for part in CLAIMS[name].parts.values()
        if (ROOT / part.runs / "runs.jsonl").is_file()
        for line in (ROOT / part.runs / "runs.jsonl").read_text().splitlines()
    ]
    header, *body = rows(PAGES[name].split("\n## Every run\n")[1])
    assert len(body) == len(lines)
    listed = sorted((row[header.index("run")], row[header.index("seed")]) for row in body)
    assert listed == sorted((run["config"]["experiment"], str(run["config"]["seed"])) for run in lines)


@pytest.mark.parametrize(("name", "page"), PROTOCOLS.items())
def test_the_protocol_lists_the_claims_that_are_judged(name, page):
    words = {"more": "superior", "within a point": "non_inferior", "smaller": "fewer_parameters", "faster": "faster"}
    protocol = (RESULTS / "reproduction" / page).read_text()
    planned = [row for row in rows(protocol) if row[-1] in words]
    parts = [part for part in CLAIMS[name].parts.values() if part.title != "Pathfinder again"]
    judged = [claim for part in parts for claim in part.get("claims", ())]
    assert len(planned) == len(judged)
    for row, claim in zip(planned, judged, strict=True):
        assert words[row[-1]] == claim.get("criterion", "superior")
        experiments = [
            re.sub(r"^(reproduction|pathfinder|cifar10|fashion_mnist|pathfinder_scope)/", "", name)
            for name in (claim.a, claim.b)
        ]
        assert [cell.strip("`") for cell in row[-3:-1]] == experiments


def test_the_summary_has_all_claims_with_their_verdicts():
    summary = [row for row in rows(PAGES["reproduction"].split("\n## ")[0]) if row[0] != "data"]
    parts = [part for name, part in PARTS if name == "reproduction"]
    assert [row[1].removesuffix(" †") for row in summary] == [
        claim.statement for part in parts for claim in part.claims
    ]
    verdicts = {(part.title, row[0]): row[-1] for part in parts for row in rows(section("reproduction", part))}
    for title, statement, verdict in summary:
        assert verdicts.get((title, statement), verdict if verdict.startswith("not ") else None) == verdict


def test_the_readme_agrees_with_the_page_that_it_links_to():
    readme = (ROOT / "README.md").read_text()
    (name,) = re.findall(r"\[All claims\]\(results/(reproduction\w*)\.md\)", readme)
    quoted = [row for row in rows(readme) if row[-1] in VERDICTS]
    assert len(quoted) >= 5
    titles = {part.title: part for part in CLAIMS[name].parts.values()}
    for data, claim, *rest in quoted:
        text = section(name, titles[data])
        printed = [[cell for cell in row if not re.fullmatch(r"–|\d+( of \d+)?", cell)] for row in rows(text)]
        assert any(row[0] == claim and row[-len(rest) :] == rest for row in printed), claim


def cells(line):
    return [cell.strip() for cell in line.strip("| ").split("|")]
