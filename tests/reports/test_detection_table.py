"""The detection table against numbers worked out by hand."""

from pathlib import Path

import pytest
from lambdanets.reports.detection_table import DetectionRow, detection_table, mean_test_scores
from omegaconf import OmegaConf

from lambdanets.reports.runs import ExperimentRuns, RunRecord


def test_scores_are_means_over_seeds_without_sizes_that_the_data_lack():
    metrics = [
        {"test/box_ap": 0.4, "test/box_ap_large": -1.0, "test/mask_ap": 0.2},
        {"test/box_ap": 0.5, "test/box_ap_large": -1.0, "val/mask_ap": 0.9},
    ]
    runs = {seed: RunRecord(Path(), OmegaConf.create(), metrics=values) for seed, values in enumerate(metrics)}
    scores = mean_test_scores(ExperimentRuns("coco/resnet101", (), runs))
    assert scores == pytest.approx({"box_ap": 45.0, "mask_ap": 20.0})


def test_ours_stand_above_the_published_numbers():
    ours = {"box_ap": 41.0, "box_ap50": 61.0, "box_ap_small": 21.0}
    rows = [DetectionRow("A", "coco/resnet101", ours), DetectionRow("B", "unpublished", {"mask_ap": 1.25})]
    table = detection_table([*rows, DetectionRow("C", "unpublished", {})])
    assert [(row["row"], row["of"]) for row in table.rows] == [
        ("A", "ours"),
        ("A", "published (unconfirmed)"),
        ("B", "ours"),
    ]
    assert [table.rows[0][column] for column in table.columns[2:]] == [
        "41.0", "61.0 / –", "21.0 / – / –", None, None, None
    ]  # fmt: skip
    assert table.rows[1]["box AP"] == "48.2"
    assert table.rows[2]["mask AP"] == "1.2"
