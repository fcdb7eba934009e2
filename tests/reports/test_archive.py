"""Archives of made-up runs."""

import json
import math
import re
from threading import Thread

import pytest
from filelock import FileLock

from lambdanets.errors import UserError
from lambdanets.locks import exclusive_lock
from lambdanets.reports.archive import LOCK, archive_runs
from lambdanets.reports.comparison import compare
from lambdanets.reports.run_tables import provenance_line
from lambdanets.reports.runs import read_archive, read_runs
from tests.reports.run_folders import START, make_run, make_sweep


@pytest.fixture
def sweep(tmp_path):
    return make_sweep(tmp_path / "sweep")


def lines(archive):
    return (archive / "runs.jsonl").read_text().splitlines()


def compared(folder):
    comparison = compare(read_runs([folder]), score="test/top1", baseline=None, flops=lambda run: 2e9)
    return [table.to_markdown() for table in comparison.tables], comparison.numbers().to_csv(), comparison.missing


def test_a_report_on_an_archive_is_that_on_its_runs(sweep, tmp_path):
    make_run(sweep, "table3/se", 3, epochs=1, overrides=["recipe.optimizer.lr=0.1"])
    for root, top1 in (("/a", 0.5), ("/b", 0.6)):  # a sweep over a key of the machine
        folder = make_run(sweep / root[1:], "table3/conv", 0, top1, overrides=[f"data.root={root}"])
        start = START | {"swept": ["data.root"], "command": f"python run.py data.root={root}"}
        (folder / "provenance.json").write_text(json.dumps([start]))
    archive_runs(read_runs([sweep]), tmp_path / "archive")
    assert [file.name for file in (tmp_path / "archive").iterdir()] == ["runs.jsonl"]
    assert len(lines(tmp_path / "archive")) == 11, "also of runs whose folders have one name"
    assert compared(tmp_path / "archive") == compared(sweep)


def test_numbers_are_kept_to_the_last_bit(tmp_path):
    folder = make_run(tmp_path / "sweep", "table3/conv", 0, 1.0)
    metrics = {"test/top1": 0.1 + 0.2, "epochs": 3, "tiny": 5e-324, "val/loss": 2 / 3, "nothing": math.nan}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "metrics.csv").write_text(f"epoch,val/top1\n0,{1 / 3!r}\n")
    archive_runs(read_runs([tmp_path / "sweep"]), tmp_path / "archive")
    (run,) = read_runs([tmp_path / "archive"])
    assert math.isnan(run.metrics.pop("nothing"))
    metrics.pop("nothing")
    assert run.metrics == metrics
    assert isinstance(run.metrics["epochs"], int)
    assert run.curve("val/top1") == {1: 1 / 3}


def test_messages_of_failed_runs_may_hold_any_text(tmp_path):
    message = 'two\nlines, a separator \u2028, a quote " and n²'
    make_run(tmp_path / "sweep", "table3/conv", 0, failed=message)
    archive_runs(read_runs([tmp_path / "sweep"]), tmp_path / "archive")
    (run,) = read_runs([tmp_path / "archive"])
    assert run.problem == f"failed: {message}"


def test_checkpoints_steps_and_the_machines_names_are_left_out(sweep, tmp_path):
    for folder in sweep.iterdir():
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").write_bytes(b"weights")
    archive_runs(read_runs([sweep]), tmp_path / "archive")
    text = "\n".join(lines(tmp_path / "archive"))
    assert not re.findall("ckpt|/home/me|my-host|4711|train/loss", text)
    assert '"processor": "Abacus"' in text


def test_a_run_that_is_archived_again_replaces_its_line(sweep, tmp_path):
    archive = tmp_path / "archive"
    archive_runs(read_runs([sweep]), archive)
    before = lines(archive)
    archive_runs(read_runs([sweep]), archive)
    assert lines(archive) == before
    (sweep / "table3_lambda_u1-1-0" / "failed.json").unlink()
    metrics = (sweep / "table3_lambda_u1-0-0" / "metrics.json").read_text()
    (sweep / "table3_lambda_u1-1-0" / "metrics.json").write_text(metrics)
    archive_runs(read_runs([sweep]), archive)
    changed = [index for index, (old, new) in enumerate(zip(before, lines(archive), strict=True)) if old != new]
    assert [json.loads(before[index])["run"] for index in changed] == ["table3_lambda_u1-1-0"]


def test_runs_of_another_sweep_are_added(sweep, tmp_path):
    archive = tmp_path / "archive"
    archive_runs(read_runs([sweep]), archive)
    before = lines(archive)
    make_run(tmp_path / "other", "table3/conv", 5, 0.7)
    archive_runs(read_runs([tmp_path / "other"]), archive)
    assert lines(archive)[:-1] == before
    assert {run.seed for run in read_runs([archive])} == {0, 1, 2, 5}


