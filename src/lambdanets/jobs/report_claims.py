"""job=report claims=…: a page on claims, made from runs that are kept in the repository."""

import logging
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lambdanets.atomic import atomic_write
from lambdanets.errors import UserError
from lambdanets.reports.claims import Claim
from lambdanets.reports.claims_page import Evidence, Part, every_run, evidence, made_on, section
from lambdanets.reports.figures import figures, intervals

log = logging.getLogger(__name__)


def write(claims: DictConfig) -> dict[str, float]:
    """Judges the claims by their runs and writes the page, its plots beside it in a folder of its name.

    The page is a function of the runs' files: written again, it has the same digits.

    Args:
        claims: a choice of configs/claims.

    Returns:
        The number of claims, of finished runs and of those that are missing.

    Raises:
        UserError: a part has no runs, or a claim isn't understood.
    """
    page = Path(claims.page)
    parts = [evidence(part) for part in parts_of(claims)]
    sections = [section(part, save(part, page)) for part in parts]
    runs = [run for part in parts for run in part.runs]
    every = every_run(parts).markdown().strip()
    text = [f"# {claims.title}", f"`{claims.command}`, from {made_on(runs)}", claims.about.strip(), *sections]
    text += [f"## {title}\n\n{words.strip()}" for title, words in claims.remarks.items()]
    atomic_write(page, "\n\n".join([*text, f"## Every run\n\n{every}"]) + "\n")
    for part in parts:
        for verdict in part.verdicts:
            log.info("%s: %s %s", verdict.verdict, verdict.claim.claim, verdict.difference or "")
    log.info("Written to %s.", page)
    return {
        "claims": sum(len(part.verdicts) for part in parts),
        "runs": sum(bool(run.metrics) for run in runs),
        "missing": sum(len(part.missing) for part in parts),
    }


def parts_of(claims: DictConfig) -> list[Part]:
    """The parts of a page.

    Raises:
        UserError: a part or a claim has a key that isn't known, or lacks one.
    """
    parts = []
    for settings in OmegaConf.to_container(claims.parts, resolve=True):  # type: ignore[union-attr]
        try:
            parts.append(part_of(dict(settings)))  # type: ignore[arg-type]
        except TypeError as error:
            raise UserError(f"The part '{settings.get('title')}' of the claims isn't understood: {error}.") from error  # type: ignore[union-attr]
    return parts


def part_of(settings: dict[str, Any]) -> Part:
    throughput = settings.pop("throughput", None)
    claims = [Claim(**claim) for claim in settings.pop("claims", [])]
    runs = Path(settings.pop("runs"))
    return Part(**settings, runs=runs, claims=claims, throughput=Path(throughput) if throughput else None)


def save(part: Evidence, page: Path) -> list[tuple[str, str]]:
    """Writes a part's plots; titles, and paths as the page names them."""
    differences = intervals(part.verdicts)
    pictures = [("Differences", differences)] if differences else []
    # Runs that shared their machine don't tell how fast they are: a benchmark does.
    pictures += [(title, picture) for title, picture in figures(part.comparison) if not title.startswith("Speed")]
    found = []
    for title, picture in pictures:
        name = f"{part.part.title} {title}".lower().replace("×", "x")
        file = page.with_suffix("") / f"{re.sub(r'[^a-z0-9]+', '-', name)}.svg"
        atomic_write(file, picture)
        found.append((title, str(file.relative_to(page.parent))))
    return found
