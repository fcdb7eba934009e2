"""benchmark=scaling: time and memory as functions of the number of positions."""

import math
import statistics
from collections.abc import Sequence

from lambdanets.benchmarks import candidates
from lambdanets.benchmarks.measure import Setting, format_scope
from lambdanets.benchmarks.result import Result
from lambdanets.mixers.lambda_layer import Scope
from lambdanets.progress import progress_bar
from lambdanets.table import Cell

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
    unit, scale = setting.time_unit
    columns = ["layer", "side", "n", f"train {unit}", f"infer {unit}", "peak MiB"]
    plot = {"kind": "lines", "x": "n", "y": f"train {unit}", "line": "layer"}
    result = Result(f"Scaling, {channels} channels, batch {batch}", columns, setting=setting, plot=plot)
    with setting.apply():
        for side in progress_bar(sides, "sides"):
            x = setting.make_features(batch, channels, side)
            modules = {}
            for scope in scopes:
                factories = candidates.layer_factories(channels, side, scope, batch, setting.memory_gib)
                modules[f"ours, {format_scope(scope)}"] = factories.pop(candidates.OURS)()
                if scope == "global":
                    others, missing = candidates.make_available(factories)
                    modules |= {
                        name if name in BASELINES else f"{name}, global": other for name, other in others.items()
                    }
                    result.notes += [note for note in missing if note not in result.notes]
            modules = {name: setting.place(module) for name, module in modules.items()}
            train, infer, peak = setting.measure_modules(modules, x)
            for name in modules:
                result.rows.append(
                    {
                        "layer": name,
                        "side": side,
                        "n": side * side,
                        f"train {unit}": scale * train[name],
                        f"infer {unit}": scale * infer[name],
                        "peak MiB": peak[name],
                    }
                )
    result.notes += describe_exponents(result, fit)
    return result


def describe_exponents(result: Result, fit: tuple[int, int]) -> list[str]:
    """Return a sentence per layer with the exponent of its training time, from the sides of the fit."""
    time = f"train {result.setting.time_unit[0]}"
    notes = []
    for name in dict.fromkeys(str(row["layer"]) for row in result.rows):
        rows = [row for row in result.rows if row["layer"] == name and not math.isnan(number(row[time]))]
        sides = {number(row["side"]): row for row in rows if fit[0] <= number(row["side"]) <= fit[1]}
        if len(sides) > 1:
            exponent = fit_exponent([(number(row["n"]), number(row[time])) for row in sides.values()])
            notes.append(f"{name}: training time grows as n^{exponent:.2f} from {min(sides)}² to {max(sides)}².")
    return notes


def number(cell: Cell) -> float:
    assert isinstance(cell, int | float)
    return cell


def fit_exponent(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line through the logarithms of (x, y) points."""
    return statistics.linear_regression(*zip(*[(math.log(x), math.log(y)) for x, y in points], strict=True)).slope
