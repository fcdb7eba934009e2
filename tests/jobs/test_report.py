"""Reports on made-up run folders against numbers worked out by hand."""

import csv
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lambdanets.errors import UserError
from lambdanets.jobs.report import sweep_folders
from lambdanets.jobs.report_claims import write_claims_page
from lambdanets.reports.archive import archive_runs
from lambdanets.reports.comparison import compare
from lambdanets.reports.figures import pareto_front
from lambdanets.reports.runs import group_runs, read_runs
from lambdanets.reports.statistics import paired_difference, summarize
from tests.command import run

EXPERIMENTS = ["table3/conv", "table3/se", "table3/lambda_u1"]
CONFIG = """
experiment: {experiment}
name: {experiment}-digits
seed: {seed}
job: {{_target_: lambdanets.jobs.fit.run}}
trainer: {{max_epochs: 2}}
recipe: {{image_size: 32}}
sweep: {{title: A table, baseline: table3/conv, experiments: [{experiments}]}}
mixer: {{_target_: lambdanets.mixers.Conv, _partial_: true}}
model:
  {{_target_: lambdanets.models.ResNet, _partial_: true, depth: [1], layout: C, strides: [1], stem: small, width: 0.25}}
data: {{_target_: lambdanets.data.Digits}}
"""


def make_run(place, experiment, seed, top1=None, *, epochs=2, failed=None, overrides=()):
    folder = place / f"{experiment.replace('/', '_')}-{seed}-{len(overrides)}"
    (folder / ".hydra").mkdir(parents=True)
    text = CONFIG.format(experiment=experiment, seed=seed, experiments=", ".join(EXPERIMENTS))
    for name in ("config.yaml", "composed.yaml"):
        (folder / name).write_text(text)
    said = [f"experiment={experiment}", f"seed={seed}", "trainer.max_epochs=2", *overrides]
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {override}\n" for override in said))
    rows = ["epoch,step,val/loss,val/top1,speed/peak_memory_gib"]
    rows += [f"{epoch},{10 * epoch + 9},1.0,{0.3 + 0.1 * epoch},{0.5 + epoch / 10}" for epoch in range(epochs)]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    if top1 is not None:
        found = {"test/top1": top1, "val/top1": top1, "parameters": 1000, "images_per_s": 50.0 + seed}
        (folder / "metrics.json").write_text(json.dumps(found))
    if failed:
        (folder / "failed.json").write_text(json.dumps({"error": failed}))
    return folder


@pytest.fixture
def place(tmp_path):
    for seed, (conv, se) in enumerate([(0.70, 0.72), (0.72, 0.73), (0.71, 0.76)]):
        make_run(tmp_path, "table3/conv", seed, conv)
        make_run(tmp_path, "table3/se", seed, se)
    make_run(tmp_path, "table3/lambda_u1", 0, 0.80)
    make_run(tmp_path, "table3/lambda_u1", 1, failed="The <disk> is full.")
    return tmp_path


def comparison(place, **options):
    return compare(read_runs([place]), score="test/top1", baseline=None, flops=lambda run: 2e9, **options)


def test_statistics_by_hand():
    assert summarize([1.0, 2.0, 6.0]) == pytest.approx((3.0, 7**0.5, 3))
    assert summarize([4.0]) == (4.0, None, 1)
    # Differences 2, 1, 5: mean 8/3, deviation 2.0817, t(0.975, 2) = 4.3027: ± 5.1713.
    found = paired_difference({0: 72, 1: 73, 2: 76, 9: 0}, {0: 70, 1: 72, 2: 71, 8: 0})
    assert found == pytest.approx((8 / 3, 8 / 3 - 5.1713, 8 / 3 + 5.1713, 3), abs=1e-3)
    assert paired_difference({0: 5.0}, {0: 3.0}) == (2.0, None, None, 1)
    assert paired_difference({0: 5.0}, {1: 3.0}) is None


def test_rows_are_in_the_tables_order_with_published_numbers_beside(place):
    conv, se, lambdas = comparison(place).rows
    assert [row.experiment for row in (conv, se, lambdas)] == EXPERIMENTS
    assert conv.score == pytest.approx((71.0, 1.0, 3))
    assert conv.difference is None
    assert se.difference == pytest.approx((8 / 3, 8 / 3 - 5.1713, 8 / 3 + 5.1713, 3), abs=1e-3)
    assert lambdas.score == (80, None, 1)
    assert lambdas.difference.low is None
    assert conv.images_per_s == 51
    assert conv.memory_gib == pytest.approx(0.6)
    shown = comparison(place).table()
    assert shown.rows[0]["difference [95 %]"] == "baseline"
    assert shown.rows[1]["test/top1 %"] == "73.67 ± 2.08"
    assert shown.rows[1]["difference [95 %]"] == "+2.67 [-2.50, +7.84]"
    assert shown.rows[1]["published top-1"] == "77.6 (unconfirmed)"
    assert shown.rows[2]["published M"] == "15.0"


