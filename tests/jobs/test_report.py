"""job=report through the real command line, and the pages on claims."""

import csv
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lambdanets.errors import UserError
from lambdanets.jobs.report import choose_score, sweep_folders
from lambdanets.jobs.report_claims import write_claims_page
from lambdanets.reports.archive import archive_runs
from lambdanets.reports.runs import read_runs
from tests.in_process import refusal_of, run
from tests.reports.run_folders import EXPERIMENTS, make_run, make_sweep


@pytest.fixture
def sweep(tmp_path):
    return make_sweep(tmp_path / "sweep")


class Page(HTMLParser):
    """The tags of a page, and the references that could need something from elsewhere."""

    def __init__(self):
        super().__init__()
        self.references, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]


def test_the_job_writes_a_table_for_each_reader_and_an_archive(sweep, tmp_path):
    arguments = ["job=report", f"sweep_dir={sweep}", "hydra.run.dir=out", "job.archive_to=archive"]
    out = run(*arguments, cwd=tmp_path).text
    assert "A table" in out
    assert "Lambda layer, u = 1" in out
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| Conv + SE (Hu et al. 2018) | 3 | 73.67 ± 2.08 | 77.6 | +2.67 [-2.50, +7.84] |" in text
    with (tmp_path / "out" / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["experiment"] for row in rows] == EXPERIMENTS
    assert float(rows[1]["low"]) == pytest.approx(8 / 3 - 5.1713, abs=1e-3)
    assert rows[0]["published_top1"] == "76.9"
    assert float(rows[0]["flops"]) > 1e5
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(document["missing"]) == 2
    assert {run["seed"] for run in document["runs"]} == {0, 1, 2}
    assert len((tmp_path / "archive" / "runs.jsonl").read_text().splitlines()) == 8

    html = (tmp_path / "out" / "report.html").read_text()
    page = Page()
    page.feed(html)
    assert page.tags.count("svg") == 3
    assert all(reference.startswith("#") for reference in page.references)
    assert not re.findall(r"url\((?!#)", html)
    assert "The &lt;disk&gt; is full." in html
    assert "<script" not in html
    for title in ("Training curves", "Accuracy and parameters", "Speed and accuracy", "Pareto front"):
        assert title in html


