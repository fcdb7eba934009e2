"""benchmark=inference and mobilenet: latency and throughput of the networks of experiments in several runtimes."""

import gc
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lambdanets.benchmarks.candidates import import_peer
from lambdanets.benchmarks.experiment_networks import GIB, MIB, NetworkSpec
from lambdanets.benchmarks.measure import Setting, Step
from lambdanets.benchmarks.plots import pareto_plot
from lambdanets.benchmarks.result import Result, describe_load, describe_machine
from lambdanets.benchmarks.resumable import ResumableResult, describe_error, join_loads
from lambdanets.benchmarks.runtimes import (
    CALIBRATION_IMAGES,
    RUNTIMES,
    PreparationTimeoutError,
    calibrate,
    logit_difference,
    preparation_limit,
)
from lambdanets.costs.count import count_costs, sum_costs
from lambdanets.errors import UserError
from lambdanets.machine import CpuUse, usable_cores
from lambdanets.measured import Measured
from lambdanets.reports.pareto import CURVES, RIVALS, compare_with_curve, find_place, label_point
from lambdanets.reports.published import format_published, published_value, row_label
from lambdanets.reports.speed_accuracy import Panel, Point
from lambdanets.table import TableRow

# The largest difference of a runtime's logits from those of eager PyTorch, in units of the largest logit.
TOLERANCE = 1e-4
# Upper bound of a runtime's peak memory over that of eager PyTorch.
PEAK_OVER_EAGER = 2.0
ALL_CORES = "all"
FASTEST, SPEEDUP, DIFFERENCE, AGAINST = "fastest", "speedup", "difference", "against EfficientNets"
OWN_LAYERS = "own layers of "  # before the experiment whose network timm has on layers of its own


def compare_runtimes(
    setting: Setting,
    *,
    title: str,
    networks: Mapping[str, NetworkSpec],
    runtimes: Sequence[str],
    batches: Sequence[int],
    threads: Sequence[int | str],
    pairs: Sequence[tuple[str, str]],
    file: ResumableResult,
    timm: Sequence[str] = (),
    sizes: bool = False,
    plot: bool = False,
    prepare_seconds: float = 240,
) -> Result:
    """Compare networks in several runtimes; those of one network are measured in turn, one network after another.

    Args:
        setting: the conditions of the measurement on a CPU; `threads` replaces its number of threads.
        title: title of the result.
        networks: by experiment.
        runtimes: keys of RUNTIMES; speedups are over the first one.
        batches: images per step: one image is shown with its milliseconds, several with images/s. The fastest runtime
            is that of the first number.
        threads: numbers of threads; "all" for one per core.
        pairs: pairs of experiments whose ratios are noted, such as a lambda network and its baseline.
        file: gets the result of each network, and has those of earlier calls.
        timm: experiments timm/<name> whose network is also measured on timm's own layers.
        sizes: add columns of the published number of parameters, and of FLOPs.
        plot: plot the published top-1 over the latency, and compare with the curve of EfficientNets.
        prepare_seconds: time limit of the preparation of a runtime; a runtime that fails is noted.

    Returns:
        One row per network and number of threads. Networks that failed are noted.
    """
    thread_counts = [usable_cores() if number == ALL_CORES else int(number) for number in threads]
    comparison = Comparison(
        replace(setting, threads=max(thread_counts, default=setting.threads)),
        title=title,
        runtimes=runtimes,
        batches=batches,
        threads=thread_counts,
        pairs=pairs,
        sizes=sizes,
        plot=plot,
        prepare_seconds=prepare_seconds,
    )
    networks = {**networks, **{f"{OWN_LAYERS}{name}": timm_spec(name) for name in timm}}
    file.setting, file.summarize = comparison.setting, comparison.summarize
    file.measure({name: partial(comparison.measure, name, network) for name, network in networks.items()})
    return file.save()


def timm_spec(experiment: str) -> NetworkSpec:
    """Return the network of an experiment timm/<name> on timm's own layers."""
    return NetworkSpec(lambda: import_peer("timm").create_model(experiment.partition("/")[2]), 3, (256, 256))


