"""A page that judges claims: a function of a template and of the runs' files alone."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from omegaconf import OmegaConf

from lambdanets.errors import UserError
from lambdanets.reports.claims import MARK, Claim, Judgment, claims_table, judge, marked_statement
from lambdanets.reports.comparison import ComparedRow, Comparison, compare, format_score, row_name
from lambdanets.reports.curves import final_gain, training_seconds
from lambdanets.reports.equal_cost import Throughput, curves_over_seconds, equal_seconds_table, read_throughput
from lambdanets.reports.flops import run_flops
from lambdanets.reports.published import row_label
from lambdanets.reports.runs import ExperimentRuns, MissingRunsError, RunRecord, read_runs
from lambdanets.table import Table, TableRow

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Claims that are judged by the same runs; a part without claims shows its rows only, as of a tuning.

    Args:
        title: one line.
        runs: folder of the runs or of their archive.
        score: name of the score in metrics.json.
        baseline: the experiment that differences in the table of rows refer to, None for none.
        claims: in order.
        rows: experiments in the order of the tables; others follow. Without it, the order is the sweep's.
        throughput: JSON files of benchmarks with the rows' speed; claims are judged by the first.
        seeds: planned number of pairs of a claim; adds a column of pairs, in place of notes on runs never started.
        max_gain: adds a column of the validation score's gain per epoch at the end; rows that gain so many points are
            marked, and so are their claims.
        equal_cost: add accuracy at equal seconds and FLOPs.
        hyperparameters: config keys that are columns, by the column's name.
        factor: config key in which the rows differ; adds a figure of the score over it.
    """

    title: str
    runs: Path
    score: str
    baseline: str | None = None
    claims: Sequence[Claim] = ()
    rows: Sequence[str] = ()
    throughput: Sequence[Path] = ()
    seeds: int | None = None
    max_gain: float | None = None
    equal_cost: bool = False
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    factor: str | None = None


@dataclass(frozen=True)
class JudgedPart:
    """A part with its runs and the judgments of its claims.

    Args:
        part: the part.
        runs: all of them, empty if none was started.
        comparison: of the runs, without rows if there are none.
        judgments: of the claims, in order.
        throughputs: by the part's benchmarks, None for one that wasn't measured yet.
        gains: the rows' gain per epoch at the end, in points, by name.
    """

    part: Part
    runs: list[RunRecord]
    comparison: Comparison
    judgments: list[Judgment]
    throughputs: list[Throughput | None]
    gains: Mapping[str, float]

    @property
    def throughput(self) -> Throughput | None:
        """The speed that claims are judged by."""
        return self.throughputs[0] if self.throughputs else None

    @property
    def marked(self) -> list[Claim]:
        """The claims that are judged by scores of a row that still gained `max_gain` or more per epoch."""
        gaining = {row.experiment for row in self.comparison.rows if self.still_gains(row)}
        return [
            judgment.claim for judgment in self.judgments if judgment.interval and gaining & judgment.claim.experiments
        ]

    def still_gains(self, row: ComparedRow) -> bool:
        """Return whether a row gained the part's `max_gain` or more per epoch at the end."""
        return self.part.max_gain is not None and self.gains.get(row.name, 0.0) >= self.part.max_gain


def judge_part(part: Part) -> JudgedPart:
    """Read a part's runs and judge its claims; without any run, all claims are not run.

    Raises:
        UserError: an archive is damaged, or a claim's experiment has runs in several settings.
    """
    try:
        runs = read_runs([part.runs])
    except MissingRunsError:
        log.warning("%s: not run yet, '%s' holds no runs.", part.title, part.runs)
        runs = []
    comparison = Comparison(part.title, part.score, [], None, [])
    if runs:
        flops = run_flops if part.equal_cost else lambda run: None
        comparison = compare(runs, score=part.score, baseline=part.baseline, flops=flops)
        if not part.claims:  # trials: those of an experiment together
            comparison.rows.sort(key=lambda row: row.experiment)
        order = {experiment: index for index, experiment in enumerate(part.rows)}
        comparison.rows.sort(key=lambda row: order.get(row.experiment, len(order)))
    rows = {row.experiment: row.runs for row in comparison.rows}
    check_settings(part, comparison)
    throughputs = [read_throughput(file) for file in part.throughput]
    speeds = throughputs[0].images_per_s if throughputs and throughputs[0] else {}
    compared = {name for claim in part.claims for name in claim.experiments}  # a speed needs no runs
    by_experiment = {name: speeds[row_label(name)] for name in compared if row_label(name) in speeds}
    judgments = [judge(claim, rows, score=part.score, throughput=by_experiment) for claim in part.claims]
    gains = {row.name: final_gain(row.runs, comparison.quantity) for row in comparison.rows}
    known = {name: gain for name, gain in gains.items() if gain is not None}
    return JudgedPart(part, runs, comparison, judgments, throughputs, known)


