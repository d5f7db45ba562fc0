"""HTML pages that show what a character model writes: beside the truth, over the course of training, and
which characters are right.

research/charlm.py logs them while it trains; its tasks use them too. Every page is self-contained. Blanks
that would be invisible are marked: ␣ is a space beside another blank or at an end, ↵ is the end of a line.
"""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from research.common.folder import write_bytes
from research.common.media import File
from research.draw.pages import literal, page, table
from research.parts.charlm_sampling import LOOPS

LINE_END = "↵"
LEARNED = ("greedy", "temperature")  # shown over training: what the model is surest of, and a fair sample


def continuations(
    prompts: Sequence[str], truths: Sequence[str], written: Mapping[str, Sequence[str]], title: str
) -> str:
    """A page with the truth after each prompt and what a model writes there by every strategy.

    written[strategy][i] belongs to prompts[i] and truths[i]; title is the end of the page's title.
    """
    rows = [["prompt", *(literal(seen(p), "given") for p in prompts)]]
    rows.append(["how it goes on", *(literal(seen(t), "truth") for t in truths)])
    rows += [[html.escape(how), *(literal(seen(t), how) for t in texts)] for how, texts in written.items()]
    return page(f"Continuations of validation text, {title}", table(rows))


def read_continuations(text: str) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """What a page of `continuations` shows, blanks marked: prompts, truths, and written[strategy][prompt]."""
    shown: dict[str, list[str]] = {}
    for kind, cell in re.findall(r"<pre class=(\w+)>(.*?)</pre>", text, re.S):
        shown.setdefault(kind, []).append(html.unescape(cell))
    return shown.pop("given"), shown.pop("truth"), shown


def learned(of: str, model: str, steps_per_epoch: int) -> File:
    """A page that shows what a run's model wrote at which step. For each page of `continuations` that the run
    has logged under the key `of`, it has one row with the most probable continuations and one with drawn
    ones.

    model: its name in the title.
    """

    def write(path: Path) -> None:  # <run>/media/<key>/<step>.html, where keys have two parts
        kept = sorted((p for p in (path.parents[2] / of).glob("*.html") if p.stem.isdigit()), key=_step)
        rows, prompts, truths = [], [], []
        for file in kept:
            text = file.read_text("utf-8")
            prompts, truths = _cells(text, "given"), _cells(text, "truth")
            for strategy in LEARNED:
                shown_once = when(_step(file), steps_per_epoch) if strategy == LEARNED[0] else ""
                rows.append([shown_once, strategy, *_cells(text, strategy)])
        top = [["prompt", "", *prompts], ["how it goes on", "in truth", *truths]]
        title = f"What it had learned when: {model}"
        about = (
            "greedy: the most probable continuation; temperature: drawn with the model's own probabilities. "
            "␣ marks a space that could not be seen, ↵ the end of a line."
        )
        write_bytes(path, page(title, f"<p>{html.escape(about)}</p>{table(top + rows)}").encode())

    return File(".html", write)


def when(step: int, steps_per_epoch: int) -> str:
    """A step, and the number of passes over the training part until then, in words."""
    return f"step {step:,}, epoch {step / steps_per_epoch:.3g}"


def seen(text: str) -> str:
    """A short text in which blanks that would be invisible are marked."""
    return re.sub(r"(?<!\S) | (?!\S)", "␣", text).replace("\n", f"{LINE_END}\n")


def seen_by_lines(text: str) -> str:
    """A text whose lines and indents are visible anyway: only spaces at the ends of lines are marked."""
    return re.sub(r" +(?=\n|\Z)", lambda found: "␣" * len(found[0]), text)


def loops(figures: Mapping[str, float], no_repeat: int = 0) -> str:
    """A remark on a text with these figures of `statistics` if it loops; else an empty string."""
    if figures["repetition"] <= LOOPS:
        return ""
    hint = "" if no_repeat else "; --no_repeat=12 forbids that"
    return f"loops: {100 * figures['repetition']:.0f} % of it recurs{hint}"


def written_text(text: str, figures: Mapping[str, float], no_repeat: int = 0) -> str:
    """A cell with a text and, if the text loops, a remark that says so."""
    said = loops(figures, no_repeat)
    note = f'<p class="wrong">{html.escape(said)}</p>' if said else ""
    return literal(seen_by_lines(text)) + note


def _step(file: Path) -> int:
    return int(file.stem)


def _cells(text: str, kind: str) -> list[str]:
    return re.findall(f"<pre class={kind}>.*?</pre>", text, re.S)


def correctness(rows: Sequence[tuple[str, str, Sequence[bool], str, str]], title: str, explained: str) -> str:
    """A page of held-out lines, each (prompt, rest, right, free, truth).

    Each character of `rest` is marked by whether it was the model's most probable one after the true text
    before it. `free` is what the model writes by itself; its characters are marked where they equal `truth`.
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
    shown = f"{LINE_END}\n" if char == "\n" else html.escape(char)
    return f'<span class="{"right" if ok else "wrong"}">{shown}</span>'
