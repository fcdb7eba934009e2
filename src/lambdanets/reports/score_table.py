"""A task's own table of scores, each row followed by the published scores."""

from collections.abc import Iterable, Mapping
from statistics import fmean

from lambdanets.reports.published import PublishedValue, published_note, published_value
from lambdanets.reports.runs import ExperimentRuns
from lambdanets.table import Table
from lambdanets.tasks import ScoreTable


def score_names(layout: ScoreTable | None) -> list[str]:
    """Return the names of all scores in a table, in order."""
    return [name for names in layout.columns.values() for name in names] if layout else []


def mean_test_scores(row: ExperimentRuns) -> dict[str, float]:
    """Return the mean over seeds of each score in the task's own table, on the test split, in percent.

    A score of −1, which an average precision has without any such object in the data, is left out.
    """
    scores = {name: row.scores(f"test/{name}").values() for name in score_names(row.task.SCORE_TABLE)}
    valid = {name: [100 * value for value in values if value >= 0] for name, values in scores.items()}
    return {name: fmean(values) for name, values in valid.items() if values}


def score_table(layout: ScoreTable, rows: Iterable[tuple[str, str, Mapping[str, float]]], data: str) -> Table:
    """Return the scores of rows, each followed by the published scores.

    Args:
        layout: title, columns and notes.
        rows: name, experiment and scores in percent of each row.
        data: the data set of the published scores.
    """
    table = Table(layout.title, ["row", "of", *layout.columns])
    numbers: list[PublishedValue | None] = []
    for name, experiment, ours in rows:
        published = {score: published_value(experiment, score) for score in score_names(layout)}
        numbers += published.values()
        published_scores = {score: number.value for score, number in published.items() if number}
        unconfirmed = any(number.trust == "R" for number in published.values() if number)
        source = "published (unconfirmed)" if unconfirmed else "published"
        for origin, scores in (("ours", ours), (source, published_scores)):
            if scores:
                table.rows.append({"row": name, "of": origin, **format_scores(layout, scores)})
    origin_note = f"Ours: mean over seeds. Published: on {data}, by the paper"
    table.notes += [*layout.notes, published_note(origin_note, numbers)]
    return table


def format_scores(layout: ScoreTable, scores: Mapping[str, float]) -> dict[str, str | None]:
    """Return the cells of one row; a column without scores is None."""
    return {
        heading: " / ".join(f"{scores[name]:.1f}" if name in scores else "–" for name in names)
        if any(name in scores for name in names)
        else None
        for heading, names in layout.columns.items()
    }