def test_runs_are_compared_by_a_score_that_they_have(sweep):
    runs = read_runs([sweep])
    assert choose_score(runs, None) == "test/top1"
    assert choose_score(runs, "val/top1") == "val/top1"
    message = "job.score=test/top11 is the score of no finished run: choose one of test/top1, val/top1"
    with pytest.raises(UserError, match=message):
        choose_score(runs, "test/top11")
    runs[0].metrics["test/loss"] = 0.6
    with pytest.raises(UserError, match=r"job.score=test/loss is a loss, .* choose one of test/top1, val/top1"):
        choose_score(runs, "test/loss")
    del runs[0].metrics["test/loss"]
    for run_ in runs:  # on images without a test split
        run_.metrics.pop("test/top1", None)
    assert choose_score(runs, None) == "val/top1"
    unfinished = [run_ for run_ in runs if not run_.metrics]
    assert choose_score(unfinished, None) == "test/top1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["job.baseline=table3/con"],
            "job.baseline=table3/con is the experiment of no run: choose one of table3/conv, ",
        ),
        (["sweep_dir=[]"], "sweep_dir=[] names no folder: give one or several, or leave it out"),
        (["job.archive_to=file"], "'file' can't be used (File exists): give another path"),
        (["job.archive_to=file/archive"], "'file/archive' can't be used (Not a directory): give another path"),
    ],
)
def test_mistakes_in_options_are_named(options, message, sweep, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert message in refusal_of("job=report", f"sweep_dir={sweep}", *options, cwd=tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_newest_sweep_is_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="There is no sweep below 'multirun': name a folder of runs with sweep_dir"):
        sweep_folders(None)
    for index, sweep in enumerate(("table3", "ablation/scope", "table4")):
        file = tmp_path / "multirun" / sweep / "multirun.yaml"
        file.parent.mkdir(parents=True)
        file.write_text("")
        os.utime(file, (index % 2, index % 2))
    assert sweep_folders(None) == [Path("multirun/ablation/scope")]
    assert sweep_folders("first") == [Path("first")]
    assert sweep_folders(["first", "second"]) == [Path("first"), Path("second")]


CLAIMS = """
page: {folder}/results/page.md
template: {folder}/page.md
parts:
  table:
    title: A table
    runs: {runs}
    score: test/top1
    baseline: table3/conv
    claims: [{{statement: SE is better, a: table3/se, b: table3/conv}}]
"""
TEMPLATE = """# Claims

From $provenance

## A table

$table

## Every run

$every_run
"""


def claims_config(folder, runs):
    (folder / "page.md").write_text(TEMPLATE)
    return OmegaConf.create(CLAIMS.format(folder=folder, runs=runs))


def written(folder, runs):
    write_claims_page(claims_config(folder, runs))
    return (folder / "results" / "page.md").read_text()


def test_the_page_is_a_function_of_archived_runs(sweep, tmp_path):
    text = written(tmp_path, sweep)
    assert text.startswith("# Claims\n\nFrom 7 finished runs of 8, 2026-01-02;")
    assert "| SE is better | Conv + SE (Hu et al. 2018) |" in text.split("## A table")[1].split("## Every run")[0]
    assert "| table3/lambda_u1 | 1 | failed: The <disk> is full. |" in text.split("## Every run")[1]
    figures = {file: file.read_bytes() for file in (tmp_path / "results" / "page").iterdir()}
    names = ["a-table-accuracy-and-parameters.svg", "a-table-differences.svg", "a-table-training-curves.svg"]
    assert sorted(file.name for file in figures) == names
    assert sorted(re.findall(r"\]\(page/(.*?\.svg)\)", text)) == names

    archive_runs(read_runs([sweep]), tmp_path / "archive")
    assert written(tmp_path, tmp_path / "archive") == text
    assert all(file.read_bytes() == figure for file, figure in figures.items())


def test_equal_cost_adds_a_table_and_figures_for_each_machine_that_was_measured(sweep, tmp_path):
    for config in sweep.glob("*/config.yaml"):
        config.write_text(config.read_text().replace("data.Digits", "data.Digits, batch_size: 8"))
    claims = claims_config(tmp_path, sweep)
    labels = ("Conv (He et al. 2016)", "Conv + SE (Hu et al. 2018)")
    files = [str(tmp_path / f"{name}.json") for name in ("cpu", "gpu", "gone")]
    claims.parts.table.update(equal_cost=True, throughput=files)
    for file, machine, speeds in (("cpu", "Abacus, 1 thread", (80.0, 40.0)), ("gpu", "Turbo", (800.0, 640.0))):
        benchmark = {
            "machine": machine,
            "origin": {"date": "2026-01-03T00:00:00", "command": "run"},
            "rows": [{"row": label, "train img/s": speed} for label, speed in zip(labels, speeds, strict=True)],
        }
        (tmp_path / f"{file}.json").write_text(json.dumps(benchmark))
    write_claims_page(claims)
    text = (tmp_path / "results" / "page.md").read_text()
    # Two epochs of ten steps of eight images, with validation scores of 30 and 40 %.
    assert "| Conv (He et al. 2016) | 2 | 40.00 | 40.00 |\n| Conv + SE (Hu et al. 2018) | 4 | 40.00 | 30.00 |" in text
    assert "val/top1 % after 2 s |" in text
    assert "val/top1 % after 0 s |" in text
    assert "| 80.0 |" in text, "images/s of the first benchmark"
    figures = {file.stem for file in (tmp_path / "results" / "page").iterdir()}
    assert {f"a-table-accuracy-over-{x}" for x in ("seconds-abacus-1-thread", "seconds-turbo", "flops")} < figures
    assert "a-table-accuracy-and-flops" in figures


def test_claims_count_their_runs(sweep, tmp_path):
    assert write_claims_page(claims_config(tmp_path, sweep)) == {"claims": 1, "runs": 7, "missing": 2}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"parts.table.claims.0.better": True}, "The part 'table' of the claims has wrong keys.*'better'"),
        ({"parts.table.speed": 1}, "The part 'table' of the claims has wrong keys.*'speed'"),
        (
            {"parts.table.claims.0.criterion": "more"},
            "The claim 'SE is better' has criterion=more: choose one of superior, non_inferior",
        ),
        ({"template": "gone.md"}, "There is no template 'gone.md'"),
    ],
)
def test_mistakes_in_claims_are_named(sweep, tmp_path, change, error):
    claims = claims_config(tmp_path, sweep)
    for key, value in change.items():
        OmegaConf.update(claims, key, value)
    with pytest.raises(UserError, match=error):
        write_claims_page(claims)


