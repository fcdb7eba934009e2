"""A page that judges claims: a function of a template and of the runs' files alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from lambdanets.errors import UserError
from lambdanets.reports.claims import Claim, Judgment, claims_table, judge
from lambdanets.reports.comparison import Comparison, compare, format_score
from lambdanets.reports.published import row_label
from lambdanets.reports.runs import RunRecord, read_runs
from lambdanets.table import Table


@dataclass(frozen=True)
class Part:
    """Claims that are judged by the same runs.

    Args:
        title: one line.
        runs: folder of the runs or of their archive.
        score: name of the score in metrics.json.
        baseline: the experiment that differences in the table of rows refer to.
        claims: in order.
        throughput: JSON file of a benchmark with the rows' speed, or None.
    """

    title: str
    runs: Path
    score: str
    baseline: str
    claims: Sequence[Claim] = ()
    throughput: Path | None = None


@dataclass(frozen=True)
class Throughput:
    """The rows' speed as job=benchmark measured it.

    Args:
        images_per_s: in training, by a row's label.
        origin: machine, date and command, in words.
    """

    images_per_s: Mapping[str, float]
    origin: str


@dataclass(frozen=True)
class JudgedPart:
    """A part with its runs and the judgments of its claims."""

    part: Part
    runs: list[RunRecord]
    comparison: Comparison
    judgments: list[Judgment]
    throughput: Throughput | None


def judge_part(part: Part) -> JudgedPart:
    """Read a part's runs and judge its claims.

    Raises:
        UserError: there are no runs, or no such benchmark.
    """
    runs = read_runs([part.runs])
    comparison = compare(runs, score=part.score, baseline=part.baseline, flops=lambda run: None)
    rows = {row.experiment: row.runs for row in comparison.rows}
    throughput = read_throughput(part.throughput) if part.throughput else None
    speeds = throughput.images_per_s if throughput else {}
    by_experiment = {name: speeds[row_label(name)] for name in rows if row_label(name) in speeds}
    judgments = [judge(claim, rows, score=part.score, throughput=by_experiment) for claim in part.claims]
    return JudgedPart(part, runs, comparison, judgments, throughput)


def read_throughput(file: Path) -> Throughput:
    """Read the rows' speed from the JSON file of a benchmark.

    Raises:
        UserError: there is no such file.
    """
    if not file.is_file():
        raise UserError(f"There is no benchmark '{file}': write it with job=benchmark, or leave throughput out.")
    benchmark = json.loads(file.read_text())
    origin = f"{benchmark['machine']}, {benchmark['origin']['date'][:10]}, `{benchmark['origin']['command']}`"
    return Throughput({row["row"]: row["train img/s"] for row in benchmark["rows"]}, origin)


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """Replace each `$name` in a page's template.

    Args:
        template: Markdown; `$$` stands for a dollar sign.
        values: by name; each of them must be used.

    Raises:
        UserError: the template has another name, or lacks one.
    """
    page = Template(template)
    names = {match["named"] or match["braced"] for match in page.pattern.finditer(template)} - {None}
    if names != values.keys():
        wrong = [f"${name} is unknown" for name in sorted(names - values.keys())]
        wrong += [f"${name} is missing" for name in sorted(values.keys() - names)]
        raise UserError(f"The template doesn't fit its claims: {', '.join(wrong)}.")
    return page.substitute(values)


def render_part(judged: JudgedPart, figures: Sequence[tuple[str, str]]) -> str:
    """Render a part's tables and figures in Markdown.

    Args:
        judged: the part.
        figures: titles and paths of its figures.
    """
    blocks = [claims_table(judged.part.title, judged.judgments)] if judged.judgments else []
    tables = [table.to_markdown().strip() for table in (*blocks, rows_table(judged))]
    return "\n\n".join([*tables, *(f"![{title}]({path})" for title, path in figures)])


def rows_table(judged: JudgedPart) -> Table:
    """Return the part's rows: scores over seeds, difference to the baseline, size, time and measured speed."""
    score = f"{judged.part.score} %"
    columns = ["row", "runs", score, "difference [95 %]", "M parameters", "epochs", "minutes per run"]
    throughput = judged.throughput
    table = Table(judged.part.title, [*columns, "images/s"] if throughput else columns)
    for row in judged.comparison.rows:
        minutes = [seconds / 60 for seconds in row.runs.values("seconds")]
        epochs = sorted({round(count) for count in row.runs.values("epochs")})
        table.rows.append(
            {
                "row": row.name,
                "runs": str(row.score.seeds if row.score else 0),
                score: format_score(row.score),
                "difference [95 %]": judged.comparison.difference(row),
                "M parameters": None if row.parameters is None else f"{row.parameters / 1e6:.3f}",
                "epochs": ", ".join(map(str, epochs)) or None,
                "minutes per run": sum(minutes) / len(minutes) if minutes else None,
                "images/s": throughput.images_per_s.get(row_label(row.experiment)) if throughput else None,
            }
        )
    table.notes = [f"Missing: {description.rstrip('.')}." for description in judged.comparison.missing]
    if throughput:
        table.notes.append(f"Images/s in training, measured apart from the runs: {throughput.origin}.")
    return table


def runs_table(parts: Sequence[JudgedPart]) -> Table:
    """Return all runs, one per row, with the failed and unfinished ones."""
    columns = ["run", "seed", "test %", "validation %", "epochs", "minutes", "commit", "started"]
    table = Table("All runs", columns)
    for judged in parts:
        quantity = judged.comparison.quantity
        for row in judged.comparison.rows:
            for seed, run in sorted(row.runs.by_seed.items()):
                start = run.starts[0] if run.starts else {}
                cells: tuple[str | None, ...] = (
                    row.experiment,
                    str(seed),
                    run.problem or format_percent(run.metrics.get(f"test/{quantity}")),
                    format_percent(run.metrics.get(f"val/{quantity}")),
                    format_count(run.metrics.get("epochs")),
                    None if "seconds" not in run.metrics else f"{run.metrics['seconds'] / 60:.1f}",
                    str(start.get("git", ""))[:9] or None,
                    str(start.get("date", ""))[:16].replace("T", " ") or None,
                )
                table.rows.append(dict(zip(columns, cells, strict=True)))
    return table


def format_percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{100 * fraction:.2f}"


def format_count(count: float | None) -> str | None:
    return None if count is None else str(round(count))


def provenance_line(runs: Sequence[RunRecord]) -> str:
    """Return number, dates, hours, machines and packages of runs in one line."""
    starts = [start for run in runs for start in run.starts]
    machines = sorted({f"{start.get('processor')}, {start.get('cores')} cores" for start in starts})
    packages = sorted({f"torch {start['packages']['torch']}" for start in starts})
    days = sorted({start["date"][:10] for start in starts})
    hours = sum(run.metrics.get("seconds", 0.0) for run in runs) / 3600
    finished = sum(bool(run.metrics) for run in runs)
    dates = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else "no date"
    return (
        f"{finished} finished runs of {len(runs)}, {dates}; {hours:.1f} hours of training on "
        f"{' and '.join(machines)}; {' and '.join(packages)}."
    )
