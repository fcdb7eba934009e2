"""Which run a command works on, and in which folder.

No import of torch here: the command line answers from this module before anything heavy is loaded.
"""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from lambdanets.config.keys import override_key
from lambdanets.distributed.launcher import restartable_job_id
from lambdanets.distributed.rendezvous import was_restarted
from lambdanets.errors import UserError
from lambdanets.runs.folders import (
    EXPORTED,
    OUTPUTS,
    UNRESOLVED_CONFIG,
    best_checkpoint,
    check_name,
    last_checkpoint,
    load_config,
    new_folder,
    newest_run,
    owner_run,
)
from lambdanets.runs.provenance import started_by
from lambdanets.runs.published import find_published, suggest_names

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Command:
    """The parts of a command line that name a run.

    Args:
        job: name of the job.
        name: name of the run.
        ckpt: "last", the folder of a run, a checkpoint file, the name of published weights, or None.
        base_run: folder of the run whose config a new run starts from, or None.
        has_name: whether the command line sets the name.
        sweeping: whether the command is one run of a sweep.
        folder: output folder, where a sweep or hydra.run.dir sets it; None where `find_run` chooses it.
    """

    job: str
    name: str
    ckpt: str | None
    base_run: str | None
    has_name: bool = False
    sweeping: bool = False
    folder: Path | None = None

    @classmethod
    def parse(cls, config: DictConfig, settings: Any, *, folder: Path | None = None) -> "Command":
        """Read the command from a composed config.

        Args:
            config: the composed config.
            settings: Hydra's own config.
            folder: output folder that Hydra has made, or None before it has.
        """
        overrides: Any = OmegaConf.to_container(settings.overrides)  # unresolved: an override may have a ${…}
        sweeping = folder is not None and settings.mode.name == "MULTIRUN"
        is_given = sweeping or any(override_key(override) == "hydra.run.dir" for override in overrides["hydra"])
        return cls(
            job=settings.runtime.choices["job"],
            name=check_name(config.name),
            ckpt=path_text("ckpt", config.ckpt),
            base_run=path_text("base_run", config.base_run),
            has_name=any(override_key(override) == "name" for override in overrides["task"]),
            sweeping=sweeping,
            folder=folder if is_given else None,
        )

    @property
    def is_repeatable(self) -> bool:
        """True for a training that names no run to continue: given again, it means the run that it began.

        In a sweep that holds for one that starts from a checkpoint, too.
        """
        return self.job == "fit" and (self.ckpt is None or (self.sweeping and self.ckpt != "last"))


def path_text(key: str, value: Any) -> str | None:
    """Return the path that a key names, with the home folder in the place of `~`, or None.

    Raises:
        UserError: the value is no text.
    """
    if value is None:
        return None
    if not isinstance(value, str | int | float) or isinstance(value, bool) or value == "":
        raise UserError(f"{key}={value} is not a path: give one run or file, such as {key}=outputs/<name>/<time>.")
    return os.path.expanduser(str(value))


class Selection(NamedTuple):
    """The run that a command works on.

    Attributes:
        folder: output folder of the command.
        run: folder of the run that the command continues, tests or reads, or None.
        file: the checkpoint file that ckpt names, or None.
    """

    folder: Path
    run: Path | None = None
    file: Path | None = None


@cache
def find_run(command: Command) -> Selection:
    """Find the run that a command works on and choose the command's output folder.

    - A training in a sweep's folder, or one that torchrun or SLURM has restarted, continues the run that it began.
    - `ckpt=` names a run: training continues in its folder, other jobs write to `<run>/<job>`.
    - Otherwise the folder is new: `outputs/<name>/<time>`, or `outputs/<job>/<time>` for jobs that are not about a run
      with a folder: `ckpt=` may name published weights, or a checkpoint on its own.

    Raises:
        UserError: ckpt or base_run names nothing that exists.
    """
    if command.job == "fit" and (begun := find_begun_run(command)) is not None:
        return Selection(begun, begun)
    folder, run, file = command.folder, None, None
    if command.ckpt is not None and not (command.ckpt == "last" and command.job == "fit" and folder is not None):
        run, file = resolve_ckpt(command.ckpt, command.name)
        if command.job == "fit" and run is not None and find_restarted_run([run]) is not None:
            file = None  # it has gone on from there
    if folder is None and run is not None:
        folder = run if command.job == "fit" else run / command.job
    if folder is None and file is not None and command.job != "fit" and not command.has_name:
        folder = new_folder(command.job, command.job)
    return Selection(folder or new_folder(command.job, new_run_name(command)), run, file)


