"""The pictures, videos, text samples, tables and plots of a sweep's runs, as its report shows them."""

import base64
import hashlib
import json
import mimetypes
from html import escape
from pathlib import Path
from typing import Any

from launch.results.curves import colours
from launch.results.read import Sweep
from launch.results.values import show
from launch.results.words import label

STEPS = 12  # with pictures embedded, per key and run, at most
ROWS, CELL = 200, 200  # of a table, and characters of a cell, at most
# all else is an image
KINDS = {".html": "text", ".txt": "text", ".mp4": "video", ".webm": "video", ".ogg": "video"}


def spread(steps: set[int], n: int) -> set[int]:
    """At most n of the steps: the last, the first, those near a half, a quarter … of the last, and more."""
    if len(steps) <= n:
        return steps
    ordered = sorted(steps)
    last = ordered[-1]
    halves = [last / 2**k for k in range(1, n)]
    evenly = ordered[:: len(ordered) // n + 1]
    chosen: dict[int, None] = {}  # in the order of their importance
    for target in [last, ordered[0], *halves, *evenly]:
        nearest = min(ordered, key=lambda step, target=target: abs(step - target))
        chosen[nearest] = None
    return set(list(chosen)[:n])


def pictures(sweep: Sweep, varied: list[str], order: list[int], max_mb: float) -> dict[str, Any]:
    """The picture browser's data: the files, each content once, and which of them a run shows at which step.

    Fewer steps are embedded where there are more than STEPS, or `max_mb` is passed; `note` says so, and
    `logged` at how many steps there are pictures of each key.
    """
    room = max_mb * 1e6 * 3 / 4  # base64: 4 for 3
    keys = sorted({key for run in sweep.runs for key in run.media})
    for limit in (STEPS, 6, 3, 1):
        chosen = _chosen(sweep, keys, order, limit)
        if sum(map(_size, (path for *_, path in chosen))) <= room:
            break
    blobs, seen, left_out, unreadable = {}, {key: {} for key in keys}, 0, []
    for key, i, step, path in chosen:
        try:
            data = path.read_bytes()
        except OSError:
            unreadable.append(path)
            continue
        name = hashlib.sha256(data).hexdigest()[:16]
        if name not in blobs and len(data) > room:
            left_out += 1
            continue
        if name not in blobs:
            room -= len(data)
            kind, mime, content = _content(path, data)
            blobs[name] = {"kind": kind, "data": base64.b64encode(content).decode(), "mime": mime}
        seen[key].setdefault(i, []).append([step, name])
    note, shown = "", len(chosen) - left_out - len(unreadable)
    total = sum(len(files) for run in sweep.runs for files in run.media.values())
    if shown < total:
        note += f"Pictures: {shown} of {total}. "
    if left_out:
        note += f"{left_out} did not fit into --max_mb={show(max_mb)}. "
    if unreadable:
        first = unreadable[0].relative_to(sweep.folder.parent)
        note += f"{len(unreadable)} cannot be read, the first of them {first}. "
    runs = [
        {
            "label": label(run, varied),
            "state": show(run.status["status"]),
            "colour": colour,
            "column": label(run, varied[:1]),
            "row": label(run, varied[1:]) if varied[1:] else "",
        }
        for run, colour in zip(sweep.runs, colours(sweep, varied))
    ]
    return {
        "keys": {key: files for key, files in seen.items() if files},
        "logged": {
            key: len({step for run in sweep.runs for step, _ in run.media.get(key, [])}) for key in keys
        },
        "blobs": blobs,
        "runs": runs,
        "order": order,
        "note": note,
    }


def _content(path: Path, data: bytes) -> tuple[str, str, bytes]:
    """(kind, type, content) of a file as the browser shows it: a table of W&B's becomes a page."""
    if path.name.endswith(".plotly.json"):
        return "plotly", "application/json", data
    if path.name.endswith(".table.json"):
        return "text", "text/html", _table_page(data).encode()
    mime = mimetypes.guess_type(path.name)[0] or "image/png"
    return KINDS.get(path.suffix, "image"), mime, data


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
    """A value of a table; of a picture or another file in it, only what it is."""
    if isinstance(value, dict) and "_type" in value:
        return f"[{value['_type']}]"
    text = show(value, 6) if isinstance(value, float) else show(value)
    return text if len(text) <= CELL else f"{text[:CELL]}…"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # gone meanwhile; reading it will tell
        return 0


def _chosen(sweep: Sweep, keys: list[str], order: list[int], limit: int) -> list[tuple[str, int, int, Path]]:
    """(key, run's index, step, file) at no more than `limit` steps of each key, and each run's last file."""
    found = []
    for key in keys:
        steps = spread({step for run in sweep.runs for step, _ in run.media.get(key, [])}, limit)
        for i in order:
            files = sweep.runs[i].media.get(key, [])
            found += [(key, i, step, path) for step, path in files if step in steps or path == files[-1][1]]
    return found