def test_missing_and_partial_runs_are_sweep_folders(place):
    make_run(place, "table3/se", 3, epochs=1)
    assert comparison(place).missing == [
        "table3/conv, seed 3: never started",
        "table3/se, seed 3: unfinished, after 1 of 2 epochs",
        "table3/lambda_u1, seed 1: failed: The <disk> is full.",
        "table3/lambda_u1, seed 2: never started",
        "table3/lambda_u1, seed 3: never started",
    ]


def test_runs_of_another_setting_are_rows_of_their_own(place):
    for seed in range(2):
        make_run(place, "table3/conv", seed, 0.5, overrides=["recipe.optimizer.lr=0.1"])
        make_run(place, "table3/se", seed, 0.6, overrides=["recipe.optimizer.lr=0.1"])
    found = {row.name: row for row in comparison(place).rows}
    slow = found["Conv + SE (Hu et al. 2018), recipe.optimizer.lr=0.1"]
    assert slow.difference.mean == pytest.approx(10)
    assert slow.difference.seeds == 2
    assert len(group_runs(read_runs([place]))) == 5


class Page(HTMLParser):
    """The parts of a page that could need something from elsewhere."""

    def __init__(self):
        super().__init__()
        self.references, self.tags, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]


def test_the_job_writes_a_table_for_each_reader(place, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    out = run("job=report", f"sweep_dir={place}", "hydra.run.dir=out", cwd=work).stdout
    assert "A table" in out
    assert "Lambda layer, u = 1" in out
    text = (work / "out" / "report.md").read_text()
    assert "| Conv + SE (Hu et al. 2018) | 3 | 73.67 ± 2.08 | 77.6 (unconfirmed) | +2.67 [-2.50, +7.84] |" in text
    with (work / "out" / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["experiment"] for row in rows] == EXPERIMENTS
    assert float(rows[1]["low"]) == pytest.approx(8 / 3 - 5.1713, abs=1e-3)
    assert rows[0]["published_top1"] == "76.9"
    assert float(rows[0]["flops"]) > 1e5
    assert json.loads((work / "out" / "report.json").read_text())["missing"]

    html = (work / "out" / "report.html").read_text()
    page = Page()
    page.feed(html)
    assert page.tags.count("svg") == 3
    assert all(reference.startswith("#") for reference in page.references)
    assert not re.findall(r"url\((?!#)", html)
    assert "The &lt;disk&gt; is full." in html
    assert "<script" not in html
    for title in ("Training curves", "Accuracy and parameters", "Speed and accuracy", "Pareto front"):
        assert title in html


def test_the_newest_sweep_is_reported_on_and_none_is_answered(place, tmp_path_factory, monkeypatch):
    work = tmp_path_factory.mktemp("work")
    monkeypatch.chdir(work)
    with pytest.raises(UserError, match="There is no sweep below 'multirun': name a folder of runs with sweep_dir"):
        sweep_folders(None)
    for number, sweep in enumerate(("table3", "ablation/scope", "table4")):
        file = work / "multirun" / sweep / "multirun.yaml"
        file.parent.mkdir(parents=True)
        file.write_text("")
        os.utime(file, (number % 2, number % 2))
    assert sweep_folders(None) == [Path("multirun/ablation/scope")]
    assert sweep_folders("here") == [Path("here")]
    assert sweep_folders(["here", "there"]) == [Path("here"), Path("there")]
    with pytest.raises(UserError, match="There is no folder"):
        read_runs([work / "gone"])
    with pytest.raises(UserError, match="No run lies below"):
        read_runs([work / "multirun"])


def test_rows_stand_in_the_order_of_the_longest_plan(place):
    for folder in place.glob("table3_conv*"):
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace(f"[{', '.join(EXPERIMENTS)}]", "[table3/conv]"))
    assert [row.experiment for row in group_runs(read_runs([place]))] == EXPERIMENTS


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


def test_claims_are_judged_on_a_page_that_is_a_function_of_what_was_kept(place, tmp_path_factory):
    for folder in place.iterdir():
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").write_bytes(b"weights")
        start = {"command": "python run.py", "host": "mine", "folder": "/home/me", "git": "abcdef0123456", "cores": 2}
        start |= {"date": "2026-01-02T03:04:05", "packages": {"torch": "2.0"}, "processor": "Abacus"}
        (folder / "provenance.json").write_text(json.dumps([start]))
    work = tmp_path_factory.mktemp("work")
    text = written(work, place)
    archive_runs(read_runs([place]), work / "kept")
    pictures = {file: file.read_bytes() for file in (work / "results" / "page").iterdir()}
    assert pictures
    assert written(work, work / "kept") == text
    assert all(file.read_bytes() == picture for file, picture in pictures.items())
    kept = "".join(str(file) + file.read_text() for file in (work / "kept").rglob("*") if file.is_file())
    assert not re.findall("ckpt|/home/me|mine", kept)

    row = "| SE is better | Conv + SE (Hu et al. 2018) | Conv (He et al. 2016) | 77.6 against 76.9 (unconfirmed) |"
    assert f"{row} 73.67 against 71.00 | +2.67 [-2.50, +7.84] | can't tell |" in text
    assert "| table3/lambda_u1 | 1 | failed: The <disk> is full. | – | – | – | abcdef012 | 2026-01-02 03:04 |" in text
    assert "7 finished runs of 8, 2026-01-02; 0.0 hours of training on Abacus, 2 cores; torch 2.0." in text
    for picture in re.findall(r"\]\((.*?\.svg)\)", text):
        assert (work / "results" / picture).is_file()


