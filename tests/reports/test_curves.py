"""Curves of made-up runs against numbers worked out by hand."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lambdanets.reports.curves import final_gain, images_by_epoch, training_seconds, validation_scores
from lambdanets.reports.runs import ExperimentRuns, RunRecord


def make_run(percents=(), *, finished=True, seconds=None, starts=1, speed=None, **options):
    """Make a run of 10 steps per epoch and 8 images per step."""
    config = {
        "data": {"batch_size": 8},
        "trainer": {"devices": 1, "num_nodes": 1, "accumulate_grad_batches": 1, **options},
    }
    log = [
        {"epoch": float(epoch), "step": 10.0 * epoch + 9, "val/top1": percent / 100}
        | ({"speed/images_per_s": speed} if speed else {})
        for epoch, percent in enumerate(percents)
    ]
    metrics = {"test/top1": 0.5, **({} if seconds is None else {"seconds": seconds})} if finished else {}
    return RunRecord(Path("run"), OmegaConf.create(config), metrics=metrics, log=log, starts=[{}] * starts)


def make_row(*runs):
    return ExperimentRuns("a", (), dict(enumerate(runs)))


def test_the_final_gain_is_that_of_the_last_three_epochs_of_finished_runs():
    first, second = make_run([10, 50, 51, 52, 53.5]), make_run([10, 50, 50, 50, 50.3])
    # (53.5 − 50) / 3 = 1.1667 and 0.1; mean 0.6333.
    assert final_gain(make_row(first, second, make_run([0, 50, 60, 70, 90], finished=False)), "top1") == pytest.approx(
        0.6333, abs=1e-4
    )
    assert final_gain(make_row(make_run([10, 50, 60])), "top1") is None


def test_scores_of_all_seeds_by_epoch():
    runs = [make_run([10, 20]), make_run([30])]
    assert validation_scores(runs, "top1") == {1: pytest.approx([10, 30]), 2: pytest.approx([20])}


def test_images_are_steps_times_batches():
    assert images_by_epoch(make_run([10, 20])) == {1: 80, 2: 160}
    assert images_by_epoch(make_run([10], devices=2, num_nodes=3, accumulate_grad_batches=2)) == {1: 960}
    assert images_by_epoch(make_run([10], devices="auto")) == {}


def test_seconds_of_a_run_with_several_starts_are_those_of_its_epochs():
    # Two epochs of 80 images at 4 images/s.
    assert training_seconds(make_run([1, 2], seconds=7, speed=4.0)) == 7
    assert training_seconds(make_run([1, 2], seconds=7, speed=4.0, starts=2)) == 40
    assert training_seconds(make_run([1, 2], seconds=50, speed=4.0, starts=2)) == 50
    assert training_seconds(make_run([1, 2], finished=False, speed=4.0)) == 40
    assert training_seconds(make_run(finished=False)) is None
