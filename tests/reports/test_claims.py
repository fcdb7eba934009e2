"""Verdicts against differences and intervals worked out by hand."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lambdanets.reports.claims import CONTRADICTED, INCONCLUSIVE, SUPPORTED, Claim, claims_table, judge
from lambdanets.reports.runs import ExperimentRuns, RunRecord


def row(experiment, tops, parameters=None):
    """A row whose seeds have these scores in percent."""
    found = ExperimentRuns(experiment, ())
    for seed, top in enumerate(tops):
        config = OmegaConf.create({"experiment": experiment, "seed": seed})
        metrics = {"test/top1": top / 100, **({"parameters": parameters} if parameters else {})}
        found.by_seed[seed] = RunRecord(Path(f"{experiment}-{seed}"), config, metrics=metrics)
    return found


def verdict(a, b, criterion="superior", throughput=None, parameters=(None, None)):
    rows = {"a": row("a", a, parameters[0]), "b": row("b", b, parameters[1])}
    return judge(Claim("A is good", "a", "b", criterion), rows, score="test/top1", throughput=throughput or {})


def test_more():
    # Differences 2, 3, 4: mean 3, deviation 1, t(0.975, 2) = 4.3027: ± 2.484.
    found = verdict([72, 73, 74], [70, 70, 70])
    assert (found.verdict, found.ours, found.difference) == (SUPPORTED, "73.00 against 70.00", "+3.00 [+0.52, +5.48]")
    assert verdict([70, 70, 70], [72, 73, 74]).verdict == CONTRADICTED
    # Differences 1, 2, 3: 2 ± 2.484 has 0 within.
    assert verdict([71, 72, 73], [70, 70, 70]).verdict == INCONCLUSIVE


def test_little():
    # Differences −0.1, −0.2, −0.3: −0.2 ± 0.248 lies above −1; by a point lower, around it; by three, below it.
    assert verdict([69.9, 69.8, 69.7], [70, 70, 70], "non_inferior").verdict == SUPPORTED
    assert verdict([69.1, 69.0, 68.9], [70, 70, 70], "non_inferior").verdict == INCONCLUSIVE
    assert verdict([66.9, 66.8, 66.7], [70, 70, 70], "non_inferior").verdict == CONTRADICTED


@pytest.mark.parametrize(("a", "b"), [([72], [70]), ([72, 73], []), ([], [])])
def test_too_few_pairs_tell_nothing(a, b):
    assert verdict(a, b).verdict == INCONCLUSIVE


def test_only_seeds_that_both_have_are_compared():
    found = verdict([72, 73, 74, 0], [70, 70, 70])
    assert found.difference == "+3.00 [+0.52, +5.48]"


def test_smaller():
    found = verdict([70], [70], "fewer_parameters", parameters=(300_000, 400_000))
    assert (found.verdict, found.difference, found.ours) == (SUPPORTED, "× 0.75", "0.3 against 0.4 M")
    assert verdict([70], [70], "fewer_parameters", parameters=(400_000, 300_000)).verdict == CONTRADICTED


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [(300, 100, SUPPORTED), (105, 100, INCONCLUSIVE), (100, 105, INCONCLUSIVE), (90, 100, CONTRADICTED)],
)
def test_faster(a, b, said):
    assert verdict([70], [70], "faster", throughput={"a": a, "b": b}).verdict == said
    assert verdict([70], [70], "faster").verdict == INCONCLUSIVE


def test_published_numbers_stand_beside():
    claim = Claim("Lambda layers are better", "reproduction/lambda_u1", "reproduction/conv")
    found = judge(claim, {}, score="test/top1", throughput={})
    assert found.published == "78.4 against 76.9 (unconfirmed)"
    smaller = Claim("Lambda layers are smaller", "reproduction/lambda_u1", "reproduction/conv", "fewer_parameters")
    assert judge(smaller, {}, score="test/top1", throughput={}).published == "15.0 against 25.6"
    cells = claims_table("Claims", [found]).rows[0]
    assert cells["A"] == "Lambda layer, u = 1"
    assert cells["verdict"] == INCONCLUSIVE