@dataclass(frozen=True)
class Comparison:
    """Measurement of one network after another; arguments as for `compare_runtimes`."""

    setting: Setting
    title: str
    runtimes: Sequence[str]
    batches: Sequence[int]
    threads: Sequence[int]
    pairs: Sequence[tuple[str, str]]
    sizes: bool
    plot: bool
    prepare_seconds: float

    def __post_init__(self) -> None:
        for name in self.runtimes:
            if name not in RUNTIMES:
                raise UserError(
                    f"benchmark.runtimes has '{name}', which is not known: choose among {', '.join(RUNTIMES)}."
                )
        if not self.runtimes or not self.batches or not self.threads:
            raise UserError("benchmark.runtimes, benchmark.batches and benchmark.threads need a value each.")

    @property
    def columns(self) -> list[str]:
        columns = ["row", "image", "published top-1", "M parameters"]
        columns += ["published M", "MFLOPs", "MFLOPs, paper's order", "published MFLOPs"] * self.sizes
        columns += ["threads"] * (len(self.threads) > 1)
        columns += [self.speed_column(key, batch) for batch in self.batches for key in self.runtimes]
        columns += [FASTEST, SPEEDUP] + [AGAINST] * self.plot
        return columns + list(dict.fromkeys(map(difference_column, self.runtimes)))

    def speed_column(self, key: str, batch: int) -> str:
        """Return the column of a runtime's milliseconds of one image, or of its images/s."""
        if batch == 1:
            return f"{RUNTIMES[key].label} ms"
        throughputs = [number for number in self.batches if number > 1]
        return f"{RUNTIMES[key].label} img/s" + f" at {batch}" * (len(throughputs) > 1)

    def measure(self, name: str, network: NetworkSpec) -> Result:
        """Return the rows of one network.

        Raises:
            UserError: the logits of a runtime are wrong.
        """
        result = Result(self.title, self.columns, setting=self.setting)
        torch.manual_seed(0)
        model = network.make()
        images = torch.randn(max(*self.batches, CALIBRATION_IMAGES), network.channels, *network.size)
        calibrate(model, images[:CALIBRATION_IMAGES])
        fitting = {batch: self.fit_batch(name, model, images[:batch], result) for batch in self.batches}
        with tempfile.TemporaryDirectory() as folder:
            for threads in self.threads:
                setting = replace(self.setting, threads=threads)
                row = self.describe(name, network, model) | {"threads": str(threads)}
                for batch, count in fitting.items():
                    with setting.apply():
                        times = self.time_runtimes(row, setting, model, images[:count], Path(folder), result)
                    for key, seconds in times.items():
                        row[self.speed_column(key, batch)] = 1e3 * seconds if batch == 1 else count / seconds
                    if batch == self.batches[0]:
                        row |= self.find_fastest({key: seconds / count for key, seconds in times.items()})
                result.rows.append(row)
        result.notes = list(dict.fromkeys(result.notes))
        return result

    def describe(self, name: str, network: NetworkSpec, model: nn.Module) -> TableRow:
        """Return the cells that do not depend on the machine."""
        experiment = name.removeprefix(OWN_LAYERS)
        row: TableRow = {
            "experiment": name,
            "row": label_network(name),
            "image": f"{network.size[0]}²",
            "published top-1": format_published(experiment, "top1"),
            "M parameters": f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.3f}",
        }
        if self.sizes:
            cost = sum_costs(count_costs(network.make, channels=network.channels, image_size=network.size))
            flops = published_value(experiment, "flops")
            row |= {
                "published M": str(published_value(experiment, "params") or "") or None,
                "MFLOPs": f"{cost.flops / 1e6:.1f}",
                "MFLOPs, paper's order": f"{cost.paper_flops / 1e6:.1f}",
                "published MFLOPs": f"{1e3 * flops.value:.0f}" if flops else None,
            }
        return row

    def fit_batch(self, name: str, model: nn.Module, images: Tensor, result: Result) -> int:
        """Return the number of images whose inference fits into the memory, up to all of them."""
        if len(images) == 1:
            return 1
        peak = PEAK_OVER_EAGER * MIB * self.setting.measure_peak(self.setting.make_inference_step(model, images[:1]))
        fitting = max(1, min(len(images), int(self.setting.memory_gib * GIB / peak)))
        if fitting < len(images):
            result.notes.append(
                f"{label_network(name)}: measured at batch {fitting}, as batch {len(images)} may need "
                f"{len(images) * peak / GIB:,.1f} GiB, more than "
                f"benchmark.setting.memory_gib={self.setting.memory_gib:g}."
            )
        return fitting

    def time_runtimes(
        self, row: TableRow, setting: Setting, model: nn.Module, images: Tensor, folder: Path, result: Result
    ) -> dict[str, Measured]:
        """Return the seconds of a step in each runtime that can be prepared.

        Args:
            row: gets the differences of the logits.
            setting: the conditions of the measurement.
            model: the network.
            images: of one step.
            folder: for files of the runtimes.
            result: gets the load, and notes on the other runtimes.

        Raises:
            UserError: the logits of a runtime are wrong.
        """
        steps: dict[str, Step] = {}
        for key in self.runtimes:
            label, column = RUNTIMES[key].label, difference_column(key)
            try:
                with preparation_limit(self.prepare_seconds):
                    run = RUNTIMES[key].prepare(model, images, folder)
                    difference = logit_difference(model, run, images)
            except (Exception, PreparationTimeoutError) as error:
                result.notes.append(f"{row['row']}: not measured in {label} ({describe_error(error)}).")
                continue
            if RUNTIMES[key].is_exact and not difference <= TOLERANCE:
                raise UserError(
                    f"The logits in {label} differ from those of eager PyTorch by {difference:.1e} of the largest one, "
                    f"more than {TOLERANCE}."
                )
            row[column] = f"{max(difference, float(row.get(column) or 0)):.1e}"
            steps[key] = partial(run, images)
        gc.collect()
        start = CpuUse.now()
        times = setting.measure_times(steps)
        result.machine_load = join_loads(result.machine_load, describe_load(start, CpuUse.now()))
        return times

    def find_fastest(self, times: Mapping[str, Measured]) -> TableRow:
        """Return the seconds per image of all runtimes, and the fastest one of those that keep the logits."""
        row: TableRow = {seconds_column(key): seconds for key, seconds in times.items()}
        exact = [key for key in times if RUNTIMES[key].is_exact]
        if exact:
            fastest, reference = min(exact, key=lambda key: times[key]), times.get(self.runtimes[0])
            row |= {FASTEST: RUNTIMES[fastest].label, seconds_column(FASTEST): times[fastest]}
            row[SPEEDUP] = reference / times[fastest] if reference else None
        return row

    def summarize(self, result: Result) -> dict[str, Any]:
        """Add ratios of networks, notes and the plot to the rows of all networks; the JSON gets no further entries."""
        result.columns = self.columns
        panels = []
        for threads in self.threads:
            rows = [row for row in result.rows if row["threads"] == str(threads)]
            points = place_rows(rows)
            notes = self.describe_pairs(rows) + self.describe_speedups(rows)
            if self.plot:
                add_ratios(rows, points)
                notes += describe_points(points)
            given = f"With {threads} thread{'s' * (threads > 1)}, " if len(self.threads) > 1 else ""
            result.notes += [given + note for note in notes]
            machine = describe_machine(replace(self.setting, threads=threads))
            panels.append(Panel(machine, "milliseconds per image in the fastest runtime", "published top-1 %", points))
        if self.plot and any(panel.points for panel in panels):
            result.plot = pareto_plot(panels)
        result.notes += self.describe_columns()
        return {}

    def describe_pairs(self, rows: Sequence[TableRow]) -> list[str]:
        """Return the ratios of the times of pairs, in each runtime and in the fastest one of each."""
        by_name = {str(row["experiment"]): row for row in rows}
        labels = {key: RUNTIMES[key].label for key in self.runtimes} | {FASTEST: "the fastest runtime of each"}
        notes = []
        for pair in self.pairs:
            if set(pair) <= set(by_name):
                ours, theirs = (by_name[name] for name in pair)
                ratios = {key: ratio for key in labels if (ratio := time_ratio((ours, key), (theirs, key)))}
                parts = ", ".join(f"{ratio:.2f} times in {labels[key]}" for key, ratio in ratios.items())
                notes.append(f"{ours['row']} takes the time of {theirs['row']} {parts}.")
        return notes

    def describe_speedups(self, rows: Sequence[TableRow]) -> list[str]:
        """Return the range of the speedups over the first runtime, for the networks of each curve."""
        notes = []
        for curve, family in CURVES.items():
            members = [row for row in rows if curve_of(row) == curve]
            parts = []
            for key in self.runtimes[1:]:
                ratios = [ratio for row in members if (ratio := time_ratio((row, self.runtimes[0]), (row, key)))]
                if ratios:
                    span = sorted({f"{ratio:.2f}" for ratio in (min(ratios), max(ratios))})
                    parts.append(f"{' to '.join(span)} in {RUNTIMES[key].label}")
            if parts:
                reference = RUNTIMES[self.runtimes[0]].label
                notes.append(f"{family.label} are this many times as fast as in {reference}: {', '.join(parts)}.")
        return notes

    def describe_columns(self) -> list[str]:
        """Return the notes on the columns."""
        runtimes = "; ".join(f"{RUNTIMES[key].label}: {RUNTIMES[key].description}" for key in self.runtimes)
        throughputs = " and ".join(str(batch) for batch in self.batches if batch > 1)
        notes = [
            "Times: of a forward pass of one image"
            + f", or images/s at batch {throughputs}" * bool(throughputs)
            + f"; random weights, batch norms calibrated by random images. {runtimes}.",
            f"Fastest: by the time at batch {self.batches[0]}, of the runtimes that keep the logits. Speedup: over "
            f"{RUNTIMES[self.runtimes[0]].label}.",
            "Difference: the largest one of the logits from those of eager PyTorch, in units of the largest logit.",
        ]
        if self.sizes:
            notes.append(
                "FLOPs: one image, two per multiply-add, by the exact methods that lambda layers choose in PyTorch, "
                "and in the paper's order, which computes all lambdas first."
            )
        if self.plot:
            notes.append(
                "Against EfficientNets: their time at the published top-1 of the row over that of the row, each in its "
                "fastest runtime; between two EfficientNets, the logarithm of the time is linear in top-1. Published "
                "top-1 come from several recipes: 90 epochs for CCLL and ResNet-50, 350 for LambdaResNets."
            )
        return notes


