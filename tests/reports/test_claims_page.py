"""Parts and tables of a claims page."""

import json
import re

import pytest

from lambdanets.errors import UserError
from lambdanets.reports.claims import Claim
from lambdanets.reports.claims_page import Part, fill_template, judge_part, provenance_line, render_part, runs_table
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
    assert "| Conv (He et al. 2016) | 3 | 71.00 ± 1.00 | baseline | 0.001 |" in blocks[1]
    assert blocks[2] == "Missing: table3/lambda_u1, seed 1: failed: The <disk> is full."
    assert blocks[4] == "![Curves](page/curves.svg)"


def test_a_part_without_claims_has_its_rows_only(sweep):
    assert render_part(judge_part(part(sweep, [])), []).startswith("| row | runs | test/top1 % |")


def test_throughput_is_a_benchmarks_not_that_of_the_runs(sweep, tmp_path):
    file = tmp_path / "speed.json"
    with pytest.raises(UserError, match=re.escape(f"There is no benchmark '{file}': write it with job=benchmark")):
        judge_part(part(sweep, CLAIMS, throughput=file))
    assert judge_part(part(sweep, CLAIMS)).judgments[1].verdict == "can't tell"
    speeds = {"Conv + SE (Hu et al. 2018)": 150.0, "Conv (He et al. 2016)": 300.0}
    benchmark = {
        "machine": "Abacus",
        "origin": {"date": "2026-01-03T00:00:00", "command": "python run.py job=benchmark"},
        "rows": [{"row": row, "train img/s": speed} for row, speed in speeds.items()],
    }
    file.write_text(json.dumps(benchmark))
    text = render_part(judge_part(part(sweep, CLAIMS, throughput=file)), [])
    assert "| 150 against 300 images/s | × 0.50 | doesn't hold |" in text
    assert re.search(r"\| Conv \+ SE \(Hu et al. 2018\) \| 3 \| .* \| 150 \|\n", text)
    origin = "Abacus, 2026-01-03, `python run.py job=benchmark`"
    assert f"Images/s in training, measured apart from the runs: {origin}." in text


def test_every_run_is_listed(sweep):
    text = runs_table([judge_part(part(sweep))]).to_markdown()
    assert len(text.strip().splitlines()) == 2 + 8
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


def test_a_template_uses_each_value():
    assert fill_template("$a costs $$1, ${b}c", {"a": "A", "b": "B"}) == "A costs $1, Bc"
    with pytest.raises(UserError, match=r"The template doesn't fit its claims: \$c is unknown, \$b is missing\."):
        fill_template("$a $c", {"a": "A", "b": "B"})
