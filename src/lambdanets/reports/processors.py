"""Processors and GPUs that runs were made on: speeds compare on one of them only, and scores to the last digit."""

from collections.abc import Iterable, Sequence

from lambdanets.reports.runs import ExperimentRuns, RunRecord


def processors_of(runs: Iterable[RunRecord]) -> list[str]:
    """Return the processors that runs recorded, each once."""
    return sorted({processor for run in runs for processor in run.processors})


def share_processor(runs: Iterable[RunRecord]) -> bool:
    """Return whether no two processors are recorded for runs, so that their speeds have a mean."""
    return len(processors_of(runs)) < 2


def processors_notes(rows: Sequence[tuple[str, ExperimentRuns]], speed: str) -> list[str]:
    """Return a sentence on the processor of each row, and one on the consequences; none if all rows share one.

    Args:
        rows: names and runs; only finished runs count.
        speed: the column of the rows' speed.
    """
    places: dict[str, dict[str, list[int]]] = {}
    for name, row in rows:
        for seed, run in sorted(row.finished.items()):
            place = " and ".join(run.processors) or "an unknown processor"
            places.setdefault(place, {}).setdefault(name, []).append(seed)
    if share_processor(run for _, row in rows for run in row.finished.values()):
        return []
    seeds = {name: len(row.finished) for name, row in rows}
    sentences = [
        f"On {place}: "
        + "; ".join(
            name if len(some) == seeds[name] else f"{name} (seed {', '.join(map(str, some))})"
            for name, some in by_name.items()
        )
        for place, by_name in sorted(places.items())
    ]
    return [
        f"{'. '.join(sentences)}.",
        "Processors round differently: the pairs of a claim or a difference whose runs were on two of them differ in "
        f"rounding, too. {speed} compare on one processor only; a row with runs on several has none.",
    ]
