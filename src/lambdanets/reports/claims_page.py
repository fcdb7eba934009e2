"""What runs say of claims, as a page that is a function of the runs' files alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lambdanets.errors import UserError
from lambdanets.reports.claims import Claim, Verdict, judge, table
from lambdanets.reports.comparison import Comparison, compare, scored
from lambdanets.reports.published import label
from lambdanets.reports.runs import Run, collect
from lambdanets.table import Table


@dataclass(frozen=True)
class Part:
    """Claims that the same runs speak of.

    Args:
        title: one line.
        text: what is compared, in Markdown.
        runs: folder of the runs.
        score: of metrics.json.
        baseline: the experiment that differences in the table of rows are to.
        claims: in order.
        throughput: a benchmark's JSON with the rows' speed, or None.
    """

    title: str
    text: str
    runs: Path
    score: str
    baseline: str
    claims: Sequence[Claim]
    throughput: Path | None = None


@dataclass(frozen=True)
class Speeds:
    """What job=benchmark measured of rows.

    Args:
        images: images/s in training, by a row's label.
        origin: machine, date and command, in words.
    """

    images: Mapping[str, float]
    origin: str


@dataclass(frozen=True)
class Evidence:
    """A part with its runs."""

    part: Part
    runs: list[Run]
    comparison: Comparison
    verdicts: list[Verdict]
    speeds: Speeds | None

    @property
    def missing(self) -> list[str]:
        """Runs without a result, in words."""
        return self.comparison.missing


def evidence(part: Part) -> Evidence:
    """Reads a part's runs and judges its claims.

    Raises:
        UserError: there are no runs, or no such benchmark.
    """
    runs = collect([part.runs])
    comparison = compare(runs, score=part.score, baseline=part.baseline, flops=lambda run: None)
    rows = {row.row.experiment: row.row for row in comparison.rows}
    speeds = throughput(part.throughput) if part.throughput else None
    images = speeds.images if speeds else {}
    by_experiment = {name: images[label(name)] for name in rows if label(name) in images}
    verdicts = [judge(claim, rows, score=part.score, throughput=by_experiment) for claim in part.claims]
    return Evidence(part, runs, comparison, verdicts, speeds)


def throughput(file: Path) -> Speeds:
    """The rows' speed, as job=benchmark wrote it.

    Raises:
        UserError: there is no such file.
    """
    if not file.is_file():
        raise UserError(f"There is no benchmark '{file}': make it with job=benchmark, or leave throughput out.")
    found = json.loads(file.read_text())
    origin = f"{found['machine']}, {found['origin']['date'][:10]}, `{found['origin']['command']}`"
    return Speeds({row["row"]: row["train img/s"] for row in found["rows"]}, origin)


def section(found: Evidence, pictures: Sequence[tuple[str, str]]) -> str:
    """A part in Markdown.

    Args:
        found: the part.
        pictures: titles and paths of its plots.
    """
    shown = [f"## {found.part.title}", found.part.text.strip()]
    if found.verdicts:
        shown.append(table(found.part.title, found.verdicts).markdown().strip())
    shown.append(rows(found).markdown().strip())
    shown += [f"![{title}]({path})" for title, path in pictures]
    return "\n\n".join(shown)


def rows(found: Evidence) -> Table:
    """The part's rows: scores over seeds, the difference to the baseline, size, time, and speed if it was measured."""
    score = f"{found.part.score} %"
    columns = ["row", "runs", score, "difference [95 %]", "M parameters", "epochs", "minutes a run"]
    shown = Table(found.part.title, [*columns, "images/s"] if found.speeds else columns)
    for row in found.comparison.rows:
        minutes = [seconds / 60 for seconds in row.row.values("seconds")]
        epochs = sorted({round(count) for count in row.row.values("epochs")})
        shown.rows.append(
            {
                "row": row.name,
                "runs": str(row.score.seeds if row.score else 0),
                score: scored(row.score),
                "difference [95 %]": found.comparison.difference(row),
                "M parameters": None if row.parameters is None else f"{row.parameters / 1e6:.3f}",
                "epochs": ", ".join(map(str, epochs)) or None,
                "minutes a run": sum(minutes) / len(minutes) if minutes else None,
                "images/s": found.speeds.images.get(label(row.row.experiment)) if found.speeds else None,
            }
        )
    shown.notes = [f"Missing: {sentence}." for sentence in found.missing]
    if found.speeds:
        shown.notes.append(f"Images/s in training, apart from the runs: {found.speeds.origin}.")
    return shown


def every_run(parts: Sequence[Evidence]) -> Table:
    """All runs, one a row, failed and unfinished ones too."""
    columns = ["run", "seed", "test %", "validation %", "epochs", "minutes", "commit", "started"]
    shown = Table("All runs", columns)
    for found in parts:
        quantity = found.comparison.quantity
        for row in found.comparison.rows:
            for seed, run in sorted(row.row.runs.items()):
                start = run.starts[0] if run.starts else {}
                cells: tuple[str | None, ...] = (
                    row.row.experiment,
                    str(seed),
                    percent(run.metrics.get(f"test/{quantity}")) if not run.problem else run.problem,
                    percent(run.metrics.get(f"val/{quantity}")),
                    whole(run.metrics.get("epochs")),
                    None if "seconds" not in run.metrics else f"{run.metrics['seconds'] / 60:.1f}",
                    str(start.get("git", ""))[:9] or None,
                    str(start.get("date", ""))[:16].replace("T", " ") or None,
                )
                shown.rows.append(dict(zip(columns, cells, strict=True)))
    return shown


def percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.2f}"


def whole(number: float | None) -> str | None:
    return None if number is None else str(round(number))


def made_on(runs: Sequence[Run]) -> str:
    """Machine, packages, dates and hours of runs, in words."""
    starts = [start for run in runs for start in run.starts]
    machines = sorted({f"{start.get('processor')}, {start.get('cores')} cores" for start in starts})
    packages = sorted({f"torch {start['packages']['torch']}" for start in starts})
    days = sorted({start["date"][:10] for start in starts})
    seconds = sum(run.metrics.get("seconds", 0.0) for run in runs)
    finished = sum(bool(run.metrics) for run in runs)
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else "no date"
    where = f"{seconds / 3600:.1f} hours of training on {' and '.join(machines)}; {' and '.join(packages)}"
    return f"{finished} finished runs of {len(runs)}, {when}; {where}."
