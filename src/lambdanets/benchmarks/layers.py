"""benchmark=layers: single layers in the shapes of ResNet-50's stages."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from lambdanets.benchmarks import candidates
from lambdanets.benchmarks.measure import Setting, format_scope
from lambdanets.benchmarks.result import Result
from lambdanets.benchmarks.roofline import Roofline, count_multiply_adds, lambda_multiply_adds
from lambdanets.mixers import LambdaLayer
from lambdanets.mixers.lambda_layer import Scope
from lambdanets.progress import progress_bar
from lambdanets.table import format_percentage

OTHER_LAMBDA_LAYERS = (candidates.TIMM, candidates.LAMBDA_NETWORKS)


def compare_layers(
    setting: Setting, *, batch: int, shapes: Sequence[tuple[int, int]], scopes: Sequence[Scope]
) -> Result:
    """Compare lambda layers of three libraries, the 3×3 convolution and BoTNet's attention.

    Args:
        setting: the conditions of the measurement.
        batch: images.
        shapes: (side, channels) of each map.
        scopes: scopes of the lambda layers.

    Returns:
        One row per layer: its milliseconds and MiB, and their ratios to those of our lambda layer.
    """
    unit, scale = setting.time_unit
    columns = ["map", "context", "layer", f"train {unit}", f"infer {unit}", "peak MiB", "ours faster", "its MiB / ours"]
    columns += ["train at the floor", "infer at the floor"]
    plot = {"kind": "bars", "x": "case", "y": f"train {unit}", "line": "layer"}
    result = Result("Layers, forward and backward", columns, setting=setting, plot=plot)
    with setting.apply():
        roofline = Roofline.measure(setting)
        for side, channels in progress_bar(shapes, "shapes"):
            for scope in scopes:
                x = setting.make_features(batch, channels, side)
                factories = candidates.layer_factories(channels, side, scope, batch, setting.memory_gib)
                modules, missing = candidates.make_available(factories)
                modules = {name: setting.place(module) for name, module in modules.items()}
                result.notes += [note for note in missing if note not in result.notes]
                train, infer, peak = setting.measure_modules(modules, x)
                size, context = f"{side}²×{channels}", format_scope(scope)
                for name, module in modules.items():
                    reference = modules[candidates.OURS] if name in OTHER_LAMBDA_LAYERS else module
                    least = [minimum_seconds(roofline, setting, reference, x, training) for training in (True, False)]
                    result.rows.append(
                        {
                            "case": f"{size}\n{context}",
                            "map": size,
                            "context": context,
                            "layer": name,
                            f"train {unit}": scale * train[name],
                            f"infer {unit}": scale * infer[name],
                            "peak MiB": peak[name],
                            "ours faster": train[name] / train[candidates.OURS],
                            "its MiB / ours": peak[name] / peak[candidates.OURS],
                            "train at the floor": format_percentage(least[0] / train[name]),
                            "infer at the floor": format_percentage(least[1] / infer[name]),
                        }
                    )
                others = [(train[name], name) for name in OTHER_LAMBDA_LAYERS if train.get(name, math.nan) > 0]
                if others:
                    seconds, other = min(others)
                    result.notes.append(
                        f"{setting.precision}, {size}, {context}: {seconds / train[candidates.OURS]:.2f} times as fast "
                        f"as {other}, the fastest other lambda layer, which needs "
                        f"{peak[other] / peak[candidates.OURS]:.2f} times the memory."
                    )
    result.notes.append(
        f"At the floor: part of the time that is left at {2e-12 * roofline.matrix_rate:,.3g} TFLOP/s and "
        f"{1e-9 * roofline.bandwidth:,.3g} GB/s, as measured of a large matrix product and a large copy. Lambda layers "
        "count the arithmetic of the cheaper direct order, whatever they run; all layers count their input and output "
        "as the least traffic."
    )
    return result


def minimum_seconds(roofline: Roofline, setting: Setting, module: nn.Module, x: torch.Tensor, training: bool) -> float:
    """Return the least seconds of a layer: (B, C, H, H) → (B, C, H, H)."""
    if isinstance(module, LambdaLayer):
        multiply_adds = lambda_multiply_adds(module, len(x), x.shape[3])
    else:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=setting.precision == "bfloat16"):
            multiply_adds = count_multiply_adds(module, x)
    return roofline.floor(multiply_adds, x.numel(), training=training)
