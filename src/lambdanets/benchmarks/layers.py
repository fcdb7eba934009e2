"""benchmark=layers: single layers in the shapes of ResNet-50's stages."""

from collections.abc import Sequence

import torch

from lambdanets.benchmarks import candidates
from lambdanets.benchmarks.measure import Setting, format_scope
from lambdanets.benchmarks.result import Result
from lambdanets.mixers.lambda_layer import Scope
from lambdanets.progress import progress_bar

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
    columns = ["map", "context", "layer", "train ms", "infer ms", "peak MiB", "ours faster", "its MiB / ours"]
    plot = {"kind": "bars", "x": "case", "y": "train ms", "line": "layer"}
    result = Result("Layers, forward and backward", columns, setting=setting, plot=plot)
    with setting.limit_threads():
        for side, channels in progress_bar(shapes, "shapes"):
            for scope in scopes:
                x = torch.randn(batch, channels, side, side, device=setting.torch_device, requires_grad=True)
                factories = candidates.layer_factories(channels, side, scope, batch, setting.memory_gib)
                modules = {name: make().to(setting.torch_device) for name, make in factories.items()}
                train, infer, peak = setting.measure_modules(modules, x)
                size, context = f"{side}²×{channels}", format_scope(scope)
                for name in modules:
                    result.rows.append(
                        {
                            "case": f"{size}\n{context}",
                            "map": size,
                            "context": context,
                            "layer": name,
                            "train ms": 1e3 * train[name],
                            "infer ms": 1e3 * infer[name],
                            "peak MiB": peak[name],
                            "ours faster": train[name] / train[candidates.OURS],
                            "its MiB / ours": peak[name] / peak[candidates.OURS],
                        }
                    )
                others = [(train[name], name) for name in OTHER_LAMBDA_LAYERS if name in modules]
                if others:
                    seconds, other = min(others)
                    result.notes.append(
                        f"{size}, {context}: {seconds / train[candidates.OURS]:.2f} times as fast as {other}, the "
                        f"fastest other lambda layer, which needs {peak[other] / peak[candidates.OURS]:.2f} times the "
                        f"memory."
                    )
    return result
