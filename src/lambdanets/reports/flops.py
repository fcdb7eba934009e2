"""FLOPs of the networks of runs, counted from their configs without reading data."""

import json
import logging
from functools import cache, partial

from omegaconf import DictConfig, OmegaConf

from lambdanets.config.build import build_model, image_spec
from lambdanets.costs.count import ModelCost, count_costs, sum_costs
from lambdanets.ops.cost import assume_kernel
from lambdanets.reports.runs import RunRecord

log = logging.getLogger(__name__)
# Which of the equal computations is counted, for the notes of tables.
COUNTED_METHODS = "lambda layers by the method that is predicted to be fastest on a CPU with the C kernel"


def run_flops(run: RunRecord) -> float | None:
    """Return the FLOPs of one image's forward pass of the run's network; None where they can't be counted."""
    config = OmegaConf.masked_copy(run.config, ["model", "mixer", "data"])
    parameters = int(run.metrics["parameters"]) if "parameters" in run.metrics else None
    return count_flops(json.dumps(OmegaConf.to_container(config), sort_keys=True), parameters)


@cache
def count_flops(text: str, parameters: int | None) -> float | None:
    """Return the FLOPs of the network of a config.

    The config has no number of classes if they are those of a folder of images. So the number is taken with which the
    network has the parameters that the run recorded; without such a number, it is another network than the run's.

    Args:
        text: the config's model, mixer and data, as JSON.
        parameters: as the run recorded them, None of an unfinished run.
    """
    config = OmegaConf.create(text)
    assert isinstance(config, DictConfig)
    try:
        classes = image_spec(config).classes
        cost = count_with(config, classes)
        if parameters not in (None, cost.parameters) and classes > 1:
            one = count_with(config, 1).parameters
            others, rest = divmod((parameters - one) * (classes - 1), cost.parameters - one)
            if rest == 0 and others >= 0:
                cost = count_with(config, 1 + int(others))
        if parameters not in (None, cost.parameters):
            log.info(
                "FLOPs aren't counted: the network has %d parameters, the run had %d.", cost.parameters, parameters
            )
            return None
    except Exception as error:  # a mixer that was removed since, or can't be traced, must not stop the report
        log.info("FLOPs can't be counted: %s", " ".join(str(error).split())[:200])
        return None
    return cost.flops


def count_with(config: DictConfig, classes: int) -> ModelCost:
    """Return the cost of a config's network with a number of classes, the same on each machine."""
    images = image_spec(config)._replace(classes=classes)
    make = partial(build_model, config, images)
    with assume_kernel():
        return sum_costs(count_costs(make, channels=images.channels, image_size=images.size))
