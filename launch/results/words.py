"""How runs, their flags and their figures are written: captions, commands, the cells of a table."""

import contextlib
import json
import math
import shlex
from pathlib import Path

from launch.results.read import Run, Sweep
from launch.results.values import show, sort_key
from research.common.folder import CONFIG, SWEEP
from research.common.identity import ROOT
from research.common.messages import counted

POINTS = "points.json"  # in a sweep's folder: its points, if a command has given them one by one
MANY = 6  # flags in a caption; with more of them, a run's own name is clearer
LONG = 80  # characters of a flag's value in a caption, at most


def label(run: Run, varied: list[str]) -> str:
    """A run's name in captions: its varied flags, or its title if nothing varies.

    Long values are shortened. If many flags vary, a run that has a name of its own is called by that name.
    """
    given = [f for f in varied if f in run.flags]
    if not given or (len(given) > MANY and run.title != run.folder.name):
        return run.title
    return " · ".join(f"{f}={shorten(show(run.flags[f], 6))}" for f in given)


def shorten(text: str) -> str:
    """A text of at most LONG characters; of a longer text, the beginning and the end."""
    return text if len(text) <= LONG else f"{text[: LONG // 2]}…{text[1 - LONG // 2 :]}"


def what_was_run(sweep: Sweep, varied: list[str]) -> str:
    """One line: the families, and what varied over which values."""
    families = sorted({str(run.config["family"]) for run in sweep.runs if run.config.get("family")})
    over = []
    for flag in varied:
        values = {show(run.flags[flag], 6): run.flags[flag] for run in sweep.runs if flag in run.flags}
        texts = [text for text, value in sorted(values.items(), key=lambda item: sort_key(item[1]))]
        if len(texts) > 6:
            texts = [texts[0], "…", texts[-1]]
        over.append(f"{flag} ({', '.join(texts)})")
    parts = [", ".join(families)] if families else []
    if over:
        parts.append(f"{sweep.spec.get('method', 'runs')} over {' × '.join(over)}")
    return ", ".join(parts) or counted(len(sweep.runs), "run")


def from_root(path: Path) -> str:
    """A path as in a command for the repository's root: relative to it if the path lies inside, else
    absolute.
    """
    path = path.resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def sweep_command(sweep: Sweep) -> str:
    """The command line that continues the sweep, for a shell in the repository's root."""
    if sweep.yaml:
        return shlex.join(["python", "launch/local.py", from_root(sweep.yaml)])
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return shlex.join(["python", *json.loads((sweep.folder / POINTS).read_text("utf-8"))["words"]])
    file, out = from_root(sweep.folder / SWEEP), from_root(sweep.folder.parent)
    return shlex.join(["python", "launch/local.py", file, f"--name={sweep.name}", f"--out={out}"])


def command(run: Run, sweep: Sweep, varied: list[str]) -> str:
    """The command line that makes this run again, for a shell in the repository's root.

    For a foreign run it is the one with which its script was started, if that is recorded.
    """
    if "command" in run.config:
        return shlex.join(run.config["command"]) or "# how it was started is not recorded"
    family = run.config.get("family")
    program = f"research/{family}.py" if family else str(sweep.spec.get("program", "?"))
    flags = run.trial.get("flags") or {f: run.flags[f] for f in varied if f in run.flags}
    flags = {name: value for name, value in flags.items() if name != "sweep"}  # only joined reports have it
    if not run.trial and run.config and (run.folder / CONFIG).is_file():
        # nobody knows which flags were given; config.json has all of them
        flags = {"config": from_root(run.folder / CONFIG)} | flags
    words = ["python", program]
    for flag, value in flags.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{flag}={show(one)}" for one in values]
    return shlex.join(words)


def mean_sd(mean: float, sd: float) -> str:
    """Mean ± sample standard deviation, both rounded to two digits of the deviation."""
    if sd == 0:
        return f"{show(mean, 4)} ± 0"
    if math.isnan(mean) or not 0 < sd < math.inf:
        return show(mean, 4)
    digits = min(max(1 - math.floor(math.log10(sd)), 0), 8)
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"


def cell(row: dict, name: str) -> tuple[str, float | None]:
    """A table's cell: its text (a mean has its deviation), and the number by which it is sorted, if any."""
    import pandas as pd

    value = row[name]
    if f"{name} sd" in row:
        text = mean_sd(value, row[f"{name} sd"])
    elif value is pd.NA or (value is None and name in ("step", "steps")):
        text = ""
    else:
        is_figure = name in ("metric", "headline") or "/" in name
        text = show(value, 4 if is_figure else 6)
    rank, number, _ = sort_key(value)
    return text, number if rank == 0 else None
