"""The command line: from the arguments to a config, from a config to its job.

Neither torch nor Lightning is imported before a job starts, so that help and error messages appear at once.
"""

import logging
import math
import os
import sys
import traceback
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig, ListConfig, OmegaConf

from lambdanets.config.allowlist import check_targets
from lambdanets.config.arguments import prepare_arguments
from lambdanets.config.keys import PATH_KEYS
from lambdanets.config.overrides import apply_overrides, check_resumable
from lambdanets.config.search_path import packaged_configs, register_user_configs
from lambdanets.config.source import register_config_source
from lambdanets.config.upgrade import write_new_options
from lambdanets.distributed.launcher import detect_launcher, rank, slurm_tasks
from lambdanets.distributed.local_workers import DISTRIBUTED_JOBS, distributed_job
from lambdanets.distributed.rendezvous import broadcast_job, stop_workers, worker_loop
from lambdanets.distributed.requeue import handle_stop_signals
from lambdanets.distributed.threads import record_user_threads, set_threads
from lambdanets.error_messages import error_message, path_message
from lambdanets.errors import UserError, print_any_character
from lambdanets.runs import provenance, refusal, sweeps
from lambdanets.runs.find import Command, Selection, find_checkpoint, find_restarted_run, find_run, resolve_ckpt
from lambdanets.runs.folders import FIT, SWEEPS, UNRESOLVED_CONFIG, check_name, chosen_folders, load_config, run_name
from lambdanets.runs.lock import RunInProgressError, training_lock

log = logging.getLogger(__name__)
# The folders of the jobs that this process has started.
started_jobs: list[Path] = []
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"


def main() -> int:
    """Compose the config that the command line asks for and run its job.

    Returns:
        The exit code: 0, or 2 for a command that cannot be understood or started. A job that fails exits with 1.
    """
    # OmegaConf 2.4 warns of names that Hydra 1.3 uses.
    for warning in (r"register_new_resolver\(\) is deprecated", "Implicit conversion from Version to str"):
        warnings.filterwarnings("ignore", warning)
    handle_stop_signals()
    print_any_character()
    record_user_threads()
    register_resolvers()
    register_user_configs()
    if detect_launcher() is None:  # left by a training that this shell has run
        for name in ("RANK", "LOCAL_RANK"):
            os.environ.pop(name, None)
    if os.getcwd() not in sys.path:  # where a user's own mixers and data sets are
        sys.path.append(os.getcwd())
    # Without these, Hydra and OmegaConf drop the cause of an exception before it can be explained.
    os.environ |= {"HYDRA_FULL_ERROR": "1", "OC_CAUSE": "1"}
    try:
        if detect_launcher() and rank() > 0:
            worker_loop(execute)
        else:
            provenance.given_arguments[:] = sys.argv
            sys.argv[1:] = prepare_arguments(sys.argv[1:])
            hydra.main(config_path=str(packaged_configs()), config_name="config", version_base="1.3")(run_job)()
    except Exception as error:
        refusal.undo()
        message = error_message(error)
        if message is None and isinstance(error, OSError):
            message = f"The output folder cannot be written ({error}): choose another one with hydra.run.dir=<folder>."
        elif message is None and not started_jobs:
            reason = " ".join(str(error).split())[:300]
            message = f"The config cannot be composed ({reason}): check the arguments; --help lists them."
        return print_error(error, message)
    finally:
        stop_workers()
    return 0


def register_resolvers() -> None:
    """Register the functions that the configs call, and the source that reads the configs."""
    register_config_source()
    for resolver in (run_folder, sweep_root, run_name, sweep_folder, slurm_tasks):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
    OmegaConf.register_new_resolver("same", lambda one, other: one == other, replace=True)
    OmegaConf.register_new_resolver("joined", ",".join, replace=True)


def run_folder(*, _root_: DictConfig) -> str:
    """Return the output folder of a single command, for hydra.run.dir."""
    return str(find_run(Command.parse(_root_, _root_.hydra)).folder)


def sweep_folder(*, _root_: DictConfig) -> str:
    """Return the folder of a sweep's run below that of the sweep, for hydra.sweep.subdir."""
    return sweeps.choose_sweep_folder(_root_)


def sweep_root(sweep: str | None, now: str) -> str:
    """Return the folder of a sweep, for hydra.sweep.dir.

    A named sweep always has the same folder, so that it continues when it is started again. An unnamed one continues
    in its folder when torchrun or SLURM restarts it.
    """
    if sweep is not None:
        return str(SWEEPS / sweep)
    if restarted := find_restarted_run(SWEEPS.glob("*/*")):
        return str(restarted.parent)
    chosen_folders.add(SWEEPS / now)
    return str(SWEEPS / now)


