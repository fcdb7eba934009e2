"""Which run a command works on, and in which folder."""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lambdanets.errors import UserError
from lambdanets.runs import provenance, published
from lambdanets.runs.find import Command, find_checkpoint, find_run
from lambdanets.runs.folders import EXPORTED


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    find_run.cache_clear()


def make_run(folder, *checkpoints, age=0.0, name="r"):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "composed.yaml").write_text(OmegaConf.to_yaml({"name": name}))
    for checkpoint in checkpoints:
        (folder / "checkpoints" / f"{checkpoint}.ckpt").write_bytes(b"PK\x03\x04")
    os.utime(folder / "composed.yaml", (time.time() - age,) * 2)
    return folder


def command(job="fit", ckpt=None, base_run=None, **rest):
    return Command(job=job, name="r", ckpt=ckpt, base_run=base_run, **rest)


def test_a_new_run_gets_a_new_folder(tmp_path):
    first = find_run(command())
    assert first.folder.parts[:2] == ("outputs", "r")
    assert first.run is None
    first.folder.mkdir(parents=True)
    find_run.cache_clear()
    assert find_run(command()).folder != first.folder


def test_jobs_that_are_not_about_a_run_have_folders_of_their_own_name():
    assert find_run(command(job="report")).folder.parts[:2] == ("outputs", "report")


def test_a_command_is_answered_once():
    assert find_run(command()) is find_run(command())


def test_training_goes_on_in_the_runs_folder_and_other_jobs_write_below_it(tmp_path):
    run = make_run(tmp_path / "outputs" / "r" / "1", "best", "last")
    for job, folder, checkpoint in (
        ("fit", run, "last"),
        ("test", run / "test", "best"),
        ("export", run / "export", "best"),
    ):
        given = command(job=job, ckpt=str(run))
        selection = find_run(given)
        assert selection == (folder, run, None)
        assert find_checkpoint(given, selection) == run / "checkpoints" / f"{checkpoint}.ckpt"


def test_last_is_the_newest_run_that_has_a_checkpoint(tmp_path):
    outputs = tmp_path / "outputs" / "r"
    make_run(outputs / "old", "last", age=20)
    newest = make_run(outputs / "new", "last", age=10)
    make_run(outputs / "failed")
    assert find_run(command(ckpt="last")).run.resolve() == newest


def test_a_checkpoint_file_belongs_to_its_run_or_to_none(tmp_path):
    run = make_run(tmp_path / "run", "best")
    inside, outside = run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt"
    outside.write_bytes(b"PK\x03\x04")
    assert find_run(command(job="test", ckpt=str(inside))) == (run / "test", run, inside)
    selection = find_run(command(job="test", ckpt=str(outside)))
    assert selection.run is None
    assert selection.file == outside
    assert selection.folder.parts[:2] == ("outputs", "test")
    assert find_run(command(job="test", ckpt=str(outside), has_name=True)).folder.parts[:2] == ("outputs", "r")


def test_checkpoints_that_a_later_run_set_aside_belong_to_none(tmp_path):
    run = make_run(tmp_path / "run", "best")
    (run / "checkpoints").rename(run / "checkpoints-1")
    make_run(run, "best")
    assert find_run(command(ckpt=str(run / "checkpoints" / "best.ckpt"))).run == run
    selection = find_run(command(ckpt=str(run / "checkpoints-1" / "best.ckpt")))
    assert (selection.run, selection.folder.parts[:2]) == (None, ("outputs", "r"))


def test_published_weights_are_read_where_they_are_and_results_lie_elsewhere(tmp_path, monkeypatch):
    file = tmp_path / "package" / "weights" / "cifar10" / "lambda_u1" / EXPORTED
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    monkeypatch.setattr(published, "published_folder", lambda: tmp_path / "package" / "weights")
    for ckpt in ("cifar10/lambda_u1", str(file.parent), str(file)):
        for job in ("test", "predict", "export"):
            given = command(job=job, ckpt=ckpt)
            selection = find_run(given)
            assert (selection.run, selection.file) == (None, file)
            assert selection.folder.parts[:2] == ("outputs", job)
            assert find_checkpoint(given, selection) == file
    with pytest.raises(
        UserError, match=r"does not exist: .*\. Published weights of a similar name: cifar10/lambda_u1\."
    ):
        find_run(command(job="test", ckpt="cifar10/lamda_u1"))
    local = make_run(tmp_path / "cifar10" / "lambda_u1", "best")
    find_run.cache_clear()
    assert find_run(command(job="test", ckpt="cifar10/lambda_u1")).run.resolve() == local


