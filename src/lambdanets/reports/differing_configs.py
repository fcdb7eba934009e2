"""Configs of a row's runs, compared: its means and intervals are of one training only if these differ in seeds alone.

The overrides of the command line don't tell: a sweep's file may have been edited between two seeds.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lambdanets.config.keys import BATCH_KEYS, UNCOMPARED_KEYS, is_key_in
from lambdanets.config.overrides import flatten_values
from lambdanets.errors import UserError
from lambdanets.reports.curves import images_per_step
from lambdanets.reports.runs import ExperimentRuns, RunRecord

ABSENT = "absent"


def comparable_config(run: RunRecord, ignored: tuple[str, ...]) -> dict[str, Any]:
    """Return a run's config by dotted keys, without some of them."""
    values = flatten_values(OmegaConf.to_container(run.config))
    return {key: value for key, value in values.items() if not is_key_in(key, ignored)}


def differing_keys(row: ExperimentRuns) -> dict[str, list[Any]]:
    """Return the keys in which the configs of a row's finished runs differ, with their different values.

    A recipe's options stand in the configs of the data and the task, too; such copies are left out.
    """
    runs = [run for _, run in sorted(row.finished.items())]
    images = [images_per_step(run) for run in runs]
    if all(images):
        configs = [
            comparable_config(run, (*UNCOMPARED_KEYS, *BATCH_KEYS)) | {"images per step": count}
            for run, count in zip(runs, images, strict=True)
        ]
    else:  # a config that leaves the number of devices to the machine
        configs = [comparable_config(run, UNCOMPARED_KEYS) for run in runs]
    differences: dict[tuple[str, str], tuple[str, list[Any]]] = {}
    keys = dict.fromkeys(key for config in configs for key in config)
    for key in sorted(keys, key=lambda key: (not key.startswith("recipe."), key)):
        values = [config.get(key, ABSENT) for config in configs]
        distinct = [value for index, value in enumerate(values) if value not in values[:index]]
        if len(distinct) > 1:
            differences.setdefault((key.partition(".")[2] or key, repr(values)), (key, distinct))
    return dict(sorted(differences.values()))


def describe_keys(differences: Mapping[str, list[Any]]) -> str:
    return ", ".join(f"{key} ({', '.join(map(str, values))})" for key, values in differences.items())


def differing_notes(rows: Iterable[tuple[str, ExperimentRuns]]) -> list[str]:
    """Return a sentence on each row whose finished runs aren't of one training.

    Args:
        rows: names and runs.
    """
    return [
        f"Different trainings in one row: the runs of {name} differ not only in their seeds but in "
        f"{describe_keys(differences)}."
        for name, row in rows
        if (differences := differing_keys(row))
    ]


def check_claimed_rows(rows: Sequence[ExperimentRuns], experiments: Collection[str], folder: Path) -> None:
    """Check that each experiment that claims name has runs of one training.

    A key that is absent from some of the runs is no error, since another version may have written them: a note under
    the table says it.

    Args:
        rows: all rows.
        experiments: that claims name.
        folder: of the runs.

    Raises:
        UserError: an experiment has several rows, or a row's runs have different values of a key.
    """
    for name in sorted(experiments):
        own = [row for row in rows if row.experiment == name]
        if len(own) > 1:
            settings = "; ".join(" ".join(row.setting) for row in own)
            raise UserError(
                f"The runs of '{name}' in '{folder}' have several settings ({settings}), so its claims are "
                "ambiguous: keep the runs of one setting in that folder."
            )
        differences = {
            key: values
            for row in own
            for key, values in differing_keys(row).items()
            if sum(value != ABSENT for value in values) > 1
        }
        if differences:
            raise UserError(
                f"The runs of '{name}' in '{folder}' differ not only in their seeds but in "
                f"{describe_keys(differences)}, so its claims are ambiguous: keep the runs of one config there."
            )
