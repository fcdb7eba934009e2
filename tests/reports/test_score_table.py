"""A task's own table of scores against numbers worked out by hand."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lambdanets.reports import published
from lambdanets.reports.runs import ExperimentRuns, RunRecord
from lambdanets.reports.score_table import mean_test_scores, score_names, score_table
from lambdanets.tasks import Classification, ScoreTable

LAYOUT = ScoreTable(
    "Average precision",
    {"box AP": ("box_ap",), "50 / 75": ("box_ap50", "box_ap75"), "mask AP": ("mask_ap",)},
    ("COCO's.",),
)


def test_scores_are_means_over_seeds_without_sizes_that_the_data_lack():
    config = OmegaConf.create({"task": {"_target_": "lambdanets.tasks.Detection"}})
    metrics = [
        {"test/box_ap": 0.4, "test/box_ap_large": -1.0, "test/mask_ap": 0.2},
        {"test/box_ap": 0.5, "test/box_ap_large": -1.0, "val/mask_ap": 0.9},
    ]
    runs = {seed: RunRecord(Path(), config, metrics=values) for seed, values in enumerate(metrics)}
    scores = mean_test_scores(ExperimentRuns("coco/resnet101", (), runs))
    assert scores == pytest.approx({"box_ap": 45.0, "mask_ap": 20.0})


def test_ours_stand_above_the_published_scores():
    rows = [
        ("A", "coco/resnet101", {"box_ap": 41.0, "box_ap50": 61.0}),
        ("B", "unpublished", {"mask_ap": 1.25}),
        ("C", "unpublished", {}),
    ]
    table = score_table(LAYOUT, rows, "COCO")
    assert table.columns == ["row", "of", "box AP", "50 / 75", "mask AP"]
    assert [table.cells(row) for row in table.rows] == [
        ["A", "ours", "41.0", "61.0 / –", "–"],
        ["A", "published", "48.2", "–", "42.6"],
        ["B", "ours", "–", "–", "1.2"],
    ]
    assert table.notes[0] == "COCO's."
    assert table.notes[1] == "Ours: mean over seeds. Published: on COCO, by the paper."


def test_recalled_scores_are_marked_and_the_mark_is_explained(monkeypatch):
    monkeypatch.setattr(
        published, "load_published", lambda: {"a": {"box_ap": [48.2, "R"]}, "b": {"box_ap": [1.5, "S"]}}
    )
    table = score_table(LAYOUT, [("A", "a", {}), ("B", "b", {})], "COCO")
    assert [table.cells(row)[:3] for row in table.rows] == [
        ["A", "published (unconfirmed)", "48.2"],
        ["B", "published", "1.5"],
    ]
    assert table.notes[1].endswith("by the paper; unconfirmed: as recalled, not read again.")


def test_names_are_in_the_columns_order():
    assert score_names(LAYOUT) == ["box_ap", "box_ap50", "box_ap75", "mask_ap"]
    assert score_names(None) == []


def test_a_run_without_a_task_in_its_config_is_a_classification():
    run = RunRecord(Path(), OmegaConf.create(), metrics={"test/top1": 0.5, "test/box_ap": 0.5})
    assert run.task is Classification
    assert mean_test_scores(ExperimentRuns("table3/conv", (), {0: run})) == {}