def new_run_name(command: Command) -> str:
    """Return the name of the run that a command starts: its own, or that of the run that it builds on."""
    if command.base_run is None or command.has_name:
        return command.name
    return check_name(load_config(command.base_run).get("name"))


def find_begun_run(command: Command) -> Path | None:
    """Return the folder of the run that a training began when it was started before, or None.

    That is the run in a sweep's folder, or with `ckpt=last` in a given one, or the run that this very command began
    before torchrun or SLURM restarted it.
    """
    if command.folder is None:
        return find_restarted_run((OUTPUTS / new_run_name(command)).glob("*"))
    if not (command.folder / UNRESOLVED_CONFIG).is_file():
        return None
    if command.sweeping or command.ckpt == "last":
        return command.folder
    return find_restarted_run([command.folder])


def find_restarted_run(folders: Iterable[Path]) -> Path | None:
    """Return the newest of these folders in which this command trained before torchrun or SLURM restarted it, or None.

    Args:
        folders: to search.
    """
    job = restartable_job_id()
    if job is None or not was_restarted():
        return None
    begun = [folder for folder in folders if started_by(job, folder)]
    return max(begun, key=lambda folder: folder.stat().st_mtime, default=None)


def resolve_ckpt(ckpt: str, name: str) -> tuple[Path | None, Path | None]:
    """Return the run folder and the checkpoint file that ckpt names; either may be None.

    Args:
        ckpt: "last" for the newest run of that name, the folder of a run or of exported weights, a checkpoint file, or
            the name of published weights.
        name: name of the run.

    Raises:
        UserError: there is no such run or file.
    """
    if ckpt == "last":
        return newest_run(name), None
    path = find_published(ckpt) or Path(ckpt)
    if path.is_dir():
        if not (path / UNRESOLVED_CONFIG).is_file():
            if (path / EXPORTED).is_file():  # published weights, or downloaded ones
                return None, path / EXPORTED
            raise UserError(f"The folder '{path}' holds no run ({UNRESOLVED_CONFIG} is missing): give a run's folder.")
        return path, None
    if path.is_file():
        return owner_run(path), path
    raise UserError(
        f"ckpt={ckpt} does not exist: give a run's folder, a checkpoint file, or last.{suggest_names(ckpt)}"
    )


def find_checkpoint(command: Command, selection: Selection) -> Path | None:
    """Return the checkpoint that a command starts from: the file that it names, or one of its run.

    Training continues from the newest checkpoint, other jobs read the best one.

    Raises:
        UserError: another job than fit works on a run without a checkpoint, or all checkpoints are damaged.
    """
    run, file = selection.run, selection.file
    if file is not None or (run is None and command.ckpt is None):
        return file
    if command.job == "fit":
        checkpoint = None if run is None else last_checkpoint(run)
        if checkpoint is None and run is not None and (run / EXPORTED).is_file():
            raise UserError(
                f"'{run}' holds exported weights, which a training cannot resume from: continue the run itself, or "
                f"start a new training from them with model.pretrained={run / EXPORTED}."
            )
        if checkpoint is None:
            log.info("There is no checkpoint yet in '%s': starting from the beginning.", run or selection.folder)
    else:
        checkpoint = None if run is None else best_checkpoint(run)
        if checkpoint is None:
            raise UserError(f"The run '{run}' has no checkpoint yet: train it further with job=fit ckpt={run}.")
    return checkpoint
