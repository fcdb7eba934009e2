"""Verdicts against differences and intervals worked out by hand."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lambdanets.errors import UserError
from lambdanets.reports import published
from lambdanets.reports.claims import (
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_MEASURED,
    NOT_RUN,
    SUPPORTED,
    Claim,
    claims_table,
    judge,
)
from lambdanets.reports.runs import ExperimentRuns, RunRecord


def make_row(experiment, percents, parameters=None):
    """Make runs whose seeds have these scores in percent."""
    row = ExperimentRuns(experiment, ())
    for seed, percent in enumerate(percents):
        config = OmegaConf.create({"experiment": experiment, "seed": seed})
        metrics = {"test/top1": percent / 100, **({"parameters": parameters} if parameters else {})}
        row.by_seed[seed] = RunRecord(Path(f"{experiment}-{seed}"), config, metrics=metrics)
    return row


def judge_scores(a, b, criterion="superior", throughput=None, parameters=(None, None)):
    rows = {"a": make_row("a", a, parameters[0]), "b": make_row("b", b, parameters[1])}
    return judge(Claim("A is good", "a", "b", criterion), rows, score="test/top1", throughput=throughput or {})


def test_superior():
    # Differences 2, 3, 4: mean 3, deviation 1, t(0.975, 2) = 4.3027: ± 2.484.
    judgment = judge_scores([72, 73, 74], [70, 70, 70])
    assert judgment.verdict == SUPPORTED
    assert (judgment.ours, judgment.difference) == ("73.00 against 70.00", "+3.00 [+0.52, +5.48]")
    assert judge_scores([70, 70, 70], [72, 73, 74]).verdict == CONTRADICTED
    # Differences 1, 2, 3: 2 ± 2.484 contains 0.
    assert judge_scores([71, 72, 73], [70, 70, 70]).verdict == INCONCLUSIVE


def test_non_inferior():
    # Differences −0.1, −0.2, −0.3: −0.2 ± 0.248 lies above −1; lower by a point, around it; by three, below it.
    assert judge_scores([69.9, 69.8, 69.7], [70, 70, 70], "non_inferior").verdict == SUPPORTED
    assert judge_scores([69.1, 69.0, 68.9], [70, 70, 70], "non_inferior").verdict == INCONCLUSIVE
    assert judge_scores([66.9, 66.8, 66.7], [70, 70, 70], "non_inferior").verdict == CONTRADICTED


def test_a_single_pair_is_inconclusive():
    judgment = judge_scores([72, 73], [70])
    assert (judgment.verdict, judgment.ours) == (INCONCLUSIVE, "72.00 against 70.00")


@pytest.mark.parametrize(("a", "b"), [([72, 73], []), ([], [])])
def test_without_a_pair_a_claim_is_not_run(a, b):
    assert judge_scores(a, b).verdict == NOT_RUN


def test_only_common_seeds_are_compared():
    judgment = judge_scores([72, 73, 74, 0], [70, 70, 70])
    assert (judgment.ours, judgment.difference) == ("73.00 against 70.00", "+3.00 [+0.52, +5.48]")


def test_the_table_counts_pairs_and_marks_claims():
    judgments = [judge_scores([72, 73, 74], [70, 70, 70]), judge_scores([72], [70], "fewer_parameters")]
    (scores, size) = claims_table("Claims", judgments, seeds=5, marked=[judgments[0].claim]).rows
    assert (scores["claim"], scores["pairs"]) == ("A is good †", "3 of 5")
    assert (size["claim"], size.get("pairs")) == ("A is good", None)
    assert claims_table("Claims", judgments, seeds=3).rows[0]["pairs"] == "3"
    assert "pairs" not in claims_table("Claims", judgments).columns


def test_fewer_parameters():
    judgment = judge_scores([70], [70], "fewer_parameters", parameters=(300_000, 400_000))
    assert (judgment.verdict, judgment.difference, judgment.ours) == (SUPPORTED, "× 0.75", "0.3 against 0.4 M")
    assert judge_scores([70], [70], "fewer_parameters", parameters=(400_000, 300_000)).verdict == CONTRADICTED
    assert judge_scores([70], [70], "fewer_parameters", parameters=(300_000, None)).verdict == NOT_RUN


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [(300, 100, SUPPORTED), (105, 100, INCONCLUSIVE), (100, 105, INCONCLUSIVE), (90, 100, CONTRADICTED)],
)
def test_faster(a, b, verdict):
    assert judge_scores([70], [70], "faster", throughput={"a": a, "b": b}).verdict == verdict
    assert judge_scores([70], [70], "faster", throughput={"a": a}).verdict == NOT_MEASURED


def test_an_unknown_criterion_is_an_error():
    with pytest.raises(UserError, match="The claim 'A is good' has criterion=more: choose one of superior, non_inf"):
        Claim("A is good", "a", "b", "more")


def test_a_recalled_number_marks_the_pair(monkeypatch):
    monkeypatch.setattr(published, "load_published", lambda: {"a": {"top1": [70.0, "S"]}, "b": {"top1": [69.5, "R"]}})
    judgment = judge(Claim("A is better", "a", "b"), {}, score="test/top1", throughput={})
    assert judgment.published == "70.0 against 69.5 (unconfirmed)"


def test_published_numbers_stand_beside_ours():
    claim = Claim("Lambda layers are better", "reproduction/lambda_u1", "reproduction/conv")
    judgment = judge(claim, {}, score="test/top1", throughput={})
    assert judgment.published == "78.4 against 76.9"
    assert judgment.published_difference == pytest.approx(1.5)
    smaller = Claim("Lambda layers are smaller", "reproduction/lambda_u1", "reproduction/conv", "fewer_parameters")
    assert judge(smaller, {}, score="test/top1", throughput={}).published == "15.0 against 25.6"
    hybrid = Claim("The hybrid is smaller", "reproduction/CCLL", "reproduction/conv", "fewer_parameters")
    assert judge(hybrid, {}, score="test/top1", throughput={}).published == "15.4 (counted: 15.56) against 25.6"
    cells = claims_table("Claims", [judgment]).rows[0]
    assert cells["A"] == "Lambda layer, u = 1"
    assert cells["verdict"] == "not run"
