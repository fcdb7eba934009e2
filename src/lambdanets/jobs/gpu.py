"""job=gpu: test and measure on a GPU, part by part in a limited time."""

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from lambdanets.benchmarks.input_pipeline import write_photographs
from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.methods import summarize_rates
from lambdanets.benchmarks.result import Result
from lambdanets.benchmarks.resumable import ResumableResult, hash_code, time_limit
from lambdanets.config.search_path import PACKAGE, packaged_configs
from lambdanets.console import silence_lightning
from lambdanets.errors import UserError
from lambdanets.jobs.benchmark import describe_origin, measure
from lambdanets.runs.folders import METRICS, SWEEPS

log = logging.getLogger(__name__)
ROOT = PACKAGE.parent.parent
RESULTS = Path("results/gpu")
STOP_SECONDS = 30  # for a training to write its checkpoint
# Device memory that a measurement may use; the rest is for workspaces and fragmentation.
USABLE_MEMORY = 0.85
SUMMARIES: dict[str, Callable[[Result], dict[str, Any]]] = {"methods": summarize_rates}


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Run one part, and write its results to results/gpu/<name>.json and .md as they come.

    Another call of a part measures the cases that are left. On the CPU it rehearses the same code with tiny sizes.

    Args:
        config: resolved.
        folder: output folder.

    Returns:
        The number of measured cases, or of runs; of tests nothing.

    Raises:
        UserError: there is no GPU, the part is unknown, or tests or measurements failed.
    """
    silence_lightning()
    job = config.job
    check_device(job.device)
    parts = ["tests", *dict.fromkeys(spec.part for spec in job.measurements.values()), "reproduction"]
    if job.part not in parts:
        raise UserError(f"job.part={job.part} is not known: choose one of {', '.join(parts)}.")
    default = folder if job.device == "cpu" else RESULTS
    results = Path(job.output_dir or default).absolute()
    if job.part == "tests":
        return run_tests(job, results)
    if job.part == "reproduction":
        return run_sweep(job, results)
    message = f"part {job.part} was cut off after {job.minutes:g} minutes; call it again for the cases that are left."
    failures: list[str] = []
    measured = 0
    with time_limit(60 * job.minutes, message) as fits:
        for name, spec in job.measurements.items():
            if spec.part == job.part:
                measured += measure_cases(job, name, spec, results, fits, failures)
    if failures:
        raise UserError(f"{len(failures)} cases of part {job.part} failed, the first one as {failures[0]}")
    return {"cases": measured}


def check_device(device: str) -> None:
    """Check that there is a GPU, or that this is a rehearsal.

    Raises:
        UserError: neither.
    """
    if device not in ("cpu", "cuda"):
        raise UserError(f"job.device={device} is not known: choose cuda, or cpu for a rehearsal.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "There is no GPU here that torch can use: run it on a machine with one, or rehearse it on the CPU with "
            "job.device=cpu."
        )


def run_tests(job: DictConfig, results: Path) -> dict[str, float]:
    """Run tests/gpu in a process of its own; each call runs all of them anew.

    Raises:
        UserError: a test failed, or the time was over.
    """
    if not (ROOT / "tests" / "gpu").is_dir():
        raise UserError("job.part=tests needs a checkout of the repository, which has tests/gpu.")
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-o", "addopts=", "-q", "-ra", *job.pytest]
    variables = {"LAMBDANETS_TEST_DEVICE": job.device, "LAMBDANETS_TEST_REPORT": str(results)}
    page = os.path.relpath(results / "tests.md")
    try:
        done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, timeout=60 * job.minutes)
    except subprocess.TimeoutExpired:
        raise UserError(f"The tests were cut off after {job.minutes:g} minutes: {page} has those that ended.") from None
    if done.returncode:
        raise UserError(f"The tests failed (pytest's exit code is {done.returncode}): see {page}.")
    log.info("Wrote %s", page)
    return {}


def measure_cases(
    job: DictConfig, name: str, spec: DictConfig, results: Path, fits: Callable[[], bool], failures: list[str]
) -> int:
    """Measure the cases of one measurement that are left, as long as they fit into the time.

    Args:
        job: the job's config.
        name: name of the measurement and of its files.
        spec: its config.
        results: folder of the files.
        fits: returns whether there is time for another case.
        failures: messages of failed cases, to which this call adds its own.

    Returns:
        The number of cases that this call measured.
    """
    rehearsing = job.device == "cpu"
    options: Any = OmegaConf.to_container(spec.options)
    grid: Any = OmegaConf.to_container(spec.grid)
    if rehearsing:
        options, grid = (
            options | OmegaConf.to_container(spec.rehearsal.options),
            OmegaConf.to_container(spec.rehearsal.grid),
        )
    setting = {**job.setting, **(job.rehearsal_setting if rehearsing else {}), "device": job.device}
    setting["memory_gib"] = 2.0 if rehearsing else USABLE_MEMORY * torch.cuda.mem_get_info()[0] / 2**30
    if name == "input":
        options["root"] = job.images or str(write_photographs(results / "photographs", 16 if rehearsing else 512))
        options["shards"] = str(results / "shards")
    origin = describe_origin()
    identity = {key: origin[key] for key in ("gpu", "python", "processor", "packages")}
    identity |= {"code": hash_code(), "benchmark": spec.benchmark, "options": options, "setting": dict(setting)}
    identity["setting"].pop("memory_gib")  # depends on what else is in memory
    file = ResumableResult(
        results,
        name,
        identity=identity,
        origin=origin,
        setting=Setting(**setting),
        summarize=SUMMARIES.get(name, lambda result: {}),
        anew=job.anew,
    )
    cases = {
        case: partial(measure_case, spec.benchmark, options, setting, values) for case, values in expand_grid(grid)
    }
    measured = file.measure(cases, fits=fits, strict=rehearsing)
    failures += file.failures
    file.save().show()
    log.info("Wrote %s", os.path.relpath(results / f"{name}.md"))
    return measured


def expand_grid(grid: dict[str, list[Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over the combinations of a grid: the name of each case, and its values by dotted key.

    An entry that is a mapping has several values that belong together, in place of the grid's key.
    """
    for values in itertools.product(*grid.values()):
        case: dict[str, Any] = {}
        for key, value in zip(grid, values, strict=True):
            case |= value if isinstance(value, dict) else {key: value}
        yield ", ".join(f"{key.split('.')[-1]}={json.dumps(value)}" for key, value in case.items()), case


