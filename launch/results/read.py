"""Read run folders back: what a sweep tried, how far each run came, and its numbers.

Only reads, and needs neither torch nor, but for tables, pandas.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.results.values import show, sort_key
from research.common.flags import RunFlags, result_names
from research.common.folder import CONFIG, ENDED, MEDIA, METRICS, STATUS, SWEEP, TRIALS, write_bytes
from research.common.messages import readable

if TYPE_CHECKING:
    import pandas as pd

FILES = {CONFIG: "config", STATUS: "status", METRICS: "rows"}
# of a table that are no flags: what is known of a run, and of a setting over its seeds
COLUMNS = ("status", "step", "steps", "headline", "commit", "key", "reason", "n", "runs")
# Common flags that say where and how a run is carried out, not what is computed. A data set's name is not in
# a run's key either, but its content is: runs on other data differ.
BOOKKEEPING = {f.name for f in dataclasses.fields(RunFlags)} - {*result_names(RunFlags), "dataset"}


@dataclass
class Run:
    """One run folder as found. `problem` says in words what could not be read, or is None."""

    folder: Path
    config: dict = field(default_factory=dict)
    status: dict = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)
    media: dict[str, list[tuple[int, Path]]] = field(default_factory=dict)  # key -> [(step, file)], by step
    problem: str | None = None
    trial: dict = field(default_factory=dict)  # the sweep's point; empty for a run outside a sweep

    @property
    def flags(self) -> dict:
        """All flags of the run; where config.json is unreadable, those that its trial gave."""
        return self.config.get("flags") or self.trial.get("flags") or {}

    @property
    def result_flags(self) -> set[str]:
        """Names of the flags that the run's numbers may depend on. An old config.json does not list them."""
        listed = self.config.get("result_flags")
        return {*listed, "dataset"} if isinstance(listed, list) else set(self.flags) - BOOKKEEPING

    @property
    def place(self) -> tuple[str | None, str | None]:
        """W&B entity (None: the login's own) and project, as the run itself took them."""
        return tuple(self.config.get(k) or self.flags.get(k) for k in ("entity", "project"))


@dataclass
class Sweep:
    """A folder of runs. Without a sweep.yaml (a plain folder, a single run) `text` and `spec` are empty."""

    folder: Path
    name: str
    text: str
    spec: dict
    header: str  # the YAML's leading comment: question, size, expected time, finding
    runs: list[Run]
    open_trials: list[dict]  # trials without a run folder
    problem: str | None = None

    @property
    def varied(self) -> list[str]:
        return varied_flags(self.runs, self.spec.get("parameters") or (), self.open_trials)


