"""Tables of results for the terminal, Markdown and CSV."""

import csv
import io
import math
import os
from dataclasses import dataclass, field

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable

from lambdanets.errors import printable
from lambdanets.measured import Measured

Cell = str | float | None
TableRow = dict[str, Cell]
WIDEST = 1000  # characters


@dataclass
class Table:
    """A table whose rows have the same columns.

    Args:
        title: one line.
        columns: names of the columns, in order.
        rows: a dict from column to value for each row; None or absent for an empty cell.
        notes: sentences below the table.
    """

    title: str
    columns: list[str]
    rows: list[TableRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def show(self) -> None:
        """Print the table and its notes; into a file or pipe as wide as it is, without cut cells."""
        console = Console(markup=False, emoji=False)
        table = RichTable(title=printable(self.title), title_justify="left")
        for column in self.columns:
            table.add_column(column, justify="left" if self.is_text(column) else "right")
        for row in self.rows:
            table.add_row(*map(printable, self.cells(row)))
        if not console.is_terminal and "COLUMNS" not in os.environ:
            unlimited = console.options.update(max_width=WIDEST)
            console.width = max(console.width, Measurement.get(console, unlimited, table).maximum)
        console.print(table)
        for note in self.notes:
            console.print(printable(note), soft_wrap=True, highlight=False)

    def to_markdown(self) -> str:
        """Return the table as Markdown, with its notes."""
        lines = ["| " + " | ".join(self.columns) + " |"]
        lines += ["|" + "|".join("---" if self.is_text(column) else "---:" for column in self.columns) + "|"]
        lines += ["| " + " | ".join(self.cells(row)) + " |" for row in self.rows]
        return "\n".join([*lines, "", *(f"{note}\n" for note in self.notes)])

    def to_csv(self) -> str:
        """Return the table as CSV, with all digits."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def is_text(self, column: str) -> bool:
        return any(isinstance(row.get(column), str) for row in self.rows)

    def cells(self, row: TableRow) -> list[str]:
        return [format_cell(row.get(column)) for column in self.columns]


def format_cell(value: Cell) -> str:
    """Return the text of a cell: a float with about three significant digits, a measured one with its range."""
    if isinstance(value, Measured) and len(value.samples) > 1:
        least, most = (format_cell(float(end(value.samples))) for end in (min, max))
        return f"{format_cell(float(value))} ({least}–{most})" + " noisy" * value.is_noisy
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        return f"{value:,.{digits}f}"
    return str(value)


def format_percentage(part: float) -> str | None:
    """Return a part of 1 in percent, None of nan."""
    return None if math.isnan(part) else f"{100 * part:.0f} %"