def measure_case(benchmark: str, options: dict[str, Any], setting: dict[str, Any], case: dict[str, Any]) -> Result:
    """Run a benchmark with options; a precision that is part of the case becomes a column."""
    settings = OmegaConf.create({"benchmark": {}})
    settings.benchmark = OmegaConf.load(packaged_configs() / "benchmark" / f"{benchmark}.yaml")
    settings = settings.benchmark
    settings.setting = OmegaConf.merge(settings.setting, setting)
    for key, value in {**options, **case}.items():
        OmegaConf.update(settings, key, value, merge=False)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # of earlier cases
    result = measure(settings)
    result.rows = [{**row, "precision": result.setting.precision} for row in result.rows]
    result.columns.insert(0, "precision")
    return result


def run_sweep(job: DictConfig, results: Path) -> dict[str, float]:
    """Start or resume the sweep of the reproduction, stop it in time, and write the scores of its finished runs.

    Raises:
        UserError: the sweep or its images are missing, or one of its runs failed.
    """
    sweep, root = job.reproduction.sweep, job.reproduction.root
    if not (packaged_configs() / "sweep" / f"{sweep}.yaml").is_file():
        raise UserError(f"There is no sweep={sweep}, so part reproduction has nothing to run.")
    rehearsing = job.device == "cpu"
    if root is None and rehearsing:
        root = results / "images"
        write_photographs(root / "train", 32)
    if root is None:
        raise UserError("Part reproduction needs CIFAR-10 as a folder of images: set job.reproduction.root=<folder>.")
    overrides = job.reproduction.rehearsal if rehearsing else job.reproduction.overrides
    folder = results / SWEEPS.name / sweep if rehearsing else SWEEPS / sweep  # a rehearsal's runs are no results
    command = [
        sys.executable,
        "-m",
        "lambdanets",
        "--multirun",
        f"sweep={sweep}",
        f"data.root={root}",
        f"hydra.sweep.dir={folder}",
        *overrides,
    ]
    process = subprocess.Popen(command)
    stopped = False
    try:
        process.wait(60 * job.minutes - STOP_SECONDS)
    except subprocess.TimeoutExpired:
        stopped = True
        process.send_signal(signal.SIGTERM)  # the run writes its checkpoint
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    table = Result("The reproduction on a GPU", ["run"], setting=Setting(device=job.device))
    for file in sorted(folder.glob(f"*/{METRICS}")):
        metrics = json.loads(file.read_text(encoding="utf-8"))
        table.columns += [key for key in metrics if key not in table.columns]
        table.rows.append({"run": file.parent.name, **metrics})
    if stopped:
        table.notes.append("The sweep was stopped by the time limit; another call resumes it.")
    table.save(results, "reproduction", describe_origin())
    table.show()
    if process.returncode and not stopped:
        raise UserError(f"A run of sweep={sweep} failed: see {os.path.relpath(folder)}.")
    return {"runs": len(table.rows)}
