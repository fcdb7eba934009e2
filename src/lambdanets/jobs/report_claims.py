"""job=report claims=…: a page that judges claims by archived runs."""

import logging
import re
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
    provenance_line,
    render_part,
    runs_table,
)
from lambdanets.reports.figures import draw_figures, draw_intervals

log = logging.getLogger(__name__)


def write_claims_page(claims: DictConfig) -> dict[str, float]:
    """Judge claims by their runs and write the page, with its figures in a folder of its name beside it.

    The page is a function of its template and of the runs' files: written again, it has the same digits.

    Args:
        claims: a choice of configs/claims.

    Returns:
        The number of claims, of finished runs and of missing runs.

    Raises:
        UserError: a part has no runs, a part or claim has wrong keys, or the template doesn't fit.
    """
    page, template = Path(claims.page), Path(claims.template)
    if not template.is_file():
        raise UserError(f"There is no template '{template}': claims.template must name the page's Markdown file.")
    parts = {name: judge_part(part) for name, part in parse_parts(claims).items()}
    runs = [run for part in parts.values() for run in part.runs]
    values = {name: render_part(part, write_figures(part, page)) for name, part in parts.items()}
    values |= {"provenance": provenance_line(runs), "every_run": runs_table([*parts.values()]).to_markdown().strip()}
    atomic_write(page, fill_template(template.read_text(), values))
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
    throughput = settings.pop("throughput", None)
    claims = [Claim(**claim) for claim in settings.pop("claims", [])]
    runs = Path(settings.pop("runs"))
    return Part(**settings, runs=runs, claims=claims, throughput=Path(throughput) if throughput else None)


def write_figures(judged: JudgedPart, page: Path) -> list[tuple[str, str]]:
    """Write a part's figures; return titles, and paths relative to the page."""
    differences = draw_intervals(judged.judgments)
    figures = [("Differences", differences)] if differences else []
    # Runs that share a machine don't measure their speed: a benchmark does.
    figures += [(title, svg) for title, svg in draw_figures(judged.comparison) if not title.startswith("Speed")]
    paths = []
    for title, svg in figures:
        name = f"{judged.part.title} {title}".lower().replace("×", "x")
        file = page.with_suffix("") / f"{re.sub(r'[^a-z0-9]+', '-', name)}.svg"
        atomic_write(file, svg)
        paths.append((title, str(file.relative_to(page.parent))))
    return paths
