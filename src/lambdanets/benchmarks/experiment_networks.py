"""benchmark=table4, figure2 and coco: the networks of a table's rows, trained and used."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from lambdanets.benchmarks.measure import Setting, Step
from lambdanets.benchmarks.result import Result
from lambdanets.costs.closed_forms import total_memory_gib
from lambdanets.costs.count import ModelCost, count_costs, sum_costs
from lambdanets.costs.layer_sizes import mixing_layers
from lambdanets.models import CompositeNetwork
from lambdanets.reports.published import published_value, row_label
from lambdanets.table import Row

MIB, GIB = 2**20, 2**30
FLOAT = 4  # bytes
# A step's memory against what it keeps for its backward pass, at most: gradients and products on the way.
MARGIN = 1.6


@dataclass(frozen=True)
class NetworkSpec:
    """One row.

    Args:
        make: makes the network.
        channels: of its images.
        size: (H, W) of its images.
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
    """Throughput and memory of networks in training and inference, measured in turn.

    A row whose training would need more than the setting's memory is measured at the largest batch that fits, and says
    what it would need.

    Args:
        setting: how to measure.
        title: one line.
        networks: by experiment.
        batch: images.
        paper_batch: the batch of the paper, for which the memory is counted; None leaves that column out.
        reference: the experiment whose throughput the others' are divided into.
        pairs: experiments whose ratio of throughputs is told: ours, theirs.
        attention_heads: of a self-attention in the lambda layers' places, the memory of whose maps is counted; None
            leaves that column out.
    """
    columns = ["row", "image", "batch", "train img/s", "infer img/s", "peak MiB"]
    columns += [f"GiB at batch {paper_batch}"] if paper_batch else []
    columns += ["maps MiB"] if attention_heads else []
    columns += ["train ratio", "infer ratio"] if reference else []
    columns += ["published img/s"] if any(published_value(name, "throughput") for name in networks) else []
    result = Result(title, columns, setting=setting)
    pieces = {
        name: count_costs(
            network.make, channels=network.channels, image_size=network.size, device=setting.torch_device.type
        )
        for name, network in networks.items()
    }
    counted = {name: sum_costs(parts) for name, parts in pieces.items()}
    batches = {name: fitting(cost, batch, setting.memory_gib) for name, cost in counted.items()}
    with setting.limit_threads():
        train, infer, peak, notes = measure(setting, networks, batches)
    needs = {name: Need.of(counted[name], peak[name], batches[name]) for name in networks}
    for name, network in networks.items():
        row: Row = {
            "row": row_label(name),
            "image": f"{network.size[0]}²",
            "batch": str(batches[name]),
            "train img/s": batches[name] / train[name],
            "infer img/s": batches[name] / infer[name],
            "peak MiB": peak[name],
            "published img/s": str(published_value(name, "throughput") or "") or None,
        }
        if paper_batch:
            row[f"GiB at batch {paper_batch}"] = needs[name].bytes(paper_batch) / GIB
        if attention_heads:
            row["maps MiB"] = maps(network, attention_heads, batches[name])
        if reference:
            row["train ratio"] = ratio(reference, name, train, batches)
            row["infer ratio"] = ratio(reference, name, infer, batches)
        result.rows.append(row)
        if batches[name] < batch:
            most = most_bytes(counted[name], batch) / GIB
            result.notes.append(
                f"{row_label(name)}: batch {batch} was counted to need up to {most:,.1f} GiB and "
                f"{setting.memory_gib:g} GiB were allowed; measured at batch {batches[name]}."
            )
    if paper_batch:
        result.notes.append(
            f"GiB at batch {paper_batch}: of a training step, by an image's measured peak, weights included."
        )
        result.notes += [
            f"{row_label(name)}: batch {paper_batch} would need {need.bytes(paper_batch):,.0f} bytes."
            for name, need in needs.items()
            if need.bytes(paper_batch) > setting.memory_gib * GIB
        ]
    if attention_heads:
        result.notes.append(
            f"Maps: what the maps alone of global self-attention with {attention_heads} heads in the lambda layers' "
            "places would add in float32, as Table 4 counts: blocks with a stride at the size of their output."
        )
    result.notes += notes
    if reference:
        result.notes.append(f"Ratios: {row_label(reference)}'s images/s over the row's.")
    for ours, theirs in pairs:
        result.notes.append(compared(ours, theirs, train, infer, batches))
    if "published img/s" in columns:
        result.notes.append("Published img/s: on 8 TPUv3 cores, by the paper.")
    return result


