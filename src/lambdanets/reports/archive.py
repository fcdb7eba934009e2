"""Small copies of runs: what a report reads of them, without checkpoints and logs."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from lambdanets.atomic import atomic_write
from lambdanets.reports.runs import Run
from lambdanets.runs.folders import COMPOSED, METRICS, RESOLVED

WHOLE = (COMPOSED, RESOLVED, METRICS, "failed.json", ".hydra/overrides.yaml")
# Of each start, what tells how it was made; not on whose machine it lay.
ORIGIN = ("command", "date", "git", "python", "platform", "processor", "cores", "packages")


def keep(runs: Sequence[Run], folder: Path) -> None:
    """Copies what a report reads of each run: config, scores, its epochs and where they are from.

    Args:
        runs: as collected.
        folder: where each gets a folder of its own name.
    """
    for run in runs:
        place = folder / run.folder.name
        for name in WHOLE:
            if (run.folder / name).is_file():
                atomic_write(place / name, (run.folder / name).read_text())
        if run.log:
            atomic_write(place / "metrics.csv", epochs(run.log))
        starts = [{key: start[key] for key in ORIGIN if key in start} for start in run.starts]
        atomic_write(place / "provenance.json", json.dumps(starts, indent=1) + "\n")


def epochs(rows: Sequence[dict[str, float]]) -> str:
    """The rows of a log that an epoch ended with."""
    kept = [row for row in rows if any(name.startswith(("val/", "speed/")) for name in row)]
    columns = list(dict.fromkeys(name for row in kept for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept)
    return text.getvalue()
