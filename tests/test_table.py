"""Tables on the terminal, in files and pipes."""

import pytest

from lambdanets.table import Table

NAMES = [f"a column with a long name, number {index}" for index in range(5)]


@pytest.fixture
def table():
    return Table("A wide table", NAMES, [dict.fromkeys(NAMES, 0.5)], ["A note."])


def test_a_table_in_a_pipe_is_not_cut(table, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    table.show()
    _, _, header, *_ = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in header.strip("┃").split("┃")] == NAMES


def test_a_given_width_is_kept(table, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    table.show()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60


def test_names_with_markup_are_printed_as_they_are(capsys):
    names = ["photo[red]", "x[/b]", ":cat:", "new\\nline"]
    Table("a [bold]title", ["[red]column"], [{"[red]column": name} for name in names], ["[/i] :dog:"]).show()
    shown = capsys.readouterr().out
    for text in (*names, "a [bold]title", "[red]column", "[/i] :dog:"):
        assert text in shown
