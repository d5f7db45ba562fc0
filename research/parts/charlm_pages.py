"""Pages of HTML that show what a character model writes: beside the truth, over training, right and wrong.

For research/charlm.py, which logs them while it trains, and its tasks. Every page stands by itself.
"""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from research.common.folder import write_bytes
from research.common.media import File
from research.draw.pages import literal, page, table


def continuations(
    prompts: Sequence[str], truths: Sequence[str], written: Mapping[str, Sequence[str]], title: str
) -> str:
    """What a model writes behind each prompt by every strategy, written[strategy][prompt], and the truth."""
    rows = [["prompt", *(literal(p, "given") for p in prompts)]]
    rows.append(["how it goes on", *(literal(t, "truth") for t in truths)])
    rows += [[html.escape(how), *(literal(t, how) for t in texts)] for how, texts in written.items()]
    return page(f"Continuations of validation text, {title}", table(rows))


def learned(of: str, strategy: str = "greedy") -> File:
    """What the model wrote when: one row for each page of `continuations` that the run has logged as `of`."""

    def write(path: Path) -> None:  # <run>/media/<key>/<step>.html, where keys have two parts
        kept = sorted((p for p in (path.parents[2] / of).glob("*.html") if p.stem.isdigit()), key=_step)
        rows, prompts, truths = [], [], []
        for file in kept:
            text = file.read_text("utf-8")
            prompts, truths = _cells(text, "given"), _cells(text, "truth")
            rows.append([f"step {_step(file):,}", *_cells(text, strategy)])
        top = [["prompt", *prompts], ["how it goes on", *truths]]
        title = f"What it had learned when: the most probable continuation ({strategy})"
        write_bytes(path, page(title, table(top + rows)).encode())

    return File(".html", write)


def _step(file: Path) -> int:
    return int(file.stem)


def _cells(text: str, kind: str) -> list[str]:
    return re.findall(f"<pre class={kind}>.*?</pre>", text, re.S)


def correctness(rows: Sequence[tuple[str, str, Sequence[bool], str, str]], title: str, explained: str) -> str:
    """Held-out lines, each (prompt, rest, right, free, truth): of `rest` each character is marked by whether
    the model, given the truth up to there, held it for the most probable; `free` is what it writes by itself.
    """
    cells = [
        [
            literal(prompt, "given"),
            "<pre>" + "".join(_marked(c, ok) for c, ok in zip(rest, right, strict=True)) + "</pre>",
            f"{sum(right)} of {len(right)}",
            "<pre>" + "".join(_marked(c, c == t) for c, t in zip(free, truth)) + "</pre>",
        ]
        for prompt, rest, right, free, truth in rows
    ]
    head = ["prompt", "each character from the true ones before it", "right", "on its own, greedy"]
    return page(title, f"<p>{html.escape(explained)}</p>{table(cells, head)}")


def _marked(char: str, ok: bool) -> str:
    shown = "↵\n" if char == "\n" else html.escape(char)
    return f'<span class="{"right" if ok else "wrong"}">{shown}</span>'
