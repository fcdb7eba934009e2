"""benchmark=scaling: time and memory as functions of the number of positions."""

import math
import statistics
from collections.abc import Sequence

import torch

from lambdanets.benchmarks import candidates
from lambdanets.benchmarks.measure import Setting, format_scope
from lambdanets.benchmarks.result import Result
from lambdanets.mixers.lambda_layer import Scope
from lambdanets.progress import progress_bar

BASELINES = (candidates.CONV, candidates.ATTENTION)


def measure_scaling(
    setting: Setting,
    *,
    batch: int,
    channels: int,
    sides: Sequence[int],
    scopes: Sequence[Scope],
    fit: tuple[int, int],
) -> Result:
    """Measure layers on maps of growing sides, and fit the exponent e of time ~ n^e.

    Args:
        setting: the conditions of the measurement.
        batch: images.
        channels: channels of the maps.
        sides: sides of the maps.
        scopes: scopes of our lambda layers.
        fit: smallest and largest side of the fit.

    Returns:
        One row per layer and side, and the exponents as notes.
    """
    columns = ["layer", "side", "n", "train ms", "infer ms", "peak MiB"]
    plot = {"kind": "lines", "x": "n", "y": "train ms", "line": "layer"}
    result = Result(f"Scaling, {channels} channels, batch {batch}", columns, setting=setting, plot=plot)
    with setting.limit_threads():
        for side in progress_bar(sides, "sides"):
            x = torch.randn(batch, channels, side, side, device=setting.torch_device, requires_grad=True)
            modules = {}
            for scope in scopes:
                factories = candidates.layer_factories(channels, side, scope, batch, setting.memory_gib)
                modules[f"ours, {format_scope(scope)}"] = factories.pop(candidates.OURS)()
                if scope == "global":
                    modules |= {
                        name if name in BASELINES else f"{name}, global": make() for name, make in factories.items()
                    }
            modules = {name: module.to(setting.torch_device) for name, module in modules.items()}
            train, infer, peak = setting.measure_modules(modules, x)
            for name in modules:
                result.rows.append(
                    {
                        "layer": name,
                        "side": side,
                        "n": side * side,
                        "train ms": 1e3 * train[name],
                        "infer ms": 1e3 * infer[name],
                        "peak MiB": peak[name],
                    }
                )
    for name in dict.fromkeys(str(row["layer"]) for row in result.rows):
        points = [row for row in result.rows if row["layer"] == name and fit[0] <= row["side"] <= fit[1]]  # type: ignore[operator]
        if len(points) > 1:
            e = fit_exponent([(row["n"], row["train ms"]) for row in points])  # type: ignore[misc]
            result.notes.append(f"{name}: training time grows as n^{e:.2f} from {fit[0]}² to {points[-1]['side']}².")
    return result


def fit_exponent(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line through the logarithms of (x, y) points."""
    return statistics.linear_regression(*zip(*[(math.log(x), math.log(y)) for x, y in points], strict=True)).slope
