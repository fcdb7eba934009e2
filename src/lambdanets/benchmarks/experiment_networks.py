"""benchmark=table4, coco, reproduction and figure2: the networks of experiments in training and inference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from lambdanets.benchmarks.measure import Setting, Step
from lambdanets.benchmarks.result import Result
from lambdanets.costs.closed_forms import total_memory_gib
from lambdanets.costs.count import ModelCost, count_costs, sum_costs
from lambdanets.costs.layer_sizes import mixing_layers
from lambdanets.measured import Measured
from lambdanets.models import CompositeNetwork
from lambdanets.reports.published import format_published, published_value, row_label
from lambdanets.table import TableRow

MIB, GIB = 2**20, 2**30
FLOAT32_BYTES = 4
# Upper bound of a training step's peak memory over that of its saved activations: gradients and intermediate results.
PEAK_PER_ACTIVATIONS = 1.6


@dataclass(frozen=True)
class NetworkSpec:
    """Network to measure.

    Args:
        make: factory of the network.
        channels: channels of the images.
        size: (H, W) of the images.
    """

    make: Callable[[], nn.Module]
    channels: int
    size: tuple[int, int]


def compare_experiments(
    setting: Setting,
    *,
    title: str,
    networks: dict[str, NetworkSpec],
    batch: int,
    paper_batch: int | None,
    reference: str | None,
    pairs: Sequence[tuple[str, str]],
    attention_heads: int | None = None,
) -> Result:
    """Compare the throughput and memory of networks in training and inference, measured in turn.

    A network whose training would need more memory than the setting allows is measured at the largest batch that fits.

    Args:
        setting: the conditions of the measurement.
        title: title of the result.
        networks: by experiment.
        batch: images.
        paper_batch: batch size of the paper, for which memory is extrapolated; None omits that column.
        reference: experiment to which the ratios of throughputs refer; None omits them.
        pairs: pairs of experiments whose ratio of throughputs is noted.
        attention_heads: heads of a self-attention in place of the lambda layers, for which the memory of its attention
            maps is counted; None omits that column.

    Returns:
        One row per network.
    """
    columns = ["row", "image", "batch", "train img/s", "infer img/s", "peak MiB"]
    columns += [f"GiB at batch {paper_batch}"] if paper_batch else []
    columns += ["maps MiB"] if attention_heads else []
    columns += ["train ratio", "infer ratio"] if reference else []
    columns += ["published img/s"] if any(published_value(name, "throughput") for name in networks) else []
    result = Result(title, columns, setting=setting)
    part_costs = {
        name: count_costs(
            network.make, channels=network.channels, image_size=network.size, device=setting.torch_device.type
        )
        for name, network in networks.items()
    }
    costs = {name: sum_costs(parts) for name, parts in part_costs.items()}
    batches = {name: largest_batch(cost, batch, setting.memory_gib) for name, cost in costs.items()}
    with setting.apply():
        train, infer, peak, notes = measure_networks(setting, networks, batches)
    needs = {name: MemoryNeed.of(costs[name], peak[name], batches[name]) for name in networks}
    for name, network in networks.items():
        row: TableRow = {
            "experiment": name,
            "row": row_label(name),
            "image": f"{network.size[0]}²",
            "batch": str(batches[name]),
            "train img/s": batches[name] / train[name],
            "infer img/s": batches[name] / infer[name],
            "peak MiB": peak[name],
            "published img/s": format_published(name, "throughput"),
        }
        if paper_batch:
            row[f"GiB at batch {paper_batch}"] = needs[name].bytes(paper_batch) / GIB
        if attention_heads:
            row["maps MiB"] = attention_maps_mib(network, attention_heads, batches[name])
        if reference:
            row["train ratio"] = throughput_ratio(reference, name, train, batches)
            row["infer ratio"] = throughput_ratio(reference, name, infer, batches)
        result.rows.append(row)
        if batches[name] < batch:
            needed = estimate_bytes(costs[name], batch) / GIB
            result.notes.append(
                f"{row_label(name)}: measured at batch {batches[name]}, as batch {batch} may need {needed:,.1f} GiB, "
                f"more than benchmark.setting.memory_gib={setting.memory_gib:g}."
            )
    if paper_batch:
        result.notes.append(
            f"GiB at batch {paper_batch}: memory of a training step, extrapolated from the measured peak per image, "
            "weights included."
        )
        result.notes += [
            f"{row_label(name)}: batch {paper_batch} would need {need.bytes(paper_batch):,.0f} bytes."
            for name, need in needs.items()
            if need.bytes(paper_batch) > setting.memory_gib * GIB
        ]
    if attention_heads:
        result.notes.append(
            f"Maps: memory in float32 of the attention maps alone, if self-attention with {attention_heads} heads "
            "replaced the lambda layers; counted as in Table 4, for blocks with a stride at the size of their output."
        )
    result.notes += notes
    if reference:
        result.notes.append(f"Ratios: images/s of {row_label(reference)} over those of the row.")
    for ours, theirs in pairs:
        result.notes.append(describe_pair(ours, theirs, train, infer, batches))
    if "published img/s" in columns:
        result.notes.append("Published img/s: on 8 TPUv3 cores, by the paper.")
    return result


@dataclass(frozen=True)
class MemoryNeed:
    """Memory of a training step.

    Args:
        per_image: bytes per image.
        fixed: bytes of the weights and their gradients.
    """

    per_image: float
    fixed: float

    @staticmethod
    def of(cost: ModelCost, peak: float, batch: int) -> "MemoryNeed":
        """Derive the need from a counted cost and a measured peak in MiB."""
        weights = FLOAT32_BYTES * cost.parameters
        return MemoryNeed(max(peak * MIB - weights, 0) / batch, 2 * weights)  # the peak excludes the weights

    def bytes(self, batch: int) -> float:
        return batch * self.per_image + self.fixed


def estimate_bytes(cost: ModelCost, batch: int) -> float:
    """Return an upper bound of the memory of a training step, from its counted cost."""
    return batch * PEAK_PER_ACTIVATIONS * cost.activations + 2 * FLOAT32_BYTES * cost.parameters


def largest_batch(cost: ModelCost, max_batch: int, memory_gib: float) -> int:
    """Return the largest batch up to `max_batch` whose estimated memory fits, at least 1."""
    fitting = (batch for batch in range(max_batch, 1, -1) if estimate_bytes(cost, batch) <= memory_gib * GIB)
    return next(fitting, 1)


def measure_networks(
    setting: Setting, networks: dict[str, NetworkSpec], batches: dict[str, int]
) -> tuple[dict[str, Measured], dict[str, Measured], dict[str, float], list[str]]:
    """Return the seconds of training and of inference steps, the peak MiB of training steps, and notes."""
    training: dict[str, Step] = {}
    inference: dict[str, Step] = {}
    notes: list[str] = []
    for name, network in networks.items():
        model = setting.place(network.make())
        x = setting.make_images(batches[name], network.channels, network.size)
        if isinstance(model, CompositeNetwork):
            model.saturate()
            notes.append(model.benchmark_note)
            training[name] = free_gradients(setting.make_loss_step(model, model.example_batch(x)), model)
        else:
            training[name] = free_gradients(setting.make_training_step(model, x), model)
        inference[name] = setting.make_inference_step(model, x)
    peak = setting.measure_peaks(training)
    return setting.measure_times(training), setting.measure_times(inference), peak, list(dict.fromkeys(notes))


def free_gradients(step: Step, model: nn.Module) -> Step:
    """Return a step that frees the model's gradients, since all networks are in memory at once."""

    def run() -> None:
        step()
        model.zero_grad()

    return run


