"""Made-up run folders, read and grouped."""

import json
import os
import re

import pytest

from lambdanets.errors import UserError
from lambdanets.reports.archive import archive_runs
from lambdanets.reports.runs import describe_missing, group_runs, is_setting, read_runs
from tests.reports.run_folders import EXPERIMENTS, change_config, make_run, make_sweep


@pytest.fixture
def sweep(tmp_path):
    return make_sweep(tmp_path)


def test_a_folder_is_read_as_the_run_wrote_it(tmp_path):
    folder = make_run(tmp_path, "table3/se", 1, 0.73, overrides=["recipe.optimizer.lr=0.1", "data.root=/data"])
    (run,) = read_runs([tmp_path])
    assert (run.path, run.experiment, run.seed, run.problem) == (folder, "table3/se", 1, None)
    assert run.setting == ("recipe.optimizer.lr=0.1", "trainer.max_epochs=2")
    assert run.metrics["test/top1"] == 0.73
    assert run.curve("val/top1") == {1: 0.3, 2: 0.4}
    assert len(run.log) == 4
    assert run.log[0] == {"epoch": 0, "step": 4, "train/loss": 0.9}
    assert run.last_start == "2026-01-02T03:04:05"


def test_a_name_that_was_stored_as_a_number_is_text(tmp_path):
    folder = make_run(tmp_path, "table3/se", 1, 0.73)
    for old, new in (("experiment: table3/se", "experiment: null"), ("name: table3/se-digits", "name: 2026")):
        change_config(folder, old, new)
    runs = read_runs([tmp_path])
    assert [run.experiment for run in runs] == ["2026"]
    archive_runs(runs, tmp_path / "archive")
    assert [run.experiment for run in read_runs([tmp_path / "archive"])] == ["2026"]


def test_a_run_is_found_once_and_other_jobs_are_not_runs(sweep):
    for file in make_run(sweep, "table3/se", 7, 0.5).glob("*.yaml"):
        file.write_text(file.read_text().replace("jobs.fit.run", "jobs.test.run"))
    assert len(read_runs([sweep, sweep / "table3_conv-0-0", sweep])) == 8


def test_linked_runs_and_archives_are_read_once(sweep, tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    for run in (sweep / "table3_conv-0-0", make_run(tmp_path / "elsewhere", "table3/se", 5, 0.5)):
        (links / run.name).symlink_to(run)
        (links / f"{run.name}-again").symlink_to(run)
    (links / "around").symlink_to(tmp_path)
    archive_runs(read_runs([tmp_path / "elsewhere"]), tmp_path / "archive")
    (links / "archive").symlink_to(tmp_path / "archive")
    names = sorted((run.experiment, run.seed) for run in read_runs([links]))
    assert names == [("table3/conv", 0), ("table3/se", 5), ("table3/se", 5)], "of the folder and of the archive"
    assert len(read_runs([links, tmp_path])) == 8 + 1 + 1


def test_folders_without_runs_are_errors(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"There is no folder '{tmp_path / 'gone'}'")):
        read_runs([tmp_path / "gone"])
    with pytest.raises(UserError, match=re.escape(f"No run lies below '{tmp_path}'")):
        read_runs([tmp_path])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("recipe.epochs=3", True),
        ("+trainer.check_val_every_n_epoch=2", True),
        ("~callbacks.speed", True),
        ("seed=1", False),
        ("like=outputs/a/b", False),  # the former name of base_run
        ("data.root=/data", False),
        ("++trainer.devices=2", False),
        ("hydra.sweep.dir=out", False),
    ],
)
def test_settings_are_the_overrides_that_change_the_experiment(override, expected):
    assert is_setting(override) == expected


def test_missing_runs_are_described(sweep):
    make_run(sweep, "table3/se", 3, epochs=1)
    metrics = sweep / "table3_conv-2-0" / "metrics.json"
    metrics.write_text(json.dumps({"val/top1": 0.5}))
    assert describe_missing(group_runs(read_runs([sweep])), "test/top1") == [
        "table3/conv, seed 2: it has no test/top1",
        "table3/conv, seed 3: never started",
        "table3/se, seed 3: unfinished, after 1 of 2 epochs",
        "table3/lambda_u1, seed 1: failed: The <disk> is full.",
        "table3/lambda_u1, seed 2: never started",
        "table3/lambda_u1, seed 3: never started",
    ]


def test_runs_of_another_setting_are_rows_of_their_own(sweep):
    for seed in range(2):
        make_run(sweep, "table3/conv", seed, 0.5, overrides=["recipe.optimizer.lr=0.1"])
    rows = group_runs(read_runs([sweep]))
    assert [(row.experiment, len(row.by_seed)) for row in rows if "recipe.optimizer.lr=0.1" in row.setting] == [
        ("table3/conv", 2)
    ]
    assert len(rows) == 4


def test_rows_stand_in_the_order_of_the_longest_plan(sweep):
    for folder in sweep.glob("table3_conv*"):
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace(f"[{', '.join(EXPERIMENTS)}]", "[table3/conv]"))
    assert [row.experiment for row in group_runs(read_runs([sweep]))] == EXPERIMENTS


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0.5, "2026-01-01"), (0.6, "2026-01-02"), 0.6),
        ((0.5, "2026-01-02"), (0.6, "2026-01-01"), 0.5),
        ((0.5, "2026-01-01"), (None, "2026-01-02"), 0.5),
    ],
)
def test_of_a_repeated_seed_the_finished_run_that_was_started_last_counts(tmp_path, first, second, expected):
    for name, (top1, date) in {"a": first, "b": second}.items():
        folder = make_run(tmp_path / name, "table3/conv", 0, top1, started=date)
        os.utime(folder, (0, 0) if name == "b" else None)  # copies have other times
    (row,) = group_runs(read_runs([tmp_path]))
    assert row.scores("test/top1") == {0: expected}
