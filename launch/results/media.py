"""Pictures, videos and text samples of a sweep's runs, and the results of tasks on them, for the report."""

import base64
import hashlib
import json
import mimetypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from launch.results.read import Sweep
from launch.results.values import show

STEPS = 40  # of a key that are shown, at most
TEXT_BYTES = 500_000  # of a text sample that are shown, at most
ROWS, CELL = 200, 200  # rows of a table by W&B, and characters of a cell, that are shown, at most
# anything else is an image
KINDS = {".html": "text", ".txt": "text", ".json": "text", ".mp4": "video", ".webm": "video", ".ogg": "video"}
FIRST = ("reconstruct", "random", "sample", "traversal", "interpolation")  # what a reader wants to see first


@dataclass
class Media:
    """data: what the page's picture browser reads; text: the embedded files in base64, one after the other;
    beside: the files that go into a folder beside the page, name → original.
    """

    data: dict[str, Any]
    text: str = ""
    beside: dict[str, Path] = field(default_factory=dict)


def spread(steps: set[int], n: int) -> list[int]:
    """At most n of the steps, the most important first: the last, the first, those near a half, a quarter …
    of the last, and then some that are evenly spaced.
    """
    if not steps:
        return []
    ordered = sorted(steps)
    last = ordered[-1]
    halves = [last / 2**k for k in range(1, n)]
    evenly = ordered[:: len(ordered) // n + 1]
    chosen: dict[int, None] = {}  # in the order of their importance
    for target in [last, ordered[0], *halves, *evenly, *(ordered if len(ordered) <= n else [])]:
        chosen[min(ordered, key=lambda step, target=target: abs(step - target))] = None
    return list(chosen)[:n]


def media_of(sweep: Sweep, max_mb: float, folder: str | None) -> Media:
    """The data of the page's picture browser: the files (equal files only once), and which of them a run
    shows at which step.

    Texts are embedded. Pictures and videos are embedded too, the last steps of all runs first, until `max_mb`
    is full. The rest belongs beside the page, in `folder`; if that is None, it is left out. `note` says what
    is missing, and `logged` at how many steps there are files of each key. For an embedded file, `at` in its
    blob says where it begins and ends in the text of all.
    """
    room = max_mb * 1e6 * 3 / 4  # base64: 4 for 3
    blobs: dict[str, dict[str, Any]] = {}
    of: dict[str, dict[int, list]] = {}
    beside: dict[str, Path] = {}
    embedded, end = [], 0
    left_out, unreadable, n_shown = 0, [], 0
    chosen = sorted(_chosen(sweep), key=lambda item: item[0])
    for _, key, i, step, path in chosen:
        kind = KINDS.get(path.suffix, "image")
        try:
            data = path.read_bytes()
        except OSError:
            unreadable.append(path)
            continue
        name = hashlib.sha256(data).hexdigest()[:16]
        if name not in blobs:
            blob = {"kind": kind, "mime": mimetypes.guess_type(path.name)[0] or "image/png"}
            if path.name.endswith(".table.json"):
                blob |= {"mime": "text/html", "text": _table_page(data)}
            elif path.name.endswith(".plotly.json"):
                blob |= {
                    "mime": "text/html",
                    "text": "<p>A Plotly figure: W&amp;B draws it, this page does not.",
                }
            elif kind == "text":
                blob["text"] = data[:TEXT_BYTES].decode("utf-8", "replace")
            elif len(data) <= room:
                room -= len(data)
                embedded.append(base64.b64encode(data).decode())
                blob["at"] = [end, end := end + len(embedded[-1])]
            elif folder is not None:
                beside[f"{name}{path.suffix}"] = path
                blob["path"] = f"{folder}/{name}{path.suffix}"
            else:
                left_out += 1
                continue
            blobs[name] = blob
        n_shown += 1
        caption = sweep.runs[i].captions.get(path)
        of.setdefault(key, {}).setdefault(i, []).append([step, name, *([caption] if caption else [])])
    for runs in of.values():
        for files in runs.values():
            files.sort()
    total = sum(len(files) for run in sweep.runs for files in run.media.values())
    total += sum(len(task.files) for run in sweep.runs for task in run.tasks)
    note = f"{n_shown:,} of {total:,} files are shown. " if n_shown < total else ""
    if left_out:
        note += f"{left_out} did not fit into --max_mb={show(max_mb)}. "
    if beside:
        note += f"{len(beside):,} files are kept beside this page, in {folder}/, "
        note += "and load when they scroll into view. "
    if unreadable:
        first, above = unreadable[0], sweep.folder.parent
        first = first.relative_to(above) if first.is_relative_to(above) else first
        note += f"{len(unreadable)} cannot be read, the first of them {first}. "
    keys = sorted(of, key=lambda key: (": " in key, _rank(key), key))
    data = {"keys": keys, "of": of, "blobs": blobs, "note": note, "logged": _logged(sweep)}
    return Media(data, "".join(embedded), beside)


def _table_page(data: bytes) -> str:
    """The first ROWS rows of a table that W&B keeps as {"columns": names, "data": rows}, as HTML."""
    try:
        table = json.loads(data)
        names, rows = [show(name) for name in table["columns"]], [list(row) for row in table["data"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "<p>This table cannot be read."
    lines = [names, *([_cell(value) for value in row] for row in rows[:ROWS])]
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}" for text in line) for line in lines)
    more = f"<p>The first {ROWS} of {len(rows):,} rows." if len(rows) > ROWS else ""
    style = "body{font:13px sans-serif} td{padding:2px 8px} tr{border-bottom:1px solid #ddd}"
    style += " table{border-collapse:collapse} tr:first-child{font-weight:600}"
    return f"<!doctype html><style>{style}</style><table>{body}</table>{more}"


def _cell(value: Any) -> str:
    """The text of a value in a table; for a picture or another file, only its kind."""
    if isinstance(value, dict) and "_type" in value:
        return f"[{value['_type']}]"
    text = show(value, 6) if isinstance(value, float) else show(value)
    return text if len(text) <= CELL else f"{text[:CELL]}…"


def _rank(key: str) -> int:
    return next((i for i, word in enumerate(FIRST) if word in key), len(FIRST))


def _logged(sweep: Sweep) -> dict[str, int]:
    keys = {key for run in sweep.runs for key in run.media}
    return {key: len({step for run in sweep.runs for step, _ in run.media.get(key, [])}) for key in keys}


def _chosen(sweep: Sweep) -> Iterator[tuple[int, str, int, int, Path]]:
    """(importance, key, run's index, step, file) for at most STEPS steps of each key, for each run's last
    file, and for all files that tasks made, whose step is the run's last. 0 is the greatest importance.
    """
    for key in sorted({key for run in sweep.runs for key in run.media}):
        steps = spread({step for run in sweep.runs for step, _ in run.media.get(key, [])}, STEPS)
        rank = {step: i for i, step in enumerate(steps)}
        for i, run in enumerate(sweep.runs):
            files = run.media.get(key, [])
            for step, path in files:
                if step in rank or path == files[-1][1]:
                    yield 0 if path == files[-1][1] else rank[step], key, i, step, path
    for i, run in enumerate(sweep.runs):
        step = run.status.get("step")
        for task in run.tasks:
            for path in task.files:
                yield 0, f"{task.folder.name}: {path.stem}", i, step if isinstance(step, int) else 0, path
