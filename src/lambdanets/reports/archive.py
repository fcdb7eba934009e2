"""Archives of runs: one line of JSON per run with all that a report reads, without checkpoints and logs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lambdanets.atomic import atomic_write
from lambdanets.errors import UserError
from lambdanets.locks import Timeout, exclusive_lock
from lambdanets.reports.runs import ARCHIVE, RunRecord, read_archive

# Each start keeps its code, its hardware and what its sweep is over, but not its host, its folder and its process.
START_KEYS = (
    "command",
    "date",
    "git",
    "python",
    "platform",
    "processor",
    "cores",
    "gpus",
    "packages",
    "swept",
    "failed",
)

LOCK = f".{ARCHIVE}.lock"
WAIT_S = 60.0


def archive_runs(runs: Sequence[RunRecord], folder: Path) -> None:
    """Write runs to an archive, each as one line of `runs.jsonl`.

    The line of a run that was archived before is replaced; the lines of other runs stay.

    Args:
        runs: as `read_runs` returns them.
        folder: the archive's folder, which may not exist yet.

    Raises:
        UserError: the folder holds a damaged archive, or another command keeps it locked.
    """
    file = folder / ARCHIVE
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive_lock(folder / LOCK, timeout=WAIT_S):
            earlier = read_archive(file) if file.is_file() else []
            lines = {identity(run): to_json(run) for run in (*earlier, *runs)}
            atomic_write(file, "".join(f"{line}\n" for line in lines.values()))
    except Timeout as error:
        raise UserError(
            f"The archive '{file}' is being written by another command: wait until it ends, then archive again."
        ) from error


def identity(run: RunRecord) -> tuple[str, ...]:
    """Return the run's name, its folder's name, and its first start, since two sweeps may have folders of one name."""
    first = run.starts[0] if run.starts else {}
    return str(run.config.name), run.path.name, *(str(first.get(key)) for key in ("date", "command"))


def to_json(run: RunRecord) -> str:
    """Return a run's line; `read_archive` gives the same numbers to the last digit."""
    stored: dict[str, Any] = {
        "run": run.path.name,
        "config": OmegaConf.to_container(run.config),
        "overrides": run.overrides,
        "metrics": run.metrics,
        "log": epoch_rows(run.log),
        "starts": [{key: start[key] for key in START_KEYS if key in start} for start in run.starts],
    }
    return json.dumps(stored | ({} if run.error is None else {"error": run.error}), ensure_ascii=False)


def epoch_rows(log: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Return the rows that end an epoch, which hold its scores and speed."""
    return [row for row in log if any(name.startswith(("val/", "speed/")) for name in row)]
