"""benchmark=layers: one layer at a time, in the shapes of ResNet-50's stages."""

from collections.abc import Sequence

import torch

from lambdanets.benchmarks import candidates
from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.result import Result
from lambdanets.mixers.lambda_layer import Scope
from lambdanets.progress import progress_bar


def compare_layers(
    setting: Setting, *, batch: int, shapes: Sequence[tuple[int, int]], scopes: Sequence[Scope]
) -> Result:
    """Lambda layers of three libraries, the 3×3 convolution and BoTNet's attention.

    Args:
        setting: how to measure.
        batch: images.
        shapes: (side, channels) of the maps.
        scopes: of the lambda layers.

    Returns:
        For each contestant milliseconds, MiB, and how many times as fast as it and how much smaller ours is.
    """
    columns = ["map", "context", "layer", "train ms", "infer ms", "peak MiB", "ours faster", "its MiB / ours"]
    plot = {"kind": "bars", "x": "case", "y": "train ms", "line": "layer"}
    result = Result("Layers, forward and backward", columns, setting=setting, plot=plot)
    with setting.limit_threads():
        for side, channels in progress_bar(shapes, "shapes"):
            for scope in scopes:
                x = torch.randn(batch, channels, side, side, device=setting.torch_device, requires_grad=True)
                made = candidates.layer_factories(channels, side, scope, batch, setting.memory_gib)
                modules = {name: make().to(setting.torch_device) for name, make in made.items()}
                training = {name: setting.make_training_step(module, x) for name, module in modules.items()}
                train = setting.measure_times(training)
                infer = setting.measure_times(
                    {name: setting.make_inference_step(module, x) for name, module in modules.items()}
                )
                peak = setting.measure_peaks(training)
                case = f"{side}²×{channels}", str(scope) if scope == "global" else f"{scope}×{scope}"
                for name in modules:
                    result.rows.append(
                        {
                            "case": "\n".join(case),
                            "map": case[0],
                            "context": case[1],
                            "layer": name,
                            "train ms": 1e3 * train[name],
                            "infer ms": 1e3 * infer[name],
                            "peak MiB": peak[name],
                            "ours faster": train[name] / train[candidates.OURS],
                            "its MiB / ours": peak[name] / peak[candidates.OURS],
                        }
                    )
                rivals = [(train[name], name) for name in RIVALS if name in modules]
                if rivals:
                    seconds, rival = min(rivals)
                    result.notes.append(
                        f"{case[0]}, {case[1]}: {seconds / train[candidates.OURS]:.2f} times as fast as {rival}, the "
                        f"fastest other lambda layer, which needs {peak[rival] / peak[candidates.OURS]:.2f} times the "
                        f"memory."
                    )
    return result


RIVALS = (candidates.TIMM, candidates.LAMBDA_NETWORKS)