def test_a_sweeps_own_folder_may_hold_its_archive(sweep):
    archive_runs(read_runs([sweep]), sweep)
    make_run(sweep, "table3/lambda_u1", 2, 0.9)
    assert len(read_runs([sweep])) == 9


def changed(**changes):
    return lambda line: json.dumps(json.loads(line) | changes).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:-9],
        lambda line: b'{"run": "a"}',
        lambda line: b"null",
        lambda line: b"123",
        lambda line: b"[]",
        lambda line: line.replace(b"Abacus", b"Ab\xffcus"),
        lambda line: b"[" * 100_000,
        changed(run=None),
        changed(config="x"),
        changed(config=None),
        changed(config={"name": "a", "seed": "one", "trainer": {"max_epochs": 2}}),
        changed(config={"name": "${a", "seed": 1, "trainer": {"max_epochs": 2}}),
        changed(overrides=None),
        changed(overrides=[1]),
        changed(metrics=None),
        changed(metrics={"test/top1": "0.7"}),
        changed(log=[None]),
        changed(log=[{"epoch": "one"}]),
        changed(starts=None),
        changed(starts=["a"]),
    ],
)
def test_a_damaged_line_is_an_error(sweep, damage):
    archive_runs(read_runs([sweep]), sweep)
    stored = (sweep / "runs.jsonl").read_bytes().splitlines()
    (sweep / "runs.jsonl").write_bytes(b"\n".join([stored[0], damage(stored[1]), *stored[2:]]))
    with pytest.raises(UserError, match=r"Line 2 of '.*runs.jsonl' is not an archived run \(.+\): restore the file"):
        read_runs([sweep])


def test_starts_may_lack_what_earlier_versions_did_not_record(sweep, tmp_path):
    start = {"processor": "Abacus", "packages": None, "swept": None, "git": None, "date": None}
    archive_runs(read_runs([sweep]), tmp_path / "archive")
    file = tmp_path / "archive" / "runs.jsonl"
    file.write_bytes(b"\n".join(changed(starts=[start])(line) for line in lines(tmp_path / "archive")))
    runs = read_runs([tmp_path / "archive"])
    assert {run.setting for run in runs} == {("trainer.max_epochs=2",)}
    line = "7 finished runs of 8, no date; 0.0 hours of training on Abacus; torch unknown."
    assert provenance_line(runs) == line


def test_two_commands_that_archive_at_the_same_time_keep_the_runs_of_both(sweep, tmp_path, monkeypatch):
    make_run(tmp_path / "other", "table3/conv", 5, 0.7)
    archive = tmp_path / "archive"
    archive_runs(read_runs([sweep]), archive)
    other = Thread(target=archive_runs, args=(read_runs([tmp_path / "other"]), archive))

    def read_slowly(file):
        monkeypatch.setattr("lambdanets.reports.archive.read_archive", read_archive)
        earlier = read_archive(file)
        other.start()
        other.join(timeout=0.5)  # the time to read and write, unless it has to wait
        return earlier

    monkeypatch.setattr("lambdanets.reports.archive.read_archive", read_slowly)
    make_run(sweep, "table3/conv", 4, 0.6)
    archive_runs(read_runs([sweep]), archive)
    other.join()
    assert {run.seed for run in read_runs([archive])} == {0, 1, 2, 4, 5}
    assert [file.name for file in archive.iterdir()] == ["runs.jsonl"]


def test_a_folder_without_locks_gets_its_archive_all_the_same(sweep, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no locks available")

    monkeypatch.setattr(FileLock, "acquire", fail)
    archive_runs(read_runs([sweep]), tmp_path / "archive")
    assert len(lines(tmp_path / "archive")) == 8


def test_an_archive_that_stays_locked_is_an_error(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("lambdanets.reports.archive.WAIT_S", 0.1)
    with (
        exclusive_lock(tmp_path / LOCK, timeout=1),
        pytest.raises(UserError, match=r"runs.jsonl' is being written by another command: wait"),
    ):
        archive_runs(read_runs([sweep]), tmp_path)
    archive_runs(read_runs([sweep]), tmp_path)


def test_archives_of_earlier_versions_are_read(sweep, monkeypatch):
    monkeypatch.setattr("lambdanets.config.upgrade.TARGETS", {"lambdanets.data.OldDigits": "lambdanets.data.Digits"})
    archive_runs(read_runs([sweep]), sweep / "archive")
    file = sweep / "archive" / "runs.jsonl"
    file.write_text(file.read_text().replace("lambdanets.data.Digits", "lambdanets.data.OldDigits"))
    assert {run.config.data._target_ for run in read_runs([sweep / "archive"])} == {"lambdanets.data.Digits"}
