"""benchmark=figure2: speed on this machine beside the published speed and accuracy."""

from collections.abc import Sequence

from lambdanets.benchmarks.experiment_networks import NetworkSpec, compare_experiments
from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.plots import speed_accuracy_plot
from lambdanets.benchmarks.result import Result, describe_machine
from lambdanets.errors import UserError
from lambdanets.reports.published import format_published, published_value, row_label
from lambdanets.reports.speed_accuracy import (
    Arrow,
    Panel,
    Point,
    family_of,
    find_arrows,
    printed_speedup,
    published_panel,
    published_points,
)

TRAIN, INFER = "train img/s", "infer img/s"


def compare_speed_and_accuracy(
    setting: Setting,
    *,
    title: str,
    networks: dict[str, NetworkSpec],
    batch: int,
    pairs: Sequence[tuple[str, str]],
    normalize_to: str,
) -> Result:
    """Measure networks, and compare their times with the published ones at the published accuracies.

    Args:
        setting: the conditions of the measurement.
        title: title of the result.
        networks: by experiment.
        batch: images.
        pairs: pairs of experiments whose ratio of throughputs is noted.
        normalize_to: the experiment whose time is 1.

    Returns:
        One row per network; the plot has the published points on the left, and ours on the right.

    Raises:
        UserError: the experiment of `normalize_to` is not measured.
    """
    if normalize_to not in networks:
        raise UserError(
            f"benchmark.normalize_to={normalize_to} is not measured: choose one of benchmark.experiments, or add it."
        )
    result = compare_experiments(
        setting, title=title, networks=networks, batch=batch, paper_batch=None, reference=None, pairs=pairs
    )
    panels = [published_panel(), measured_panel(result)]
    result.plot = speed_accuracy_plot(panels, normalize_to)
    add_times(result, normalize_to)
    result.notes += describe_arrows(result)
    return result


def measured_panel(result: Result) -> Panel:
    """Return the measured training times over the published accuracies."""
    title = f"Measured on {describe_machine(result.setting)}"
    return Panel(title, "training seconds per image", "published top-1 %", measured_points(result, TRAIN))


def measured_points(result: Result, throughput: str) -> list[Point]:
    """Return the points of the rows that have a published accuracy and belong to one of the figure's curves.

    Args:
        result: of `compare_experiments`.
        throughput: column with images per second; the times are seconds per image.
    """
    points = []
    for row in result.rows:
        name, images_per_s = str(row["experiment"]), row[throughput]
        family, top1 = family_of(name), published_value(name, "top1")
        if family and top1 and isinstance(images_per_s, float):
            points.append(Point(family, name, 1 / images_per_s, top1.value, top1.trust == "R"))
    return points


def add_times(result: Result, normalize_to: str) -> None:
    """Add the published seconds and accuracies to a table, and all times relative to that of one experiment."""
    rows = {str(row["experiment"]): row for row in result.rows}
    reference, reference_seconds = rows[normalize_to], published_value(normalize_to, "seconds")
    for name, row in rows.items():
        seconds = published_value(name, "seconds")
        row["published s"] = format_published(name, "seconds")
        row["published top-1"] = format_published(name, "top1")
        row["published time"] = seconds.value / reference_seconds.value if seconds and reference_seconds else None
        for time, throughput in (("train time", TRAIN), ("infer time", INFER)):
            row[time] = float(reference[throughput] or 0) / float(row[throughput] or 1)
    result.columns += ["published s", "published top-1", "published time", "train time", "infer time"]
    result.notes.append(
        "Published s: of a training step of 1024 images. They, and the top-1 beside them, are read off the published "
        "figure, to ±0.01 s and ±0.02 points. Unconfirmed: which network a point belongs to is recalled."
    )
    result.notes.append(f"Published, train and infer time: per image, in units of that of {row_label(normalize_to)}.")


def describe_arrows(result: Result) -> list[str]:
    """Compare the ratios at the arrows of the published figure with those of its points and with ours."""
    training, inference = (
        {arrow.slow.experiment: arrow for arrow in find_arrows(measured_points(result, throughput))}
        for throughput in (TRAIN, INFER)
    )
    return [
        describe_arrow(arrow, training[arrow.slow.experiment], inference[arrow.slow.experiment])
        for arrow in find_arrows(published_points())
        if arrow.slow.experiment in training
    ]


def describe_arrow(published: Arrow, training: Arrow, inference: Arrow) -> str:
    slow = row_label(str(published.slow.experiment))
    if training.between is None:
        how = f"{row_label(str(training.fast.experiment))} against {slow}"
    else:
        low, high = (row_label(str(point.experiment)) for point in training.between)
        how = (
            f"LambdaResNets against {slow} at its published top-1 of {training.slow.top1:.1f} %, interpolated between "
            f"{low} and {high} (the logarithm of the time is linear in the published top-1)"
        )
    printed = printed_speedup(published)
    return (
        f"{how}: {published.speedup:.2f} times as fast by the published seconds"
        + (f" ({printed:g} as printed)" if printed else "")
        + f", {training.speedup:.2f} times in training here, {inference.speedup:.2f} times in inference."
    )
