"""HTML pages of reports."""

from html.parser import HTMLParser

from lambdanets.reports.html import render_page
from lambdanets.table import Table


class Texts(HTMLParser):
    """The texts of a page by their element."""

    def __init__(self):
        super().__init__()
        self.texts, self.element = [], None

    def handle_starttag(self, tag, attributes):
        self.element = f"{tag}.{dict(attributes).get('class', '')}".rstrip(".")

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.element, data))


def test_texts_are_escaped_and_missing_runs_stand_out():
    first = Table("<First>", ["row", "score"], [{"row": "a & b", "score": 1.5}], ["A note.", "Missing: a run."])
    html = render_page([first, Table("Second", ["row"], [])], [("A figure", "<svg></svg>")], "<code>made</code>")
    page = Texts()
    page.feed(html)
    for text in (
        ("h1", "<First>"),
        ("td.text", "a & b"),
        ("td.number", "1.50"),
        ("p.note", "A note."),
        ("p.missing", "Missing: a run."),
        ("h2", "Second"),
        ("h2", "A figure"),
        ("code", "made"),
    ):
        assert text in page.texts
    assert "<svg></svg>" in html
