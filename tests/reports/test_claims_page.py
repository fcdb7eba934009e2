"""Parts and tables of a claims page."""

import json
import re

import pytest

from lambdanets.errors import UserError
from lambdanets.reports.claims import Claim
from lambdanets.reports.claims_page import (
    Part,
    fill_template,
    judge_part,
    render_part,
    summary_table,
)
from lambdanets.reports.run_tables import hours_table, provenance_line, runs_table
from tests.reports.run_folders import make_run, make_sweep

CLAIMS = [
    Claim("SE is better", "table3/se", "table3/conv"),
    Claim("SE is faster", "table3/se", "table3/conv", "faster"),
]


@pytest.fixture
def sweep(tmp_path):
    return make_sweep(tmp_path / "sweep")


def part(runs, claims=CLAIMS[:1], **options):
    return Part("A table", runs=runs, score="test/top1", baseline="table3/conv", claims=claims, **options)


def test_a_part_has_its_claims_rows_and_figures(sweep):
    blocks = render_part(judge_part(part(sweep)), [("Curves", "page/curves.svg")]).split("\n\n")
    assert len(blocks) == 5
    row = "| SE is better | Conv + SE (Hu et al. 2018) | Conv (He et al. 2016) | 77.6 against 76.9 |"
    assert blocks[0].endswith(f"\n{row} 73.67 against 71.00 | +2.67 [-2.50, +7.84] | can't tell |")
    assert "| Conv (He et al. 2016) | 3 | 71.00 ± 1.00 | baseline | 0.006 |" in blocks[1]
    assert blocks[2] == "Missing: table3/lambda_u1, seed 1: failed: The <disk> is full."
    assert blocks[4] == "![Curves](page/curves.svg)"


def test_a_part_without_claims_has_its_rows_only(sweep):
    assert render_part(judge_part(part(sweep, [])), []).startswith("| row | runs | test/top1 % |")


def test_trials_are_told_apart_by_their_hyperparameters(tmp_path):
    for rate, top1 in (("0.2", 0.6), ("0.1", 0.5)):
        folder = make_run(tmp_path / rate, "table3/se", 0, top1, overrides=[f"recipe.lr={rate}"])
        config = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(config.replace("image_size: 32", f"image_size: 32, lr: {rate}"))
    make_run(tmp_path, "table3/conv", 0, epochs=1)
    trials = Part("Trials", tmp_path, "val/top1", hyperparameters={"learning rate": "recipe.lr"})
    judged = judge_part(trials)
    lines = render_part(judged, []).splitlines()
    assert lines[0] == "| row | learning rate | runs | val/top1 % | M parameters | epochs | minutes per run |"
    assert [line[:54] for line in lines[2:5]] == [
        "| Conv (He et al. 2016) | – | 0 | – | – | – | – |",
        "| Conv + SE (Hu et al. 2018) | 0.1 | 1 | 50.00 | 0.006",
        "| Conv + SE (Hu et al. 2018) | 0.2 | 1 | 60.00 | 0.006",
    ]
    assert lines[-1] == "Missing: table3/conv, seed 0: unfinished, after 1 of 2 epochs."
    every = runs_table([judged]).to_markdown()
    assert "| Trials | table3/conv | – | 0 | unfinished, after 1 of 2 epochs | – |" in every
    assert "| Trials | table3/se | 0.1 | 0 | 50.00 | 50.00 |" in every


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: folder.mkdir(), None])
def test_a_part_without_runs_is_not_run_yet(tmp_path, make):
    folder = tmp_path / "archive"
    if make:
        make(folder)
    else:
        folder.mkdir()
        (folder / "runs.jsonl").write_text("")
    judged = judge_part(part(folder, CLAIMS))
    assert render_part(judged, []) == f"Not run yet: `{folder}` holds no runs."
    assert [row["verdict"] for row in summary_table([judged]).rows] == ["not run", "not measured"]
    assert runs_table([judged]).rows == []
    assert hours_table([judged]).rows[0]["hours of training"] == "0.00"


def set_curves(sweep, curves):
    """Write validation scores by epoch into the logs of an experiment's runs."""
    for experiment, percents in curves.items():
        for folder in sweep.glob(f"{experiment.replace('/', '_')}-*"):
            rows = [f"{epoch},{10 * epoch + 9},{percent / 100}" for epoch, percent in enumerate(percents)]
            (folder / "metrics.csv").write_text("\n".join(["epoch,step,val/top1", *rows]) + "\n")