def check_settings(part: Part, comparison: Comparison) -> None:
    """Check that each experiment that claims name has runs in one setting.

    Raises:
        UserError: an experiment has several rows.
    """
    experiments = [row.experiment for row in comparison.rows]
    for name in sorted({name for claim in part.claims for name in claim.experiments}):
        if experiments.count(name) > 1:
            settings = "; ".join(" ".join(row.runs.setting) for row in comparison.rows if row.experiment == name)
            raise UserError(
                f"The runs of '{name}' in '{part.runs}' have several settings ({settings}), so its claims are "
                "ambiguous: keep the runs of one setting in that folder."
            )


def fill_template(template: str, values: Mapping[str, str], optional: Mapping[str, str]) -> str:
    """Replace each `$name` in a page's template.

    Args:
        template: Markdown; `$$` stands for a dollar sign.
        values: by name; each of them must be used.
        optional: by name; they may be used.

    Raises:
        UserError: the template has another name, or lacks one.
    """
    page = Template(template)
    matches = [match for match in page.pattern.finditer(template) if match["escaped"] is None]
    names = {match["named"] or match["braced"] for match in matches if match["invalid"] is None}
    wrong = ["a dollar sign by itself must be $$" for match in matches if match["invalid"] is not None][:1]
    wrong += [f"${name} is unknown" for name in sorted(names - values.keys() - optional.keys())]
    wrong += [f"${name} is missing" for name in sorted(values.keys() - names)]
    if wrong:
        raise UserError(f"The template doesn't fit its claims: {', '.join(wrong)}.")
    return page.substitute({**values, **optional})


def render_part(judged: JudgedPart, figures: Sequence[tuple[str, str]]) -> str:
    """Render a part's tables and figures in Markdown.

    Args:
        judged: the part.
        figures: titles and paths of its figures.
    """
    if not judged.runs:
        return f"Not run yet: `{judged.part.runs}` holds no runs."
    part = judged.part
    tables = []
    if judged.judgments:
        table = claims_table(part.title, judged.judgments, seeds=part.seeds, marked=judged.marked)
        if judged.marked:
            table.notes.append(
                f"{MARK} A row of this claim hadn't converged: over its last three epochs, its validation score gained "
                f"{part.max_gain} points or more per epoch."
            )
        if judged.throughputs and judged.throughput is None:
            table.notes.append("The speed of these networks isn't measured yet: figures over seconds are left out.")
        tables.append(table)
    tables += [rows_table(judged), *equal_seconds_tables(judged)]
    blocks = [table.to_markdown().strip() for table in tables]
    return "\n\n".join([*blocks, *(f"![{title}]({path})" for title, path in figures)])


def rows_table(judged: JudgedPart) -> Table:
    """Return the part's rows: scores over seeds, difference to the baseline, size, time and measured speed."""
    part, throughput = judged.part, judged.throughput
    score = f"{part.score} %"
    columns = ["row", *part.hyperparameters, "runs", score]
    columns += ["difference [95 %]"] if part.baseline else []
    columns += ["gain per epoch"] if part.max_gain else []
    columns += ["M parameters", *(["MFLOPs"] if part.equal_cost else []), "epochs", "minutes per run"]
    table = Table(part.title, [*columns, "images/s"] if throughput else columns)
    rows = [row.runs for row in judged.comparison.rows]
    for row in judged.comparison.rows:
        runs = row.runs.by_seed.values()
        seconds = [time for run in runs if run.metrics and (time := training_seconds(run)) is not None]
        epochs = sorted({round(count) for count in row.runs.values("epochs")})
        table.rows.append(
            {
                "row": row_name(row.runs, rows, hidden=part.hyperparameters.values()),
                **hyperparameter_cells(part, next(iter(runs))),
                "runs": str(row.score.seeds if row.score else 0),
                score: format_score(row.score),
                "difference [95 %]": judged.comparison.difference(row),
                "gain per epoch": format_gain(judged, row),
                "M parameters": None if row.parameters is None else f"{row.parameters / 1e6:.3f}",
                "MFLOPs": None if row.flops is None else f"{row.flops / 1e6:.1f}",
                "epochs": ", ".join(map(str, epochs)) or None,
                "minutes per run": sum(seconds) / len(seconds) / 60 if seconds else None,
                "images/s": throughput.images_per_s.get(row_label(row.experiment)) if throughput else None,
            }
        )
    plan_is_known = part.seeds is not None or not part.claims
    missing = describe_problems(rows) if plan_is_known else judged.comparison.missing
    table.notes = [f"Missing: {description.rstrip('.')}." for description in missing]
    if part.max_gain:
        table.notes.append(
            f"Gain per epoch: of val/{judged.comparison.quantity} over the last three epochs, in points, mean over "
            f"seeds. Below {part.max_gain} counts as converged."
        )
    if part.equal_cost:
        table.notes.append("MFLOPs: one image's forward pass, two per multiply-add.")
    if throughput:
        table.notes.append(f"Images/s in training, measured apart from the runs: {throughput.origin}.")
    return table


