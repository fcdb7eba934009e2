"""Run folders with any file missing, empty, cut off or of other bytes: commands work, or give a sentence."""

import json
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdanets.errors import UserError
from lambdanets.reports.runs import read_runs
from lambdanets.runs import provenance, sweeps
from lambdanets.runs.checkpoints import read_checkpoint
from lambdanets.runs.find import Command, find_checkpoint, find_run
from lambdanets.runs.folders import best_checkpoint, load_config
from tests.in_process import SMALL, invoke, tree

FILES = (
    "composed.yaml", "config.yaml", "metrics.json", "metrics.csv", "provenance.json", "failed.json", "run.log",
    ".hydra/overrides.yaml", "checkpoints/last.ckpt", "checkpoints/previous.ckpt", "checkpoints/best.ckpt",
    "corrupt.txt", "checkpoints", ".hydra",
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**9) | st.floats() | st.text(max_size=5),
    lambda item: st.lists(item, max_size=3) | st.dictionaries(st.text(max_size=5), item, max_size=3),
    max_leaves=6,
)
CONTENTS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"{", b"[]", b"{}", b"null", b"a: [", b"\xff\xfe", b"PK\x03\x04", b"a,b\n1"]),
    JSON.map(lambda value: json.dumps(value).encode()),
)  # fmt: skip
DAMAGES = st.one_of(
    st.just(("remove", None)), st.just(("folder", None)), st.just(("link", None)),
    CONTENTS.map(lambda content: ("content", content)), st.floats(0, 1).map(lambda part: ("cut", part)),
    st.floats(0, 0.999).map(lambda part: ("flip", part)),
)  # fmt: skip
DAMAGED = st.dictionaries(st.sampled_from(FILES), DAMAGES, min_size=1, max_size=3)


def damage(run, damages):
    for name, (kind, value) in damages.items():
        path = run / name
        content = path.read_bytes() if path.is_file() else b""
        if path.is_dir():
            if kind != "remove":
                continue
            shutil.rmtree(path)
            continue
        path.unlink(missing_ok=True)
        if not path.parent.is_dir():
            continue
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to("nowhere")
        elif kind == "content":
            path.write_bytes(value)
        elif kind == "cut":
            path.write_bytes(content[: int(len(content) * value)])
        elif kind == "flip" and content:
            index = int(len(content) * value)
            path.write_bytes(content[:index] + bytes([content[index] ^ 0x40]) + content[index + 1 :])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A working folder with a sweep of two runs."""
    place = tmp_path_factory.mktemp("original")
    done = invoke("--multirun", *SMALL, "trainer.max_epochs=1", "seed=0,1", "hydra.sweep.dir=s", cwd=place)
    assert done.code == 0, done.text
    first, second = sorted(file.parent for file in place.glob("s/*/metrics.json"))
    first.rename(place / "s" / "first")
    second.rename(place / "s" / "second")
    return place


@pytest.fixture(scope="module")
def place(original, tmp_path_factory):
    return tmp_path_factory.mktemp("place")


def restore(original, place):
    for folder in place.iterdir():
        shutil.rmtree(folder)
    shutil.copytree(original / "s", place / "s", copy_function=os.link)
    for file in (place / "s" / "first").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            file.unlink()
            file.write_bytes(content)
    return place / "s" / "first"


def answered(function, *arguments, **options):
    """Call a function, which may refuse with a user's error."""
    try:
        return function(*arguments, **options)
    except UserError:
        return None


@given(DAMAGED)
def test_the_readers_of_a_damaged_run_work_or_say_what_is_wrong(original, place, damages):
    run = restore(original, place)
    damage(run, damages)
    before = tree(place)
    config = answered(load_config, run)
    sweeps.run_state(run)
    if config is not None:
        answered(sweeps.finished_results, run, config)
    provenance.started_by("job", run)
    provenance.read_overrides(run)
    for job in ("fit", "test"):
        find_run.cache_clear()
        command = Command(job=job, name="r", ckpt=str(run), base_run=None)
        selection = answered(find_run, command)
        checkpoint = answered(find_checkpoint, command, selection) if selection else None
        if checkpoint is not None:
            answered(read_checkpoint, checkpoint)
    best_checkpoint(run)
    runs = read_runs([place / "s"])
    assert "second" in {one.path.name for one in runs}
    assert all(one.experiment and one.seed is not None and one.problem != "" for one in runs)
    assert tree(place) == before


COMMANDS = st.sampled_from(
    [
        ("ckpt=s/first", "trainer.max_epochs=2"), ("ckpt=s/first",), ("job=test", "ckpt=s/first"),
        ("base_run=s/first", "hydra.run.dir=new"), ("job=report", "sweep_dir=s", "hydra.run.dir=report"),
        ("job=describe", "ckpt=s/first", "hydra.run.dir=described"), ("job=export", "ckpt=s/first"),
        ("ckpt=s/first/checkpoints/last.ckpt", "trainer.max_epochs=2", "hydra.run.dir=new"),
    ]
)  # fmt: skip


@given(DAMAGED, COMMANDS)
def test_a_command_on_a_damaged_run_works_or_gives_a_sentence(fuzzing, original, place, damages, command):
    run = restore(original, place)
    damage(run, damages)
    before = tree(place)
    done = invoke(*command, cwd=place)
    after = tree(place)
    assert {k: v for k, v in after.items() if "second" in k} == {k: v for k, v in before.items() if "second" in k}
    if done.code:
        assert "error: " in done.text
        lost = {k for k, v in before.items() if after.get(k, "gone") != v}
        begun = any("run.log" in k and after.get(k) != before.get(k) for k in after)
        assert not lost or begun, (lost, done.text)
