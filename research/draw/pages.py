"""Self-contained pages of HTML: a title, and tables of literal text."""

import html
from collections.abc import Sequence

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff; }
table { border-collapse: collapse; } td, th { border: 1px solid #ccc; padding: .35em .6em; text-align: left;
vertical-align: top; } th { background: #f3f3f3; font-weight: 600; } h1 { font-size: 1.15em; }
pre { font: 13px/1.4 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
.given { color: #777; } .right { background: #d9f2d9; } .wrong { background: #f8d0d0; }
p { max-width: 60em; }
"""


def page(title: str, body: str) -> str:
    """A whole page of HTML around `body`."""
    title = html.escape(title)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    return f"{head}<style>{STYLE}</style><h1>{title}</h1>{body}</html>\n"


def literal(text: str, kind: str = "") -> str:
    """Text as it is, with line breaks and spaces; control characters are shown as pictures (␀ …).

    kind: a class of STYLE.
    """
    shown = "".join(chr(0x2400 + ord(c)) if c < " " and c not in "\n\t" else c for c in text)
    return f"<pre{f' class={kind}' if kind else ''}>{html.escape(shown)}</pre>"


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """A table. The cells of its rows are HTML; those of its head are plain text."""
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)] if head else []
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table>"
