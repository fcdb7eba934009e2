"""job=report claims=…: a page that judges claims by archived runs."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lambdanets.atomic import atomic_write
from lambdanets.errors import UserError
from lambdanets.reports.claims import Claim
from lambdanets.reports.claims_page import (
    JudgedPart,
    Part,
    fill_template,
    judge_part,
    render_part,
    summary_table,
)
from lambdanets.reports.equal_cost import curves_over_flops, curves_over_seconds
from lambdanets.reports.figures import (
    draw_cost_curves,
    draw_factor,
    draw_figures,
    draw_intervals,
    draw_scatter,
    row_colors,
)
from lambdanets.reports.run_tables import hours_table, provenance_line, runs_table

log = logging.getLogger(__name__)


def write_claims_page(claims: DictConfig) -> dict[str, float]:
    """Judge claims by their runs and write the page, with its figures in a folder of its name beside it.

    The page is a function of its template and of the runs' files: written again, it has the same digits.

    Args:
        claims: a choice of configs/claims.

    Returns:
        The number of claims, of finished runs and of missing runs.

    Raises:
        UserError: a part or claim has wrong keys, an archive is damaged, or the template doesn't fit.
    """
    page, template = Path(claims.page), Path(claims.template)
    if not template.is_file():
        raise UserError(f"There is no template '{template}': claims.template must name the page's Markdown file.")
    parts = {name: judge_part(part) for name, part in parse_parts(claims).items()}
    runs = [run for part in parts.values() for run in part.runs]
    values = {name: render_part(part, write_figures(part, page)) for name, part in parts.items()}
    values |= {"provenance": provenance_line(runs), "every_run": runs_table([*parts.values()]).to_markdown().strip()}
    optional = {"summary": summary_table([*parts.values()]), "hours": hours_table([*parts.values()])}
    rendered = {name: table.to_markdown().strip() for name, table in optional.items()}
    atomic_write(page, fill_template(template.read_text(encoding="utf-8"), values, rendered))
    for part in parts.values():
        for judgment in part.judgments:
            log.info("%s: %s %s", judgment.verdict, judgment.claim.statement, judgment.difference or "")
    log.info("Written to %s.", page)
    return {
        "claims": sum(len(part.judgments) for part in parts.values()),
        "runs": sum(bool(run.metrics) for run in runs),
        "missing": sum(len(part.comparison.missing) for part in parts.values()),
    }


def parse_parts(claims: DictConfig) -> dict[str, Part]:
    """Return the parts of a page by name.

    Raises:
        UserError: a part or a claim has an unknown key, or lacks one.
    """
    parts = {}
    stored: Any = OmegaConf.to_container(claims.parts, resolve=True)
    for name, settings in stored.items():
        try:
            parts[name] = parse_part(settings)
        except (TypeError, KeyError) as error:
            raise UserError(f"The part '{name}' of the claims has wrong keys: {error}.") from error
    return parts


def parse_part(settings: dict[str, Any]) -> Part:
    throughput = settings.pop("throughput", None) or []
    files = [throughput] if isinstance(throughput, str) else throughput
    claims = [Claim(**claim) for claim in settings.pop("claims", [])]
    runs = Path(settings.pop("runs"))
    return Part(**settings, runs=runs, claims=claims, throughput=[Path(file) for file in files])


def write_figures(judged: JudgedPart, page: Path) -> list[tuple[str, str]]:
    """Write the figures of a part with claims; return titles, and paths relative to the page."""
    paths = []
    for title, svg in draw_part(judged) if judged.part.claims and judged.runs else ():
        name = f"{judged.part.title} {title}".lower().replace("×", "x")
        file = page.with_suffix("") / f"{re.sub(r'[^a-z0-9]+', '-', name)}.svg"
        atomic_write(file, svg)
        paths.append((title, str(file.relative_to(page.parent))))
    return paths


def draw_part(judged: JudgedPart) -> Iterator[tuple[str, str]]:
    """Yield titles and SVG elements of a part's figures."""
    differences = draw_intervals(judged.judgments)
    if differences:
        yield "Differences", differences
    comparison = judged.comparison
    # Runs that share a machine don't measure their speed: a benchmark does.
    yield from (figure for figure in draw_figures(comparison) if not figure[0].startswith("Speed"))
    if judged.part.factor and any(row.score for row in comparison.rows):
        yield f"Accuracy and {judged.part.factor.rpartition('.')[2]}", draw_factor(comparison, judged.part.factor)
    if not judged.part.equal_cost:
        return
    colors, quantity = row_colors(comparison), comparison.quantity
    by_flops = [(row.flops / 1e6, row) for row in comparison.rows if row.score and row.flops]
    if by_flops:
        yield "Accuracy and FLOPs", draw_scatter(comparison, by_flops, colors, "MFLOPs of an image's forward pass")
    for throughput in judged.throughputs:
        curves = curves_over_seconds(comparison, throughput) if throughput else []
        if throughput and curves:
            machine = throughput.machine
            figure = draw_cost_curves(curves, colors, f"seconds of training, {machine}", quantity)
            yield f"Accuracy over seconds, {machine}", figure
    curves = curves_over_flops(comparison)
    if curves:
        yield "Accuracy over FLOPs", draw_cost_curves(curves, colors, "FLOPs of training", quantity)
