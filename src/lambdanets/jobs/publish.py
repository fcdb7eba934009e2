"""job=publish: the weights of the best seed of each row of a sweep."""

import json
import logging
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from lambdanets.atomic import atomic_copy, atomic_write
from lambdanets.config.allowlist import check_targets
from lambdanets.config.build import build_data, task_class
from lambdanets.config.keys import PATH_KEYS, override_key
from lambdanets.console import print_metrics, silence_lightning
from lambdanets.errors import UserError
from lambdanets.export.evaluate import pattern_image
from lambdanets.export.model_card import describe_classes
from lambdanets.export.published_card import (
    PUBLISHED,
    TITLE,
    PublishedRow,
    describe_seeds,
    published_card,
    published_page,
    read_published_row,
)
from lambdanets.hub.load import LABELS_FILE, load
from lambdanets.jobs.export import add_file_scores, score_file, write_model
from lambdanets.jobs.report import sweep_folders
from lambdanets.reports.runs import ExperimentRuns, RunRecord, group_runs, read_runs
from lambdanets.runs.checkpoints import read_checkpoint
from lambdanets.runs.folders import EXPORTED, best_checkpoint, check_name, read_json, write_metrics
from lambdanets.runs.provenance import PROVENANCE
from lambdanets.runs.published import source_name

log = logging.getLogger(__name__)
CARD = "README.md"
# Keys of a network's config whose values are places on this machine.
PLACE_KEYS = [key for key in PATH_KEYS if key.startswith(("data.", "model."))]


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Publish the best seed of each row of the runs in config.sweep_dir, by validation score, and list all of them.

    Each row gets a folder `<job.output_dir>/<data>/<row>/` with what job=export writes, the test scores of the file,
    and published.json with the scores of all its seeds. The same runs give the same bytes. If a row is refused, no file
    of any row has changed.

    Args:
        config: resolved.
        folder: folder for metrics.json.

    Returns:
        The number of rows that were published, and the bytes of all weights in the folder.

    Raises:
        UserError: there are no finished runs, a row isn't named `<data>/<row>` or has several settings, the run of a
            best seed has no checkpoint and isn't published yet, no provenance or no test images, or files would be lost
            that are no publication of the same row.
    """
    silence_lightning()
    rows = finished_rows(read_runs(sweep_folders(config.sweep_dir)))
    output_dir = Path(config.job.output_dir)
    page = output_dir / CARD
    check_page(page)
    with tempfile.TemporaryDirectory() as temporary:
        for row in rows:
            publish_row(row, config, Path(temporary, row.experiment), folder)
        for row in rows:
            check_classes_of_published(Path(temporary, row.experiment), output_dir / row.experiment)
        for row in rows:
            replace_files(Path(temporary, row.experiment), output_dir / row.experiment)
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
        run = next(iter(row.by_seed.values()))
        if "/" not in check_name(row.experiment) or run.config.get("experiment") is None:
            raise UserError(
                f"The run '{run.path}' is named {row.experiment} and not after an experiment <data>/<row>, as "
                "published weights are: train the rows of a sweep, such as experiment=cifar10/conv."
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
    chosen = {seed: {name: metrics[name] for name in names} for seed, metrics in scores.items()}
    published = Path(config.job.output_dir) / row.experiment
    if file is None and is_published(published, best, chosen[best]):
        log.info("%s: seed %d, published before; its card gets all %d seeds", row.experiment, best, len(chosen))
        renew_seeds(published, folder, chosen)
        return
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
    _, metrics = write_model(own, data, checkpoint, folder, dtype=config.job.dtype)
    evaluated = score_weights(run, config, folder / EXPORTED, job_folder)
    run_scores = add_file_scores(run.metrics, evaluated)
    write_metrics(folder, run_scores | metrics)
    facts = PublishedRow(
        row.experiment,
        best,
        chosen,
        *names,
        training_command(row, run),
        describe_data(row, config.job.data),
    )
    atomic_write(folder / PUBLISHED, facts.to_json(pattern_logits(folder, config.allow_targets or ())))
    card = published_card(
        facts,
        own,
        data,
        source=source_name(Path(config.job.output_dir), row.experiment),
        dtype=config.job.dtype,
        task=task_class(own),
        classes=checkpoint["labels"]["classes"],
        metrics=run_scores,
        evaluated=evaluated,
        origin=run.starts[-1],
    )
    atomic_write(folder / CARD, card)


def is_published(folder: Path, seed: int, scores: Mapping[str, float]) -> bool:
    """Return whether the weights in a folder are those of a seed with these scores, to the last digit."""
    if not all((folder / name).is_file() for name in (PUBLISHED, CARD, EXPORTED)):
        return False
    row = read_published_row(folder)
    return row.seed == seed and row.scores[seed] == scores


def renew_seeds(published: Path, folder: Path, scores: Mapping[int, Mapping[str, float]]) -> None:
    """Write the files of published weights with the scores of further seeds; the weights stay the same.

    Args:
        published: their folder.
        folder: folder for the files.
        scores: by seed, then by name.

    Raises:
        UserError: the card has no section on its seeds, as `job=publish` writes it.
    """
    former = read_published_row(published)
    row = former._replace(scores={**former.scores, **scores})
    card = (published / CARD).read_text(encoding="utf-8")
    if describe_seeds(former) not in card:
        raise UserError(f"'{published / CARD}' isn't as job=publish wrote it: restore it, or the seed's checkpoint.")
    for file in filter(Path.is_file, published.iterdir()):
        atomic_copy(file, folder / file.name)
    logits = json.loads((published / PUBLISHED).read_text(encoding="utf-8"))["logits"]
    atomic_write(folder / PUBLISHED, row.to_json(logits))
    atomic_write(folder / CARD, card.replace(describe_seeds(former), describe_seeds(row)))


def score_weights(run: RunRecord, config: DictConfig, weights: Path, job_folder: Path) -> dict[str, float]:
    """Return the test scores of a run's exported weights.

    Args:
        run: the run.
        config: of the job: `trainer.accelerator` and `job.data_root` replace the run's.
        weights: the file.
        job_folder: folder of the job.

    Raises:
        UserError: the test images can't be read, or the run's accelerator is missing.
    """
    tested = without_places(run.config)
    tested.allow_targets = config.allow_targets
    if config.trainer.accelerator != "auto":
        tested.trainer.accelerator = config.trainer.accelerator
    if "root" in tested.data:
        roots = config.job.data_root
        named = roots.get(run.experiment.split("/")[0]) if isinstance(roots, DictConfig) else roots
        tested.data.root = named or run.config.data.root
    try:
        return score_file(tested, weights, job_folder)
    except UserError as error:
        raise UserError(
            f"The weights of {run.experiment} can't be tested, so nothing was published. {error} "
            "(job=publish takes the images from job.data_root, and the device from trainer.accelerator.)"
        ) from error


def describe_data(row: ExperimentRuns, descriptions: Mapping[str, str]) -> str:
    """Return the description of a row's data: the one for the first part of its name, unless `data=` replaced them."""
    is_replaced = any(override_key(override) == "data" for override in row.setting)
    known = None if is_replaced else descriptions.get(row.experiment.split("/")[0])
    return known or "See the config; their license is not stated here."


