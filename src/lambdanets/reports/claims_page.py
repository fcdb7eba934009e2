"""A page that judges claims: a function of a template and of the runs' files alone."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from omegaconf import OmegaConf

from lambdanets.errors import UserError
from lambdanets.measured import MAX_SPREAD
from lambdanets.reports.claims import MARK, Claim, Judgment, claims_table, judge, marked_statement
from lambdanets.reports.comparison import ComparedRow, Comparison, compare, format_score, row_name
from lambdanets.reports.curves import final_gain, training_seconds
from lambdanets.reports.differing_configs import check_claimed_rows, differing_notes
from lambdanets.reports.equal_cost import Throughput, curves_over_seconds, equal_seconds_table, read_throughput
from lambdanets.reports.flops import COUNTED_METHODS, run_flops
from lambdanets.reports.processors import processors_notes, share_processor
from lambdanets.reports.published import row_label
from lambdanets.reports.runs import ExperimentRuns, MissingRunsError, RunRecord, read_runs
from lambdanets.table import Cell, Table, TableRow, format_cell

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
        UserError: an archive is damaged, or a claim's experiment has runs of several settings or configs.
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
    compared = {name for claim in part.claims for name in claim.experiments}
    check_claimed_rows([row.runs for row in comparison.rows], compared, part.runs)
    throughputs = [read_throughput(file) for file in part.throughput]
    speeds = throughputs[0].images_per_s if throughputs and throughputs[0] else {}
    # A speed needs no runs.
    by_experiment = {name: speeds[row_label(name)] for name in compared if row_label(name) in speeds}
    judgments = [judge(claim, rows, score=part.score, throughput=by_experiment) for claim in part.claims]
    gains = {row.name: final_gain(row.runs, comparison.quantity) for row in comparison.rows}
    known = {name: gain for name, gain in gains.items() if gain is not None}
    return JudgedPart(part, runs, comparison, judgments, throughputs, known)


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
        table.notes += speed_claims_notes(judged)
        tables.append(table)
    tables += [rows_table(judged), *equal_seconds_tables(judged)]
    blocks = [table.to_markdown().strip() for table in tables]
    return "\n\n".join([*blocks, *(f"![{title}]({path})" for title, path in figures)])


def speed_claims_notes(judged: JudgedPart) -> list[str]:
    """Return a sentence on the machine that claims on speed are for, and on noisy speeds; none without such claims."""
    claims = [judgment.claim for judgment in judged.judgments if judgment.claim.criterion == "faster"]
    if not claims or judged.throughput is None:
        return []
    labels = sorted({row_label(name) for claim in claims for name in claim.experiments})
    noisy = [label for label in labels if label in judged.throughput.noisy]
    ending = f" Noisy, so that their verdicts are uncertain: {'; '.join(noisy)}." if noisy else ""
    return [f"Faster: in training on {judged.throughput.machine}.{ending}"]


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
    names = [row_name(row, rows, hidden=part.hyperparameters.values()) for row in rows]
    for name, row in zip(names, judged.comparison.rows, strict=True):
        finished = row.runs.finished.values()
        seconds = [time for run in finished if (time := training_seconds(run)) is not None]
        seconds = seconds if share_processor(finished) else []
        epochs = sorted({round(count) for count in row.runs.values("epochs")})
        table.rows.append(
            {
                "row": name,
                **hyperparameter_cells(part, next(iter(row.runs.by_seed.values()))),
                "runs": str(row.score.seeds if row.score else 0),
                score: format_score(row.score),
                "difference [95 %]": judged.comparison.difference(row),
                "gain per epoch": format_gain(judged, row),
                "M parameters": None if row.parameters is None else f"{row.parameters / 1e6:.3f}",
                "MFLOPs": None if row.flops is None else f"{row.flops / 1e6:.1f}",
                "epochs": ", ".join(map(str, epochs)) or None,
                "minutes per run": sum(seconds) / len(seconds) / 60 if seconds else None,
                "images/s": format_speed(throughput, row) if throughput else None,
            }
        )
    plan_is_known = part.seeds is not None or not part.claims
    missing = describe_problems(rows) if plan_is_known else judged.comparison.missing
    table.notes = [f"Missing: {description.rstrip('.')}." for description in missing]
    named_rows = [*zip(names, rows, strict=True)]
    table.notes += [*differing_notes(named_rows), *processors_notes(named_rows, "Minutes per run")]
    if part.max_gain:
        table.notes.append(
            f"Gain per epoch: of val/{judged.comparison.quantity} over the last three epochs, in points, mean over "
            f"seeds. Below {part.max_gain} counts as converged."
        )
    if part.equal_cost:
        table.notes.append(f"MFLOPs: one image's forward pass, two per multiply-add; {COUNTED_METHODS}.")
    if throughput:
        table.notes.append(f"Images/s in training, measured apart from the runs: {throughput.origin}.")
        if throughput.noisy:
            table.notes.append(
                f"Noisy: the middle half of the measurements spans more than {100 * MAX_SPREAD:g} % of the median, or "
                "other processes used the cores. Measure again on an idle machine."
            )
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


def format_speed(throughput: Throughput, row: ComparedRow) -> Cell:
    """Return the cell with a row's measured speed, which says if it is noisy."""
    label = row_label(row.experiment)
    speed = throughput.images_per_s.get(label)
    return f"{format_cell(speed)} noisy" if label in throughput.noisy else speed


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
