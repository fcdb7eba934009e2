"""job=benchmark: speed and memory, side by side."""

import logging
import os
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from lambdanets.benchmarks import plots
from lambdanets.benchmarks.result import Result
from lambdanets.errors import UserError
from lambdanets.jobs import provenance
from lambdanets.jobs.console import quiet

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
    quiet()
    if not config.get("benchmark"):
        raise UserError("job=benchmark needs benchmark=layers, networks, scaling or methods.")
    result: Result = instantiate(config.benchmark, _convert_="all")
    name = str(config.benchmark["_target_"]).rpartition(".")[2]
    origin = {key: value for key, value in provenance.origin().items() if key != "folder"}
    origin["packages"] |= {peer: provenance.package_version(peer) for peer in PEERS}
    result.show()
    result.save(folder, name, origin)
    if result.plot:
        plots.draw(result, folder / f"{name}.png")
    log.info("Written to %s.", os.path.relpath(folder / f"{name}.md"))
    return {"rows": len(result.rows)}