def test_rows_that_still_gain_mark_their_claims(sweep):
    # 0.3 and 0.1 points per epoch over the last three; the first step doesn't count.
    set_curves(sweep, {"table3/conv": [10, 70, 70.2, 70.4, 70.9], "table3/se": [10, 72, 72.1, 72.2, 72.3]})
    claims = [*CLAIMS[:1], Claim("SE is smaller", "table3/se", "table3/conv", "fewer_parameters")]
    text = render_part(judge_part(part(sweep, claims, max_gain=0.2, seeds=5)), [])
    assert re.search(r"\| Conv \(He et al. 2016\) \| 3 \| .* \| \+0\.30 † \|", text)
    assert re.search(r"\| Conv \+ SE \(Hu et al. 2018\) \| 3 \| .* \| \+0\.10 \|", text)
    assert "| SE is better † |" in text
    assert "| SE is smaller |" in text
    assert "3 of 5 | can't tell |" in text
    assert text.count("† A row of this claim hadn't converged") == 1
    converged = render_part(judge_part(part(sweep, claims, max_gain=0.31)), [])
    assert "†" not in converged
    summary = summary_table([judge_part(part(sweep, claims, max_gain=0.2))])
    assert summary.rows[0] == {"data": "A table", "claim": "SE is better †", "verdict": "can't tell"}


def test_rows_stand_in_the_parts_order_with_the_others_behind(sweep):
    judged = judge_part(part(sweep, rows=["table3/lambda_u1", "table3/conv"]))
    assert [row.experiment for row in judged.comparison.rows] == ["table3/lambda_u1", "table3/conv", "table3/se"]


def test_with_planned_pairs_only_runs_that_were_started_are_missing(sweep):
    assert "table3/lambda_u1, seed 2: never started" in render_part(judge_part(part(sweep)), [])
    text = render_part(judge_part(part(sweep, seeds=3)), [])
    assert "Missing: table3/lambda_u1, seed 1: failed: The <disk> is full." in text
    assert "never started" not in text


def test_a_seed_that_was_repeated_is_not_missing(sweep):
    make_run(sweep / "again", "table3/lambda_u1", 1, 0.79, started="2026-01-03T00:00:00")
    judged = judge_part(part(sweep, seeds=3))
    assert "Missing" not in render_part(judged, [])
    assert "failed: The <disk> is full." in runs_table([judged]).to_markdown()


@pytest.mark.parametrize(
    ("commit", "cell"), [("abcdef0123456", "abcdef012"), ("abcdef0123456-dirty", "abcdef012-dirty"), (None, "–")]
)
def test_a_run_of_changed_files_is_not_listed_under_a_clean_commit(commit, cell, sweep):
    judged = judge_part(part(sweep))
    for run in judged.runs:
        run.starts[0]["git"] = commit
    assert runs_table([judged]).to_markdown().count(f"| {cell} | 2026-01-02 03:04 |") == 8


def test_a_claim_on_runs_of_several_settings_is_an_error(sweep):
    make_run(sweep, "table3/se", 0, 0.5, overrides=["recipe.lr=0.1"])
    message = r"The runs of 'table3/se' in '.*' have several settings \(recipe.lr=0.1 trainer.max_epochs=2; trainer"
    with pytest.raises(UserError, match=message):
        judge_part(part(sweep))


def test_hours_are_split_into_compared_rows_and_trials(sweep):
    compared, trials = judge_part(part(sweep)), judge_part(part(sweep, []))
    for run in compared.runs:
        run.metrics and run.metrics.update(seconds=1800)
    trials.runs[0].metrics["seconds"] = 720
    trials.runs[1].starts.append({"date": "2026-01-03"})
    table = hours_table([compared, trials])
    assert [(row["part"], row["runs started"], row["finished"], row["hours of training"]) for row in table.rows] == [
        ("A table", "8", "7", "3.50"),
        ("A table", "8", "7", "0.20"),
        ("compared rows", "8", "7", "3.50"),
        ("other runs", "8", "7", "0.20"),
        ("together", "16", "14", "3.70"),
    ]
    assert table.notes[0].startswith("1 of the runs were stopped and started again")


