"""Write one self-contained HTML file that compares the runs of a sweep.

    python launch/report.py runs/bvae [--out=FILE.html] [--csv=FILE.csv] [--open] [--publish]

The file holds its numbers, pictures and plotly itself: it opens from a file path, offline, and loads nothing.
With --publish a saved workspace and a report are made on W&B too (launch/results/wandb_report.py).
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # as a script, from any folder: launch/ itself must not hide Python's own modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import base64
import contextlib
import hashlib
import math
import mimetypes
import shlex
import webbrowser
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

import jinja2
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import qualitative, sample_colorscale
from plotly.offline import get_plotlyjs

from launch.results import read as collect
from launch.results.read import Run, Sweep, show, sort_key
from launch.sweep.proposer import Proposer
from launch.sweep.queue import Queue
from research.common.commandline import EXIT_USER_ERROR, parse
from research.common.folder import TRIALS, write_bytes
from research.common.identity import ROOT
from research.common.messages import UserError

POINTS = 500  # of a curve, at most: beyond that nobody sees a difference and the file grows
STEPS = 12  # with pictures embedded, per key and run, at most
DASHES = ["solid", "dash", "dot", "dashdot", "longdash"]
KINDS = {".html": "text", ".txt": "text", ".mp4": "video", ".webm": "video"}  # all else is an image


@dataclass(frozen=True)
class Flags:
    """The report's flags; the folder stands before them."""

    out: Path | None = None
    """the HTML file; default: report.html in the folder"""
    csv: Path | None = None
    """also write the results table here, as committed evidence"""
    open: bool = False
    """show the file in the browser"""
    max_mb: float = 25.0
    """pictures to embed, in megabytes; above this, fewer steps of each run are shown"""
    publish: bool = False
    """also make a saved workspace and a report on W&B; the runs have to be there"""
    entity: str | None = None
    """with --publish: W&B entity (user or team); default: that of the runs, else yours"""
    project: str | None = None
    """with --publish: W&B project; default: that of the runs"""


def label(run: Run, varied: list[str]) -> str:
    """How a run is called in captions: its varied flags, or its folder where nothing varies."""
    return " · ".join(f"{f}={show(run.flags[f], 6)}" for f in varied if f in run.flags) or run.folder.name


def what_was_run(sweep: Sweep, varied: list[str]) -> str:
    """One line: the families, and what varied over which values."""
    over, families = [], sorted({str(run.config["family"]) for run in sweep.runs if "family" in run.config})
    for flag in varied:
        seen = {show(run.flags[flag], 6): run.flags[flag] for run in sweep.runs if flag in run.flags}
        names = sorted(seen, key=lambda name: sort_key(seen[name]))
        over.append(f"{flag} ({', '.join(names if len(names) <= 6 else [names[0], '…', names[-1]])})")
    method = f", {sweep.spec.get('method', 'runs')} over " if over else ""
    return ", ".join(families) + method + " × ".join(over)


def planned(sweep: Sweep) -> int:
    """How many trials the sweep means to have: its grid's size or its run_cap, or those that exist."""
    if (sweep.folder / TRIALS).is_dir() and sweep.spec:
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):  # of a damaged folder
            return Proposer(Queue(sweep.folder), sweep.spec).planned()
    known, cap = len(sweep.runs) + len(sweep.open_trials), sweep.spec.get("run_cap")
    sizes = [len(flag.get("values", "1")) for flag in (sweep.spec.get("parameters") or {}).values()]
    whole = [math.prod(sizes)] if sweep.spec.get("method") == "grid" else []
    return max(known, min([*whole, *([cap] if isinstance(cap, int) else [])], default=known))


def colours(sweep: Sweep, varied: list[str]) -> list[str]:
    """A colour for each run, by its first varied flag: a scale for numbers, distinct hues for words."""
    values = [run.flags.get(varied[0]) if varied else run.folder.name for run in sweep.runs]
    distinct = sorted({show(v): v for v in values}.items(), key=lambda item: sort_key(item[1]))
    palette = [qualitative.D3[i % len(qualitative.D3)] for i in range(len(distinct))]
    if len(distinct) > 2 and all(sort_key(v)[0] == 0 for _, v in distinct):
        # the light end of the scale cannot be read on white
        palette = sample_colorscale("Viridis", [0.85 * i / (len(distinct) - 1) for i in range(len(distinct))])
    of = dict(zip((name for name, _ in distinct), palette))
    return [of[show(v)] for v in values]