def run_job(composed: DictConfig) -> dict[str, float] | float | None:
    """Run one job in the folder that Hydra made for it.

    Returns:
        The job's results, or the score that a sweeper optimizes. A run of a sweep that fails returns nothing: its error
        message is stored in its folder, and the sweep continues.
    """
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    started_jobs.append(folder)
    sweeping = settings.mode == RunMode.MULTIRUN
    OmegaConf.set_struct(composed, False)
    write_new_options(composed)
    try:
        # Resolved while Hydra's config is at hand. A name such as 2026 is text.
        composed.name, composed.experiment = check_name(composed.name), composed.experiment
        if is_one_of_several_tasks() and rank() > 0:
            worker_loop(execute, once=True)
            return {}
        command = Command.parse(composed, settings, folder=folder)
        if sweeping:
            find_run.cache_clear()  # a sweeper may try the same values twice
        with training_lock(folder) if command.job == "fit" else nullcontext():
            return run_command(composed, command, settings, folder)
    except Exception as error:
        if sweeping and isinstance(error, RunInProgressError):
            log.info("skipped: %s", error)
            return sweeper_result({}, composed)
        message = error_message(error) or path_message(error)
        if message is None or (sweeping and FULL_ERROR):
            traceback.print_exc()  # a defect: print it here, before Hydra adds its own words
        else:
            print_error(error, message)
        is_new = not (folder / UNRESOLVED_CONFIG).is_file()
        if is_new and (sweeping or message is None):
            with suppress(Exception):  # a config that cannot be resolved; its message counts
                provenance.record_pending_start(failed=True)
        if not sweeping or isinstance(error, TakenFolderError):  # a training's folder stays as it is: the sweep ends
            refusal.undo()
            sys.exit(1)
        sweeps.record_failure(folder, message or f"{type(error).__name__}: {error}")
        return sweeper_result({}, composed)
    finally:
        provenance.drop_pending_start()
        if is_one_of_several_tasks() and rank() == 0:
            broadcast_job("")  # the other tasks may still wait for a job, as that of a run that is finished


def is_one_of_several_tasks() -> bool:
    """Return whether a launcher of Hydra has started this process, which has not called `main`, beside others."""
    return detect_launcher() is not None and not provenance.given_arguments


def run_command(composed: DictConfig, command: Command, settings: Any, folder: Path) -> dict[str, float] | float | None:
    """Run the job of a command on the run that it works on.

    Args:
        composed: the config that the command line gives with the defaults.
        command: the command.
        settings: Hydra's own config.
        folder: output folder.

    Returns:
        As `run_job`.
    """
    if command.job == "fit" and not command.sweeping and composed.get("sweep"):
        sweep = settings.runtime.choices["sweep"]
        raise UserError(f"sweep={sweep} is a grid of runs: start it with --multirun, or describe it with job=describe.")
    selection = find_run(command)
    check_folder(command, folder)
    swept = sweeps.swept_keys(settings)
    overrides: Any = OmegaConf.to_container(settings.overrides.task)  # with their interpolations
    if command.is_repeatable and selection.run == selection.folder:
        results = sweeps.finished_results(folder, initial_config(composed, command, overrides), swept)
        if results is not None:
            log.info("finished earlier: %s", os.path.relpath(folder))
            return sweeper_result(results, composed)
    checkpoint = find_checkpoint(command, selection)
    config = resolve_config(composed, command, selection, overrides, resumes=checkpoint is not None)
    expand_paths(config)
    base = command.base_run if command.sweeping and selection.run == folder else selection.run or command.base_run
    if base is None and command.is_repeatable and command.ckpt is not None:
        base = resolve_ckpt(command.ckpt, command.name)[0]  # the run that this one of a sweep builds on
    earlier = provenance.read_overrides(Path(base)) if base else ()
    merged = provenance.merge_overrides(earlier, overrides)
    provenance.announce_start(provenance.Start(folder, config.copy(), merged, swept))
    config.ckpt = None if checkpoint is None else str(checkpoint)
    OmegaConf.to_container(config, resolve=True)  # unlike resolve(), it names the key of a failing interpolation
    OmegaConf.resolve(config)
    check_targets(config)
    with distributed_job(command.job, config, folder):
        results = execute(config, folder)
        provenance.record_pending_start()
        return sweeper_result(results, composed)