def test_throughput_is_a_benchmarks_not_that_of_the_runs(sweep, tmp_path):
    file = tmp_path / "speed.json"
    unmeasured = judge_part(part(sweep, CLAIMS, throughput=[file]))
    assert unmeasured.judgments[1].verdict == "not measured"
    assert "The speed of these networks isn't measured yet" in render_part(unmeasured, [])
    speeds = {"Conv + SE (Hu et al. 2018)": 150.0, "Conv (He et al. 2016)": 300.0}
    benchmark = {
        "machine": "Abacus",
        "origin": {"date": "2026-01-03T00:00:00", "command": "python run.py job=benchmark"},
        "rows": [{"row": row, "train img/s": speed} for row, speed in speeds.items()],
    }
    file.write_text(json.dumps(benchmark))
    text = render_part(judge_part(part(sweep, CLAIMS, throughput=[file])), [])
    assert "| 150 against 300 images/s | × 0.50 | doesn't hold |" in text
    assert re.search(r"\| Conv \+ SE \(Hu et al. 2018\) \| 3 \| .* \| 150 \|\n", text)
    origin = "Abacus, 2026-01-03, `python run.py job=benchmark`"
    assert f"Images/s in training, measured apart from the runs: {origin}." in text


def test_claims_on_speed_name_their_machine_and_noisy_speeds_are_marked(sweep, tmp_path):
    speeds = {"Conv + SE (Hu et al. 2018)": 150.0, "Conv (He et al. 2016)": 300.0}
    benchmark = {
        "machine": "Abacus, 1 thread",
        "origin": {"date": "2026-01-03T00:00:00", "command": "run"},
        "rows": [{"row": row, "train img/s": speed} for row, speed in speeds.items()],
        "measurements": [{"train img/s": {"samples": [speed, speed], "disturbed": False}} for speed in speeds.values()],
    }
    file = tmp_path / "speed.json"
    file.write_text(json.dumps(benchmark))
    text = render_part(judge_part(part(sweep, CLAIMS, throughput=[file])), [])
    assert "\n\nFaster: in training on Abacus, 1 thread.\n\n| row |" in text
    assert "oisy" not in text
    assert "Faster" not in render_part(judge_part(part(sweep, throughput=[file])), [])
    benchmark["measurements"][0]["train img/s"]["disturbed"] = True
    file.write_text(json.dumps(benchmark))
    text = render_part(judge_part(part(sweep, CLAIMS, throughput=[file])), [])
    assert "1 thread. Noisy, so that their verdicts are uncertain: Conv + SE (Hu et al. 2018).\n" in text
    assert re.search(r"\| Conv \+ SE \(Hu et al. 2018\) \| 3 \| .* \| 150 noisy \|\n", text)
    assert re.search(r"\| Conv \(He et al. 2016\) \| 3 \| .* \| 300 \|\n", text)
    assert "\n\nNoisy: the middle half of the measurements spans more than 10 % of the median, or other" in text


def test_every_run_is_listed(sweep):
    table = runs_table([judge_part(part(sweep))])
    text = table.to_markdown()
    assert len(table.rows) == 8
    assert "| table3/se | 1 | 73.00 | 73.00 | – | – | abcdef012 | 2026-01-02 03:04 |" in text
    assert "| table3/lambda_u1 | 1 | failed: The <disk> is full. | – | – | – | abcdef012 | 2026-01-02 03:04 |" in text


def test_the_provenance_of_runs(sweep, tmp_path):
    runs = judge_part(part(sweep)).runs
    line = "7 finished runs of 8, 2026-01-02; 0.0 hours of training on Abacus, 2 cores; torch 2.0."
    assert provenance_line(runs) == line
    make_run(tmp_path / "later", "table3/conv", 8, 0.5, started="2026-02-03T00:00:00")
    later = judge_part(part(tmp_path / "later")).runs
    later[0].metrics["seconds"] = 5400
    line = "8 finished runs of 9, 2026-01-02 to 2026-02-03; 1.5 hours of training on Abacus, 2 cores; torch 2.0."
    assert provenance_line([*runs, *later]) == line
    later[0].starts[:] = [{"command": "python run.py"}]
    line = "1 finished runs of 1, no date; 1.5 hours of training on an unknown machine; torch unknown."
    assert provenance_line(later) == line


def test_a_template_uses_each_value():
    assert fill_template("$a costs $$1, ${b}c", {"a": "A"}, {"b": "B", "c": "C"}) == "A costs $1, Bc"
    with pytest.raises(UserError, match=r"The template doesn't fit its claims: \$c is unknown, \$b is missing\."):
        fill_template("$a $c", {"a": "A", "b": "B"}, {"d": "D"})
    with pytest.raises(UserError, match=r"its claims: a dollar sign by itself must be \$\$\."):
        fill_template("$a costs $5", {"a": "A"}, {})
