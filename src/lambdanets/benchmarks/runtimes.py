"""benchmark=mobilenet: latency of the networks of experiments in PyTorch and in ONNX Runtime."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lambdanets.benchmarks.experiment_networks import NetworkSpec
from lambdanets.benchmarks.measure import Setting, Step
from lambdanets.benchmarks.result import Result
from lambdanets.costs.count import count_costs, sum_costs
from lambdanets.export.formats import FORMATS, Run, write_graph
from lambdanets.export.portable import portable_copy
from lambdanets.progress import progress_bar
from lambdanets.reports.published import published_value, row_label
from lambdanets.table import TableRow


def compare_runtimes(
    setting: Setting,
    *,
    title: str,
    networks: dict[str, NetworkSpec],
    batch: int,
    pairs: Sequence[tuple[str, str]],
) -> Result:
    """Compare the latency of networks in PyTorch and, as files of job=export, in ONNX Runtime, measured in turn.

    Args:
        setting: the conditions of the measurement; the device is cpu.
        title: title of the result.
        networks: by experiment.
        batch: images.
        pairs: pairs of experiments whose ratios are noted, such as a lambda network and its baseline.

    Returns:
        One row per network: parameters and FLOPs as counted and as published, milliseconds of a forward pass, and the
        largest difference of the logits of both runtimes.
    """
    columns = ["row", "M parameters", "published M", "MFLOPs", "MFLOPs, paper's order", "published MFLOPs"]
    columns += ["PyTorch ms", "ONNX ms", "ONNX speedup", "difference"]
    result = Result(title, columns, setting=setting)
    steps: dict[str, Step] = {}
    differences: dict[str, float] = {}
    with setting.apply(), tempfile.TemporaryDirectory() as folder:
        for name, network in progress_bar(networks.items(), "networks"):
            images = torch.randn(max(batch, 2), network.channels, *network.size)
            model = network.make()
            calibrate(model, images)
            run = export_to_onnx(model, images, Path(folder, f"{len(steps)}.onnx"))
            differences[name] = logit_difference(model, run, images)
            steps[f"PyTorch {name}"] = setting.make_inference_step(model, images[:batch])
            steps[f"ONNX {name}"] = partial(run, images[:batch])
        milliseconds = {step: 1e3 * seconds for step, seconds in setting.measure_times(steps).items()}
    for name, network in networks.items():
        cost = sum_costs(count_costs(network.make, channels=network.channels, image_size=network.size, batch=batch))
        flops = published_value(name, "flops")
        row: TableRow = {
            "row": row_label(name),
            "M parameters": f"{cost.parameters / 1e6:.3f}",
            "published M": str(published_value(name, "params") or "") or None,
            "MFLOPs": f"{cost.flops / 1e6:.1f}",
            "MFLOPs, paper's order": f"{cost.paper_flops / 1e6:.1f}",
            "published MFLOPs": f"{1e3 * flops.value:.0f}" if flops else None,
            "ONNX speedup": milliseconds[f"PyTorch {name}"] / milliseconds[f"ONNX {name}"],
            "difference": f"{differences[name]:.1e}",
        }
        for runtime in ("PyTorch", "ONNX"):
            row[f"{runtime} ms"] = milliseconds[f"{runtime} {name}"]
        result.rows.append(row)
    result.notes += [
        f"Milliseconds of a forward pass of {batch} image{'s' * (batch > 1)} with random weights. ONNX: the file of "
        "job=export in ONNX Runtime, with the same threads; its lambda layers compute the lambdas first or by "
        "convolution.",
        "FLOPs: one image, two per multiply-add, by the exact methods that lambda layers choose in PyTorch, and in the "
        "paper's order, which computes all lambdas first.",
        "Difference: the largest one of the logits of both runtimes, in units of the largest logit.",
    ]
    for ours, theirs in pairs:
        ratios = [
            milliseconds[f"{runtime} {ours}"] / milliseconds[f"{runtime} {theirs}"] for runtime in ("PyTorch", "ONNX")
        ]
        result.notes.append(
            f"{row_label(ours)} takes {ratios[0]:.2f} times the time of {row_label(theirs)} in PyTorch, "
            f"{ratios[1]:.2f} times in ONNX Runtime."
        )
    return result


def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set the statistics of batch norms by images; those of new networks make the signal vanish in the depth."""
    torch.optim.swa_utils.update_bn([images], model)
    model.eval()


def export_to_onnx(model: nn.Module, images: Tensor, file: Path) -> Run:
    """Write a network as job=export does, and return a function that runs the file."""
    write_graph("onnx", portable_copy(model, images, runtime="onnx"), images[:2], file)
    return FORMATS["onnx"].read(file)


@torch.no_grad()
def logit_difference(model: nn.Module, run: Run, images: Tensor) -> float:
    """Return the largest difference of logits, in units of the network's largest logit."""
    expected = model(images)
    return float((run(images) - expected).abs().max() / expected.abs().max())
