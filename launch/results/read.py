"""Reads run folders: what a sweep tried, how far each run got, and its numbers.

It writes nothing but CSVs of results. It does not need torch, and pandas only for tables.
"""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
import io
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.results.columns import GAP, Column, fitting, left_out
from launch.results.metric import Metric, is_finite, metric_of
from launch.results.values import show, sort_key
from research.common.flags import RunFlags, result_names
from research.common.folder import (
    CODE,
    CONFIG,
    ENDED,
    MEDIA,
    METRICS,
    RESULTS,
    STATUS,
    SWEEP,
    TIMES,
    TRIALS,
    write_bytes,
)
from research.common.messages import counted, readable

if TYPE_CHECKING:
    import pandas as pd

FILES = {CONFIG: "config", STATUS: "status", METRICS: "rows"}
# the types of entries in these files; an entry may be missing, but of another type it is damaged
KINDS = {
    "flags": dict,
    "key": str,
    "headline": (str, int, float, type(None)),  # its name in config.json, its value in status.json
    "goal": str,
    "source": (dict, type(None)),
    "status": str,
    "segments": list,
}
# columns of a table that are not flags: facts about a run, and about a setting over its seeds
COLUMNS = ("status", "step", "steps", "metric", "headline", "commit", "machine", "key", "reason", "n", "runs")
# columns of a results CSV that say where a row is from. The others after `status` are figures, and so is the
# key when such a table is read as a sweep: runs of other projects may differ in nothing else.
ORIGIN = ("commit", "machine", "key")
# Common flags that say where and how a run is carried out, not what it computes. A data set's name is not in
# a run's key either, but it is not one of these: its content is in the key, and runs on other data differ.
BOOKKEEPING = {f.name for f in dataclasses.fields(RunFlags)} - {*result_names(RunFlags), "dataset"}


@dataclass
class Task:
    """What a task made from a run's checkpoint: the numbers in results.json, and the files beside it."""

    folder: Path
    results: dict = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    problem: str | None = None


@dataclass
class Run:
    """One run folder as it was found. `problem` says in words what could not be read, or is None."""

    folder: Path
    config: dict = field(default_factory=dict)
    status: dict = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)
    media: dict[str, list[tuple[int, Path]]] = field(default_factory=dict)  # key -> [(step, file)], by step
    captions: dict[Path, str] = field(default_factory=dict)  # of those media files that have one
    problem: str | None = None
    trial: dict = field(default_factory=dict)  # the sweep's point; empty for a run outside a sweep
    tasks: list[Task] = field(default_factory=list)
    sweep: str = ""  # in a report on several sweeps, the name of the one that it belongs to

    @property
    def id(self) -> str:
        """A name that no other run in a report has; two sweeps may contain runs with the same key."""
        return self._in_its_sweep(self.folder.name)

    @property
    def confirms(self) -> str | None:
        """The `id` of the run that this one repeats with a further seed."""
        key = self.trial.get("confirms")
        return self._in_its_sweep(key) if key else None

    def _in_its_sweep(self, key: str) -> str:
        return f"{self.sweep}/{key}" if self.sweep else key

    @property
    def flags(self) -> dict:
        """All flags of the run; if config.json is unreadable, those that its trial gave."""
        return self.config.get("flags") or self.trial.get("flags") or {}

    @property
    def result_flags(self) -> set[str]:
        """Names of the flags on which the run's numbers may depend. An old config.json does not list them."""
        listed = self.config.get("result_flags")
        return {*listed, "dataset"} if isinstance(listed, list) else set(self.flags) - BOOKKEEPING

    @property
    def place(self) -> tuple[str | None, str | None]:
        """The W&B entity (None: the login's own) and the project that the run itself used."""
        return tuple(self.config.get(k) or self.flags.get(k) for k in ("entity", "project"))

    @property
    def url(self) -> str | None:
        """The run's page at W&B, if the run was online and knows its entity; else None."""
        entity, project = self.place
        if self.flags.get("wandb") != "online" or not (entity and project and self.config.get("wandb_id")):
            return None
        return f"{wandb_address()}/{entity}/{project}/runs/{self.config['wandb_id']}"

    @property
    def seconds(self) -> list[tuple[int, float]]:
        """(step, seconds of training until then), computed from the times per step in time.jsonl, which is
        read at each call. Empty if there are none.
        """
        with contextlib.suppress(OSError, ValueError):
            found, total, before = [], 0.0, 0
            for row in read_rows(self.folder / TIMES):
                step, ms = row.get("step"), row.get("time/step_ms")
                if isinstance(step, int) and is_finite(ms):
                    total += max(0, step - before) * ms / 1000
                    found.append((step, total))
                    before = step
            return found
        return []

    @property
    def title(self) -> str:
        """The run's name where its flags do not distinguish it from other runs."""
        return self.id

    def is_curve(self, name: str) -> bool:
        """Whether a logged figure is drawn over the steps."""
        return "/" in name and not name.startswith("test/")

    def value(self, metric: Metric) -> float | None:
        """The value by which a sweep's metric judges the run: its best, or its worst if the run diverged;
        None if it has no value.
        """
        if metric.is_headline(self.config.get("headline")):
            value = self.status.get("headline")
            return value if is_finite(value) else None
        return metric.value(self.rows, self.status.get("status") == "diverged")


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
    yaml: Path | None = None  # its YAML if that is not SWEEP in the folder, as for a committed table
    foreign: bool = False  # made by scripts that know nothing of this repository: see wandb_files.py
    figures: list[str] | None = None  # the figures that a table has, in order; None: test/*, val/*
    questions: list[list[str]] | None = None  # [name, question] of each sweep, if several were joined
    tables: int = 0  # how many of the joined sweeps were read only from a table of results

    @property
    def varied(self) -> list[str]:
        return varied_flags(self.runs, self.spec.get("parameters") or (), self.open_trials)

    @property
    def metric(self) -> Metric | None:
        """The metric if it is not the headline of the runs anyway; else None."""
        metric = metric_of(self.spec)
        headlines = {run.config.get("headline") for run in self.runs} - {None}
        return metric if metric and any(not metric.is_headline(name) for name in headlines) else None


