"""The data of a report's page: columns, runs, curves, and the contents of each run's own page.

They are plain JSON values, which launch/results/page/*.js reads. A figure that is not finite is null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from launch.results import read
from launch.results.read import Run, Sweep
from launch.results.values import show, sort_key
from launch.results.words import command, label
from research.common.folder import OUTPUT
from research.common.messages import counted

if TYPE_CHECKING:
    import pandas as pd

POINTS = 400  # of a curve, at most: more would be invisible and only make the file larger
POINTS_OF_A_CHART = 60_000  # of all curves of a chart together, if each has at least LEAST_POINTS
LEAST_POINTS = 60
LOG_TAIL = 6000  # characters of a run's log that its page shows
LOG_SPAN = 20  # a positive flag whose values span more than this factor has a logarithmic axis
AXES = 7  # of parallel coordinates, unless the reader chooses others
DIGITS = 12  # significant digits of a number: nobody compares more exactly
FIGURES = 12  # of runs of other projects that the table shows at first
MACHINE = ("host", "device", "processor", "torch", "threads")  # entries of a segment that a run's page shows


def plain(value: Any) -> Any:
    """A flag or figure as a value that JSON can represent: lists and tables as text, not finite as None."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return plain(value.item()) if hasattr(value, "item") else show(value)


# ---- what the sweep is about ---------------------------------------------------------------------------


def about_of(sweep: Sweep) -> list[list[str]]:
    """What a sweep is about, as [label, text]; for joined sweeps, the name and question of each."""
    return [list(pair) for pair in sweep.questions or labelled(sweep.header)]


def labelled(header: str) -> list[list[str]]:
    """The lines of a YAML's header as [label, text]. "Size  6 runs" or "Size: 6 runs" is a labelled line, and
    the lines after it belong to it. A line with figures, which has a ±, stays a line. The first label may be
    empty.
    """
    found: list[list[str]] = []
    for i, line in enumerate(header.splitlines()):
        name, gap, text = line.strip().partition(": " if ": " in line.split("  ")[0] else "  ")
        if gap and len(name) < 25 and name.replace(" ", "").isalpha():
            found.append([name.capitalize(), text.strip()])
        elif i == 0:
            found.append(["", line.strip()])
        elif found:
            after_figures = "±" in found[-1][1].splitlines()[-1] if found[-1][1] else False
            joint = "\n" if "±" in line or after_figures else " "
            found[-1][1] = (found[-1][1] + joint + line.strip()).strip() if line.strip() else found[-1][1]
    return found


def in_parts(text: str) -> list[tuple[str, list[str]]]:
    """A text of the header as (kind, lines), in order; "figures": lines with a ±; "text": the others."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        kind = "figures" if "±" in line else "text"
        if found and found[-1][0] == kind:
            found[-1][1].append(line)
        else:
            found.append((kind, [line]))
    return found


def state_line(states: dict[str, int], n_open: int) -> str:
    """How many runs are in each state, in words."""
    parts = [f"{n} {state}" for state, n in states.items()]
    return ", ".join(parts + ([f"{n_open} not started"] if n_open else []))


def source_line(sweep: Sweep) -> str:
    """A note for the reader if the report was not made from a folder of runs; else empty."""
    if not sweep.tables:
        return ""
    part = "" if sweep.tables == len(sweep.questions or [sweep]) else "in part "
    return f"Read {part}from a table of results only, which has no curves, pictures or logs."


def warning(sweep: Sweep, done: int, planned: int) -> str:
    """What a reader has to know first: that runs are missing, or that something can't be read; or ''."""
    text = ""
    if done < planned:
        text = f"Not complete: {done} of {counted(planned, 'run')} {'is' if planned == 1 else 'are'} done. "
        text += "For the other runs, the table shows the figures of their last step"
        text += ", and the means over seeds leave these runs out. " if "seed" in sweep.varied else ". "
    judged = read.headlines(sweep)
    if len(judged) > 1:
        each = [f"{name} ({counted(n, 'run')})" for (name, _), n in judged.items()]
        text += f"These runs are not judged by the same figure: {', '.join(each)}. "
        text += (
            f"The column “best {next(iter(judged))[0]}” is empty for runs that are judged by another figure. "
        )
    return (text + (sweep.problem or "")).strip()


def column_values(df: pd.DataFrame, name: str) -> list[Any]:
    """A column of a `table` as values that JSON can represent."""
    return [None if missing else plain(value) for value, missing in zip(df[name], df[name].isna())]