def test_a_new_run_of_a_base_run_takes_its_name_unless_it_has_its_own(tmp_path):
    base = make_run(tmp_path / "base", name="theirs")
    assert find_run(command(base_run=str(base))).folder.parts[1] == "theirs"
    assert find_run(command(base_run=str(base), has_name=True)).folder.parts[1] == "r"


def test_a_run_of_a_sweep_continues_in_its_folder_and_a_given_folder_starts_anew(tmp_path):
    folder = make_run(tmp_path / "multirun" / "a", "last")
    assert find_run(command(folder=folder, sweeping=True)) == (folder, folder, None)
    assert find_run(command(folder=folder)) == (folder, None, None)
    assert find_run(command(folder=folder, ckpt="last")).run == folder


@pytest.fixture
def restart(monkeypatch):
    """Return a function that marks a folder as begun by this command, and this process as started again by SLURM."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(provenance, "given_arguments", ["run.py", "mixer=conv"])

    def begin(folder, job="slurm 17", arguments="run.py mixer=conv"):
        start = {"job": job, "command": f"{Path(sys.executable).name} {arguments}"}
        (folder / "provenance.json").write_text(json.dumps([start]))
        return folder

    return begin


@pytest.mark.parametrize("name", ["r", "table3/lambda_u4-imagenet"])
def test_a_restarted_training_continues_the_run_that_it_began(name, restart, tmp_path):
    outputs = Path("outputs") / name
    own = restart(make_run(outputs / "2", "best", "last"))
    restart(make_run(outputs / "3", "last"), arguments="run.py mixer=se")  # another command
    restart(make_run(outputs / "4", "last"), job="slurm 16")
    base = make_run(tmp_path / "base", "last", name=name)
    elsewhere = tmp_path / "elsewhere.ckpt"
    elsewhere.write_bytes(b"PK\x03\x04")
    for options in ({}, {"base_run": str(base)}, {"ckpt": str(elsewhere)}, {"ckpt": "/removed.ckpt"}):
        given = dataclasses.replace(command(**options), name=name)
        selection = find_run(given)
        assert selection == (own, own, None)
        assert find_checkpoint(given, selection) == own / "checkpoints" / "last.ckpt"


def test_a_restarted_training_in_a_given_folder_continues_it(restart, tmp_path):
    own, other = restart(make_run(tmp_path / "own", "last")), make_run(tmp_path / "other", "last")
    for options in ({}, {"base_run": str(other)}):
        assert find_run(command(folder=own, **options)).run == own
        assert find_run(command(folder=other, **options)).run is None


def test_a_restarted_training_that_continued_from_a_file_of_its_run_goes_on_from_its_last_checkpoint(restart, tmp_path):
    run = make_run(tmp_path / "run", "best", "last")
    given = command(ckpt=str(run / "checkpoints" / "best.ckpt"))
    assert find_checkpoint(given, find_run(given)) == run / "checkpoints" / "best.ckpt"  # it had not begun
    restart(run)
    find_run.cache_clear()
    assert find_checkpoint(given, find_run(given)) == run / "checkpoints" / "last.ckpt"


def test_a_sweeps_run_that_builds_on_another_continues_in_its_folder(tmp_path):
    base = make_run(tmp_path / "base", "best", "last")
    folder = make_run(tmp_path / "sweep" / "a", "last")
    new = tmp_path / "sweep" / "b"
    for options in ({"base_run": str(base)}, {"ckpt": str(base)}):
        assert find_run(command(folder=folder, sweeping=True, **options)) == (folder, folder, None)
        assert find_run(command(folder=new, sweeping=True, **options)).run in (None, base)


def test_an_exported_folder_is_a_run_with_one_checkpoint(tmp_path):
    run = make_run(tmp_path / "exported")
    (run / EXPORTED).write_bytes(b"weights")
    given = command(job="predict", ckpt=str(run))
    assert find_checkpoint(given, find_run(given)) == run / EXPORTED


@pytest.mark.parametrize(
    ("ckpt", "message"),
    [
        ("last", "ckpt=last: there is no run named 'r' below 'outputs'"),
        ("nowhere", "ckpt=nowhere does not exist"),
        (".", "holds no run (composed.yaml is missing)"),
    ],
)
def test_a_run_that_is_not_there(ckpt, message):
    with pytest.raises(UserError) as error:
        find_run(command(ckpt=ckpt))
    assert message in str(error.value)


def test_only_training_may_start_without_a_checkpoint(tmp_path):
    run = make_run(tmp_path / "run")
    given = command(ckpt=str(run))
    assert find_checkpoint(given, find_run(given)) is None
    given = command(job="test", ckpt=str(run))
    with pytest.raises(UserError, match="has no checkpoint yet"):
        find_checkpoint(given, find_run(given))
