"""Rows of made-up runs whose configs differ although their commands don't."""

import pytest

from lambdanets.errors import UserError
from lambdanets.reports.claims import Claim
from lambdanets.reports.claims_page import Part, judge_part, render_part
from lambdanets.reports.comparison import compare
from lambdanets.reports.differing_configs import differing_keys
from lambdanets.reports.runs import group_runs, read_runs
from tests.command import ROOT
from tests.reports.run_folders import change_config, make_run, make_sweep


@pytest.fixture
def sweep(tmp_path):
    return make_sweep(tmp_path)


def report_notes(folder):
    comparison = compare(read_runs([folder]), score="test/top1", baseline=None, flops=lambda run: None)
    return [note for note in comparison.table().notes if "Different trainings" in note]


def page(folder, claims=()):
    return render_part(judge_part(Part("A table", folder, "test/top1", claims=claims)), [])


CLAIM = Claim("SE is better", "table3/se", "table3/conv")


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        ("image_size: 32", "image_size: 28", "recipe.image_size (32, 28)"),
        ("depth: [1]", "depth: [2]", "model.depth ([1], [2])"),
        ("mixers.Conv", "mixers.Attention", "mixer._target_ (lambdanets.mixers.Conv, lambdanets.mixers.Attention)"),
        ("max_epochs: 2", "max_epochs: 4", "trainer.max_epochs (2, 4)"),
    ],
)
def test_a_changed_network_or_recipe_is_named_in_reports_and_refused_for_claims(sweep, old, new, keys):
    change_config(sweep / "table3_se-2-0", old, new)
    sentence = (
        "Different trainings in one row: the runs of Conv + SE (Hu et al. 2018) differ not only in their seeds but in "
        f"{keys}."
    )
    assert report_notes(sweep) == [sentence]
    assert sentence in page(sweep)
    with pytest.raises(
        UserError, match=r"The runs of 'table3/se' in '.*' differ not only in their seeds but in"
    ) as error:
        page(sweep, [CLAIM])
    assert keys in str(error.value)
    page(sweep, [Claim("Lambda layers are better", "table3/lambda_u1", "table3/conv")])


def test_an_option_that_an_earlier_version_did_not_have_is_noted_only(sweep):
    change_config(sweep / "table3_conv-0-0", "image_size: 32", "image_size: 32, warmth: 1")
    (note,) = report_notes(sweep)
    assert note.endswith("Conv (He et al. 2016) differ not only in their seeds but in recipe.warmth (1, absent).")
    assert note in page(sweep, [CLAIM])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("_target_: lambdanets.data.Digits", "_target_: lambdanets.data.Digits, seed: 1, root: /data, prefetch: 9"),
        ("sweep: {title: A table", "sweep: {title: Another table"),
        ("trainer: {", "callbacks: {speed: {a: 1}}\ncheckpoint: {every_minutes: 3}\ntrainer: {accelerator: cpu, "),
    ],
)
def test_seeds_machines_and_records_may_differ(sweep, old, new):
    change_config(sweep / "table3_conv-1-0", old, new)
    assert report_notes(sweep) == []
    page(sweep, [CLAIM])


def test_a_run_that_counts_in_no_mean_may_differ(sweep):
    make_run(sweep, "table3/conv", 3, epochs=1)
    change_config(sweep / "table3_conv-3-0", "depth: [1]", "depth: [2]")
    assert report_notes(sweep) == []


@pytest.mark.parametrize(
    ("devices", "batch", "expected"),
    [
        ("devices: 2, num_nodes: 3", 8, "images per step (16, 48)"),
        ("devices: 1, num_nodes: 2, strategy: ddp", 8, ""),
        ("devices: 4, num_nodes: 1, strategy: ddp", 4, ""),
        ("devices: auto", 8, ""),
        ("devices: auto", 4, "recipe.batch_size (8, 4)"),
    ],
)
def test_batches_count_over_all_processes(sweep, devices, batch, expected):
    for folder in sweep.glob("table3_conv-*"):
        here, size = (devices, batch) if folder.name == "table3_conv-1-0" else ("devices: 2", 8)
        change_config(folder, "trainer: {", f"trainer: {{{here}, ")
        change_config(folder, "lambdanets.data.Digits", f"lambdanets.data.Digits, batch_size: {size}")
        change_config(folder, "image_size: 32", f"image_size: 32, batch_size: {size}")
    (note,) = report_notes(sweep) or [""]
    assert note.partition("but in ")[2].rstrip(".") == expected


def test_a_key_that_a_recipe_hands_on_is_named_once(sweep):
    for seed, rate in enumerate((0.1, 0.2, 0.1)):
        config = sweep / f"table3_conv-{seed}-0"
        change_config(config, "image_size: 32", f"optimizer: {{lr: {rate}}}")
        change_config(config, "trainer: {", f"task: {{optimizer: {{lr: {rate}}}}}\ntrainer: {{")
    assert [note.partition("but in ")[2] for note in report_notes(sweep)] == ["recipe.optimizer.lr (0.1, 0.2)."]


def test_the_archived_rows_are_of_one_training_each():
    rows = group_runs(read_runs([ROOT / "results" / "reproduction" / "v2" / "fashion_mnist"]))
    assert len(rows) == 3
    assert [differing_keys(row) for row in rows] == [{}] * 3


def test_runs_of_the_first_network_do_not_count_as_a_seed_of_the_second(tmp_path):
    """The archives have the same overrides, and other stems and learning rates."""
    archives = ROOT / "results" / "reproduction" / "v2"
    runs = read_runs([archives / "cifar10"])
    for run in read_runs([archives / "cifar10_first"]):
        run.config.seed = run.config.data.seed = 30
        runs.append(run)
    (row,) = (row for row in group_runs(runs) if row.experiment == "cifar10/conv")
    assert row.by_seed.keys() >= {0, 1, 2, 30}
    assert differing_keys(row).keys() >= {"model.stem", "recipe.optimizer.lr"}