def curves(sweep: Sweep, varied: list[str], order: list[int], headline: str) -> dict:
    """Learning curves for plotly: {"layout", "metrics": {metric: [one trace a run]}}, the headline first."""
    names = {m for run in sweep.runs for row in run.rows for m in row if "/" in m and m[:5] != "test/"}
    palette, metrics = colours(sweep, varied), {}
    others = [label(run, varied[1:]) if varied[1:] else "" for run in sweep.runs]
    few = len(set(others)) <= len(DASHES)
    dashes = {name: DASHES[k * few] for k, name in enumerate(dict.fromkeys(others[i] for i in order))}
    by_run = len(sweep.runs) <= 12  # beyond that: a legend entry for each value of the first flag
    for metric in sorted(names, key=lambda m: (m != headline, m)):
        metrics[metric], named = [], set()
        for run, i in ((sweep.runs[i], i) for i in order):
            points = [(row["step"], row[metric]) for row in run.rows if metric in row and "step" in row]
            if not points:
                continue
            thin = points[: -1 : math.ceil(len(points) / POINTS)] + points[-1:]
            group, name = escape(label(run, varied[:1])), escape(label(run, varied))
            metrics[metric].append(
                go.Scatter(
                    x=[step for step, _ in thin],
                    y=[value for _, value in thin],
                    legendgroup=group,
                    name=name if by_run else group,
                    showlegend=by_run or group not in named,
                    hovertemplate=f"{name}<br>step %{{x}}<br>{escape(metric)} %{{y:.5}}<extra></extra>",
                    line={"color": palette[i], "width": 1.8, "dash": dashes[others[i]]},
                    marker={"size": 5},
                    mode="lines+markers" if len(thin) <= 30 else "lines",
                ).to_plotly_json()
            )
            named.add(group)
    layout = go.Layout(
        template="plotly_white",
        xaxis={"title": {"text": "step"}},
        height=440,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        font={"size": 13},
    )
    return {"layout": layout.to_plotly_json(), "metrics": metrics}


