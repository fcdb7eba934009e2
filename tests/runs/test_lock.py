"""Two processes never train in one folder, and commands of the same second have folders of their own."""

import errno
import fcntl
import re
import subprocess
import sys
import time
from unittest import mock

import pytest
from filelock import FileLock

from lambdanets import locks
from lambdanets.errors import UserError
from lambdanets.runs import claim, lock
from lambdanets.runs.lock import LOCK, training_lock
from tests.in_process import SMALL, run, tree

TRAINING = (*SMALL, "data=digits", "recipe=digits", "trainer.max_epochs=1")
# A process that holds the lock of the folder it is started in, until it is killed.
HOLDER = "import sys, time; from pathlib import Path; from lambdanets.runs.lock import training_lock\n"
HOLDER += "with training_lock(Path()): print('held', flush=True); time.sleep(600)"


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch):
    monkeypatch.setattr(lock, "WAIT_S", 0.2)


def test_a_lock_excludes_other_processes_until_its_own_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER], cwd=tmp_path, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="is being trained by another process"), training_lock(tmp_path):
            pytest.fail("two processes hold the lock")
        holder.kill()
        holder.wait()
        with training_lock(tmp_path):
            assert (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_training_waits_for_the_processes_of_a_killed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "WAIT_S", 30.0)
    code = HOLDER.replace("600", "1")
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        start = time.monotonic()
        with training_lock(tmp_path):
            assert time.monotonic() - start < 30


def test_a_lock_is_released_when_its_training_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), training_lock(tmp_path):
        raise ZeroDivisionError
    with training_lock(tmp_path):
        pass


@pytest.mark.parametrize("error", [PermissionError("read-only"), NotImplementedError("no locks here")])
def test_a_training_needs_no_lock_where_there_are_none(tmp_path, error):
    with mock.patch.object(FileLock, "acquire", side_effect=error), training_lock(tmp_path):
        pass


@pytest.mark.skipif(not locks.HAS_FALLBACK, reason="this version of filelock has no fallback")
def test_a_file_system_without_locks_leaves_no_lock_behind(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with training_lock(tmp_path), training_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_progress_is_neither_resumed_nor_changed(tmp_path):
    run(*TRAINING, cwd=tmp_path)
    (folder,) = tmp_path.glob("outputs/*/*")
    before = tree(folder)
    with training_lock(folder):
        done = run(*TRAINING, "ckpt=last", "trainer.max_epochs=2", cwd=tmp_path, code=1)
        other = run("job=test", f"ckpt={folder}", "trainer=cpu", cwd=tmp_path)
    path = folder.relative_to(tmp_path)
    assert f"error: '{path}' is being trained by another process" in done.text
    assert f"base_run={path}" in done.text
    assert "test/top1" in other.text  # reading is free
    after = tree(folder)
    assert {file: after[file] for file in before} == before
    assert {file for file in after if not file.startswith("test")} == set(before)


def test_two_processes_share_a_sweep(tmp_path):
    sweep = ("--multirun", *TRAINING, "seed=0,1", "hydra.sweep.dir=sweep")
    run(*sweep, cwd=tmp_path)
    first = min(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    (first / "metrics.json").unlink()  # as if this run were in progress
    before = tree(first)
    with training_lock(first):
        done = run(*sweep, cwd=tmp_path)
        assert {file: content for file, content in tree(first).items() if file != LOCK} == before
    assert re.search("skipped: '.*' is being trained by another process", done.text)
    assert "finished earlier: " in done.text
    assert "1 of 2 runs in sweep are finished." in done.text


def run_beside_a_rival(*arguments, cwd):
    """Run a command while another one makes the folder that it has just chosen; return that folder."""
    remember, rivals = claim.remember_folder, []

    def make_first(folder):
        remember(folder)
        if not rivals:
            (cwd / folder).mkdir(parents=True)
            rivals.append(cwd / folder)

    with mock.patch.object(claim, "remember_folder", make_first):
        run(*arguments, cwd=cwd)
    (rival,) = rivals
    assert list(rival.iterdir()) == []
    return rival


def test_commands_of_the_same_second_have_folders_of_their_own(tmp_path):
    rival = run_beside_a_rival(*TRAINING, cwd=tmp_path)
    (own,) = set(tmp_path.glob("outputs/*/*")) - {rival}
    assert (own / "metrics.json").is_file()


def test_sweeps_of_the_same_second_have_folders_of_their_own(tmp_path):
    rival = run_beside_a_rival("--multirun", *TRAINING, "seed=0,1", cwd=tmp_path)
    (own,) = set(tmp_path.glob("multirun/*")) - {rival}
    assert len([*own.glob("*/metrics.json")]) == 2


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_lock_that_cannot_be_opened_stays(code, tmp_path):
    (tmp_path / LOCK).touch()  # of another user's training
    with mock.patch.object(FileLock, "acquire", side_effect=OSError(code, "refused")), training_lock(tmp_path):
        assert (tmp_path / LOCK).is_file()