# ---- columns and runs ----------------------------------------------------------------------------------


def columns_of(sweep: Sweep, df: pd.DataFrame, figures: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The columns of the table of runs, in order. figures: the figures of tasks, each with a value for each
    run.

    kind: flag, status, step, figure, task or text; log: whether its axis is logarithmic; order: the order of
    the values, if they are words; hidden: whether it is shown only on request.
    """
    flags, by = read.flag_columns(df), df.attrs["by"]
    shown = {by, "metric", "headline"}
    own = set((sweep.figures or [])[:FIGURES])

    def in_table(name: str) -> bool:
        return name in own if sweep.foreign else name.startswith("test/")

    found = []
    for name in df.columns:
        kind = "figure"
        if name in flags:
            kind = "flag"
        elif name in ("status", "step", "steps"):
            kind = name
        elif name in ("commit", "key", "reason"):
            kind = "text"
        values = column_values(df, name)
        column = {"name": name, "label": df.attrs["headings"].get(name, name), "kind": kind}
        column |= _axis(name, kind, values, sweep)
        column["hidden"] = (
            name in ("steps", "commit", "reason")
            or all(v is None for v in values)
            or (kind == "figure" and name not in shown and not in_table(name))
        )
        column["goal"] = {"headline": df.attrs["goal"], "metric": df.attrs["metric_goal"]}.get(name)
        found.append(column)
    for name, values in figures.items():
        axis = _axis(name, "task", values, sweep)
        found.append({"name": name, "label": name, "kind": "task"} | axis | {"hidden": True, "goal": None})
    return found


def _axis(name: str, kind: str, values: list[Any], sweep: Sweep) -> dict[str, Any]:
    """Whether a column contains numbers, whether its axis is logarithmic, and the order of its words."""
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    numeric = bool(numbers) and len(numbers) == sum(v is not None for v in values)
    given = (sweep.spec.get("parameters") or {}).get(name.removeprefix("--")) or {}
    drawn_log = "log" in str(given.get("distribution", ""))
    spread = numeric and min(numbers) > 0 and max(numbers) > LOG_SPAN * min(numbers)
    log = bool(numeric and kind == "flag" and min(numbers) > 0 and (drawn_log or spread))
    if numeric:
        return {"numeric": True, "log": log, "order": None}
    listed = [plain(value) for value in given.get("values") or []]
    seen = {show(v): v for v in values}
    texts = [show(v) for v in listed if show(v) in seen]
    texts += sorted((text for text in seen if text not in texts), key=lambda text: sort_key(seen[text]))
    order = [seen[text] for text in texts]  # as values, because the page formats them like its cells
    return {"numeric": False, "log": False, "order": order if kind in ("flag", "status") else None}


def default_axes(columns: list[dict[str, Any]], runs: list[dict[str, Any]], by: str) -> list[str]:
    """The columns that parallel coordinates show at first: flags, then the column by which the best run is
    chosen, then figures of the test part that are not the same for all runs.
    """
    seen = [{str(run["values"][i]) for run in runs} - {"None"} for i in range(len(columns))]
    differing = {c["name"] for c, texts in zip(columns, seen) if len(texts) > 1}
    flags = [c["name"] for c in columns if c["kind"] == "flag" and c["name"] != "seed"]
    figures = [
        c["name"]
        for c in columns
        if c["kind"] == "figure" and c["numeric"] and (c["name"] in differing or c["name"] == by)
    ]
    first = [name for name in figures if name == by]
    others = [name for name in figures if name != by]
    others = [name for name in others if name.startswith("test/")] or others
    room = max(1, AXES - len(flags))
    return [*flags, *first, *others[: room - 1]] or [by]


# ---- tasks ---------------------------------------------------------------------------------------------


def task_figures(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Single numbers that tasks wrote, `<folder>/<name>` → a list with a value for each run."""
    found: dict[str, list[Any]] = {}
    for i, run in enumerate(runs):
        for task in run.tasks:
            for name, value in _numbers(task.results, f"{task.folder.name}/"):
                found.setdefault(name, [None] * len(runs))[i] = plain(value)
    return dict(sorted(found.items()))


def _numbers(values: dict[str, Any], prefix: str) -> Iterable[tuple[str, float]]:
    for name, value in values.items():
        if name in ("seed", "files"):
            continue
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


# ---- curves --------------------------------------------------------------------------------------------


def curves_of(sweep: Sweep, first: Sequence[str]) -> dict[str, Any]:
    """Learning curves.

    keys: first those in `first`, then the others by name; of: key → run's index → [index of its steps in
    `steps`, its values], with at most so many points as are useful; clocks: the same for the epochs and the
    seconds of each run; steps: lists of steps.
    """
    names = {
        m
        for run in sweep.runs
        for m in {m for row in run.rows for m, v in row.items() if v is None or isinstance(v, (int, float))}
        if run.is_curve(m)
    }
    rank = {name: i for i, name in enumerate(first)}
    keys = sorted(names, key=lambda m: (rank.get(m, len(rank)), m))
    points = min(POINTS, max(LEAST_POINTS, POINTS_OF_A_CHART // max(1, len(sweep.runs))))
    known: dict[tuple[int, ...], int] = {}  # steps → their index: most curves have the same steps

    def drawn(seen: list[tuple[int, Any]]) -> list[Any]:
        seen = thinned(seen, points)
        place = known.setdefault(tuple(step for step, _ in seen), len(known))
        return [place, [_short(value) for _, value in seen]]

    of: dict[str, dict[int, list[Any]]] = {}
    for key in keys:
        of[key] = {}
        for i, run in enumerate(sweep.runs):
            seen = [(row["step"], row[key]) for row in run.rows if key in row and "step" in row]
            if seen:
                of[key][i] = drawn(seen)
    clocks = {}
    for i, run in enumerate(sweep.runs):
        epochs = [(row["step"], row["epoch"]) for row in run.rows if "step" in row and "epoch" in row]
        found = {name: drawn(rows) for name, rows in (("epoch", epochs), ("seconds", run.seconds)) if rows}
        if found:
            clocks[i] = found
    steps = [list(steps) for steps in known]
    return {"keys": [key for key in keys if of[key]], "of": of, "clocks": clocks, "steps": steps}


def thinned(points: Sequence[Any], n: int) -> list[Any]:
    """About n of the points, evenly spaced and including the last one."""
    every = math.ceil(len(points) / n)
    return [*points[:-1:every], *points[-1:]] if points else []


def _short(value: Any) -> float | None:
    value = plain(value)
    return float(f"{value:.5g}") if isinstance(value, float) else value


# ---- the page of a run ---------------------------------------------------------------------------------


def detail_of(run: Run, sweep: Sweep, varied: list[str], commit: str) -> dict[str, Any]:
    """What a run's own page shows."""
    segments = [part for part in run.status.get("segments") or [] if isinstance(part, dict)]
    machines = [
        ", ".join(f"{name} {show(part[name])}" for name in MACHINE if name in part)
        + (f", from step {show(part['from_step'])}" if "from_step" in part else "")
        for part in segments
    ]
    source = run.config.get("source") or {}
    return {
        "flags": {name: plain(value) for name, value in sorted(run.flags.items())},
        "command": command(run, sweep, varied),
        "commit": commit,
        "source": source.get("hash"),
        "machines": machines or list(filter(None, [read.machine_of(run)])),  # the latter of a CSV's row
        "log": _tail(run),
        "tasks": [
            {
                "name": task.folder.name,
                "results": {k: plain(v) for k, v in _numbers(task.results, "")},
                "problem": task.problem,
            }
            for task in run.tasks
        ],
    }


def _tail(run: Run) -> str:
    """The end of what the training process printed; empty if that was not kept."""
    if "console" in run.status:
        return "\n".join(map(str, run.status["console"]))[-LOG_TAIL:]
    try:
        with open(run.folder / OUTPUT, "rb") as f:
            f.seek(0, 2)
            f.seek(max(0, f.tell() - LOG_TAIL))
            return f.read().decode("utf-8", "replace")
    except OSError:
        return ""


def state_of(run: Run) -> str:
    return show(run.status.get("status"))


def runs_of(sweep: Sweep, df: pd.DataFrame, columns: list[dict], figures: dict[str, list]) -> list[dict]:
    """Each run: id, caption, status, reason, page at W&B, a value for each column, its page's content."""
    varied, found = sweep.varied, []
    by_column = [figures[c["name"]] if c["kind"] == "task" else column_values(df, c["name"]) for c in columns]
    for i, run in enumerate(sweep.runs):
        values = [column[i] for column in by_column]
        found.append(
            {
                "id": run.id,
                "label": label(run, varied),
                "state": state_of(run),
                "reason": df["reason"][i],
                "url": run.url,
                "values": values,
                "detail": detail_of(run, sweep, varied, df["commit"][i]),
            }
        )
    return found
