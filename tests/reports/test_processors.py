"""Made-up runs on two processors, or on GPUs: which rows ran on which, and which numbers have no mean."""

import json
import re

import pytest

from lambdanets.jobs.report import describe_versions
from lambdanets.reports.archive import archive_runs
from lambdanets.reports.claims import Claim
from lambdanets.reports.claims_page import Part, judge_part, render_part
from lambdanets.reports.comparison import compare
from lambdanets.reports.figures import draw_figures
from lambdanets.reports.run_tables import provenance_line, runs_table
from lambdanets.reports.runs import read_runs
from tests.reports.run_folders import change_start, make_run, make_sweep

CONV, SE, LAMBDA = "Conv (He et al. 2016)", "Conv + SE (Hu et al. 2018)", "Lambda layer, u = 1"


@pytest.fixture
def sweep(tmp_path):
    return make_sweep(tmp_path)


@pytest.fixture
def mixed(sweep):
    """One row on another processor, and one with one seed on each."""
    make_run(sweep, "table3/lambda_u1", 2, 0.82)
    for folder in [*sweep.glob("table3_se-*"), sweep / "table3_lambda_u1-2-0"]:
        change_start(folder, processor="Slide rule")
    return sweep


def judged(folder):
    claims = [Claim("SE is better", "table3/se", "table3/conv")]
    part = judge_part(Part("A table", folder, "test/top1", "table3/conv", claims))
    for run in part.runs:
        if run.metrics:
            run.metrics["seconds"] = 60.0 * (1 + run.seed)
    return part


def compared(folder):
    return compare(read_runs([folder]), score="test/top1", baseline=None, flops=lambda run: None)


NOTE = (
    f"\n\nOn Abacus: {CONV}; {LAMBDA} (seed 0). On Slide rule: {SE}; {LAMBDA} (seed 2).\n\n"
    "Processors round differently: the pairs of a claim or a difference whose runs were on two of them differ in "
    "rounding, too. "
)


def test_a_claims_page_says_which_rows_ran_where_and_has_no_time_across_processors(mixed):
    part = judged(mixed)
    text = render_part(part, [])
    assert NOTE in text
    assert "Minutes per run compare on one processor only" in text
    minutes = {line.split(" | ")[0].strip("| "): line.split(" | ")[-1] for line in text.splitlines() if "|" in line}
    assert (minutes[CONV], minutes[SE], minutes[LAMBDA]) == ("2.00 |", "2.00 |", "– |")
    table = runs_table([part])
    cells = {(row["run"], row["seed"]): row["processor"] for row in table.rows}
    assert table.columns[-1] == "processor"
    assert (cells["table3/conv", "1"], cells["table3/se", "1"]) == ("Abacus", "Slide rule")


def test_pages_on_one_processor_say_nothing_of_it(sweep):
    change_start(sweep / "table3_conv-0-0", processor=None)  # not recorded, as by earlier versions
    change_start(sweep / "table3_lambda_u1-1-0", processor="Slide rule")  # failed, so that it counts in no number
    part = judged(sweep)
    text = render_part(part, [])
    assert "rocessor" not in text
    assert re.search(rf"\| {re.escape(CONV)} .* \| 2.00 \|", text)
    assert runs_table([part]).columns[-1] == "processor", "of all runs, also the failed ones"
    part.runs[:] = [run for run in part.runs if run.metrics]
    assert runs_table([part]).columns[-1] == "started"


def test_a_run_that_went_on_elsewhere_has_two_processors(sweep):
    part = judged(sweep)
    run = next(run for run in part.runs if run.experiment == "table3/se" and run.seed == 1)
    run.starts.append(run.starts[0] | {"processor": "Slide rule"})
    text = render_part(part, [])
    assert f"On Abacus: {CONV}; {SE} (seed 0, 2); {LAMBDA}. On Abacus and Slide rule: {SE} (seed 1)." in text
    assert "Abacus, Slide rule" in {row["processor"] for row in runs_table([part]).rows}


def test_a_report_has_no_speed_across_processors(mixed):
    comparison = compared(mixed)
    # Runs record 50 images/s and as many more as their seed.
    assert [row.images_per_s for row in comparison.rows] == [51, 51, None]
    notes = "\n\n".join(comparison.table().notes)
    assert NOTE in notes
    assert "Images/s compare on one processor only" in notes
    assert (
        "ms of training an image on different processors, smaller"
        in dict(draw_figures(comparison))["Speed and accuracy"]
    )


def test_a_report_on_one_processor_averages_its_speed(sweep):
    comparison = compared(sweep)
    assert [row.images_per_s for row in comparison.rows] == [51, 51, 50]
    assert "rocessor" not in "".join(comparison.table().notes)
    assert ">ms of training an image, smaller is faster<" in dict(draw_figures(comparison))["Speed and accuracy"]


def test_a_reports_head_names_all_processors(mixed):
    runs = read_runs([mixed])
    assert describe_versions(runs) == "commit abcdef012, torch 2.0, Linux, on Abacus and Slide rule"
    for index, run in enumerate(runs):
        run.starts[0]["git"] = str(index)
    assert describe_versions(runs) == f"{len(runs)} different versions or machines, on Abacus and Slide rule"
    for run in runs:
        run.starts.clear()
    assert describe_versions(runs) == ""


def test_runs_on_gpus_are_told_apart_by_them(sweep, tmp_path):
    for seed in range(3):
        change_start(sweep / f"table3_se-{seed}-0", gpus="2 × NVIDIA H100")
    file = sweep / "table3_se-1-0" / "provenance.json"
    (start,) = json.loads(file.read_text())
    failed = {key: value for key, value in start.items() if key != "gpus"} | {"failed": True}
    file.write_text(json.dumps([failed, start]))  # at first, torch found no GPU
    archive_runs(read_runs([sweep]), tmp_path / "archive")
    for folder in (sweep, tmp_path / "archive"):
        part = judged(folder)
        text = render_part(part, [])
        assert f"On 2 × NVIDIA H100: {SE}. On Abacus: {CONV}; {LAMBDA}." in text
        assert {row["processor"] for row in runs_table([part]).rows} == {"Abacus", "2 × NVIDIA H100"}
        assert " hours of training on 2 × NVIDIA H100 and Abacus, 2 cores; " in provenance_line(part.runs)