def wandb_address(*folders: Path) -> str:
    """The address of W&B's pages. It is found as the client finds its server: from WANDB_BASE_URL, else from
    `base_url` in a file `settings` in one of the folders or in the user's own; else it is W&B's cloud.
    """
    own = Path(os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb")
    base = os.environ.get("WANDB_BASE_URL")
    for folder in (*folders, own):
        parser = configparser.ConfigParser(interpolation=None)
        with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):
            parser.read(folder / "settings", encoding="utf-8")
            base = base or parser.get("default", "base_url", fallback=None)
    if base is None or "api.wandb.ai" in base or not base.startswith(("http://", "https://")):
        return "https://wandb.ai"
    return base.rstrip("/")


def read_rows(path: Path | str) -> list[dict]:
    """Rows of a JSON-lines file, without a torn last line; ValueError names any other damaged line."""
    lines, rows = Path(path).read_text("utf-8", "replace").rstrip("\n").split("\n"), []
    for i, line in enumerate(lines, 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            if i < len(lines):  # the last line may still be being written, or its writer was killed
                raise ValueError(f"line {i} is damaged") from None
    return rows


def _read_object(path: Path) -> dict:
    value = json.loads(path.read_text("utf-8"))
    if not isinstance(value, dict):
        raise ValueError("not the object that belongs there")
    for name, kind in KINDS.items():
        if name in value and not isinstance(value[name], kind):
            raise ValueError(f"its {name} is damaged")
    return value


def why(error: Exception) -> str:
    """An error in words, without the path that the system puts into it."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def read_run(folder: Path | str) -> Run:
    """One run folder. It never raises, whatever is there: `problem` says what is missing or unreadable."""
    run, problems = Run(Path(folder)), []
    try:
        os.listdir(run.folder)
    except OSError as error:
        broken = run.folder.is_symlink() and isinstance(error, FileNotFoundError)
        run.problem = f"the folder cannot be read ({'a broken link' if broken else why(error)})"
        run.status["status"] = "unreadable"
        return run
    for name, part in FILES.items():
        try:
            read = read_rows if part == "rows" else _read_object
            setattr(run, part, read(run.folder / name))
        except FileNotFoundError:
            problems.append(f"{name} is missing")
        except (OSError, ValueError) as error:
            problems.append(f"{name} cannot be read ({why(error)})")
    run.status.setdefault("status", "unreadable")
    for path in _files(run.folder / MEDIA, problems):
        key = path.parent.relative_to(run.folder / MEDIA).as_posix()
        run.media.setdefault(key, []).append((int(path.stem), path))
    run.tasks = list(_tasks(run.folder, problems))
    run.problem = "; ".join(problems) or None
    return run


def _tasks(folder: Path, problems: list[str]) -> Iterator[Task]:
    """What tasks made in a run's folder, sorted by name. What can't be read is added to `problems`."""
    try:
        inside = sorted(path for path in folder.iterdir() if (path / RESULTS).is_file())
    except OSError:  # already reported when the run's files were read
        return
    for path in inside:
        task = Task(path)
        try:
            task.results = _read_object(path / RESULTS)
            listed = task.results.get("files")
            names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
            task.files = [path / name for name in names if "/" not in name and (path / name).is_file()]
        except (OSError, ValueError) as error:
            task.problem = f"{path.name}/{RESULTS} cannot be read ({why(error)})"
            problems.append(task.problem)
        yield task


def _files(media: Path, problems: list[str]) -> Iterator[Path]:
    """The files of a media folder, sorted by path. What can't be read is added to `problems`."""

    def trouble(error: OSError) -> None:
        if media.is_symlink() or not isinstance(error, FileNotFoundError):  # no pictures: no such folder
            name = Path(error.filename).relative_to(media.parent)
            problems.append(f"{name} cannot be read ({why(error)})")

    found = (Path(at) / name for at, _, names in os.walk(media, onerror=trouble) for name in names)
    for path in sorted(path for path in found if path.stem.isdecimal() and path.suffix):
        try:
            if stat.S_ISREG(path.stat().st_mode):
                yield path
        except OSError as error:
            if path.is_symlink() or not isinstance(error, FileNotFoundError):  # else it was just deleted
                problems.append(f"{path.relative_to(media.parent)} cannot be read ({why(error)})")


def read_sweep(folder: Path | str) -> Sweep:
    """Reads a sweep's folder, a plain folder of run folders, or a single run folder; it may have no runs
    (yet).

    FileNotFoundError: there is no such folder. The sweep's `problem` says what is damaged.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    text, spec, problems, trials = "", {}, [], {}
    try:
        text = (folder / SWEEP).read_text("utf-8", "replace")
        spec = _read_spec(text)
    except FileNotFoundError:  # a plain folder
        pass
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        problems.append(f"{SWEEP} cannot be read ({why(error)})")
    comment = re.match(r"(?:[ \t]*(?:#.*)?\n)*", text)[0]
    try:
        names = sorted(name for name in os.listdir(folder / TRIALS) if re.fullmatch(r"\d+\.json", name))
    except FileNotFoundError:
        names = []
    except OSError as error:
        names = []
        problems.append(f"{TRIALS} cannot be read ({why(error)})")
    for name in names:
        try:
            trial = _read_object(folder / TRIALS / name)
            trials[trial["key"]] = {"index": int(Path(name).stem)} | trial
        except (OSError, ValueError, KeyError) as error:
            problems.append(f"{TRIALS}/{name} cannot be read ({why(error)})")
    runs = [read_run(path) for path in _run_folders(folder, trials)]
    for run in runs:
        run.trial = trials.pop(run.folder.name, {})
        if run.trial and run.status.get("status") not in ENDED:
            _tell_failure(run, folder / TRIALS / f"{run.trial['index']:04d}.failed")
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


def read_results(path: Path | str) -> Sweep:
    """A sweep from its committed CSV, as `results_csv` writes it: flags, states and figures, but no curves
    and no pictures. What the sweep is about is read from the YAML of the same name in the folder above.

    ValueError: the file is not such a table.
    """
    import pandas as pd

    path = Path(path)
    text = path.read_text("utf-8", "replace")
    try:
        df = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path}: not a table ({why(error)})") from None
    columns = list(df.columns)
    if "status" not in columns or len(set(columns)) < len(columns):
        raise ValueError(
            f"{path}: not the results of a sweep: these have one column named status, after the flags"
        )
    flags = columns[: columns.index("status")]
    figures = [c for c in columns[len(flags) + 1 :] if c not in ORIGIN[:2]]
    best = [c for c in figures if c.endswith("_best")]
    yaml_path = path.parent.parent / f"{path.stem}.yaml"
    text, spec = "", {}
    with contextlib.suppress(OSError, TypeError, ValueError, yaml.YAMLError):
        text = yaml_path.read_text("utf-8", "replace")
        spec = _read_spec(text)
    metric = metric_of(spec)
    headline = (best or figures or ["headline"])[-1].removesuffix("_best")
    goal = metric.goal if metric and metric.is_headline(headline) else _goal_of(headline)
    runs = []
    for i, row in enumerate(df.to_dict("records")):
        values = {name: _value(row[name]) for name in figures}
        run = Run(path.parent / f"{path.stem}-{i:04d}")
        run.config = {
            "flags": {name.removeprefix("--"): _value(row[name]) for name in flags},
            "result_flags": [name.removeprefix("--") for name in flags],
            "family": Path(str(spec.get("program", ""))).stem or None,
            "headline": headline,
            "goal": goal,
            "source": {
                "commit": (row.get("commit") or "").removesuffix("-dirty"),
                "dirty": (row.get("commit") or "").endswith("-dirty"),
            },
        }
        run.status = {"status": row["status"], "headline": values.get(f"{headline}_best")}
        run.status["machine"] = row.get("machine")
        run.rows = [{name: value for name, value in values.items() if value is not None}]
        runs.append(run)
    header = re.match(r"(?:[ \t]*(?:#.*)?\n)*", text)[0]
    header = re.sub(r"(?m)^[ \t]*# ?", "", header).strip()
    return Sweep(path.parent, path.stem, text, spec, header, runs, [], yaml=yaml_path, tables=1)


def _value(text: str) -> Any:
    """The flag or figure that was written to this cell of a CSV."""
    if text in ("", "None"):
        return None
    if text in ("True", "False"):
        return text == "True"
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    return text


def _goal_of(headline: str) -> str:
    """Whether to minimize or to maximize a figure, guessed from its name, because no file says it."""
    more = ("elbo", "exact", "accuracy", "mig", "acc")
    return "maximize" if any(word in headline for word in more) else "minimize"


def joined(sweeps: list[Sweep]) -> Sweep:
    """Several sweeps as one, in which the flag `sweep` says to which of them a run belongs."""
    if len(sweeps) == 1:
        return sweeps[0]
    names = _own_names(sweeps)
    runs = []
    for name, sweep in zip(names, sweeps):
        for run in sweep.runs:
            run.sweep = name
            run.config["flags"] = {"sweep": name} | run.flags
            run.config["result_flags"] = ["sweep", *sorted(run.result_flags - {"sweep"})]
            runs.append(run)
    parameters = {k: v for sweep in sweeps for k, v in (sweep.spec.get("parameters") or {}).items()}
    spec = {"method": "runs", "parameters": {"sweep": {}} | parameters}
    metrics = [sweep.spec.get("metric") for sweep in sweeps]
    stopping = [sweep.spec["early_terminate"] for sweep in sweeps if sweep.spec.get("early_terminate")]
    if stopping:
        spec["early_terminate"] = stopping[0]
    if all(metric == metrics[0] for metric in metrics) and metrics[0]:
        spec["metric"] = metrics[0]
    questions = [[name, _first_words(sweep.header)] for name, sweep in zip(names, sweeps)]
    header = "\n".join(": ".join(pair) for pair in questions)
    problems = [f"{name}: {sweep.problem}" for name, sweep in zip(names, sweeps) if sweep.problem]
    trials = [trial for sweep in sweeps for trial in sweep.open_trials]
    name = " and ".join(names)
    whole = Sweep(sweeps[0].folder, name, "", spec, header, runs, trials, "; ".join(problems) or None)
    whole.questions = questions
    whole.tables = sum(sweep.tables for sweep in sweeps)
    whole.foreign = any(sweep.foreign for sweep in sweeps)
    if whole.foreign:
        whole.figures = list(dict.fromkeys(name for sweep in sweeps for name in sweep.figures or ()))
    return whole


def _own_names(sweeps: list[Sweep]) -> list[str]:
    """A different name for each sweep: if two have the same name, as many folders are put before it as
    needed.
    """
    above = [sweep.folder if sweep.tables else sweep.folder.parent for sweep in sweeps]
    paths = [(*folder.parts, sweep.name) for folder, sweep in zip(above, sweeps)]
    depths = [1] * len(paths)
    for _ in range(max(map(len, paths))):
        names = ["/".join(path[-depth:]) for path, depth in zip(paths, depths)]
        depths = [depth + (names.count(name) > 1) for name, depth in zip(names, depths)]
    return names


def _first_words(header: str) -> str:
    """The question of a sweep's header, or its first line."""
    found = re.search(r"(?is)^question[: ]+(.*?)(?=^\w+(?:: |  )|\Z)", header, re.M)
    return " ".join((found[1] if found else header.partition("\n")[0]).split())


def _tell_failure(run: Run, path: Path) -> None:
    """Add to a run that it failed, and why, which its worker could not write into the run's folder."""
    with contextlib.suppress(OSError, ValueError):
        run.status |= _read_object(path)


def _read_spec(text: str) -> dict:
    """The content of a sweep's YAML; ValueError or TypeError if it is not one."""
    spec = dict(yaml.safe_load(text))
    parameters = spec.get("parameters") or {}
    if not isinstance(parameters, dict) or not all(isinstance(given, dict) for given in parameters.values()):
        raise ValueError("its parameters are damaged")
    return spec


def _run_folders(folder: Path, trials: Iterable[str]) -> list[Path]:
    """`folder` itself if it is a run's folder. Otherwise, those folders in it that are, or that a trial
    names, or that can't be read and therefore may be.
    """
    inside = sorted(folder.iterdir())  # OSError if the folder itself can't be read

    def is_run(path: Path) -> bool:
        try:
            return any((path / name).is_file() for name in FILES)
        except PermissionError:
            return path.name not in (CODE, TRIALS) and not path.name.startswith(".")

    if any((folder / name).exists() for name in FILES):
        return [folder]
    found = [path for path in inside if path.name in trials or is_run(path)]
    # A folder that `--fresh` has set aside has a suffix and is no longer a result of this sweep.
    return [path for path in found if not re.search(r"\.(old|aside)", path.name)]


def expected(sweep: Sweep) -> int:
    """How many runs the sweep is going to have, as far as its YAML says: the size of its grid, but at most
    its run_cap, and at least as many as there are.
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
    """Flags whose values differ between runs (and open trials): those in `order` first, `seed` last.

    Flags that don't change numbers (paths, device, how often to save) count only if `order` names them.
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
    """The column of a varied flag: its name, or --steps where a table has a column steps of its own."""
    return f"--{flag}" if flag in COLUMNS else flag


def table(sweep: Sweep) -> pd.DataFrame:
    """A row for each run: varied flags, status, step, steps, metric (if `Sweep.metric` is not None), best
    headline, last test/* and val/*, commit, key, and reason (the run's own, and what could not be read).

    If a run has another headline than most, its cell under headline is empty: its own best is among val/*.

    `attrs`: the `headline`'s name and its `goal`; the `metric`'s name and `metric_goal`, or None; `by`, the
    column that tells which run is best, and `ascending`, whether the least value is best; `headings` of
    columns that have another heading than their name; and `confirmed`, the keys of trials that others repeat
    with further seeds.
    """
    import pandas as pd

    headline, goal = next(iter(headlines(sweep)), ("headline", "minimize"))
    metric = sweep.metric
    figures = {m for r in sweep.runs for row in r.rows for m in row if m.startswith(("val/", "test/"))}
    figures -= {f"{headline}_best", metric.column if metric else None}
    # the figures of metric and headline on the test part come first
    own = [test_figure(name) for name in ((metric.name, headline) if metric else (headline,))]
    rank = {name: i for i, name in enumerate(dict.fromkeys(own))}
    figures = sorted(figures, key=lambda m: (m.startswith("val/"), rank.get(m, len(rank)), m))
    if sweep.figures is not None:
        figures = sweep.figures
    varied, rows = sweep.varied, []
    for run in sweep.runs:
        last = {m: value for row in run.rows for m, value in row.items()}
        missing = "" if sweep.foreign else None  # scripts of one project need not have the same flags
        row = {column_of(name): run.flags.get(name, missing) for name in varied}
        row |= {name: run.status.get(name) for name in ("status", "step", "steps", "headline")}
        if run.config.get("headline", headline) != headline:
            row["headline"] = None
        if metric:
            row["metric"] = run.value(metric)
        row |= {name: last.get(name) for name in figures}
        row["commit"] = _commits(run)
        row["key"] = run.title
        row["reason"] = "; ".join(str(r) for r in (run.status.get("reason"), run.problem) if r)
        rows.append(row)
    columns = [*map(column_of, varied), "status", "step", "steps", *(["metric"] if metric else [])]
    columns += ["headline", *figures, "commit", "key", "reason"]
    df = pd.DataFrame(rows, columns=columns, dtype=object)  # flags as they are: no integer seed made a float
    for name in columns[len(varied) + 1 : -3]:
        kind = "Int64" if name in ("step", "steps") else float
        df[name] = pd.to_numeric(df[name], errors="coerce").astype(kind)
    confirmed = {run.confirms for run in sweep.runs} - {None}
    df.attrs.update(
        headline=headline,
        goal=goal,
        metric=metric.name if metric else None,
        metric_goal=metric.goal if metric else None,
        by="metric" if metric else "headline",
        ascending=(metric.goal if metric else goal) != "maximize",
        headings={"headline": f"best {headline}"} | ({"metric": metric.heading} if metric else {}),
        confirmed=sorted(confirmed),
    )
    return df


def headlines(sweep: Sweep) -> Counter[tuple[str, str | None]]:
    """The figures by which runs are judged: (headline, goal) → number of runs, the most common first."""
    named = [(r.config["headline"], r.config.get("goal")) for r in sweep.runs if r.config.get("headline")]
    return Counter(dict(Counter(named).most_common()))


def test_figure(name: str) -> str:
    """The figure of the test part that corresponds to one of the validation part, or to its running best."""
    return f"test/{name.rpartition('/')[2].removesuffix('_best')}"


def best_first(df: pd.DataFrame) -> pd.DataFrame:
    """The rows of a `table` from best to worst, those without a value last."""
    return df.sort_values(df.attrs["by"], ascending=df.attrs["ascending"], kind="stable")


def _commits(run: Run) -> str:
    """The commits whose code made the run, with -dirty if there were uncommitted changes."""
    source, segments = run.config.get("source") or {}, run.status.get("segments") or []
    parts = [part for part in [source, *segments] if isinstance(part, dict) and part.get("commit")]
    commits = dict.fromkeys(str(part["commit"])[:10] for part in parts)
    text = ",".join(commits)
    return f"{text}-dirty" if source.get("dirty") else text


def machine_of(run: Run) -> str:
    """The machine that computed a run, as far as the last digits of its figures depend on it: "torch 2.15.0,
    cpu, 1 thread, AMD EPYC with avx512_bf16". If the run was continued on another machine, both; "" if it is
    not recorded. Of a run that was read from a CSV, it is what the CSV says.
    """
    found = []
    for part in run.status.get("segments") or ():
        if isinstance(part, dict) and part.get("torch"):
            n, before = part.get("threads"), part.get("threads_at_start")
            threads = counted(n, "thread") if isinstance(n, int) else None
            if threads and before not in (None, n):
                threads = f"{before}, then {threads}"
            parts = [f"torch {part['torch']}", part.get("device"), threads, part.get("processor")]
            found.append(", ".join(str(text) for text in parts if text))
    return "; ".join(dict.fromkeys(found)) or run.status.get("machine") or ""


def flag_columns(df: pd.DataFrame) -> list[str]:
    """The varied flags of a `table` or of a results CSV: the columns before `status`."""
    return list(df.columns[: list(df.columns).index("status")])


def figure_columns(df: pd.DataFrame) -> list[str]:
    """The figures of a `table` or of a results CSV: the columns after `status` with measured values."""
    behind = df.columns[len(flag_columns(df)) :]
    return [name for name in behind if name in ("metric", "headline") or name not in COLUMNS]


def _by_flags(df: pd.DataFrame, flags: list[str]) -> pd.DataFrame:
    keys = [[sort_key(value) for value in row] for row in df[flags].astype(object).to_numpy().tolist()]
    return df.iloc[sorted(range(len(df)), key=keys.__getitem__)].reset_index(drop=True)


def results_csv(sweep: Sweep, path: Path | str) -> int:
    """Write the CSV that is committed, with a row for each run that came to an end; returns their number.

    Columns: varied flags (exact), status, metric (if there is one) and headline under their own names, test
    figures (6 significant digits), commit, machine. Rows are sorted by flags, so that equal results give
    equal bytes. Foreign runs may name their test figures in any way, so their rows have the last values of
    all figures, and the key instead of the machine.
    """
    df, path, metric = table(sweep), Path(path), sweep.metric
    if not sweep.foreign:
        df["machine"] = [machine_of(run) for run in sweep.runs]
    names, flags = {"headline": f"{df.attrs['headline']}_best"}, flag_columns(df)
    if metric:
        names = {"metric": metric.column} | names
    others = [c for c in figure_columns(df) if c not in names]
    figures = [*names.values(), *(c for c in others if sweep.foreign or c.startswith("test/"))]
    df = df[df["status"].isin(ENDED)]
    df = _by_flags(df.rename(columns=names), flags).astype(object)
    for name in flags + figures:
        df[name] = [show(v, 6 if name in figures else None) for v in df[name]]
    last = ["commit", "key"] if sweep.foreign else ["commit", "machine"]  # foreign runs may have equal flags
    text = df[[*flags, "status", *figures, *last]].to_csv(index=False, lineterminator="\n")
    write_bytes(path, readable(text).encode())
    return len(df)


def summarise_over_seeds(df: pd.DataFrame) -> pd.DataFrame:
    """Finished runs, averaged over seeds, from a `table` or a results CSV: a row for each setting of the
    other flags.

    Columns: the flags, `n` finished of `runs`, each figure's mean and, as `<name> sd`, its sample standard
    deviation (NaN if n < 2). A trial that others confirm is left out: it was chosen as the best, so it is the
    luckiest.
    """
    import pandas as pd

    if df.attrs.get("confirmed"):
        df = df[~df["key"].isin(df.attrs["confirmed"])]
    flags, rows = [f for f in flag_columns(df) if f != "seed"], []
    for _, group in df.groupby([df[f].map(show) for f in flags] or [0] * len(df), sort=False):
        done = group[group["status"] == "finished"]
        row = {f: group[f].iloc[0] for f in flags} | {"n": len(done), "runs": len(group)}
        for name in figure_columns(df):
            row |= {name: done[name].mean(), f"{name} sd": done[name].std(ddof=1)}
        rows.append(row)
    kinds = {name: int if name in ("n", "runs") else float for name in rows[0] if name not in flags}
    return _by_flags(pd.DataFrame(rows, dtype=object).astype(kinds), flags)  # a flag's None stays None


def print_table(df: pd.DataFrame, console: Console, width: int = 100) -> None:
    """A different name for each sweep: equal to worst in at most `width` characters; no cell is ever
    truncated.

    If there is no room for all columns, they are left out in this order: figures, the last first, except
    those of headline and metric on the test part; step; status, if every run has finished; the metric's test
    figure; the headline, if there is a metric beside it; the headline's test figure; varied flags, the last
    first; status. The column that tells which run is best always stays. If more columns than figures would
    have to go, headings are first put on two lines.
    """
    metric, headline, headings = (df.attrs[name] for name in ("metric", "headline", "headings"))
    shown_already = (f"val/{headline.split('/', 1)[-1]}", headline, metric)
    figures = [c for c in df.columns if c.startswith(("test/", "val/")) and c not in shown_already]
    df = best_first(df)
    flags = [Column(name, [show(v, 6) for v in df[name]]) for name in flag_columns(df)]
    status = Column("status", [show(v) for v in df["status"]], "left")
    steps = [f"{a}/{b}".replace("<NA>", "?") for a, b in zip(df["step"], df["steps"])]
    step = Column("step", steps)
    values = {}
    for name in [*(["metric"] if metric else []), "headline", *figures]:
        values[name] = Column(headings.get(name, name), [show(v, 4) for v in df[name]])
    columns = [*flags, status, step, *values.values()]

    needed = [step, *([status] if set(status.cells) == {"finished"} else [])]
    if metric and test_figure(metric) != test_figure(headline):
        needed.append(values.get(test_figure(metric)))
    if metric:
        needed.append(values["headline"])
    needed += [values.get(test_figure(headline)), *reversed(flags)]
    needed += [] if status in needed else [status]
    needed = [column for column in needed if column]
    spare = [values[name] for name in reversed(figures) if values[name] not in needed]
    room = min(width, console.width) - 2  # a blank at each edge
    shown = fitting(columns, [*spare, *needed], room)
    if any(column not in shown for column in needed):
        for column in values.values():
            column.name = column.name.replace("best ", "best\n").replace("/", "/\n")
        shown = fitting(columns, [*spare, *needed], room)

    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for column in shown:
        out.add_column(Text(column.name), justify=column.justify, no_wrap=True)
    for row in zip(*(column.cells for column in shown)):
        out.add_row(*map(Text, row))
    console.print(out)
    if note := left_out(len(columns) - len(shown)):
        console.print(f"{note} at this width; the report has all", style="dim")