def check_page(page: Path) -> None:
    """Check that the page is one of published weights, if it exists.

    Raises:
        UserError: it is another file.
    """
    is_ours = page.is_file() and page.read_text(encoding="utf-8", errors="replace").startswith(f"{TITLE}\n")
    if os.path.lexists(page) and not is_ours:
        raise UserError(
            f"'{page}' would be replaced by the page of published weights, and is another one: set job.output_dir to "
            "a folder for the weights alone, or move the file away."
        )


def check_classes_of_published(source: Path, target: Path) -> None:
    """Check that a row which was published before has the classes of the new one.

    Args:
        source: folder of the new row.
        target: folder of the published row, which may not exist.

    Raises:
        UserError: the classes differ.
    """
    old, new = ((read_json(folder / LABELS_FILE) or {}).get("classes", []) for folder in (target, source))
    if old and new != old:
        raise UserError(
            f"'{target}' holds weights for other classes than these runs, {describe_classes(old)} instead of "
            f"{describe_classes(new)}: set job.output_dir to another folder, or move that one away."
        )


def replace_files(source: Path, target: Path) -> None:
    """Copy a row's files; the weights, which make the row a published one, come last."""
    for file in sorted(source.iterdir(), key=lambda file: (file.name == EXPORTED, file.name)):
        atomic_copy(file, target / file.name)


def training_command(row: ExperimentRuns, run: RunRecord) -> str:
    """Return the command that trains a run again."""
    overrides = []
    for override in row.setting:
        name, sign, value = override.partition("=")
        overrides.append(f"{name}{sign}{hide_place(override_key(override), value)}")
    if run.config.trainer.devices not in (1, "1", "auto"):  # the size of a step depends on it
        overrides.append(f"trainer.devices={run.config.trainer.devices}")
    return shlex.join(["python", "run.py", f"experiment={run.experiment}", f"seed={run.seed}", *overrides])


def choose_seed(scores: dict[int, float]) -> int:
    """Return the seed with the best score, of equal ones the lowest."""
    return min(scores, key=lambda seed: (-scores[seed], seed))


def without_places(config: Any) -> DictConfig:
    """Return a config without the places of files on this machine, as of `hide_place`."""
    config = config.copy()
    config.base_run = config.ckpt = None
    for key in PLACE_KEYS:
        path = OmegaConf.select(config, key)
        if isinstance(path, str):
            OmegaConf.update(config, key, hide_place(key, path))
    return config


def hide_place(key: str, value: str) -> str:
    """Return the value of a config key; of a path that leads out of the working directory only its last name."""
    if key not in PLACE_KEYS or not (os.path.isabs(value) or ".." in Path(value).parts):
        return value
    return f"data/{Path(value).name}" if key == "data.root" else Path(value).name


@torch.no_grad()
def pattern_logits(folder: Path, allow_targets: Sequence[str]) -> list[float]:
    """Return the logits of `pattern_image` by the weights in a folder."""
    model = load(folder, allow_targets=allow_targets)
    image = pattern_image(model.data.channels, model.data.image_size)
    return model(model.preprocess(image)[None])[0].tolist()
