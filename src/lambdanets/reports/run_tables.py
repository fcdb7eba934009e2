"""Tables and a line on all runs of a claims page: their hours, scores, machines and dates."""

from collections.abc import Mapping, Sequence
from typing import Any

from lambdanets.reports.claims_page import JudgedPart, hyperparameter_cells
from lambdanets.reports.curves import training_seconds
from lambdanets.reports.processors import share_processor
from lambdanets.reports.runs import RunRecord
from lambdanets.table import Table


def hours_table(parts: Sequence[JudgedPart]) -> Table:
    """Return the hours of training per part, in the parts with and without claims, and in all."""
    table = Table("Hours", ["part", "runs started", "finished", "hours of training"])
    compared = [run for judged in parts if judged.part.claims for run in judged.runs]
    others = [run for judged in parts if not judged.part.claims for run in judged.runs]
    sums = {"compared rows": compared, "other runs": others, "together": compared + others}
    for name, runs in [*((judged.part.title, judged.runs) for judged in parts), *sums.items()]:
        cells = (name, str(len(runs)), str(sum(bool(run.metrics) for run in runs)), f"{training_hours(runs):.2f}")
        table.rows.append(dict(zip(table.columns, cells, strict=True)))
    restarted = sum(len(run.starts) > 1 for run in compared + others)
    if restarted:
        table.notes.append(
            f"{restarted} of the runs were stopped and started again, from a checkpoint or from the beginning. The "
            "time that they lost by it is unknown and not counted."
        )
    return table


def training_hours(runs: Sequence[RunRecord]) -> float:
    return sum(training_seconds(run) or 0.0 for run in runs) / 3600


def runs_table(parts: Sequence[JudgedPart]) -> Table:
    """Return all runs, one per row, with the failed and unfinished ones, and their processors if there are several."""
    hyperparameters = list(dict.fromkeys(name for judged in parts for name in judged.part.hyperparameters))
    columns = ["run", *hyperparameters, "seed", "test %", "validation %", "epochs", "minutes", "commit", "started"]
    if not all(judged.part.claims for judged in parts):  # trials have the names of the rows that they are for
        columns.insert(0, "part")
    if not share_processor(run for judged in parts for run in judged.runs):
        columns.append("processor")
    table = Table("All runs", columns)
    table.notes.append("Test and validation: both of the epoch with the best validation score.")
    for judged in parts:
        quantity = judged.comparison.quantity
        rows = [(row.experiment, row.runs.setting) for row in judged.comparison.rows]
        for run in sorted(judged.runs, key=lambda run: (rows.index((run.experiment, run.setting)), run.seed)):
            start = run.starts[0] if run.starts else {}
            seconds = training_seconds(run)
            table.rows.append(
                {
                    "part": judged.part.title,
                    "run": run.experiment,
                    **hyperparameter_cells(judged.part, run),
                    "seed": str(run.seed),
                    "test %": run.problem or format_percent(run.metrics.get(f"test/{quantity}")),
                    "validation %": format_percent(run.metrics.get(f"val/{quantity}")),
                    "epochs": format_count(run.metrics.get("epochs")),
                    "minutes": None if seconds is None else f"{seconds / 60:.1f}",
                    "commit": format_commit(start.get("git")),
                    "started": str(start.get("date", ""))[:16].replace("T", " ") or None,
                    "processor": ", ".join(run.processors) or None,
                }
            )
    return table


def format_commit(commit: object) -> str | None:
    """Return a short commit; that of changed files keeps its ending `-dirty`."""
    if not commit:
        return None
    digits, dash, ending = str(commit).partition("-")
    return f"{digits[:9]}{dash}{ending}"


def format_percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{100 * fraction:.2f}"


def format_count(count: float | None) -> str | None:
    return None if count is None else str(round(count))


def provenance_line(runs: Sequence[RunRecord]) -> str:
    """Return number, dates, hours, machines and packages of runs in one line."""
    starts = [start for run in runs for start in run.starts]
    machines = sorted({machine for start in starts if (machine := describe_machine(start))})
    packages = [start["packages"] for start in starts if isinstance(start.get("packages"), dict)]
    versions = {str(versions["torch"]) for versions in packages if versions.get("torch")}
    days = sorted({str(start["date"])[:10] for start in starts if start.get("date")})
    finished = sum(bool(run.metrics) for run in runs)
    dates = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else "no date"
    return (
        f"{finished} finished runs of {len(runs)}, {dates}; {training_hours(runs):.1f} hours of training on "
        f"{' and '.join(machines) or 'an unknown machine'}; torch {' and '.join(sorted(versions)) or 'unknown'}."
    )


def describe_machine(start: Mapping[str, Any]) -> str | None:
    """Return the GPUs of a start, or else its processor and cores as far as they were recorded, None without any.

    A start that failed before the training has none: the processor may not be what it would have trained on.
    """
    if start.get("failed"):
        return None
    if start.get("gpus"):
        return str(start["gpus"])
    processor, cores = start.get("processor"), start.get("cores")
    return f"{processor}, {cores} cores" if processor and cores else str(processor) if processor else None
