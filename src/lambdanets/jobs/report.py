"""job=report: results of runs, beside the published numbers."""

import json
import logging
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from omegaconf import DictConfig

from lambdanets.atomic import atomic_write
from lambdanets.console import silence_lightning
from lambdanets.errors import UserError
from lambdanets.jobs.report_claims import write_claims_page
from lambdanets.reports.archive import archive_runs
from lambdanets.reports.comparison import Comparison, compare
from lambdanets.reports.figures import draw_figures
from lambdanets.reports.flops import run_flops
from lambdanets.reports.html import render_page
from lambdanets.reports.processors import processors_of
from lambdanets.reports.runs import RunRecord, read_runs
from lambdanets.runs import provenance
from lambdanets.runs.folders import SWEEPS

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Compare all runs in or below config.sweep_dir; print a table, write report.md, .csv, .json and .html.

    With job.archive_to, the runs are added to the archive in that folder. With claims, their page is written instead.

    Args:
        config: resolved.
        folder: where the files go.

    Returns:
        The number of rows, of finished runs and of missing runs.

    Raises:
        UserError: there are no runs, no finished one has the score, or none is of the given baseline.
    """
    silence_lightning()
    if config.get("claims"):
        return write_claims_page(config.claims)
    runs = read_runs(sweep_folders(config.sweep_dir))
    if config.job.archive_to:
        archive_runs(runs, Path(config.job.archive_to))
    score = choose_score(runs, config.job.score)
    check_baseline(runs, config.job.baseline)
    comparison = compare(runs, score=score, baseline=config.job.baseline, flops=run_flops)
    tables = comparison.tables
    origin = provenance.describe_origin()
    finished = sum(bool(run.metrics) for run in runs)
    made = f"{finished} runs, {origin['date'][:10]}, {describe_versions(runs)}"
    lines = [f"# {comparison.title}", "", f"{made}, `{origin['command']}`", "", tables[0].to_markdown()]
    for table in tables[1:]:
        lines += [f"## {table.title}", "", table.to_markdown()]
    atomic_write(folder / "report.md", "\n".join(lines))
    atomic_write(folder / "report.csv", comparison.numbers().to_csv())
    atomic_write(folder / "report.json", to_json(comparison, origin))
    html = f"{escape(made)}<br><code>{escape(origin['command'])}</code>"
    atomic_write(folder / "report.html", render_page(tables, draw_figures(comparison), html))
    for table in tables:
        table.show()
    log.info("Written to %s, and .md, .csv, .json.", os.path.relpath(folder / "report.html"))
    return {"rows": len(comparison.rows), "runs": finished, "missing": len(comparison.missing)}


def choose_score(runs: Sequence[RunRecord], score: str | None) -> str:
    """Return the score that runs are compared by: the given one, or the first of their task that a finished run has.

    Raises:
        UserError: no finished run has the given score, or it is a loss.
    """
    names = {name for run in runs for name in run.metrics}
    accuracies = sorted(name for name in names if name.startswith(("test/", "val/")) and not name.endswith("/loss"))
    if score is not None and score.endswith("/loss"):
        choices = ", ".join(accuracies)
        raise UserError(f"job.score={score} is a loss, and reports are in percent: choose one of {choices}.")
    if score is None:
        known = runs[0].task.SCORES
        return next((name for name in known if name in names), known[0])
    if names and score not in names:
        raise UserError(f"job.score={score} is the score of no finished run: choose one of {', '.join(accuracies)}.")
    return score


def check_baseline(runs: Sequence[RunRecord], baseline: str | None) -> None:
    """Check that there are runs of the given baseline.

    Raises:
        UserError: there are none.
    """
    names = sorted({run.experiment for run in runs})
    if baseline is not None and baseline not in names:
        raise UserError(f"job.baseline={baseline} is the experiment of no run: choose one of {', '.join(names)}.")


def sweep_folders(sweep_dir: str | list[str] | None) -> list[Path]:
    """Return the folders that sweep_dir names, or else the newest sweep's.

    Raises:
        UserError: sweep_dir is None and there is no sweep.
    """
    if sweep_dir is not None:
        folders = [Path(folder) for folder in ([sweep_dir] if isinstance(sweep_dir, str) else sweep_dir)]
        if not folders:
            raise UserError("sweep_dir=[] names no folder: give one or several, or leave it out for the newest sweep.")
        return folders
    # Hydra writes this file at each start of a sweep; ablations lie one folder further down.
    sweeps = [*SWEEPS.glob("*/multirun.yaml"), *SWEEPS.glob("*/*/multirun.yaml")]
    if not sweeps:
        raise UserError(f"There is no sweep below '{SWEEPS}': name a folder of runs with sweep_dir=<folder>.")
    return [max(sweeps, key=lambda file: file.stat().st_mtime).parent]


def describe_versions(runs: list[RunRecord]) -> str:
    """Describe the code, packages and platforms of the runs, or give their number if there are more than two.

    All processors are named.
    """
    versions = set()
    for run in runs:
        if run.starts:
            start = run.starts[-1]
            packages = start.get("packages")
            torch = packages.get("torch") if isinstance(packages, dict) else None
            versions.add(f"commit {str(start.get('git'))[:9]}, torch {torch}, {start.get('platform')}")
    described = (
        " and ".join(sorted(versions)) if len(versions) < 3 else f"{len(versions)} different versions or machines"
    )
    processors = " and ".join(processors_of(runs))
    return f"{described}, on {processors}" if processors else described


def to_json(comparison: Comparison, origin: dict[str, object]) -> str:
    document = {
        "title": comparison.title,
        "score": comparison.score,
        "baseline": comparison.baseline,
        "origin": origin,
        "rows": comparison.numbers().rows,
        "missing": comparison.missing,
        "runs": [
            {
                "folder": str(run.path),
                "experiment": run.experiment,
                "seed": run.seed,
                "metrics": run.metrics,
                "problem": run.problem,
            }
            for row in comparison.rows
            for run in row.runs.by_seed.values()
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
