"""Reports as single HTML pages without external resources."""

from collections.abc import Iterable
from html import escape

from lambdanets.table import Table

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 88rem; margin: 2rem auto; padding: 0 1rem; color: #1d2330; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #dde1e8; text-align: right; }
th { font-weight: 600; border-bottom: 2px solid #9aa3b2; } .text { text-align: left; }
tr:hover td { background: #f4f6fa; }
p { color: #566; margin: .3rem 0; } p.missing { color: #a12; font-weight: 600; }
code { background: #f0f2f6; padding: .1rem .3rem; border-radius: 3px; }
svg { max-width: 100%; height: auto; }
"""


def render_page(tables: list[Table], figures: Iterable[tuple[str, str]], origin: str) -> str:
    """Render tables with their notes, and figures.

    Args:
        tables: the first one's title is the page's.
        figures: titles and SVG elements.
        origin: how the report was made, in HTML.
    """
    first, *others = tables
    sections = "\n".join(
        f"<section><h2>{escape(table.title)}</h2>\n{render_table(table)}</section>" for table in others
    )
    plots = "\n".join(f"<section><h2>{escape(title)}</h2>{svg}</section>" for title, svg in figures)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(first.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(first.title)}</h1>
<p>{origin}</p>
{render_table(first)}
{sections}
{plots}
</body>
</html>
"""


def render_table(table: Table) -> str:
    """Render a table and its notes."""
    kinds = ["text" if index == 0 else "number" for index in range(len(table.columns))]
    head = "".join(
        f'<th class="{kind}">{escape(column)}</th>' for kind, column in zip(kinds, table.columns, strict=True)
    )
    body = "\n".join(
        "<tr>"
        + "".join(f'<td class="{kind}">{escape(cell)}</td>' for kind, cell in zip(kinds, cells, strict=True))
        + "</tr>"
        for cells in map(table.cells, table.rows)
    )
    notes = "\n".join(
        f'<p class="{"missing" if note.startswith("Missing: ") else "note"}">{escape(note)}</p>' for note in table.notes
    )
    return f"""<div class="scroll"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>
{notes}"""
