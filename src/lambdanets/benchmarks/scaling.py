"""benchmark=scaling: time and memory against the number of positions."""

import math
from collections.abc import Sequence

import torch

from lambdanets.benchmarks import candidates
from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.result import Result
from lambdanets.mixers.lambda_layer import Scope
from lambdanets.progress import progress_bar


def measure_scaling(
    setting: Setting,
    *,
    batch: int,
    channels: int,
    sides: Sequence[int],
    scopes: Sequence[Scope],
    fit: tuple[int, int],
) -> Result:
    """Layers on maps of growing sides, and the exponent e of time ~ n^e between two of them.

    Args:
        setting: how to measure.
        batch: images.
        channels: of the maps.
        sides: of the maps.
        scopes: of our lambda layers.
        fit: the sides between which the exponent is fitted.
    """
    columns = ["layer", "side", "n", "train ms", "infer ms", "peak MiB"]
    plot = {"kind": "lines", "x": "n", "y": "train ms", "line": "layer"}
    result = Result(f"Scaling, {channels} channels, batch {batch}", columns, setting=setting, plot=plot)
    with setting.limit_threads():
        for side in progress_bar(sides, "sides"):
            x = torch.randn(batch, channels, side, side, device=setting.torch_device, requires_grad=True)
            modules = {}
            for scope in scopes:
                makers = candidates.layer_factories(channels, side, scope, batch, setting.memory_gib)
                shown = str(scope) if scope == "global" else f"{scope}×{scope}"
                modules[f"ours, {shown}"] = makers.pop(candidates.OURS)()
                if scope == "global":
                    modules |= {name if name in BASE else f"{name}, global": make() for name, make in makers.items()}
            modules = {name: module.to(setting.torch_device) for name, module in modules.items()}
            training = {name: setting.make_training_step(module, x) for name, module in modules.items()}
            train = setting.measure_times(training)
            infer = setting.measure_times(
                {name: setting.make_inference_step(module, x) for name, module in modules.items()}
            )
            peak = setting.measure_peaks(training)
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
            e = exponent([(row["n"], row["train ms"]) for row in points])  # type: ignore[misc]
            result.notes.append(f"{name}: training time grows as n^{e:.2f} from {fit[0]}² to {points[-1]['side']}².")
    return result


BASE = (candidates.CONV, candidates.ATTENTION)


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The slope of a straight line through the logarithms, by least squares."""
    xs, ys = ([math.log(point[axis]) for point in points] for axis in (0, 1))
    x0, y0 = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - x0) * (y - y0) for x, y in zip(xs, ys, strict=True)) / sum((x - x0) ** 2 for x in xs)
