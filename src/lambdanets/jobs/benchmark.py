"""job=benchmark: speed and memory, side by side."""

import logging
import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from lambdanets.benchmarks import plots
from lambdanets.benchmarks.experiment_networks import NetworkSpec
from lambdanets.benchmarks.result import Result
from lambdanets.config import experiments
from lambdanets.config.build import build_model, image_spec
from lambdanets.console import silence_lightning
from lambdanets.errors import UserError
from lambdanets.jobs.benchmark_training import TrainingTimer
from lambdanets.runs import provenance

log = logging.getLogger(__name__)
PEERS = ("timm", "lambda-networks")


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Runs one benchmark; prints its table and writes it as JSON, Markdown and, if it has one, as a plot.

    Args:
        config: resolved.
        folder: where the files go.

    Returns:
        The number of rows.

    Raises:
        UserError: no benchmark is named.
    """
    silence_lightning()
    if not config.get("benchmark"):
        raise UserError(
            "job=benchmark needs benchmark=layers, networks, scaling, methods, table4, figure2, coco, loop, callbacks "
            "or input."
        )
    settings = config.benchmark.copy()
    configs = {name: experiments.row(name, experiments.overrides()) for name in settings.pop("experiments", [])}
    for name, said in settings.pop("variants", {}).items():
        configs[name] = experiments.variant([*said, *experiments.overrides()])
    networks = {"networks": {name: network(found) for name, found in configs.items()}} if configs else {}
    trained = settings.pop("train", [])
    trainings = {"trainings": {" ".join(said): TrainingTimer(list(said)) for said in trained}} if trained else {}
    result: Result = instantiate(settings, _convert_="all", _partial_=True)(**networks, **trainings)
    name = HydraConfig.get().runtime.choices["benchmark"]
    origin = {key: value for key, value in provenance.origin().items() if key not in ("folder", "host", "process")}
    origin["packages"] |= {peer: provenance.package_version(peer) for peer in PEERS}
    result.show()
    result.save(folder, name, origin)
    if result.plot:
        plots.draw(result, folder / f"{name}.png")
    log.info("Written to %s.", os.path.relpath(folder / f"{name}.md"))
    return {"rows": len(result.rows)}


def network(config: DictConfig) -> NetworkSpec:
    """A config's network."""
    images = image_spec(config)
    return NetworkSpec(lambda: build_model(config, images), images.channels, images.size)
