"""Behind run.py: from the command line to a config, from a config to its job.

Neither torch nor Lightning is imported before a job starts, so that help and mistakes are answered at once.
"""

import logging
import math
import os
import sys
import traceback
from functools import cache
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from lambdanets.config.allowlist import check_targets
from lambdanets.config.overrides import overridden
from lambdanets.distributed import launcher, local_workers, rendezvous
from lambdanets.error_messages import error_message
from lambdanets.errors import UserError
from lambdanets.runs import folders as runs
from lambdanets.runs import provenance, sweeps

log = logging.getLogger(__name__)
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"


def main(configs: Path) -> int:
    """Composes the config that the command line asks for and runs its job.

    Args:
        configs: folder of the config groups.

    Returns:
        The exit code: 0, or 2 for a command that can't be understood or started. A job that fails exits with 1.
    """
    register_resolvers()
    # Hydra's own report of an exception would end the process before it can be explained.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        if launcher.detect_launcher() and launcher.rank() > 0:
            rendezvous.worker_loop(start)
        else:
            hydra.main(config_path=str(configs), config_name="config", version_base="1.3")(door)()
    except Exception as error:
        sentence = error_message(error)
        if sentence is None and isinstance(error, OSError):
            sentence = f"The output folder can't be written ({error}): name another with hydra.run.dir=<folder>."
        return complain(error, sentence)
    finally:
        rendezvous.stop_workers()
    return 0


def register_resolvers() -> None:
    """Makes the functions known that the configs call."""
    for resolver in (run_folder, runs.run_name, sweep_root, runs.sweep_folder):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
    OmegaConf.register_new_resolver("same", lambda one, other: one == other, replace=True)
    OmegaConf.register_new_resolver("joined", ",".join, replace=True)
    OmegaConf.register_new_resolver("slurm_tasks", launcher.slurm_tasks, replace=True)


def run_folder(job: str, name: str, ckpt: str | None, like: str | None) -> str:
    """`runs.run_folder`, or where the job began that torchrun or SLURM has started again.

    Ends the process on a mistake: OmegaConf would bury an exception's own words.
    """
    try:
        if job == "fit" and ckpt is None and (begun := begun_here(f"{runs.OUTPUTS}/*/*")):
            return str(begun)
        named = any(argument.startswith("name=") for argument in sys.argv[1:])
        return runs.run_folder(job, name, ckpt, None if named else like)
    except UserError as error:
        sys.exit(complain(error, str(error)))


def sweep_root(sweep: str | None, now: str) -> str:
    """`runs.sweep_root`, or where the sweep began that torchrun or SLURM has started again."""
    begun = begun_here(f"{runs.SWEEPS}/*/*") if sweep is None else None
    return str(begun.parent) if begun else runs.sweep_root(sweep, now)


@cache
def begun_here(pattern: str) -> Path | None:
    """The newest of these run folders that this command began before torchrun or SLURM started it again."""
    job = launcher.restartable_job_id()
    if job is None or not rendezvous.was_restarted():
        return None
    found = [folder for folder in Path().glob(pattern) if provenance.started_by(job, folder)]
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)


def door(composed: DictConfig) -> dict[str, float] | float:
    """Runs one job in the folder that Hydra made for it.

    Returns:
        The job's results, or the one that a sweeper is to optimise. A run of a sweep that fails has none: it leaves its
        sentence in the folder, and the sweep goes on.
    """
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    job, sweeping = settings.runtime.choices["job"], settings.mode == RunMode.MULTIRUN
    OmegaConf.set_struct(composed, False)
    composed.name = composed.name  # resolved while Hydra is at hand
    composed.experiment = composed.experiment
    try:
        if launcher.detect_launcher() and launcher.rank() > 0:
            rendezvous.worker_loop(start, once=True)  # a launcher of Hydra's that started several tasks
            return {}
        again = (
            (sweeping or rendezvous.was_restarted())
            and job == "fit"
            and composed.ckpt is None
            and composed.like is None
        )
        if again:
            results = sweeps.finished(folder, composed)
            if results is not None:
                log.info("finished earlier: %s", os.path.relpath(folder))
                return outcome(results, composed)
            if (folder / runs.COMPOSED).is_file():
                composed.ckpt = "last"
        elif not sweeping and job == "fit" and composed.get("sweep"):
            sweep = settings.runtime.choices["sweep"]
            raise UserError(
                f"sweep={sweep} is a grid of runs: start it with --multirun, or describe it with job=describe."
            )
        config = settle(composed, folder, settings.overrides.task, job)
        OmegaConf.resolve(config)
        check_targets(config)
        with local_workers.distributed_job(job, config, folder):
            return outcome(start(config, folder), composed)
    except Exception as error:
        sentence = error_message(error)
        if sentence is None or (sweeping and FULL_ERROR):
            traceback.print_exc()  # a defect, not a mistake: here, before Hydra adds its own words
        else:
            complain(error, sentence)
        if not sweeping:
            sys.exit(1)
        sweeps.record_failure(folder, sentence or f"{type(error).__name__}: {error}")
        return outcome({}, composed)


def outcome(results: dict[str, float], composed: DictConfig) -> dict[str, float] | float:
    """What a sweeper is told of a run."""
    objective = OmegaConf.select(composed, "sweep.objective")
    return results if objective is None else results.get(objective, math.nan)


def settle(composed: DictConfig, folder: Path, overrides: list[str], job: str) -> DictConfig:
    """The config of this command: composed anew, or that of the run which ckpt= or like= names, overridden.

    The folder gets a record of it. In the result, ckpt is a checkpoint's path or None.
    """
    ckpt, like = composed.ckpt, composed.like
    run = checkpoint = None
    if job == "fit" and ckpt == "last":
        run = folder if (folder / runs.COMPOSED).is_file() else None
        checkpoint = runs.newest_checkpoint(folder)
    elif ckpt is not None:
        run = runs.find_run(ckpt, composed.name)
        if Path(ckpt).is_file():
            checkpoint = Path(ckpt)
        elif run is not None:
            checkpoint = (
                runs.newest_checkpoint(run) if job == "fit" else runs.checkpoint_file(run, ("best", "last", "previous"))
            )
    if ckpt is not None and checkpoint is None:
        if job != "fit":
            raise UserError(f"The run '{run}' has no checkpoint yet: train it further with job=fit ckpt={run}.")
        log.info("There is no checkpoint yet in '%s': starting from the beginning.", run or folder)

    base = None
    if run is not None:
        base = runs.load_config(run)
    elif checkpoint is not None:
        from lambdanets.runs.checkpoints import read_checkpoint

        base = OmegaConf.create(read_checkpoint(checkpoint)["config"])
    elif like is not None:
        base = runs.load_config(like)
    if base is not None and composed.experiment not in (None, base.get("experiment")):
        raise UserError(
            f"experiment={composed.experiment} can't be laid over the config of '{run or checkpoint or like}', which "
            f"is of experiment={base.get('experiment')}: leave one of the two out."
        )
    config = composed if base is None else overridden(base, composed, overrides)
    config.ckpt = config.like = None
    provenance.record(folder, config)
    config.ckpt = None if checkpoint is None else str(checkpoint)
    return config


def start(config: DictConfig, folder: Path) -> dict[str, float]:
    """The job itself."""
    return get_method(config.job._target_)(config, folder)


def complain(error: Exception, sentence: str | None) -> int:
    """Prints the sentence; an error without one, or with HYDRA_FULL_ERROR=1, goes on as it is."""
    if sentence is None or FULL_ERROR:
        raise error
    print(f"error: {sentence}", file=sys.stderr)
    return 2
