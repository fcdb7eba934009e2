"""MkDocs hook: pages that lie elsewhere in the repository, README.md first, so that no text stands twice."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
HOME = "index.md"
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Adds README.md as the home page, the other pages, what they link to, and all results' pages."""
    found = {HOME: ROOT / "README.md", **{name: ROOT / name for name in PAGES}}
    found |= {str(file.relative_to(ROOT)): file for file in (ROOT / "results").rglob("*.md")}
    for page in list(found.values()):
        if page.suffix == ".md":
            for link in LINK.findall(page.read_text()):
                target = (page.parent / link).resolve()
                if target.is_file() and target.is_relative_to(ROOT):
                    found.setdefault(str(target.relative_to(ROOT)), target)
    for name, file in found.items():
        if name != "README.md" and files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(file)))
    return files