def spread(steps: set[int], n: int) -> set[int]:
    """At most n of the steps: the last, the first, those near a half, a quarter … of the last, and more."""
    left, last = sorted(steps), max(steps, default=0)
    targets = [last, *left[:1], *(last / 2**k for k in range(1, n)), *left[:: len(left) // n + 1]]
    kept = dict.fromkeys(min(left, key=lambda s, t=target: abs(s - t)) for target in targets if left)
    return steps if len(steps) <= n else set(list(kept)[:n])


def pictures(sweep: Sweep, varied: list[str], order: list[int], max_mb: float) -> dict:
    """The picture browser's data: the files, each content once, and which of them a run shows at which step.

    Fewer steps are embedded where there are more than STEPS, or `max_mb` is passed; `note` says so.
    """
    keys = sorted({key for run in sweep.runs for key in run.media})
    blobs, seen, left_out, room = {}, {key: {} for key in keys}, 0, max_mb * 1e6 * 3 / 4  # base64: 4 for 3
    for limit in (STEPS, 6, 3, 1):
        steps = {k: spread({s for run in sweep.runs for s, _ in run.media.get(k, [])}, limit) for k in keys}
        chosen = [
            (key, i, step, path)
            for key in keys
            for i in order
            for step, path in sweep.runs[i].media.get(key, [])
            if step in steps[key] or path == sweep.runs[i].media[key][-1][1]
        ]
        if sum(path.stat().st_size for *_, path in chosen) <= room:
            break
    for key, i, step, path in chosen:
        data = path.read_bytes()
        name = hashlib.sha256(data).hexdigest()[:16]
        if name not in blobs and len(data) > room:
            left_out += 1
            continue
        if name not in blobs:
            room -= len(data)
            blobs[name] = {
                "kind": KINDS.get(path.suffix, "image"),
                "data": base64.b64encode(data).decode(),
                "mime": mimetypes.guess_type(path.name)[0] or "image/png",
            }
        seen[key].setdefault(i, []).append([step, name])
    total = sum(len(files) for run in sweep.runs for files in run.media.values())
    note = f"Pictures: {len(chosen) - left_out} of {total}. " * (len(chosen) - left_out < total)
    note += f"{left_out} did not fit into --max_mb={show(max_mb)}. " * bool(left_out)
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
        "keys": {k: v for k, v in seen.items() if v},
        "blobs": blobs,
        "runs": runs,
        "order": order,
        "note": note,
    }


def command(run: Run, sweep: Sweep, varied: list[str]) -> str:
    """The command line that makes this run again."""
    family = run.config.get("family")
    flags = run.trial.get("flags") or {f: run.flags[f] for f in varied if f in run.flags}
    if not run.trial and run.config:  # which flags were given is not known: config.json holds all of them
        place = run.folder.relative_to(ROOT if run.folder.is_relative_to(ROOT) else run.folder.parents[1])
        flags = {"config": f"{place}/config.json"} | flags
    each = [(f, v) for f, values in flags.items() for v in (values if isinstance(values, list) else [values])]
    program = f"research/{family}.py" if family else str(sweep.spec.get("program", "?"))
    return shlex.join(["python", program, *(f"--{flag}={show(value)}" for flag, value in each)])


def mean_sd(mean: float, sd: float) -> str:
    """Mean ± sample standard deviation, both rounded to two digits of the deviation."""
    if pd.isna(sd) or pd.isna(mean) or not 0 < sd < math.inf:
        return show(mean, 4) + " ± 0" * (sd == 0)
    digits = min(max(1 - math.floor(math.log10(sd)), 0), 8)
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"


def cell(row: dict, name: str) -> tuple[str, float | None]:
    """A table's cell: its text (a mean takes in its deviation) and the number to sort it by, if any."""
    value = row[name]
    text = "" if value is pd.NA else show(value, 4 if name == "headline" or "/" in name else 6)
    text = mean_sd(value, row[f"{name} sd"]) if f"{name} sd" in row else text
    rank, number, _ = sort_key(value)
    return text, None if rank else number


def render(sweep: Sweep, max_mb: float = 25.0) -> str:
    """The report as HTML."""
    varied, df = sweep.varied, collect.table(sweep)
    order = sorted(range(len(df)), key=lambda i: [sort_key(sweep.runs[i].flags.get(f)) for f in varied])
    best_first = df.sort_values("headline", ascending=df.attrs["goal"] != "maximize", kind="stable")
    unwell = df[(df["status"] != "finished") | (df["reason"] != "")]
    template = (ROOT / "launch" / "results" / "report.html.j2").read_text("utf-8")
    return (
        jinja2.Environment(autoescape=True, trim_blocks=True)
        .from_string(template)
        .render(
            sweep=sweep,
            varied=varied,
            attrs=df.attrs,
            what=what_was_run(sweep, varied),
            planned=planned(sweep),
            runs=best_first.drop(columns="reason"),
            seeds=collect.summarise_over_seeds(df),
            now=datetime.now(UTC),
            unwell=unwell[[*varied, "status", "step", "steps", "reason", "key"]],
            cell=cell,
            show=show,
            states=df["status"].value_counts().to_dict(),
            plotly=get_plotlyjs(),
            curves=curves(sweep, varied, order, df.attrs["headline"]),
            pictures=pictures(sweep, varied, order, max_mb),
            ways=[
                (label(r, varied), command(r, sweep, varied), df["commit"][i])
                for i, r in ((i, sweep.runs[i]) for i in order)
            ],
        )
    )


def write_report(folder: Path | str, out: Path | str | None = None, max_mb: float = 25.0) -> Path:
    """Write the report of a sweep's folder (default: report.html in it); returns its path.

    UserError, one line, when the folder does not exist or holds no runs.
    """
    try:
        sweep = collect.read_sweep(folder)
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    if not sweep.runs:
        raise UserError(f"{folder}: holds no runs")
    out = Path(out or sweep.folder / "report.html")
    write_bytes(out, render(sweep, max_mb).encode())
    return out


def main(args: list[str]) -> int:
    """The command line; returns the exit code."""
    try:
        at = next((i for i in (0, len(args) - 1) if args and not args[i].startswith("-")), None)
        flags = parse(Flags, [a for i, a in enumerate(args) if i != at], "launch/report.py runs/<sweep>")
        if at is None:
            raise UserError("which runs? Give their folder: launch/report.py runs/<sweep>")
        out = write_report(args[at], flags.out, flags.max_mb)
        print(out)
        if flags.open:
            webbrowser.open(out.resolve().as_uri())
        if flags.csv:
            rows = collect.results_csv(collect.read_sweep(args[at]), flags.csv)
            print(f"{flags.csv} ({rows} runs that came to an end)")
        if flags.publish:
            from launch.results import (
                wandb_report as publish,  # its packages are optional, and take a second to import
            )

            for line in publish.publish(args[at], flags.entity, flags.project):
                print(line, flush=True)
    except ConnectionError as error:  # not the user's mistake
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
