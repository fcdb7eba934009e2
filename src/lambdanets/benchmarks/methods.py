"""benchmark=methods: what each exact method is predicted and measured to cost."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from lambdanets.benchmarks.measure import Setting, Step, matrix_rate
from lambdanets.benchmarks.result import Result
from lambdanets.mixers.lambda_layer import Scope
from lambdanets.ops import METHODS
from lambdanets.ops.cost import Shape, predict_costs
from lambdanets.progress import progress_bar


def compare_methods(
    setting: Setting,
    *,
    shapes: Sequence[tuple[int, int, int, Scope]],
    key_depth: int,
    heads: int,
    intra_depth: int,
    slowest: float,
) -> Result:
    """The product of queries and lambdas by every method that can compute it, and which one is chosen.

    Args:
        setting: how to measure.
        shapes: (batch, side, channels, scope).
        key_depth: k.
        heads: h.
        intra_depth: u.
        slowest: methods predicted to take more times the best one's time aren't run.
    """
    columns = ["map", "context", "method", "infer: predicted ms", "infer: measured ms", "train: predicted ms"]
    columns += ["train: measured ms", "G multiply-adds", "of the matrix rate", "chosen"]
    result = Result("Exact methods", columns, setting=setting)
    kind = torch.bfloat16 if setting.precision == "bfloat16" else torch.float32
    with setting.limit_threads():
        rate = matrix_rate(setting)
        for batch, side, channels, scope in progress_bar(shapes, "shapes"):
            reach = 2 * side - 1 if scope == "global" else int(scope)  # type: ignore[arg-type]
            depth = channels // heads
            sizes: list[tuple[int, ...]] = [
                (batch, side, side, heads, key_depth),
                (batch, side, side, intra_depth, depth),
            ]
            sizes += [(key_depth, intra_depth, reach, reach), (batch, key_depth, depth)]
            inputs = [torch.randn(size, device=setting.torch_device, dtype=kind).requires_grad_() for size in sizes]
            grad = torch.randn(batch, side, side, heads, depth, device=setting.torch_device, dtype=kind)
            shape = Shape.of(*inputs[:3])
            training, inference = predict_costs(shape), predict_costs(replace(shape, training=False))
            best = {key: min(found, key=lambda name: found[name].seconds) for key, found in
                    (("train", training), ("infer", inference))}  # fmt: skip
            limit = slowest * training[best["train"]].seconds
            names = [name for name in METHODS if name in training and training[name].seconds <= limit]
            train = setting.measure_times({name: training_step(name, inputs, grad) for name in names})
            infer = setting.measure_times({name: inference_step(name, inputs) for name in names})
            for name, cost in training.items():
                multiply_adds = cost.work.products + cost.work.kernel + cost.work.taps + cost.work.butterflies
                measured = train.get(name)
                chosen = [key for key, choice in best.items() if choice == name]
                result.rows.append(
                    {
                        "map": f"{batch}×{side}²×{channels}",
                        "context": str(scope) if scope == "global" else f"{scope}×{scope}",
                        "method": name,
                        "infer: predicted ms": 1e3 * inference[name].seconds,
                        "infer: measured ms": 1e3 * infer[name] if name in infer else None,
                        "train: predicted ms": 1e3 * cost.seconds,
                        "train: measured ms": 1e3 * measured if measured else None,
                        "G multiply-adds": multiply_adds / 1e9,
                        "of the matrix rate": f"{multiply_adds / measured / rate:.0%}" if measured else "–",
                        "chosen": ", ".join(chosen),
                    }
                )
    result.notes.append(
        f"The machine does {rate / 1e9:.1f} G multiply-adds a second in a large matrix product. A method's own include "
        f"butterflies, taps and recomputation. Methods predicted to take more than {slowest:g} times as long as the "
        f"best one aren't run."
    )
    return result


def training_step(name: str, inputs: list[torch.Tensor], grad: torch.Tensor) -> Step:
    return lambda: torch.autograd.grad(METHODS[name](*inputs), inputs, grad)


def inference_step(name: str, inputs: list[torch.Tensor]) -> Step:
    def step() -> None:
        with torch.no_grad():
            METHODS[name](*inputs)

    return step
