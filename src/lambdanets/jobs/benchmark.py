"""job=benchmark: speed and memory, measured side by side."""

import logging
import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lambdanets.benchmarks import plots
from lambdanets.benchmarks.experiment_networks import NetworkSpec
from lambdanets.benchmarks.result import Result, describe_load
from lambdanets.benchmarks.resumable import ResumableResult, hash_code
from lambdanets.config import experiments
from lambdanets.config.build import build_model, image_spec
from lambdanets.console import silence_lightning
from lambdanets.errors import UserError
from lambdanets.jobs.benchmark_training import TrainingTimer
from lambdanets.machine import CpuUse, describe_gpu
from lambdanets.runs import provenance

log = logging.getLogger(__name__)
OTHER_PACKAGES = ("triton", "timm", "lambda-networks", "onnxruntime")  # whose versions belong to a result


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Run one benchmark, print its table, and write it as JSON, Markdown and, for some benchmarks, as a plot.

    With job.redraw, the plot of an earlier result is drawn again instead.

    Args:
        config: resolved.
        folder: output folder.

    Returns:
        The number of rows.

    Raises:
        UserError: no benchmark is chosen, or job.redraw is not the JSON of a benchmark with a plot.
    """
    silence_lightning()
    if not config.get("benchmark"):
        raise UserError(
            "job=benchmark needs a benchmark: set benchmark=layers, networks, scaling, methods, table4, figure2, coco, "
            "inference, mobilenet, mobilenet_search, reproduction, loop, callbacks, input, triton_variants or "
            "gpu_predicted."
        )
    benchmark = HydraConfig.get().runtime.choices["benchmark"]
    settings = config.benchmark.copy()
    if config.job.redraw:
        return redraw(Path(config.job.redraw), settings, folder / f"{benchmark}.png")
    origin = describe_origin()
    resumable = settings.pop("resumable", False)
    file = open_result(settings, folder, benchmark, origin, anew=config.job.anew) if resumable else None
    result = measure(settings, file)
    result.show()
    if file is None:
        result.save(folder, benchmark, origin)
    if result.plot:
        plots.save_plot(result, folder / f"{benchmark}.png")
    log.info("Wrote %s", os.path.relpath(folder / f"{benchmark}.md"))
    if file is not None and file.failures:
        raise UserError(
            f"{len(file.failures)} cases of benchmark={benchmark} failed, the first one as {file.failures[0]}"
        )
    return {"rows": len(result.rows)}


def open_result(
    settings: DictConfig, folder: Path, benchmark: str, origin: dict[str, Any], *, anew: bool
) -> ResumableResult:
    """Open the result of a benchmark that another call with the same folder, code and options continues.

    Args:
        settings: the benchmark's config. Its experiments and pairs may differ from those of earlier calls.
        folder: output folder.
        benchmark: name of the files.
        origin: of `describe_origin`.
        anew: ignore earlier calls.
    """
    options: Any = OmegaConf.to_container(settings, resolve=True)
    for key in ("experiments", "variants", "pairs", "timm"):
        options.pop(key, None)
    identity = {key: origin[key] for key in ("python", "processor", "packages")}
    identity |= {"code": hash_code(), "options": options, "overrides": experiments.row_overrides()}
    return ResumableResult(
        folder, benchmark, identity=identity, origin=origin, setting=instantiate(settings.setting), anew=anew
    )


def measure(settings: DictConfig, file: ResumableResult | None = None) -> Result:
    """Run the benchmark of a config's group `benchmark`.

    Args:
        settings: the benchmark's config.
        file: the result of a benchmark that can be continued.
    """
    settings = settings.copy()
    configs = {
        name: experiments.compose_experiment(name, experiments.row_overrides())
        for name in settings.pop("experiments", [])
    }
    for name, overrides in settings.pop("variants", {}).items():
        configs[name] = experiments.compose_config([*overrides, *experiments.row_overrides()])
    options: dict[str, Any] = {} if file is None else {"file": file}
    if configs:
        options["networks"] = {name: network_spec(network_config) for name, network_config in configs.items()}
    if trainings := settings.pop("trainings", []):
        options["trainings"] = {" ".join(overrides): TrainingTimer(list(overrides)) for overrides in trainings}
    start = CpuUse.now()
    result: Result = instantiate(settings, _convert_="all", _partial_=True)(**options)
    if file is None:  # which has the load of each case
        result.machine_load = describe_load(start, CpuUse.now())
    return result


def describe_origin() -> dict[str, Any]:
    """Return the origin of a result: command, date, code, packages and GPU."""
    private = ("folder", "host", "process")
    origin = {key: value for key, value in provenance.describe_origin().items() if key not in private}
    origin["packages"] |= {package: provenance.package_version(package) for package in OTHER_PACKAGES}
    return origin | {"gpu": describe_gpu()}


def redraw(file: Path, settings: DictConfig, path: Path) -> dict[str, float]:
    """Draw the plot of an earlier result again, with the options of the plot that the benchmark's config has.

    Args:
        file: the JSON of the result.
        settings: the benchmark's config.
        path: of the plot.

    Returns:
        The number of rows.
    """
    result = Result.load(file)
    result.plot |= {key: settings[key] for key in result.plot if key in settings}
    plots.save_plot(result, path)
    log.info("Wrote %s", os.path.relpath(path))
    return {"rows": len(result.rows)}


def network_spec(config: DictConfig) -> NetworkSpec:
    """Return a config's network, to be built later."""
    images = image_spec(config)
    return NetworkSpec(lambda: build_model(config, images), images.channels, images.size)