def describe_problems(rows: Sequence[ExperimentRuns]) -> list[str]:
    """Describe the seeds whose runs failed or are unfinished."""
    runs = [run for row in rows for _, run in sorted(row.by_seed.items())]
    return [f"{run.experiment}, seed {run.seed}: {run.problem}" for run in runs if run.problem]


def hyperparameter_cells(part: Part, run: RunRecord) -> TableRow:
    """Return the values of a part's hyperparameters in a run, by column."""
    values = {column: OmegaConf.select(run.config, key) for column, key in part.hyperparameters.items()}
    return {column: None if value is None else str(value) for column, value in values.items()}


def format_gain(judged: JudgedPart, row: ComparedRow) -> str | None:
    """Return the cell with a row's gain per epoch, marked if the row hadn't converged."""
    gain = judged.gains.get(row.name)
    if gain is None:
        return None
    return f"{gain:+.2f}" + (f" {MARK}" if judged.still_gains(row) else "")


def equal_seconds_tables(judged: JudgedPart) -> list[Table]:
    """Return, for each benchmark of the part, the rows' validation scores when the fastest row ends."""
    if not judged.part.equal_cost:
        return []
    pairs = [(speed, curves_over_seconds(judged.comparison, speed)) for speed in judged.throughputs if speed]
    return [equal_seconds_table(curves, speed, judged.comparison.quantity) for speed, curves in pairs if curves]


def summary_table(parts: Sequence[JudgedPart]) -> Table:
    """Return all claims with their verdicts, one per row."""
    table = Table("All claims", ["data", "claim", "verdict"])
    for judged in parts:
        for judgment in judged.judgments:
            statement = marked_statement(judgment.claim, judged.marked)
            table.rows.append({"data": judged.part.title, "claim": statement, "verdict": judgment.verdict})
    if any(judged.marked for judged in parts):
        table.notes.append(f"{MARK} A row of this claim hadn't converged.")
    return table


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
    """Return all runs, one per row, with the failed and unfinished ones."""
    hyperparameters = list(dict.fromkeys(name for judged in parts for name in judged.part.hyperparameters))
    columns = ["run", *hyperparameters, "seed", "test %", "validation %", "epochs", "minutes", "commit", "started"]
    if not all(judged.part.claims for judged in parts):  # trials have the names of the rows that they are for
        columns.insert(0, "part")
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
                }
            )
    return table


def format_commit(commit: str | None) -> str | None:
    """Return a short commit; that of changed files keeps its ending `-dirty`."""
    if not commit:
        return None
    digits, dash, ending = commit.partition("-")
    return f"{digits[:9]}{dash}{ending}"


def format_percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{100 * fraction:.2f}"


def format_count(count: float | None) -> str | None:
    return None if count is None else str(round(count))


def provenance_line(runs: Sequence[RunRecord]) -> str:
    """Return number, dates, hours, machines and packages of runs in one line."""
    starts = [start for run in runs for start in run.starts]
    machines = sorted({f"{start['processor']}, {start['cores']} cores" for start in starts if "processor" in start})
    versions = {start.get("packages", {}).get("torch") for start in starts} - {None}
    days = sorted({start["date"][:10] for start in starts if "date" in start})
    finished = sum(bool(run.metrics) for run in runs)
    dates = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else "no date"
    return (
        f"{finished} finished runs of {len(runs)}, {dates}; {training_hours(runs):.1f} hours of training on "
        f"{' and '.join(machines) or 'an unknown machine'}; torch {' and '.join(sorted(versions)) or 'unknown'}."
    )
