"""Sweeps: what is done is skipped, what was interrupted goes on, what fails is told and doesn't stop the rest."""

import json
import math
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lambdanets import cli
from lambdanets.cli import sweeper_result
from lambdanets.config.keys import UNNAMED_KEYS, override_key
from lambdanets.errors import UserError
from lambdanets.runs import folders as runs
from lambdanets.runs import sweeps
from lambdanets.runs.provenance import read_overrides
from tests.command import ROOT, command, environment
from tests.command import run as run_process
from tests.configs import FOLDER
from tests.in_process import SMALL, invoke, refusal_of, run, tree

QUICK = ("data=digits", "recipe=digits", "model=tiny", "callbacks=scalars", "trainer.enable_progress_bar=false")


def starts(folder):
    """How often each run of a sweep was started."""
    return {file.parent.name: len(json.loads(file.read_text())) for file in sorted(folder.glob("*/provenance.json"))}


def test_a_killed_sweep_goes_on_and_every_run_is_done_once(tmp_path):
    arguments = ("--multirun", "sweep=ablation/content_position", "trainer.max_epochs=2", *QUICK)
    folder = tmp_path / "multirun" / "ablation" / "content_position"
    with subprocess.Popen(command(*arguments), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (
            len(list(folder.glob("*/checkpoints/last.ckpt"))) == 2 and len(list(folder.glob("*/metrics.json"))) == 1
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    done = run(*arguments, cwd=tmp_path)
    assert done.text.count("finished earlier: ") == 1
    assert done.text.count("resuming from ") == 1
    assert "3 of 3 runs in multirun/ablation/content_position are finished." in done.text
    again = starts(folder)
    assert sorted(again.values()) == [1, 1, 2]  # finished before the kill, never started before it, interrupted by it
    assert next(iter(again)).startswith("ablation_content_position_both")
    metrics = [json.loads(file.read_text()) for file in folder.glob("*/metrics.json")]
    assert [actual["epochs"] for actual in metrics] == [2, 2, 2]

    # A third start finds nothing to do, and leaves everything as it is.
    times = {file: file.stat().st_mtime_ns for file in folder.glob("*/metrics.json")}
    done = run(*arguments, cwd=tmp_path)
    assert done.text.count("finished earlier: ") == 3
    assert {file: file.stat().st_mtime_ns for file in folder.glob("*/metrics.json")} == times


def test_a_failed_run_is_listed_with_its_sentence_and_the_others_are_done(tmp_path):
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=2")
    arguments = ("--multirun", "mixer=lambda", "mixer.heads=3,4", *short, "hydra.sweep.dir=grid", *QUICK)
    done = run(*arguments, cwd=tmp_path, code=1)
    assert "1 of 2 runs in grid are finished." in done.text
    (line,) = [line for line in done.text.splitlines() if line.startswith("failed: ")]
    assert "mixer.heads-3" in line
    assert line.endswith(
        "heads=3 does not divide the 16 channels of a layer; choose one that divides every stage's width "
        "(here 1, 2, 4, 8, 16) or change model.width."
    )
    assert "Traceback" not in done.text
    starts = {file.parent.name: json.loads(file.read_text()) for file in tmp_path.glob("grid/*/provenance.json")}
    assert {("heads-3" in name, start.get("failed")) for name, (start,) in starts.items()} == {
        (True, True),
        (False, None),
    }

    report = run("job=report", "sweep_dir=grid", "hydra.run.dir=report", cwd=tmp_path)
    assert "Missing: lambda-digits, seed 0: failed: heads=3 does not divide" in " ".join(report.text.split())


def test_a_glob_is_a_grid_whose_failures_count(tmp_path):
    mixers = [file.stem for file in (ROOT / "configs" / "mixer").glob("s*.yaml")]
    arguments = ("--multirun", "mixer=glob(s*)", "trainer.devices=1,2", "allow_targets=5", "hydra.sweep.dir=grid")
    done = run(*arguments, *QUICK, cwd=tmp_path, code=1)
    failed = {line.split(": ")[1] for line in done.text.splitlines() if line.startswith("failed: ")}
    assert len(failed) == 2 * len(mixers)
    assert all(any(f"mixer-{mixer}" in name for name in failed) for mixer in mixers)
    assert "Warning" not in done.text


def test_the_same_values_twice_are_trained_once(tmp_path):
    done = run("--multirun", "seed=0,0", *SMALL, "data=digits", "recipe=digits", "trainer.max_epochs=1", cwd=tmp_path)
    assert done.text.count("finished earlier: ") == 1
    ((_, count),) = starts(next(tmp_path.glob("multirun/*"))).items()
    assert count == 1


@pytest.mark.parametrize(("options", "code"), [((), 0), (("allow_targets=5",), 1)])
def test_tasks_beside_the_first_one_do_not_wait_for_a_run_that_is_not_trained(options, code, tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(cli, "is_one_of_several_tasks", lambda: True)
    monkeypatch.setattr(cli, "broadcast_job", sent.append)
    sweep = ("--multirun", *SMALL, "data=digits", "recipe=digits", "trainer.max_epochs=1", "hydra.sweep.dir=s")
    if not options:
        run(*sweep, cwd=tmp_path)
        sent.clear()
    done = run(*sweep, *options, cwd=tmp_path, code=code)
    assert ("finished earlier: " in done.text) == (not options)
    assert sent == [""]


def test_a_sweep_that_builds_on_a_run_goes_on_where_it_ended(tmp_path):
    short = (*SMALL, "data=digits", "recipe=digits", "trainer.max_epochs=1")
    run(*short, "hydra.run.dir=base", cwd=tmp_path)
    run(*short, "recipe.warmup_epochs=0", "hydra.run.dir=other", cwd=tmp_path)
    for place, start, values in (
        ("new", "base_run", "seed=1,2"),
        ("further", "ckpt", "trainer.max_epochs=2,3"),
    ):
        options = ("--multirun", values, "~checkpoint.every_minutes", f"hydra.sweep.dir={place}")
        sweep = (*options, f"{start}=base")
        run(*sweep, cwd=tmp_path)
        before = tree(tmp_path / place)
        overrides = read_overrides(next((tmp_path / place).glob("*/metrics.json")).parent)
        assert "recipe=digits" in overrides  # of the run that it builds on
        done = run(*sweep, cwd=tmp_path)
        assert done.text.count("finished earlier: ") == 2
        assert tree(tmp_path / place) == before

        (first, _) = sorted((tmp_path / place).glob("*/metrics.json"))
        first.unlink()  # as if the run had been interrupted
        done = run(*sweep, cwd=tmp_path)
        assert done.text.count("resuming from ") == done.text.count("finished earlier: ") == 1
        assert all("recipe=digits" in read_overrides(file.parent) for file in (tmp_path / place).glob("*/metrics.json"))
        refused = run(*options, f"{start}=other", cwd=tmp_path, code=1)
        assert "holds a run of another config (recipe.warmup_epochs differ)" in refused.text


def test_the_hyperparameter_ablation_is_one_line(tmp_path):
    grid = ("mixer.key_depth=4,8", "mixer.heads=2,4", "mixer.intra_depth=2")
    run(
        "--multirun", "mixer=lambda", *grid, "trainer.max_epochs=1", "trainer.limit_train_batches=1", *QUICK,
        "trainer.limit_val_batches=1", cwd=tmp_path,
    )  # fmt: skip
    configs = [OmegaConf.load(file).mixer for file in tmp_path.glob("multirun/*/*/config.yaml")]
    actual = {(mixer.key_depth, mixer.heads, mixer.intra_depth) for mixer in configs}
    assert actual == {(k, h, 2) for k in (4, 8) for h in (2, 4)}


def test_a_sweep_without_multirun_is_answered(tmp_path):
    error = refusal_of("sweep=table3", "data=digits", cwd=tmp_path)
    assert "error: sweep=table3 is a grid of runs: start it with --multirun" in error


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_launchers(launcher, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    limits = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
    arguments = ("--multirun", f"hydra/launcher={launcher}", "mixer=conv", "seed=0,1", *limits, *QUICK)
    done = run_process(*arguments, cwd=tmp_path)
    assert len(list(tmp_path.glob("multirun/*/*/metrics.json"))) == 2
    assert "2 of 2 runs in multirun/" in done.stdout


def test_optuna_is_told_the_objective(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    limits = ("trainer.max_epochs=1", "trainer.limit_train_batches=4", "hydra.sweeper.n_trials=2")
    run("--multirun", "sweep=tune", *limits, *QUICK, cwd=tmp_path)
    best = OmegaConf.load(tmp_path / "multirun" / "tune" / "optimization_results.yaml")
    scores = [json.loads(f.read_text())["val/top1"] for f in tmp_path.glob("multirun/tune/*/metrics.json")]
    assert len(scores) == 2
    assert best.best_value == max(scores)


def test_a_failed_trial_does_not_end_a_search(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    limits = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "hydra.sweeper.n_trials=4")
    arguments = ("--multirun", "sweep=tune", "mixer=lambda", *limits, *QUICK)
    done = run(*arguments, "mixer.heads=choice(3,4)", cwd=tmp_path, code=1)
    states = {path.parent.name: path.name for path in tmp_path.glob("multirun/tune/*/*s.json")}
    states |= {path.parent.name: path.name for path in tmp_path.glob("multirun/tune/*/failed.json")}
    assert sorted(states.values()).count("failed.json") == sum("heads-3" in name for name in states) > 0
    assert sorted(states.values()).count("metrics.json") == sum("heads-4" in name for name in states) > 0
    assert len(states) == 4
    best = OmegaConf.load(tmp_path / "multirun" / "tune" / "optimization_results.yaml")
    assert best.best_params["mixer.heads"] == 4
    assert "Traceback" not in done.text


def test_a_search_whose_trials_all_fail_says_so(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    arguments = ("--multirun", "sweep=tune", "mixer=lambda", "hydra.sweeper.n_trials=2", *QUICK)
    done = run(*arguments, "mixer.heads=choice(3,5)", cwd=tmp_path, code=2)
    assert "error: No trial of the sweep ended with a score" in done.text
    assert "Traceback" not in done.text


@pytest.mark.parametrize(
    ("results", "expected"),
    [({"val/top1": 0.5}, 0.5), ({"val/top1": math.nan}, None), ({"test/top1": 0.5}, None), ({}, None)],
    ids=str,
)
def test_a_run_without_the_objective_is_a_failed_trial(results, expected, caplog):
    assert sweeper_result(results, OmegaConf.create({"sweep": {"objective": "val/top1"}})) == expected
    missing = "sweep.objective=val/top1 is not a score of the run: choose one of test/top1." in caplog.text
    assert missing == ("test/top1" in results)


# Names that background jobs and archived results depend on.
ORDINARY = {
    "experiment=cifar10/local_attention;recipe.epochs=3;recipe.optimizer.lr=0.1;recipe.optimizer.weight_decay=0.0005;"
    "seed=1000": "cifar10_local_attention_recipe.epochs-3_recipe.optimizer.lr-0.1_recipe.optimizer.weight_decay-0.0005"
    "_seed-1000",
    "experiment=ablation/content_position/both;seed=0": "ablation_content_position_both_seed-0",
    "mixer=local_attention;data.val_size=-1;seed=0": "data.val_size--1_mixer-local_attention_seed-0",
    "mixer.heads=8;recipe/optimizer=sgd": "mixer.heads-8_recipe_optimizer-sgd",
    "recipe.optimizer.lr=1e-3": "recipe.optimizer.lr-1e-3",
}


@pytest.mark.parametrize("overrides", ORDINARY)
def test_ordinary_runs_keep_their_folders_names(overrides):
    assert runs.sweep_folder(overrides.split(";")) == ORDINARY[overrides]
    assert runs.former_sweep_folder(overrides.split(";")) == ORDINARY[overrides]


def test_the_runs_of_the_archives_keep_their_folders_names():
    count = 0
    for file in (ROOT / "results" / "reproduction").rglob("runs.jsonl"):
        for line in file.read_text().splitlines():
            stored = json.loads(line)
            given = [o for o in stored["overrides"] if override_key(o) not in UNNAMED_KEYS]
            if Path(stored["run"]).name.startswith("lr_"):  # named by hand
                continue
            assert runs.sweep_folder(given) == Path(stored["run"]).name
            count += 1
    assert count > 50


def test_nested_groups_are_those_of_the_configs():
    nested = {file.parent.relative_to(FOLDER).as_posix() for group in ("recipe", "model", "data", "trainer")
              for file in (FOLDER / group).glob("*/*.yaml")}  # fmt: skip
    assert set(runs.NESTED_GROUPS.values()) == nested


KEYS = st.sampled_from(["a", "b.c", "b.c_d", "recipe/optimizer", "experiment", "seed", "mixer", "data.root"])
VALUES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    st.text("ab_-.=[],;1/ ", max_size=12),
    st.lists(st.text("CL", max_size=2)).map(str),
)
OVERRIDES = st.dictionaries(KEYS, VALUES, max_size=4).map(lambda d: [f"{key}={value}" for key, value in d.items()])


def same_but_for_slashes(first, second):
    """Whether two lists of overrides differ at most in the `/` and `_` of experiments."""
    texts = [
        sorted(o.replace("/", "_") if o.startswith("experiment=") else o for o in overrides)
        for overrides in (first, second)
    ]
    return texts[0] == texts[1]


@given(OVERRIDES, OVERRIDES)
def test_different_overrides_have_folders_of_different_names(first, second):
    names = [runs.sweep_folder(overrides) for overrides in (first, second)]
    assert (names[0] == names[1]) == same_but_for_slashes(first, second)


@given(OVERRIDES)
def test_names_of_folders_are_safe_on_every_file_system(overrides):
    name = runs.sweep_folder(overrides)
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,200}", name)
    assert name[0] not in ".-" or not name.strip(".-")
    assert name[-1] != "."


def test_layouts_that_differ_in_brackets_have_folders_of_their_own():
    first, second = (runs.sweep_folder([f"model.layout={layout}"]) for layout in ("[C,C,[C],L]", "[C,C,C,L]"))
    assert first != second
    assert first.startswith("model.layout-_C_C_C_L")


def folders_of(place, name):
    return sorted(path.parent.name for path in (place / name).glob("*/metrics.json"))


def test_a_sweep_over_a_machines_key_runs_each_value(tmp_path):
    arguments = ("--multirun", *SMALL, "trainer.max_epochs=1", "data.num_workers=0,1", "hydra.sweep.dir=s")
    arguments = tuple(a.replace("data.num_workers", "+data.num_workers") for a in arguments)
    done = invoke(*arguments, cwd=tmp_path)
    assert "2 of 2 runs in s are finished" in done.text
    names = folders_of(tmp_path, "s")
    assert len(names) == 2
    before = tree(tmp_path / "s")
    done = invoke(*arguments, cwd=tmp_path)
    assert done.text.count("finished earlier: ") == 2
    assert {k: v for k, v in tree(tmp_path / "s").items() if k != "multirun.yaml"} == {
        k: v for k, v in before.items() if k != "multirun.yaml"
    }
    report = invoke("job=report", "sweep_dir=s", "hydra.run.dir=report", cwd=tmp_path)
    assert report.code == 0
    rows = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    assert len(rows) == 2


def test_a_folder_that_an_earlier_version_named_is_found(tmp_path):
    arguments = ("--multirun", *SMALL, "model.strides=[1,2]", "trainer.max_epochs=1")
    invoke(*arguments, "hydra.sweep.dir=s", cwd=tmp_path)
    (name,) = folders_of(tmp_path, "s")
    overrides = [*SMALL, "model.strides=[1,2]", "trainer.max_epochs=1"]
    overrides = [o for o in overrides if not o.startswith("trainer.enable")]
    former = runs.former_sweep_folder(overrides)
    assert former != name
    (tmp_path / "s" / name).rename(tmp_path / "s" / former)
    done = invoke(*arguments, "hydra.sweep.dir=s", cwd=tmp_path)
    assert f"finished earlier: s/{former}" in done.text
    assert folders_of(tmp_path, "s") == [former]


def test_experiments_that_differ_in_slashes_get_folders_of_their_own(tmp_path):
    rows = "    a_b: {mixer: conv}\n    a/b: {mixer: conv, model.width: 0.25}\n"
    (tmp_path / "configs" / "sweep").mkdir(parents=True)
    (tmp_path / "configs" / "sweep" / "own.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /sweep/grid\n  - override /experiment: a_b\nsweep:\n  rows:\n" + rows
    )
    small = [argument for argument in SMALL if not argument.startswith(("mixer", "model.width"))]
    arguments = ("--multirun", "sweep=own", *small, "trainer.max_epochs=1", "hydra.sweep.dir=s")
    for finished in (0, 2):
        done = invoke(*arguments, cwd=tmp_path)
        assert done.code == 0, done.text
        assert done.text.count("finished earlier") == finished
        assert len(folders_of(tmp_path, "s")) == 2


def test_a_folder_with_another_config_is_not_taken_for_this_run(tmp_path):
    known = {"seed": 0, "recipe": {"epochs": 3}, "data": {"root": "/a"}, "ckpt": None, "sweep": {"experiments": ["a"]}}
    config = OmegaConf.create(known)
    assert sweeps.finished_results(tmp_path, config) is None
    (tmp_path / runs.UNRESOLVED_CONFIG).write_text(OmegaConf.to_yaml(config))
    assert sweeps.finished_results(tmp_path, config) is None
    runs.write_metrics(tmp_path, {"test/top1": 0.5})
    moved = OmegaConf.merge(config, {"data": {"root": "/b"}, "sweep": {"experiments": ["a", "b"]}})
    assert sweeps.finished_results(tmp_path, moved) == {"test/top1": 0.5}
    with pytest.raises(UserError, match=r"holds a run of another config \(recipe.epochs differ\)"):
        sweeps.finished_results(tmp_path, OmegaConf.merge(config, {"recipe": {"epochs": 4}}))
