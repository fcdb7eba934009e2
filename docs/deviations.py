"""Write deviations.md from deviations.yaml: python docs/deviations.py."""

import textwrap
from pathlib import Path
from typing import Any

import yaml

LIST = Path(__file__).with_suffix(".yaml")
PAGE = Path(__file__).with_suffix(".md")
INTRODUCTION = """# Deviations from the paper

The paper has no official code. This page lists where this repository differs from it, what of the paper is not known to
us, and what is not reproduced. "(unconfirmed)" marks what is recalled and was not read again.

The page is written from [deviations.yaml](deviations.yaml) by `make deviations`; tests compare its statements with the
configs and the code.
"""
WIDTH = 130
KINDS = {"differs": "Differs from the paper", "unknown": "Not known from the paper", "missing": "Not reproduced"}


def read_groups() -> list[dict[str, Any]]:
    """Return the groups of the list, each with topic, kind and entries."""
    return yaml.safe_load(LIST.read_text(encoding="utf-8"))


def make_page(groups: list[dict[str, Any]]) -> str:
    """Return the page, with a section per kind and a subsection per topic."""
    parts = [INTRODUCTION]
    for kind, heading in KINDS.items():
        parts.append(f"## {heading}\n")
        for group in groups:
            if group["kind"] == kind:
                parts.append(f"### {group['topic']}\n")
                parts.append("".join(make_point(entry) for entry in group["entries"]))
    return "\n".join(parts)


def make_point(entry: dict[str, Any]) -> str:
    text = f"- **{entry['title']}.** {entry['paper']} *Here:* {entry['ours']}"
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(make_page(read_groups()), encoding="utf-8")
