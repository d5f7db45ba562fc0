"""The beginning of a text sample that a run wrote, as plain lines for a page that cannot scroll."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

LINES = 7  # of an excerpt, at most
WIDEST = 220  # characters of a line, at most
READ = 200_000  # bytes of a file that are looked at
SILENT = {"style", "script", "title", "h1"}  # left out; the page's title is shown beside the excerpt anyway
BREAKS = {"p", "div", "li", "br", "h2", "h3", "table", "tr"}


class _Lines(HTMLParser):
    """Splits a page into lines. Each cell of a table becomes a line, after the name of its column."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._columns: list[str] = []
        self._text = ""
        self._n_cells = 0
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._silent += tag in SILENT
        if tag in BREAKS or tag in ("td", "th"):
            self._end_line()
        if tag == "table":
            self._columns = []
        if tag == "tr":
            self._n_cells = 0

    def handle_endtag(self, tag: str) -> None:
        self._silent = max(0, self._silent - (tag in SILENT))
        if tag == "th":
            self._columns.append(" ".join(self._text.split()))
            self._text = ""
        elif tag == "td":
            name = self._columns[self._n_cells] if self._n_cells < len(self._columns) else ""
            self._n_cells += 1
            self._end_line(f"{name}: " if name else "")
        elif tag in BREAKS:
            self._end_line()

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._text += data

    def close(self) -> None:
        super().close()
        self._end_line()

    def _end_line(self, before: str = "") -> None:
        text = self._text.strip("\n")
        self._text = ""
        if text.strip():
            self.lines.append(before + text)


def excerpt(path: Path) -> list[str]:
    """The first LINES lines of a text or of a page, each at most WIDEST characters. Raises OSError."""
    with open(path, "rb") as f:
        text = f.read(READ).decode("utf-8", "replace")
    if path.suffix == ".html":
        page = _Lines()
        page.feed(text)
        page.close()
        lines = page.lines
    else:
        lines = text.splitlines()
    short = [part for line in lines for part in _shortened(line)]
    return short[:LINES]


def _shortened(line: str) -> Iterator[str]:
    for part in line.splitlines():
        if part.strip():
            yield part if len(part) <= WIDEST else f"{part[:WIDEST]}…"