@dataclass(frozen=True)
class Need:
    """The memory of a training step: bytes of each image, and of weights and their gradients."""

    image: float
    fixed: float

    @staticmethod
    def of(cost: ModelCost, peak: float, batch: int) -> "Need":
        weights = FLOAT * cost.parameters
        return Need(max(peak * MIB - weights, 0) / batch, 2 * weights)  # the peak is beyond the weights

    def bytes(self, batch: int) -> float:
        return batch * self.image + self.fixed


def most_bytes(cost: ModelCost, batch: int) -> float:
    """What a training step needs at most, as counted before it is run."""
    return batch * MARGIN * cost.activations + 2 * FLOAT * cost.parameters


def fitting(cost: ModelCost, batch: int, memory_gib: float) -> int:
    """The largest batch, from 1 to the given one, whose training is sure to fit."""
    fit = (number for number in range(batch, 1, -1) if most_bytes(cost, number) <= memory_gib * GIB)
    return next(fit, 1)


def measure(
    setting: Setting, networks: dict[str, NetworkSpec], batches: dict[str, int]
) -> tuple[dict[str, float], dict[str, float], dict[str, float], list[str]]:
    """Measure the seconds of training and of inference, and the training's peak MiB; return them with notes."""
    training: dict[str, Step] = {}
    inference: dict[str, Step] = {}
    notes: list[str] = []
    for name, network in networks.items():
        model = network.make().to(setting.torch_device)
        x = torch.randn(batches[name], network.channels, *network.size, device=setting.torch_device)
        if isinstance(model, CompositeNetwork):
            model.saturate()
            notes.append(model.benchmark_note)
            training[name] = freed(setting.make_loss_step(model, model.example_batch(x)), model)
        else:
            training[name] = freed(setting.make_training_step(model, x), model)
        inference[name] = setting.make_inference_step(model, x)
    peak = setting.measure_peaks(training)
    return setting.measure_times(training), setting.measure_times(inference), peak, list(dict.fromkeys(notes))


def freed(step: Step, model: nn.Module) -> Step:
    """The step, without gradients left over: all networks are in memory at once."""

    def run() -> None:
        step()
        model.zero_grad()

    return run


def maps(network: NetworkSpec, heads: int, batch: int) -> float | None:
    """MiB of the maps of attention with so many heads in the places of a network's lambda layers, if it has any."""
    with torch.device("meta"):
        kind, layers = mixing_layers(network.make(), network.size) or ("", [])
    if kind not in ("lambda", "shared", "convolution"):
        return None
    return GIB / MIB * total_memory_gib("attention", [replace(layer, heads=heads) for layer in layers], batch)


def ratio(ours: str, theirs: str, seconds: dict[str, float], batches: dict[str, int]) -> float:
    """How many times as many images a second."""
    return (batches[ours] / seconds[ours]) / (batches[theirs] / seconds[theirs])


def compared(ours: str, theirs: str, train: dict[str, float], infer: dict[str, float], batches: dict[str, int]) -> str:
    scores = [published_value(name, "top1") for name in (ours, theirs)]
    known = ", published top-1 {} and {}".format(*scores) if all(scores) else ""
    return (
        f"{row_label(ours)} against {row_label(theirs)}{known}: {ratio(ours, theirs, train, batches):.2f} times the "
        f"images/s in training, {ratio(ours, theirs, infer, batches):.2f} times in inference."
    )
