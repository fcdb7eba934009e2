"""The published weights: their names and files, in the package's folder weights/.

No import of torch: the command line uses this module before anything heavy is loaded.
"""

import difflib
import os
from pathlib import Path

from lambdanets.config.search_path import PACKAGE
from lambdanets.runs.folders import EXPORTED

WEIGHTS = "weights"


def published_folder() -> Path:
    """Return the folder of the published weights: that of the installed package, or of the repository."""
    installed = PACKAGE / WEIGHTS
    return installed if installed.is_dir() else PACKAGE.parent.parent / WEIGHTS


def published_names() -> list[str]:
    """Return the names of the published weights, `<data>/<row>`, sorted."""
    folder = published_folder()
    return sorted(file.parent.relative_to(folder).as_posix() for file in folder.rglob(EXPORTED))


def published_file(name: str) -> Path | None:
    """Return the file of the published weights of a name, or None."""
    return published_folder() / name / EXPORTED if name in published_names() else None


def find_published(source: str) -> Path | None:
    """Return the file of the published weights that a source names, or None; an existing path of that name wins."""
    return None if os.path.lexists(source) else published_file(source)


def source_name(folder: Path, name: str) -> str:
    """Return how `load` and ckpt= name the weights of a folder, of the package's by the name alone.

    Args:
        folder: of published weights, with `<data>/<row>/` below it.
        name: `<data>/<row>`.

    Returns:
        The name, or a path relative to the place where the folder lies.
    """
    return name if folder.resolve() == published_folder().resolve() else f"{folder.resolve().name}/{name}"


def similar_names(source: str) -> list[str]:
    """Return the published names that a source resembles, or else those of the same data."""
    names = published_names()
    data = source.partition("/")[0]
    return difflib.get_close_matches(source, names, cutoff=0.8) or [n for n in names if n.startswith(f"{data}/")]


def suggest_names(source: str) -> str:
    """Return a sentence about `similar_names`, with a space in front, or an empty text if there are none."""
    names = similar_names(source)
    return f" Published weights of a similar name: {', '.join(names)}." if names else ""