def label_network(name: str) -> str:
    """Return a network's name in the table."""
    experiment = name.removeprefix(OWN_LAYERS)
    place = find_place(experiment)
    label = (place and place.name) or row_label(experiment)
    return f"{label}, timm's layers" if name != experiment else label


def difference_column(key: str) -> str:
    return DIFFERENCE if RUNTIMES[key].is_exact else f"{RUNTIMES[key].label} {DIFFERENCE}"


def seconds_column(key: str) -> str:
    """Return the key of a row's seconds per image in a runtime, which the table does not show."""
    return f"{key} seconds"


def time_ratio(first: tuple[TableRow, str], second: tuple[TableRow, str]) -> float | None:
    """Return the ratio of the times of two networks, each in a runtime; None if one was not measured."""
    seconds = [row.get(seconds_column(key)) for row, key in (first, second)]
    return float(seconds[0]) / float(seconds[1]) if all(seconds) else None  # type: ignore[arg-type]


def curve_of(row: TableRow) -> str | None:
    place = find_place(str(row["experiment"]))
    return place.curve if place else None


def place_rows(rows: Sequence[TableRow]) -> list[Point]:
    """Return the points of the rows that belong to a curve and have a published accuracy; times in milliseconds."""
    points = []
    for row in rows:
        name, seconds = str(row["experiment"]), row.get(seconds_column(FASTEST))
        curve, top1 = curve_of(row), published_value(name, "top1")
        if curve and top1 and isinstance(seconds, float):
            points.append(Point(curve, name, 1e3 * float(seconds), top1.value, top1.trust == "R"))
    return points