class TakenFolderError(UserError):
    """The output folder of a job is that of a training."""


def check_folder(command: Command, folder: Path) -> None:
    """Check that another job than a training doesn't write over the config and results of a run.

    Raises:
        TakenFolderError: its folder is that of a training.
    """
    if command.job == "fit" or not (folder / UNRESOLVED_CONFIG).is_file():
        return
    if OmegaConf.select(load_config(folder), "job._target_") == FIT:
        key = "hydra.sweep.dir" if command.sweeping else "hydra.run.dir"
        raise TakenFolderError(
            f"'{folder}' is the folder of a run, which job={command.job} would write over: set another "
            f"{key}=<folder>, or leave it out."
        )


def execute(config: DictConfig, folder: Path) -> dict[str, float]:
    """Call the job's function, once the process has its share of the threads."""
    job = get_method(config.job._target_)
    if "torch" in sys.modules:
        threads = set_threads()
        if rank() == 0 and job.__module__.rpartition(".")[2] in DISTRIBUTED_JOBS:
            log.info(threads)
    return job(config, folder)


def expand_paths(config: DictConfig) -> None:
    """Replace ~ by the home folder in the keys that are paths."""
    for key in PATH_KEYS:
        value = OmegaConf.select(config, key, throw_on_missing=False, throw_on_resolution_failure=False)
        if isinstance(value, str) and value.startswith("~"):
            OmegaConf.update(config, key, os.path.expanduser(value))
        elif isinstance(value, ListConfig):
            paths = [os.path.expanduser(path) if isinstance(path, str) else path for path in value]
            OmegaConf.update(config, key, paths, merge=False)


def resolve_config(
    composed: DictConfig, command: Command, selection: Selection, overrides: list[str], *, resumes: bool
) -> DictConfig:
    """Return the config of a command: the composed one, or that of a run with the command's overrides on top.

    Args:
        composed: the config that the command line gives with the defaults.
        command: the command.
        selection: the run that it works on.
        overrides: the overrides of the command line.
        resumes: whether the command has a checkpoint to start from.

    Raises:
        UserError: the command names another experiment than the run is of, a key that the run lacks, or a value that
            a training cannot take on when it resumes.
    """
    if selection.run is not None:
        source, base = str(selection.run), load_config(selection.run)
    elif selection.file is not None:
        from lambdanets.runs.checkpoints import read_checkpoint

        source, base = str(selection.file), OmegaConf.create(read_checkpoint(selection.file, keep=True)["config"])
    elif command.base_run is not None:
        source, base = command.base_run, load_config(command.base_run)
    else:
        composed.ckpt = None
        return composed
    if composed.experiment not in (None, base.get("experiment")):
        raise UserError(
            f"experiment={composed.experiment} does not match '{source}', which is a run of "
            f"experiment={base.get('experiment')}: leave one of the two out."
        )
    config = apply_overrides(base, composed, overrides, source=source)
    config.name = check_name(config.name)
    if command.job == "fit" and resumes:
        check_resumable(base, config, source=source)
    config.ckpt = config.base_run = None
    return config


def initial_config(composed: DictConfig, command: Command, overrides: list[str]) -> DictConfig:
    """Return the config that a command gives to a new run, to compare it with that of the run in its folder.

    Args:
        composed: the config that the command line gives with the defaults.
        command: the command.
        overrides: the overrides of the command line.

    Raises:
        UserError: as `resolve_config`, or ckpt names nothing that exists.
    """
    run, file = (None, None) if command.ckpt is None else resolve_ckpt(command.ckpt, command.name)
    start = Selection(run or Path(), run, file)
    config = resolve_config(composed.copy(), command, start, overrides, resumes=False)
    expand_paths(config)
    return config


def sweeper_result(results: dict[str, float], composed: DictConfig) -> dict[str, float] | float | None:
    """Return what a sweeper receives of a run: its results, or the score that the sweep optimizes.

    None, for a run without that score, is a failed trial to Optuna; nan would end its sweep.
    """
    objective = OmegaConf.select(composed, "sweep.objective")
    if objective is None:
        return results
    score = results.get(objective, math.nan)
    if results and objective not in results:
        log.error("sweep.objective=%s is not a score of the run: choose one of %s.", objective, ", ".join(results))
    return None if math.isnan(score) else score


def print_error(error: Exception, message: str | None) -> int:
    """Print an error message and return the exit code; raise an error without one, or with HYDRA_FULL_ERROR=1."""
    if message is None or FULL_ERROR:
        raise error
    print(f"error: {message}", file=sys.stderr)
    return 2