def read_rows(path: Path | str) -> list[dict]:
    """Rows of a JSON-lines file, less a torn last line; ValueError names any other damaged line."""
    lines, rows = Path(path).read_text("utf-8", "replace").rstrip("\n").split("\n"), []
    for i, line in enumerate(lines, 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            if i < len(lines):  # the last line's writer is at work, or was killed there
                raise ValueError(f"line {i} is damaged") from None
    return rows


def _read_object(path: Path) -> dict:
    value = json.loads(path.read_text("utf-8"))
    if not isinstance(value, dict) or not isinstance(value.get("flags", {}), dict):
        raise ValueError("not the object that belongs there")
    return value


def read_run(folder: Path | str) -> Run:
    """One run folder. Never raises for what lies in it: `problem` says what is missing or damaged."""
    run, problems = Run(Path(folder)), []
    for name, part in FILES.items():
        try:
            read = read_rows if part == "rows" else _read_object
            setattr(run, part, read(run.folder / name))
        except FileNotFoundError:
            problems.append(f"{name} is missing")
        except (OSError, ValueError) as error:
            problems.append(f"{name} cannot be read ({getattr(error, 'strerror', None) or error})")
    run.problem = "; ".join(problems) or None
    run.status.setdefault("status", "unreadable")
    media = run.folder / MEDIA
    for path in sorted(p for p in media.rglob("*.*") if p.stem.isdecimal() and p.is_file()):
        run.media.setdefault(path.parent.relative_to(media).as_posix(), []).append((int(path.stem), path))
    return run


def read_sweep(folder: Path | str) -> Sweep:
    """A sweep's folder, a plain folder of run folders, or a single run folder; it may hold no runs (yet).

    FileNotFoundError when there is no such folder. What else is damaged stands in the sweep's `problem`.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    text, spec, problems = "", {}, []
    try:
        text = (folder / SWEEP).read_text("utf-8", "replace")
        spec = dict(yaml.safe_load(text))
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        if text:
            problems.append(f"{SWEEP} cannot be read ({' '.join(str(error).split())})")
    comment = re.match(r"(?:[ \t]*(?:#.*)?\n)*", text)[0]
    trials = {}
    for path in sorted((folder / TRIALS).glob("[0-9]*.json")):
        try:
            trial = _read_object(path)
            trials[str(trial["key"])] = {"index": int(path.stem)} | trial
        except (OSError, ValueError, KeyError) as error:
            problems.append(f"{TRIALS}/{path.name} cannot be read ({error})")
    runs = [read_run(path) for path in _run_folders(folder, trials)]
    for run in runs:
        run.trial = trials.pop(run.folder.name, {})
    runs.sort(key=lambda run: (run.trial.get("index", math.inf), run.folder.name))
    return Sweep(
        folder,
        folder.name,
        text,
        spec,
        header=re.sub(r"(?m)^[ \t]*# ?", "", comment).strip(),
        runs=runs,
        open_trials=list(trials.values()),
        problem="; ".join(problems) or None,
    )


def _run_folders(folder: Path, trials: Iterable[str]) -> list[Path]:
    """`folder` itself where it is a run's; else those in it that are, or that a trial names."""

    def is_run(path: Path) -> bool:
        return any((path / name).is_file() for name in FILES)

    if is_run(folder):
        return [folder]
    inside = [path for path in folder.iterdir() if path.name in trials or is_run(path)]
    # A folder that `--fresh` set aside has a suffix, and is no longer a result of this sweep.
    return [path for path in inside if not re.search(r"\.(old|aside)", path.name)]


def expected(sweep: Sweep) -> int:
    """How many runs the sweep means to have, as far as its YAML tells: the size of its grid, at most its
    run_cap; never fewer than there are.
    """
    known = len(sweep.runs) + len(sweep.open_trials)
    limits = []
    if sweep.spec.get("method") == "grid":
        parameters = (sweep.spec.get("parameters") or {}).values()
        limits.append(math.prod(len(parameter.get("values", "1")) for parameter in parameters))
    if isinstance(sweep.spec.get("run_cap"), int):
        limits.append(sweep.spec["run_cap"])
    return max(known, min(limits, default=known))


def varied_flags(runs: Iterable[Run], order: Iterable[str] = (), trials: Iterable[dict] = ()) -> list[str]:
    """Flags whose values differ between runs (and open trials), those in `order` first, `seed` last.

    Flags that change no numbers (paths, device, cadence) count only if `order` names them.
    """
    runs, points = list(runs), [trial.get("flags") or {} for trial in trials]
    seen: dict[str, set[str]] = {name: set() for name in order}
    counting = set(seen).union(*(run.result_flags for run in runs), *(set(p) - BOOKKEEPING for p in points))
    for flags in [*(run.flags for run in runs), *points]:
        for name, value in flags.items():
            if name in counting:
                seen.setdefault(name, set()).add(show(value))
    varied = [name for name, values in seen.items() if len(values) > 1]
    return sorted(varied, key=lambda name: name == "seed")


def column_of(flag: str) -> str:
    """The column of a varied flag: its name, but --steps where tables have a column steps of their own."""
    return f"--{flag}" if flag in COLUMNS else flag


def table(sweep: Sweep) -> pd.DataFrame:
    """One row a run: varied flags, status, step(s), best headline, last test/*, val/*, commit, key, reason.

    `attrs` hold the headline's name and its `goal`, and as `confirmed` the keys of trials that others repeat
    with further seeds; `reason` is the run's own, and what could not be read.
    """
    import pandas as pd

    named = [(r.config["headline"], r.config.get("goal")) for r in sweep.runs if r.config.get("headline")]
    headline, goal = Counter(named or [("headline", "minimize")]).most_common(1)[0][0]
    figures = {m for r in sweep.runs for row in r.rows for m in row if m.startswith(("val/", "test/"))}
    own = headline.rpartition("/")[2]  # its figure on the test part comes first
    figures = sorted(
        figures - {f"{headline}_best"}, key=lambda m: (m.startswith("val/"), m.split("/", 1)[1] != own, m)
    )
    varied, rows = sweep.varied, []
    for run in sweep.runs:
        last = {m: value for row in run.rows for m, value in row.items()}
        row = {column_of(name): run.flags.get(name) for name in varied}
        row |= {name: run.status.get(name) for name in ("status", "step", "steps", "headline")}
        row |= {name: last.get(name) for name in figures}
        row["commit"] = _commits(run)
        row["key"] = run.folder.name
        row["reason"] = "; ".join(str(r) for r in (run.status.get("reason"), run.problem) if r)
        rows.append(row)
    columns = [*map(column_of, varied), "status", "step", "steps", "headline", *figures]
    columns += ["commit", "key", "reason"]
    df = pd.DataFrame(rows, columns=columns, dtype=object)  # flags as they are: no integer seed made a float
    for name in columns[len(varied) + 1 : -3]:
        kind = "Int64" if name in ("step", "steps") else float
        df[name] = pd.to_numeric(df[name], errors="coerce").astype(kind)
    confirmed = {run.trial.get("confirms") for run in sweep.runs} - {None}
    df.attrs.update(headline=headline, goal=goal, confirmed=sorted(confirmed))
    return df


def _commits(run: Run) -> str:
    """The commits whose code made the run, and whether that code was changed."""
    source, segments = run.config.get("source") or {}, run.status.get("segments") or []
    commits = dict.fromkeys(str(part["commit"])[:10] for part in [source, *segments] if part.get("commit"))
    text = ",".join(commits)
    return f"{text}-dirty" if source.get("dirty") else text


def flag_columns(df: pd.DataFrame) -> list[str]:
    """The varied flags of a `table` or of a results CSV: the columns before `status`."""
    return list(df.columns[: list(df.columns).index("status")])


def _by_flags(df: pd.DataFrame, flags: list[str]) -> pd.DataFrame:
    keys = [[sort_key(value) for value in row] for row in df[flags].astype(object).to_numpy().tolist()]
    return df.iloc[sorted(range(len(df)), key=keys.__getitem__)].reset_index(drop=True)


def results_csv(sweep: Sweep, path: Path | str) -> int:
    """Write the committed evidence, one row for each run that came to an end; returns their number.

    Columns: varied flags (exact), status, headline under its own name, test figures (6 significant digits),
    commit; sorted by flags, so that equal results give equal bytes.
    """
    df, path = table(sweep), Path(path)
    headline, flags = f"{df.attrs['headline']}_best", flag_columns(df)
    figures = [headline, *(c for c in df.columns if c.startswith("test/"))]
    df = df[df["status"].isin(ENDED)]
    df = _by_flags(df.rename(columns={"headline": headline}), flags).astype(object)
    for name in flags + figures:
        df[name] = [show(v, 6 if name in figures else None) for v in df[name]]
    text = df[[*flags, "status", *figures, "commit"]].to_csv(index=False, lineterminator="\n")
    write_bytes(path, readable(text).encode())
    return len(df)


def summarise_over_seeds(df: pd.DataFrame) -> pd.DataFrame:
    """Finished runs over seeds, from a `table` or a results CSV: one row per setting of the other flags.

    Columns: the flags, `n` finished of `runs`, each figure's mean and, as `<name> sd`, its sample standard
    deviation (NaN when n < 2). A trial that others confirm is left out: it was chosen, and so the luckiest.
    """
    import pandas as pd

    if df.attrs.get("confirmed"):
        df = df[~df["key"].isin(df.attrs["confirmed"])]
    flags, rows = [f for f in flag_columns(df) if f != "seed"], []
    for _, group in df.groupby([df[f].map(show) for f in flags] or [0] * len(df), sort=False):
        done = group[group["status"] == "finished"]
        row = {f: group[f].iloc[0] for f in flags} | {"n": len(done), "runs": len(group)}
        for name in (c for c in df.columns if c == "headline" or "/" in c):
            row |= {name: done[name].mean(), f"{name} sd": done[name].std(ddof=1)}
        rows.append(row)
    kinds = {name: int if name in ("n", "runs") else float for name in rows[0] if name not in flags}
    return _by_flags(pd.DataFrame(rows, dtype=object).astype(kinds), flags)  # a flag's None stays None


def print_table(df: pd.DataFrame, console: Console, width: int = 100) -> None:
    """Print the runs from best to worst: flags, status, step, headline and as many figures as fit `width`."""
    headline = df.attrs["headline"]
    shown_already = (f"val/{headline.split('/', 1)[-1]}", headline)
    figures = [c for c in df.columns if c.startswith(("test/", "val/")) and c not in shown_already]
    df = df.sort_values("headline", ascending=df.attrs["goal"] != "maximize", kind="stable")
    cells = {name: [show(v, 6) for v in df[name]] for name in [*flag_columns(df), "status"]}
    cells["step"] = [f"{a}/{b}".replace("<NA>", "?") for a, b in zip(df["step"], df["steps"])]
    cells |= {f"best {headline}": [show(v, 4) for v in df["headline"]]}
    cells |= {name: [show(v, 4) for v in df[name]] for name in figures}
    out, room = Table(box=box.SIMPLE_HEAD, pad_edge=False), min(width, console.width) - 2
    for name in list(cells):
        room -= max(map(len, [name, *cells[name]])) + 2
        if room < 0 and name in figures:
            del cells[name]
        else:
            out.add_column(Text(name), justify="left" if name == "status" else "right")
    for row in zip(*cells.values()):
        out.add_row(*map(Text, row))
    console.print(out)
