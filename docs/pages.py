"""MkDocs hook: publish pages from outside docs/, such as README.md, without copies of their text."""

import posixpath
import re
from itertools import chain
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
README = ROOT / "README.md"
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
# weights/README.md would be the page weights/, as docs/weights.md is.
WEIGHTS, WEIGHTS_PAGE = ROOT / "weights" / "README.md", "published-weights.md"
# The target of a Markdown link or image, up to its anchor; not a URL.
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def site_path(file: Path) -> str:
    """Return a file's path in the site: README.md is the home page, docs/ is the root."""
    if file == README:
        return "index.md"
    if file == WEIGHTS:
        return WEIGHTS_PAGE
    return file.relative_to(DOCS if file.is_relative_to(DOCS) else ROOT).as_posix()


def linked_files(page: Path) -> dict[str, Path]:
    """Return the files of the repository that a page links to, by link."""
    links = {link: (page.parent / link).resolve() for link in LINK.findall(page.read_text(encoding="utf-8"))}
    return {link: file for link, file in links.items() if file.is_file() and file.is_relative_to(ROOT)}


def on_files(files: Files, config: Any) -> Files:
    """Add README.md as the home page, all results and model cards, and every file that a page links to."""
    folders = ((ROOT / name).rglob("*.md") for name in ("results", "weights"))
    pages = [README, *(ROOT / name for name in PAGES), *chain(*folders), *DOCS.glob("*.md")]
    targets = [file for page in pages for file in linked_files(page).values()]
    for file in [*pages, *targets]:
        if files.get_file_from_path(site_path(file)) is None:
            files.append(File.generated(config, site_path(file), abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Replace links that are relative to the repository with links that are relative to the site."""
    assert page.file.abs_src_path is not None
    targets = linked_files(Path(page.file.abs_src_path))
    folder = posixpath.dirname(page.file.src_uri)

    def replace(match: re.Match[str]) -> str:
        file = targets.get(match[0])
        return match[0] if file is None else posixpath.relpath(site_path(file), folder or ".")

    return LINK.sub(replace, markdown)