# Of COCO's: over all overlaps, at 50 and 75 %, of small, medium and large objects; −1 where the data have none.
AP = {"": 0.4, "50": 0.6, "75": 0.45, "_small": 0.2, "_medium": 0.45, "_large": -1.0}


def make_detector(root, experiment, seed, *, more=0.0, finished=True):
    folder = make_run(root, experiment, seed)
    config = (folder / "config.yaml").read_text() + "task: {_target_: lambdanets.tasks.Detection}\n"
    (folder / "config.yaml").write_text(config)
    rows = [
        "epoch,step,train/loss,val/box_ap",
        "0,9,,0.1",
        *(["1,15,0.9,", "1,19,,0.3"] if finished else ["1,15,0.9,"]),
    ]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    if finished:
        metrics = {
            f"test/{kind}_ap{part}": score + more * (score > 0)
            for kind in ("box", "mask")
            for part, score in AP.items()
        }
        (folder / "metrics.json").write_text(json.dumps(metrics | {"parameters": 4.4e7}))


def test_detectors_are_reported_by_the_size_of_objects(tmp_path):
    for seed in (0, 1):
        make_detector(tmp_path / "sweep", "coco/resnet101", seed, more=0.02 * seed)
    make_detector(tmp_path / "sweep", "coco/lambda_resnet101", 0, more=0.05)
    make_detector(tmp_path / "sweep", "coco/lambda_resnet101", 1, finished=False)
    run("job=report", "sweep_dir=sweep", "hydra.run.dir=out", "job.baseline=coco/resnet101", cwd=tmp_path)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| row | runs | test/box_ap % | published box AP | difference [95 %] |" in text
    assert "| LambdaResNet-101 | 1 | 45.00 | 49.4 | +5.00 |" in text
    ours = "| ResNet-101 | ours | 41.0 | 61.0 / 46.0 | 21.0 / 46.0 / – | 41.0 | 61.0 / 46.0 | 21.0 / 46.0 / – |"
    theirs = "| 48.2 | – | 29.9 / 50.9 / 64.9 | 42.6 | – | 24.2 / 45.6 / 60.0 |"
    assert f"{ours}\n| ResNet-101 | published {theirs}" in text
    assert "coco/lambda_resnet101, seed 1: unfinished, after 1 of 2 epochs" in text
    with (tmp_path / "out" / "report.csv").open(newline="") as file:
        rows = {row["experiment"]: row for row in csv.DictReader(file)}
    assert float(rows["coco/lambda_resnet101"]["mask_ap_small"]) == pytest.approx(25)
    assert rows["coco/lambda_resnet101"]["mask_ap_large"] == ""
    assert rows["coco/lambda_resnet101"]["published_mask_ap_small"] == "25.9"
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("<table>") == 2
    assert "val/box_ap %, mean and range over seeds" in html
