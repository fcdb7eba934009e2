"""CSV logger: rows survive new columns, resuming and a truncated line."""

import csv

import torch

from lambdanets.runs.csv_logger import ResumableCSVLogger


def read(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def log(logger, *steps, **metrics):
    for step in steps:
        logger.log_metrics(metrics or {"loss": torch.tensor(0.5)}, step=step)
    logger.save()


def test_a_new_metric_adds_a_column_and_keeps_the_rows(tmp_path):
    logger = ResumableCSVLogger(tmp_path, step=0)
    log(logger, 0, 1)
    log(logger, 1, accuracy=0.25)
    log(logger, 2)
    assert read(tmp_path) == [
        {"step": "0", "loss": "0.5"},
        {"step": "1", "loss": "0.5"},
        {"step": "1", "accuracy": "0.25"},
        {"step": "2", "loss": "0.5"},
    ]


def test_a_resumed_run_replaces_the_rows_after_its_checkpoint(tmp_path):
    log(ResumableCSVLogger(tmp_path, step=0), 0, 1, 2, 3)
    log(ResumableCSVLogger(tmp_path, step=2), 2, loss=0.125)
    assert read(tmp_path) == [
        {"step": "0", "loss": "0.5"},
        {"step": "1", "loss": "0.5"},
        {"step": "2", "loss": "0.125"},
    ]


def test_a_truncated_last_line_is_dropped(tmp_path):
    log(ResumableCSVLogger(tmp_path, step=0), 0, 1)
    file = tmp_path / "metrics.csv"
    file.write_bytes(file.read_bytes() + b"1")  # the process was killed while it wrote a row
    log(ResumableCSVLogger(tmp_path, step=2), 2)
    assert [row["step"] for row in read(tmp_path)] == ["0", "1", "2"]


def test_a_new_run_starts_a_new_file(tmp_path):
    log(ResumableCSVLogger(tmp_path, step=0), 0, 1)
    log(ResumableCSVLogger(tmp_path, step=0), 0)
    assert read(tmp_path) == [{"step": "0", "loss": "0.5"}]
