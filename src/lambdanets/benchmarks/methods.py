"""benchmark=methods: predicted and measured cost of the exact methods of the lambda layer."""

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from lambdanets.benchmarks.measure import Setting, Step, format_scope, measure_matrix_rate
from lambdanets.benchmarks.result import Result
from lambdanets.mixers.lambda_layer import Scope
from lambdanets.ops import METHODS
from lambdanets.ops.cost import OpCounts, Shape, predict_costs
from lambdanets.ops.lambda_map import fastest_method
from lambdanets.progress import progress_bar
from lambdanets.table import TableRow, format_percentage


def compare_methods(
    setting: Setting,
    *,
    shapes: Sequence[tuple[int, int, int, Scope]],
    key_depth: int,
    heads: int,
    intra_depth: int,
    slowest: float,
) -> Result:
    """Compare all methods that compute the product of queries and lambdas, and show the cost model's choice.

    Args:
        setting: the conditions of the measurement.
        shapes: (batch, side, channels, scope) of each case.
        key_depth: k.
        heads: h.
        intra_depth: u.
        slowest: limit of the predicted time, as a multiple of the best method's; slower methods are not measured.

    Returns:
        One row per case and method.
    """
    columns = ["map", "context", "method", "infer: predicted ms", "infer: measured ms", "train: predicted ms"]
    columns += ["train: measured ms", "G multiply-adds", "of the matrix rate", "chosen"]
    result = Result("Exact methods", columns, setting=setting)
    dtype = torch.bfloat16 if setting.precision == "bfloat16" else torch.float32
    with setting.apply():
        rate = measure_matrix_rate(setting)
        for batch, side, channels, scope in progress_bar(shapes, "shapes"):
            table_side = 2 * side - 1 if scope == "global" else int(scope)  # type: ignore[arg-type]
            value_depth = channels // heads
            sizes: list[tuple[int, ...]] = [
                (batch, side, side, heads, key_depth),
                (batch, side, side, intra_depth, value_depth),
            ]
            sizes += [(key_depth, intra_depth, table_side, table_side), (batch, key_depth, value_depth)]
            inputs = [torch.randn(size, device=setting.torch_device, dtype=dtype).requires_grad_() for size in sizes]
            grad = torch.randn(batch, side, side, heads, value_depth, device=setting.torch_device, dtype=dtype)
            shape = Shape.of(*inputs[:3])
            training, inference = predict_costs(shape), predict_costs(shape._replace(training=False))
            choices = {"train": fastest_method(*shape), "infer": fastest_method(*shape._replace(training=False))}
            limit = slowest * training[choices["train"]].seconds
            names = [name for name in METHODS if name in training and training[name].seconds <= limit]
            train = setting.measure_times({name: make_training_step(name, inputs, grad) for name in names})
            infer = setting.measure_times({name: make_inference_step(name, inputs) for name in names})
            for name, cost in training.items():
                multiply_adds = cost.ops.products + cost.ops.kernel + cost.ops.taps + cost.ops.butterflies
                measured = train.get(name)
                result.rows.append(
                    {
                        "map": f"{batch}×{side}²×{channels}",
                        "context": format_scope(scope),
                        "method": name,
                        "infer: predicted ms": 1e3 * inference[name].seconds,
                        "infer: measured ms": 1e3 * infer[name] if name in infer else None,
                        "train: predicted ms": 1e3 * cost.seconds,
                        "train: measured ms": 1e3 * measured if measured else None,
                        "G multiply-adds": multiply_adds / 1e9,
                        "of the matrix rate": format_percentage(multiply_adds / measured / rate) if measured else "–",
                        "chosen": ", ".join(mode for mode, choice in choices.items() if choice == name),
                        **{f"train: {kind}": count for kind, count in asdict(cost.ops).items()},
                        **{f"infer: {kind}": count for kind, count in asdict(inference[name].ops).items()},
                    }
                )
    result.notes.append(
        f"Matrix rate: {rate / 1e9:.1f} G multiply-adds per second in a large matrix product. The multiply-adds of a "
        f"method include butterflies, taps and recomputation. Methods are not measured if their predicted time is more "
        f"than {slowest:g} times that of the best one."
    )
    return result


def summarize_rates(result: Result) -> dict[str, Any]:
    """Fit the seconds per operation to the rows of each precision, and note how well they and the choices do.

    Args:
        result: of `compare_methods`, with the precision in its rows.

    Returns:
        The seconds per operation by precision, as `lambdanets.ops.cost.SECONDS_PER_OP` needs them.
    """
    rates = {}
    for precision in dict.fromkeys(str(row["precision"]) for row in result.rows):
        rows = [row for row in result.rows if row["precision"] == precision]
        rates[precision], errors = fit_rates(rows)
        result.notes.append(
            f"Fitted seconds per operation, {precision}: "
            + ", ".join(f"{kind} {seconds:.2g}" for kind, seconds in rates[precision].items())
            + f". Predicted over measured time: {min(errors):.2f} to {max(errors):.2f}, median {median(errors):.2f}."
        )
        for mode in ("train", "infer"):
            result.notes += describe_wrong_choices(rows, mode)
    return {"rates": rates}


def fit_rates(rows: Sequence[TableRow]) -> tuple[dict[str, float], list[float]]:
    """Fit non-negative seconds per operation, by the least squares of the relative errors of the predicted times.

    Args:
        rows: of `compare_methods`, of one device and precision.

    Returns:
        The seconds by the fields of `OpCounts`, and the ratios of fitted to measured times.
    """
    kinds = [field.name for field in fields(OpCounts)]
    samples = [
        [float(row[f"{mode}: {kind}"] or 0) / seconds for kind in kinds]
        for row in rows
        for mode in ("train", "infer")
        if (seconds := float(row[f"{mode}: measured ms"] or math.nan) / 1e3) > 0
    ]
    matrix = np.array(samples)
    scale = np.maximum(matrix.max(0), 1e-30)
    solution, _ = nnls(matrix / scale, np.ones(len(matrix)))
    return dict(zip(kinds, (solution / scale).tolist(), strict=True)), (matrix / scale @ solution).tolist()


def describe_wrong_choices(rows: Sequence[TableRow], mode: str) -> list[str]:
    """Return a sentence for each case whose chosen method was measured to be slower than another one."""
    notes = []
    for case in dict.fromkeys((row["map"], row["context"]) for row in rows):
        times = {
            str(row["method"]): (float(row[f"{mode}: measured ms"] or math.nan), mode in str(row["chosen"]))
            for row in rows
            if (row["map"], row["context"]) == case and float(row[f"{mode}: measured ms"] or math.nan) > 0
        }
        chosen = [name for name, (_, is_chosen) in times.items() if is_chosen]
        best = min(times, key=lambda name: times[name][0], default=None)
        if chosen and best and best != chosen[0]:
            ratio = times[chosen[0]][0] / times[best][0]
            notes.append(f"{case[0]}, {case[1]}, {mode}: {chosen[0]} was chosen, {best} is {ratio:.2f} times as fast.")
    return notes


def make_training_step(name: str, inputs: list[torch.Tensor], grad: torch.Tensor) -> Step:
    return lambda: torch.autograd.grad(METHODS[name](*inputs), inputs, grad)


def make_inference_step(name: str, inputs: list[torch.Tensor]) -> Step:
    def step() -> None:
        with torch.no_grad():
            METHODS[name](*inputs)

    return step