def add_ratios(rows: Sequence[TableRow], points: Sequence[Point]) -> None:
    """Add the speedups over EfficientNets of equal accuracy."""
    rivals = [point for point in points if point.family == RIVALS]
    speedups = {point.experiment: compare_with_curve(point, rivals) for point in points if point.family != RIVALS}
    for row in rows:
        speedup = speedups.get(str(row["experiment"]))
        row[AGAINST] = "more accurate" if speedup == float("inf") else None if speedup is None else f"{speedup:.2f}"


def describe_points(points: Sequence[Point]) -> list[str]:
    """Return how many LambdaResNets lie above the curve of EfficientNets, and which do not."""
    rivals = [point for point in points if point.family == RIVALS]
    notes = []
    for curve in ("lambda_resnet", "lambda_stages"):
        speedups = {label_point(point): compare_with_curve(point, rivals) for point in points if point.family == curve}
        known = {label: speedup for label, speedup in speedups.items() if speedup is not None}
        below = [label for label, speedup in known.items() if speedup <= 1]
        if known:
            count = f"{len(known) - len(below)} of {len(known)} {CURVES[curve].label}"
            exceptions = f"; not {', '.join(below)}" if below else ""
            notes.append(f"{count} lie above the curve of EfficientNets{exceptions}.")
    return notes
