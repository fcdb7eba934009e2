"""Behind run.py: from the command line to a config, from a config to its job.

Neither torch nor Lightning is imported before a job starts, so that help and mistakes are answered at once.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from lambdanets.errors import UserError
from lambdanets.explain import explain
from lambdanets.jobs import provenance, runs
from lambdanets.jobs.overrides import overridden

log = logging.getLogger(__name__)
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"
# How a process that Lightning starts for one more device learns what the first one does.
RANK_JOB = "LAMBDANETS_RANK_JOB"


def main(configs: Path) -> int:
    """Composes the config that the command line asks for and runs its job.

    Args:
        configs: folder of the config groups.

    Returns:
        The exit code: 0, or 2 for a command that can't be understood or started. A job that fails exits with 1.
    """
    if RANK_JOB in os.environ:
        return run_rank()
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", runs.sweep_folder, replace=True)
    # Hydra's own report of an exception would end the process before it can be explained.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(config_path=str(configs), config_name="config", version_base="1.3")(door)()
    except Exception as error:
        sentence = explain(error)
        if sentence is None and isinstance(error, OSError):
            sentence = f"The output folder can't be written ({error}): name another with hydra.run.dir=<folder>."
        return complain(error, sentence)
    return 0


def run_folder(job: str, name: str, ckpt: str | None, like: str | None) -> str:
    """`runs.run_folder`, ending the process on a mistake: OmegaConf would bury an exception's own words."""
    try:
        named = any(argument.startswith("name=") for argument in sys.argv[1:])
        return runs.run_folder(job, name, ckpt, None if named else like)
    except UserError as error:
        sys.exit(complain(error, str(error)))


def door(composed: DictConfig) -> dict[str, float]:
    """Runs one job in the folder that Hydra made for it."""
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    try:
        config = settle(composed, folder, settings.overrides.task, settings.runtime.choices["job"])
        OmegaConf.resolve(config)
        with rank_job(json.dumps({"config": OmegaConf.to_container(config), "folder": str(folder)})):
            return get_method(config.job._target_)(config, folder)
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            traceback.print_exc()  # a defect, not a mistake: here, before Hydra adds its own words
            sys.exit(1)
        complain(error, sentence)
        sys.exit(1)


def settle(composed: DictConfig, folder: Path, overrides: list[str], job: str) -> DictConfig:
    """The config of this command: composed anew, or that of the run which ckpt= or like= names, overridden.

    The folder gets a record of it. In the result, ckpt is a checkpoint's path or None.
    """
    OmegaConf.set_struct(composed, False)
    composed.name = composed.name  # resolved while Hydra is at hand
    ckpt, like = composed.ckpt, composed.like
    run = checkpoint = None
    if job == "fit" and ckpt == "last":
        run = folder if (folder / runs.COMPOSED).is_file() else None
        checkpoint = runs.checkpoint_file(folder, ("last",))
    elif ckpt is not None:
        run = runs.find_run(ckpt, composed.name)
        if Path(ckpt).is_file():
            checkpoint = Path(ckpt)
        elif run is not None:
            checkpoint = runs.checkpoint_file(run, ("last",) if job == "fit" else ("best", "last"))
    if ckpt is not None and checkpoint is None:
        if job != "fit":
            raise UserError(f"The run '{run}' has no checkpoint yet: train it further with job=fit ckpt={run}.")
        log.info("There is no checkpoint yet in '%s': starting from the beginning.", run or folder)

    if run is not None:
        config = overridden(runs.load_config(run), composed, overrides)
    elif checkpoint is not None:
        from lambdanets.jobs.checkpoints import read_checkpoint

        config = overridden(OmegaConf.create(read_checkpoint(checkpoint)["config"]), composed, overrides)
    elif like is not None:
        config = overridden(runs.load_config(like), composed, overrides)
    else:
        config = composed
    config.ckpt = config.like = None
    provenance.record(folder, config)
    config.ckpt = None if checkpoint is None else str(checkpoint)
    return config


@contextmanager
def rank_job(text: str) -> Iterator[None]:
    """Lets processes that are started meanwhile find the job, and leaves no trace of distributed training behind."""
    before = dict(os.environ)
    os.environ[RANK_JOB] = text
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_rank() -> int:
    """Runs the job of the process that started this one, on this one's device."""
    job = json.loads(os.environ[RANK_JOB])
    config = OmegaConf.create(job["config"])
    try:
        get_method(config.job._target_)(config, Path(job["folder"]))
    except Exception as error:
        return complain(error, explain(error))
    return 0


def complain(error: Exception, sentence: str | None) -> int:
    """Prints the sentence; an error without one, or with HYDRA_FULL_ERROR=1, goes on as it is."""
    if sentence is None or FULL_ERROR:
        raise error
    print(f"error: {sentence}", file=sys.stderr)
    return 2
