"""job=publish: the weights of the best seed of each row of a sweep."""

import logging
import os
import shlex
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from lambdanets.atomic import atomic_write
from lambdanets.config.allowlist import check_targets
from lambdanets.config.build import build_data, task_class
from lambdanets.console import print_metrics, silence_lightning
from lambdanets.errors import UserError
from lambdanets.export.evaluate import pattern_image
from lambdanets.export.published_card import PUBLISHED, PublishedRow, published_card, published_page
from lambdanets.hub.load import load
from lambdanets.jobs.export import add_file_scores, score_file, write_model
from lambdanets.jobs.report import sweep_folders
from lambdanets.reports.runs import ExperimentRuns, RunRecord, group_runs, read_runs
from lambdanets.runs.checkpoints import read_checkpoint
from lambdanets.runs.folders import EXPORTED, best_checkpoint, check_name, write_metrics
from lambdanets.runs.provenance import PROVENANCE

log = logging.getLogger(__name__)
# Half precision: half the size, for scores that differ in a few images at most.
DTYPE = "float16"
CARD = "README.md"


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Publish the best seed of each row of the runs in config.sweep_dir, by validation score, and list all of them.

    Each row gets a folder `<job.output_dir>/<data>/<row>/` with what job=export writes, the test scores of the file,
    and published.json with the scores of all its seeds. The same runs give the same bytes.

    Args:
        config: resolved.
        folder: folder for metrics.json.

    Returns:
        The number of rows that were published, and the bytes of all weights in the folder.

    Raises:
        UserError: there are no finished runs, a row isn't named `<data>/<row>` or has several settings, or the run of a
            best seed has no checkpoint, no provenance or no test images.
    """
    silence_lightning()
    rows = finished_rows(read_runs(sweep_folders(config.sweep_dir)))
    output_dir = Path(config.job.output_dir)
    for row in rows:
        publish_row(row, config, output_dir / row.experiment, folder)
    page = output_dir / CARD
    atomic_write(page, published_page(output_dir))
    size = sum(file.stat().st_size for file in output_dir.rglob(EXPORTED))
    results: dict[str, float] = {"rows": len(rows), "bytes": size}
    write_metrics(folder, results)
    print_metrics(results, title=f"Listed in {os.path.relpath(page)}")
    return results


def finished_rows(runs: list[RunRecord]) -> list[ExperimentRuns]:
    """Return the rows of finished runs. A run that is archived as well counts once, with its folder.

    Raises:
        UserError: there are none, a row isn't named `<data>/<row>`, or it has several settings.
    """
    for run in runs:
        if run.problem is not None:
            log.warning("%s, seed %d, is left out: %s", run.experiment, run.seed, run.problem)
    # Of equal runs, group_runs takes the last.
    by_folder = sorted(runs, key=lambda run: best_checkpoint(run.path) is not None)
    rows = group_runs(run for run in by_folder if run.problem is None)
    if not rows:
        raise UserError("None of the runs has finished: wait for one, or set sweep_dir to other runs.")
    names = [row.experiment for row in rows]
    for row in rows:
        if "/" not in check_name(row.experiment):
            raise UserError(
                f"The run '{next(iter(row.by_seed.values())).path}' is named {row.experiment}, and published weights "
                "are named <data>/<row>: train the rows of a sweep, such as experiment=cifar10/conv."
            )
        if names.count(row.experiment) > 1:
            raise UserError(
                f"The runs of {row.experiment} differ in their settings ({', '.join(row.setting) or 'none'} and "
                "others): set sweep_dir to folders of one setting."
            )
    return rows


def publish_row(row: ExperimentRuns, config: DictConfig, folder: Path, job_folder: Path) -> None:
    """Write the weights of a row's best seed with their descriptions.

    Args:
        row: finished runs of one setting.
        config: of the job.
        folder: folder for the files.
        job_folder: folder of the job.
    """
    task = row.task
    if task.NO_GRAPH:
        raise UserError(f"{row.experiment} is no classifier, and job=publish takes classifiers only: use job=export.")
    names = (task.MONITOR, task.SCORES[0])
    scores = {seed: one.metrics for seed, one in sorted(row.by_seed.items()) if one.metrics.keys() >= {*names}}
    if not scores:
        raise UserError(f"The runs of {row.experiment} lack {' or '.join(names)}: their data need both splits.")
    best = choose_seed({seed: metrics[task.MONITOR] for seed, metrics in scores.items()})
    run = row.by_seed[best]
    file = best_checkpoint(run.path)
    if file is None:
        raise UserError(f"'{run.path}', the best seed of {row.experiment}, has no checkpoint: restore or train it.")
    if not run.starts:
        raise UserError(
            f"'{run.path}' lacks {PROVENANCE}, so that its card can't state command and commit: restore it."
        )
    log.info("%s: seed %d, %s", row.experiment, best, os.path.relpath(file))
    own = without_places(run.config)
    own.ckpt, own.allow_targets = str(file), config.allow_targets
    check_targets(own)
    checkpoint = read_checkpoint(file)
    checkpoint["config"] = OmegaConf.to_container(without_places(OmegaConf.create(checkpoint["config"])))
    data = build_data(own)
    _, metrics = write_model(own, data, checkpoint, folder, dtype=DTYPE)
    tested = own.copy()
    if "root" in tested.data:
        tested.data.root = config.job.data_root or run.config.data.root
    evaluated = score_file(tested, folder / EXPORTED, job_folder)
    run_scores = add_file_scores(run.metrics, evaluated)
    write_metrics(folder, run_scores | metrics)
    facts = PublishedRow(
        row.experiment,
        best,
        {seed: {name: metrics[name] for name in names} for seed, metrics in scores.items()},
        *names,
        shlex.join(["python", "run.py", f"experiment={row.experiment}", f"seed={best}", *row.setting]),
        config.job.data.get(row.experiment.split("/")[0], "See the config; their license is not stated here."),
    )
    atomic_write(folder / PUBLISHED, facts.to_json(pattern_logits(folder)))
    card = published_card(
        facts,
        own,
        data,
        task=task_class(own),
        classes=checkpoint["labels"]["classes"],
        metrics=run_scores,
        evaluated=evaluated,
        origin=run.starts[-1],
    )
    atomic_write(folder / CARD, card)


def choose_seed(scores: dict[int, float]) -> int:
    """Return the seed with the best score, of equal ones the lowest."""
    return min(scores, key=lambda seed: (-scores[seed], seed))


def without_places(config: Any) -> DictConfig:
    """Return a config without the places of files on this machine: of data outside of the working directory a name."""
    config = config.copy()
    config.base_run = config.ckpt = None
    root = config.data.get("root")
    if root is not None and os.path.isabs(root):
        config.data.root = f"data/{Path(root).name}"
    return config


@torch.no_grad()
def pattern_logits(folder: Path) -> list[float]:
    """Return the logits of `pattern_image` by the weights in a folder."""
    model = load(folder)
    image = pattern_image(model.data.channels, model.data.image_size)
    return model(model.preprocess(image)[None])[0].tolist()