def test_speed_is_a_benchmarks_not_that_of_the_runs(place, tmp_path):
    settings = claims_config(tmp_path, place)
    settings.parts.table.throughput = str(tmp_path / "speed.json")
    settings.parts.table.claims.append(
        {"statement": "SE is faster", "a": "table3/se", "b": "table3/conv", "criterion": "faster"}
    )
    with pytest.raises(UserError, match="There is no benchmark '.*speed.json': write it with job=benchmark"):
        write_claims_page(settings)
    speeds = {"Conv + SE (Hu et al. 2018)": 150.0, "Conv (He et al. 2016)": 300.0}
    found = {"machine": "Abacus", "origin": {"date": "2026-01-03T00:00:00", "command": "python run.py job=benchmark"}}
    found["rows"] = [{"row": row, "train img/s": speed} for row, speed in speeds.items()]
    (tmp_path / "speed.json").write_text(json.dumps(found))
    write_claims_page(settings)
    text = (tmp_path / "results" / "page.md").read_text()
    assert "| 150 against 300 images/s | × 0.50 | doesn't hold |" in text
    assert re.search(r"\| Conv \+ SE \(Hu et al. 2018\) \| 3 \| .* \| 150 \|\n", text)
    assert (
        "Images/s in training, measured apart from the runs: Abacus, 2026-01-03, `python run.py job=benchmark`." in text
    )


def test_a_claim_with_an_unknown_key_is_told(place, tmp_path):
    settings = claims_config(tmp_path, place)
    settings.parts.table.claims[0].better = True
    with pytest.raises(UserError, match="The part 'table' of the claims has wrong keys.*'better'"):
        write_claims_page(settings)


def test_pareto_front():
    points = [(1, 10), (2, 9), (2, 12), (3, 12), (5, 20)]
    assert pareto_front(points) == [(1, 10), (2, 12), (5, 20)]


# Of COCO's: over all overlaps, at 50 and 75 %, of small, medium and large objects; −1 where the data have none.
AP = {"": 0.4, "50": 0.6, "75": 0.45, "_small": 0.2, "_medium": 0.45, "_large": -1.0}


def make_detector(place, experiment, seed, *, more=0.0, finished=True):
    folder = make_run(place, experiment, seed)
    rows = [
        "epoch,step,train/loss,val/box_ap",
        "0,9,,0.1",
        *(["1,15,0.9,", "1,19,,0.3"] if finished else ["1,15,0.9,"]),
    ]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    if finished:
        found = {
            f"test/{kind}_ap{part}": score + more * (score > 0)
            for kind in ("box", "mask")
            for part, score in AP.items()
        }
        (folder / "metrics.json").write_text(json.dumps(found | {"parameters": 4.4e7}))


def test_detectors_are_reported_by_the_size_of_objects(tmp_path, tmp_path_factory):
    for seed in (0, 1):
        make_detector(tmp_path, "coco/resnet101", seed, more=0.02 * seed)
    make_detector(tmp_path, "coco/lambda_resnet101", 0, more=0.05)
    make_detector(tmp_path, "coco/lambda_resnet101", 1, finished=False)
    work = tmp_path_factory.mktemp("work")
    run("job=report", f"sweep_dir={tmp_path}", "hydra.run.dir=out", "job.baseline=coco/resnet101", cwd=work)
    text = (work / "out" / "report.md").read_text()
    assert "| row | runs | test/box_ap % | published box AP | difference [95 %] |" in text
    assert "| LambdaResNet-101 | 1 | 45.00 | 49.4 (unconfirmed) | +5.00 |" in text
    ours = "| ResNet-101 | ours | 41.0 | 61.0 / 46.0 | 21.0 / 46.0 / – | 41.0 | 61.0 / 46.0 | 21.0 / 46.0 / – |"
    theirs = "| 48.2 | – | 29.9 / 50.9 / 64.9 | 42.6 | – | 24.2 / 45.6 / 60.0 |"
    assert f"{ours}\n| ResNet-101 | published (unconfirmed) {theirs}" in text
    assert "coco/lambda_resnet101, seed 1: unfinished, after 1 of 2 epochs" in text
    with (work / "out" / "report.csv").open(newline="") as file:
        rows = {row["experiment"]: row for row in csv.DictReader(file)}
    assert float(rows["coco/lambda_resnet101"]["mask_ap_small"]) == pytest.approx(25)
    assert rows["coco/lambda_resnet101"]["mask_ap_large"] == ""
    assert rows["coco/lambda_resnet101"]["published_mask_ap_small"] == "25.9"
    html = (work / "out" / "report.html").read_text()
    assert html.count("<table>") == 2
    assert "val/box_ap %, mean and range over seeds" in html