def attention_maps_mib(network: NetworkSpec, heads: int, batch: int) -> float | None:
    """Return the memory of the maps of global attention in place of a network's lambda layers, or None without any."""
    with torch.device("meta"):
        kind, layers = mixing_layers(network.make(), network.size) or ("", [])
    if kind not in ("lambda", "shared", "convolution"):
        return None
    return GIB / MIB * total_memory_gib("attention", [replace(layer, heads=heads) for layer in layers], batch)


def throughput_ratio(ours: str, theirs: str, seconds: dict[str, Measured], batches: dict[str, int]) -> Measured:
    """Return the images per second of one network over those of another."""
    return (batches[ours] / seconds[ours]) / (batches[theirs] / seconds[theirs])


def describe_pair(
    ours: str, theirs: str, train: dict[str, Measured], infer: dict[str, Measured], batches: dict[str, int]
) -> str:
    accuracies = [published_value(name, "top1") for name in (ours, theirs)]
    published = ", published top-1 {} and {}".format(*accuracies) if all(accuracies) else ""
    training, inference = (throughput_ratio(ours, theirs, seconds, batches) for seconds in (train, infer))
    return (
        f"{row_label(ours)} against {row_label(theirs)}{published}: {training:.2f} times the images/s in training, "
        f"{inference:.2f} times in inference."
    )
