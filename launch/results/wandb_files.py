"""Reads the runs of any script from the local folder of W&B's client, as read.py reads our runs.

    wandb/offline-run-20250131_120000-3kq8v0xz/     or run-…, if the run was online
        run-3kq8v0xz.wandb                          every record of the run, in the client's own format
        files/media/images/…                        pictures, videos, pages, tables and plots

The client's own reader, `wandb leet inspect --json FILE`, prints one record per line. Records are read one by
one, and of a long run only the figures are kept in memory. This module does not write, does not import wandb,
and needs no network.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from launch.results import headline, read
from launch.results.metric import is_finite
from launch.results.read import COLUMNS, Run, Sweep, why
from launch.results.values import show
from research.common.folder import CONFIG, STATUS, SWEEP
from research.common.messages import UserError, counted

CLIENTS = ("wandb", ".wandb")  # names that W&B's client gives to the folder that it makes
DEEPEST, MOST = 6, 20_000  # such folders are looked for down to this depth, in at most this many folders
RUN_FOLDER = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-.+")
LINE = re.compile(rb'\{"num":\d+,"type":"(\w+)"')  # the beginning of each line that the reader prints
WANTED = {"run", "config", "environment", "history", "summary", "metric", "telemetry", "output_raw"}
WANTED |= {"preempting", "exit"}
NOT_FINITE = {"NaN", "Infinity", "-Infinity"}  # as the reader writes them
QUIET_S = 300  # as at W&B: a run without a recorded end whose file is left alone for so long counts as dead
TORN = "{} is torn at its end: what was written last is lost"
TAIL = 40  # lines of the console that are kept
WIDEST = 2000  # characters of such a line that are kept
SEVERAL = 16  # pictures of one list that are shown, at most
LONGEST = 300  # characters of a picture's caption that are kept
# the kinds of media that the report can show, by the names that the client gives them
SHOWN = {"image-file", "images/separated", "video-file", "videos", "html-file", "html", "plotly-file"}
SHOWN |= {"table-file", "incremental-table-file"}
# Some config entries only say where or when a run was made: those whose name is in PLACE_NAMES, or has one of
# PLACE_WORDS but none of INPUT_WORDS. An optimizer's name or a data set's folder is a setting.
PLACE_WORDS = {"dir", "directory", "folder", "logdir", "output", "host", "hostname"}
PLACE_WORDS |= {"time", "timestamp", "date", "uuid"}
INPUT_WORDS = {"data", "dataset", "datasets", "model", "checkpoint", "train", "val", "test"}
PLACE_NAMES = {"name", "run_name", "exp_name", "experiment_name", "run_id", "exp_id", "job_id"}
LISTED = 12  # names that a line of the report's header lists, at most


@dataclass
class WandbRun(Run):
    """A run of any script, as W&B's client kept it. `folder` is the folder of its last start.

    config: `flags` (the run's config; nested entries have dotted names) and, if known, `headline`, `goal`,
    `wandb_id`, `name`, `project`, `entity`, `group`, `job_type`, `tags`, `notes`, `sweep_id`, `started`,
    `family` (the script), `command`, `source` (its commit), `step_metrics` (metric → its x-axis). status: as
    for our runs; also `summary`, `console` (its last lines), `exit_code`, `written` (UNIX seconds). rows: as
    for our runs, only numbers, None for what is not finite; also `_timestamp` (UNIX seconds) and `_runtime`
    (seconds since its start).
    """

    followed: frozenset[str] = frozenset()  # figures in its history, without those that only its summary has
    own_places: frozenset[str] = frozenset()  # flags that say where or when it was made
    goals: dict[str, str] = field(default_factory=dict)  # figure -> goal, as define_metric recorded it
    unseen: dict[str, str] = field(default_factory=dict)  # media key -> its kind, which our page can't show
    starts: int = 1  # how often it was started

    @property
    def title(self) -> str:
        """The run's name, followed by its W&B id in brackets; only the id if it has no other name."""
        name, key = self.config.get("name"), self.config["wandb_id"]
        return f"{name} ({key})" if name and name != key else key

    @property
    def result_flags(self) -> set[str]:
        return set(self.flags) - self.own_places

    def is_curve(self, name: str) -> bool:
        return name in self.followed

    @property
    def seconds(self) -> list[tuple[int, float]]:
        """(step, seconds since its start) from its rows."""
        rows = [(row.get("step"), row.get("_runtime")) for row in self.rows]
        return [(step, seconds) for step, seconds in rows if step is not None and is_finite(seconds)]

    @property
    def url(self) -> str | None:
        entity, project = self.config.get("entity"), self.config.get("project")
        if not (entity and project) or self.folder.name.startswith("offline-"):
            return None
        return f"{read.wandb_address(self.folder.parent)}/{entity}/{project}/runs/{self.config['wandb_id']}"


# ------------------------------------------------------------------------------------ one file


def reader(file: Path) -> list[str]:
    """The command line of the client's own reader. UserError: the client is not installed.

    `wandb leet inspect` spends a second in Python before it starts wandb-core, which does the work. For
    hundreds of runs this adds up to minutes, so wandb-core is called directly if the package contains it.
    """
    package = importlib.util.find_spec("wandb")
    if package is None or package.origin is None:
        raise UserError("W&B's files are read with its client, which is not installed: pip install wandb")
    core = Path(package.origin).parent / "bin" / "wandb-core"
    if core.is_file():
        return [
            str(core),
            "leet",
            "inspect",
            "--no-observability",
            "--json",
            "--run-file",
            str(file),
            str(file.parent),
        ]
    return [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]


def records(file: Path, complaints: list[str]) -> Iterator[tuple[str, dict]]:
    """(type, content) of each record whose type is WANTED, in order; never all of them in memory.

    At the end, what the reader could not read is added to `complaints`, in words. OSError: it can read
    nothing.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError(None, "it is not a regular file")
    damaged = 0
    # without error reporting the client uses no network; its log goes to a harmless place
    environment = os.environ | {"WANDB_ERROR_REPORTING": "false", "WANDB_DIR": tempfile.gettempdir()}
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            reader(file), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=environment
        ) as process,
    ):
        try:
            for line in process.stdout:
                begins = LINE.match(line)
                if begins and begins[1].decode() not in WANTED:
                    continue
                try:
                    record = json.loads(line)
                    kind = record["type"]
                    content = record.get(kind, {})
                except (ValueError, TypeError, KeyError, RecursionError):
                    damaged += 1
                    continue
                if kind in WANTED and isinstance(content, dict):
                    yield kind, content
        except BaseException:
            process.kill()
            raise
        failed = process.wait()
        said.seek(0)
        words = [line.strip() for line in said.read(10_000).decode("utf-8", "replace").splitlines()]
    words = [word.removeprefix("wandb leet inspect: ") for word in words if word]
    if failed:
        last = words[-1].removeprefix("Error: ") if words else f"its reader ended with exit code {failed}"
        raise OSError(None, last)
    if any("corrupt" in word for word in words):
        complaints.append(f"{file.name} is damaged: what cannot be read in it is left out")
    elif any("incomplete" in word for word in words):
        complaints.append(TORN.format(file.name))
    if damaged:
        complaints.append(f"{counted(damaged, 'record')} of {file.name} cannot be read")


@dataclass
class Segment:
    """One start of a run: the content of one .wandb file."""

    file: Path
    run: dict = field(default_factory=dict)  # the record "run": id, names, group, tags, start
    environment: dict = field(default_factory=dict)  # program, arguments, host, commit
    config: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)
    media: dict[str, list[tuple[int, Path]]] = field(default_factory=lambda: defaultdict(list))
    captions: dict[Path, str] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    goals: dict[str, str] = field(default_factory=dict)
    step_metrics: dict[str, str] = field(default_factory=dict)
    gives_steps: bool = False  # the script counts its steps itself
    preempting: bool = False
    exit_code: int | None = None
    console: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))
    problems: list[str] = field(default_factory=list)
    readable: bool = True
    written: float = 0.0  # UNIX seconds
    _unfinished: dict[str, str] = field(default_factory=lambda: defaultdict(str))
    _missing: list[str] = field(default_factory=list)
    _refused: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def id(self) -> str:
        return str(self.run.get("run_id") or self.file.stem.removeprefix("run-"))

    @property
    def order(self) -> tuple[str, str]:
        """A key that sorts segments by their start, whose time W&B puts into the folder's name."""
        return self.folder.name.removeprefix("offline-"), self.file.name

    def add(self, kind: str, content: dict) -> None:
        """Take in one record."""
        if kind == "history":
            self._add_row(content)
        elif kind == "summary":
            _change(self.summary, content)
        elif kind == "config":
            _change(self.config, content)
        elif kind == "run":
            self.run |= content
            _change(self.config, content.get("config") or {})
            self._add_features(content.get("telemetry") or {})
        elif kind == "telemetry":
            self._add_features(content)
        elif kind == "environment":
            self.environment |= content
        elif kind == "metric":
            self._add_metric(content)
        elif kind == "output_raw":
            self._add_output(content)
        elif kind == "preempting":
            self.preempting = True
        elif kind == "exit":
            self.exit_code = int(content.get("exit_code") or 0)

    def _add_features(self, telemetry: dict) -> None:
        self.gives_steps |= bool((telemetry.get("feature") or {}).get("set_step_log"))

    def _add_metric(self, content: dict) -> None:
        """Take in a call of define_metric: its step metric and its goal. A summary that keeps the least or
        the largest value also reveals the goal.
        """
        name = content.get("name") or content.get("glob_name")
        if not name:
            return
        if over := content.get("step_metric"):
            self.step_metrics[name] = over
        said, kept = str(content.get("goal", "")).lower(), content.get("summary") or {}
        for goal, word in (("minimize", "min"), ("maximize", "max")):
            other = "max" if word == "min" else "min"
            if goal in said or (not said and kept.get(word) and not kept.get(other)):
                self.goals[name] = goal

    def _add_output(self, content: dict) -> None:
        """Take in output of the console; its last lines are kept as a terminal would show them."""
        stream = str(content.get("output_type"))
        *done, rest = (self._unfinished[stream] + str(content.get("line") or "")).split("\n")
        self._unfinished[stream] = rest[-WIDEST:]
        self.console += [_as_shown(line) for line in done]

    def _add_row(self, content: dict) -> None:
        """Take in one row of the history: its numbers, and the files that its other values name."""
        item = content.get("item")
        if not isinstance(item, dict):
            return
        step = (content.get("step") or {}).get("num", item.get("_step"))
        if not isinstance(step, int):
            step = self.rows[-1]["step"] + 1 if self.rows else 0
        kinds = {name.removesuffix("._type"): kind for name, kind in item.items() if name.endswith("._type")}
        within = tuple(f"{key}." for key in kinds)
        row = {"step": step}
        for name, value in item.items():
            if name == "_step" or (within and name.startswith(within)):
                continue
            if _is_number(value):
                row[sys.intern("step (logged)" if name == "step" else name)] = _finite(value)
        self.rows.append(row)
        for key, kind in kinds.items():
            if not key.startswith(within):  # masks and boxes belong to a picture
                self._add_media(key, str(kind), step, item)

    def _add_media(self, key: str, kind: str, step: int, item: dict) -> None:
        """Take in the files of one media value; if it is a list, each file gets a key of its own."""
        values = [
            value for name, value in item.items() if name.startswith(f"{key}.") and isinstance(value, list)
        ]
        lists = [
            [v.get("path") for v in value] for value in values if all(isinstance(v, dict) for v in value)
        ]
        paths = item.get(f"{key}.filenames") or next(filter(None, lists), None) or [item.get(f"{key}.path")]
        if kind not in SHOWN or not isinstance(paths, list) or paths == [None]:
            self.unseen[key] = kind
            return
        given = item.get(f"{key}.captions")
        captions = given if isinstance(given, list) else [item.get(f"{key}.caption")]
        for i, name in enumerate(paths[:SEVERAL], 1):
            path = self._media_file(name)
            if path:
                self.media[key if len(paths) == 1 else f"{key} {i}"].append((step, path))
                if caption := captions[i - 1] if i <= len(captions) else None:
                    self.captions[path] = str(caption)[:LONGEST]
        if len(paths) > SEVERAL:
            self.unseen[key] = f"{len(paths)} files a step, of which the first {SEVERAL} are shown"

    def _media_file(self, name: Any) -> Path | None:
        """A media file of this run; None, after a note, if it is missing or outside the run's folder."""
        try:
            parts = PurePosixPath(name).parts
            path = self.folder / "files" / name
            real = path.resolve()
            if ".." in parts or not real.is_relative_to(self.folder.resolve()):
                self._refused.append(name)
            elif stat.S_ISREG(real.stat().st_mode):
                return path
            else:
                self._missing.append(name)
        except (OSError, ValueError, TypeError, RuntimeError):
            self._missing.append(str(name))
        return None

    def finish(self) -> None:
        """Draw the conclusions that need all records: call it after the last `add`."""
        self.console += [_as_shown(rest) for rest in self._unfinished.values() if rest.strip()]
        if self.exit_code is None and self.is_fresh:  # a file that is still being written may end anywhere
            self.problems = [text for text in self.problems if text != TORN.format(self.file.name)]
        for names, what in (
            (self._refused, "leads outside the run's folder and is refused"),
            (self._missing, "is not there"),
        ):
            if names:
                others = f", and {len(names) - 1} more" if len(names) > 1 else ""
                self.problems.append(f"the media file {names[0]} {what}{others}")

    @property
    def is_fresh(self) -> bool:
        return time.time() - self.written < QUIET_S

    def end(self) -> tuple[str, str | None]:
        """(status, reason) of this start."""
        if not self.readable:
            return "unreadable", None
        if self.exit_code == 0:
            return "finished", None
        if self.exit_code is not None:
            if self.preempting:
                return "preempted", f"exit code {self.exit_code}"
            said = [line for line in self.console if line.strip() and not line.startswith("wandb:")]
            last = f"; the console ends: {said[-1].strip()[:200]}" if said else ""
            return "failed", f"exit code {self.exit_code}{last}"
        when = f"{datetime.fromtimestamp(self.written, UTC):%Y-%m-%d %H:%M} UTC"
        if self.is_fresh:
            return "running", f"no end is recorded yet; last written {when}"
        return "failed", f"killed, it seems: no end is recorded, and nothing was written after {when}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, str) and value in NOT_FINITE)


def _finite(number: Any) -> float | int | None:
    """A logged number as in the rows of our runs: None for what is not finite, 1 for True."""
    if isinstance(number, str):
        return None
    if isinstance(number, int) and abs(number) < 2**53:
        return int(number)
    try:
        value = float(number)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _as_shown(line: str) -> str:
    """A line as a terminal finally shows it: the last state of a progress bar, without codes for colours."""
    kept = next((part for part in reversed(line.split("\r")) if part.strip()), "")
    return re.sub(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|.)", "", kept)[:WIDEST]


def _change(values: dict, content: dict) -> None:
    """Carry out a record that updates and removes entries."""
    values |= content.get("update") or {}
    for removed in content.get("remove") or ():
        name = removed.get("key") or ".".join(removed.get("nested_key") or ())
        for key in [key for key in values if key == name or key.startswith(f"{name}.")]:
            del values[key]


def flatten(values: dict, before: str = "") -> dict:
    """{"a": {"b": 1}} → {"a.b": 1}; an empty dict stays a value."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = value
    return flat


def read_segment(file: Path) -> Segment:
    """One .wandb file. Whatever it contains, nothing is raised: `problems` says what cannot be read."""
    segment, complaints = Segment(file), []
    try:
        segment.written = max(_written(path) for path in (file, file.parent / "files" / "output.log"))
        for kind, content in records(file, complaints):
            segment.add(kind, content)
    except OSError as error:
        segment.readable = False
        complaints.append(f"{file.name} cannot be read ({why(error)})")
    segment.problems += complaints
    segment.finish()
    return segment


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


# ------------------------------------------------------------------------------------ one run


def join(segments: list[Segment]) -> WandbRun:
    """One run from all of its starts, with its rows in the order of their steps.

    If two starts have logged the same step, the values of the later one count. A start that leaves its steps
    to W&B begins at 0 again when it was resumed offline; its steps then continue those of the start before,
    as `wandb sync` does it.
    """
    rows: dict[int, dict] = {}
    media: dict[str, dict[int, Path]] = defaultdict(dict)
    first_steps, problems, config, summary = [], [], {}, {}
    for segment in segments:
        first, last = min((row["step"] for row in segment.rows), default=0), max(rows, default=-1)
        again = segment.rows and first == 0 and last >= 0
        shift = last + 1 if again and not segment.gives_steps else 0
        first_steps.append(first + shift)
        for row in segment.rows:
            row["step"] += shift
            if earlier := rows.get(row["step"]):
                earlier |= row
            else:
                rows[row["step"]] = row
        for key, files in segment.media.items():
            media[key] |= {step + shift: path for step, path in files}
        config |= segment.config
        summary |= segment.summary
        name = f"{segment.folder.name}: " if len(segments) > 1 else ""
        problems += [f"{name}{text}" for text in segment.problems]
    last = segments[-1]
    status, reason = last.end()
    ordered, known = [rows[step] for step in sorted(rows)], bool(rows)
    run = WandbRun(last.folder, rows=ordered, starts=len(segments))
    run.media = {key: sorted(files.items()) for key, files in sorted(media.items()) if files}
    for segment in segments:
        run.goals |= segment.goals
        run.unseen |= segment.unseen
        run.captions |= segment.captions
    followed = {name for row in ordered for name in row if name != "step" and not name.startswith("_")}
    run.followed = frozenset(followed)
    run.config = _config(segments, config)
    summary = _outcome(summary)
    run.status = {
        "status": status,
        "reason": reason,
        "step": ordered[-1]["step"] if ordered else None,
        "summary": summary,
        "exit_code": last.exit_code,
        "console": list(last.console),
        "written": last.written,
        "segments": [
            {"host": s.run.get("host"), "from_step": step} | _commit(s)
            for s, step in zip(segments, first_steps)
        ],
    }
    only_there = {name: value for name, value in summary.items() if _is_new(name, value, followed)}
    if only_there:
        if not run.rows:
            run.rows.append({})
        run.rows[-1] |= only_there
    if any(segment.readable for segment in segments):
        problems += [] if run.flags else ["no config is recorded"]
        problems += [] if known else ["no history is recorded"]
    run.problem = "; ".join(problems) or None
    return run


def _outcome(summary: dict) -> dict:
    """The summary without W&B's own entries and without media; None for what is not finite."""
    flat = flatten(summary)
    media = tuple(name.removesuffix("_type") for name in flat if name.endswith("._type"))
    kept = {}
    for name, value in flat.items():
        if not name.startswith(("_", *media)):
            kept[name] = _finite(value) if _is_number(value) else value
    return kept


def _is_new(name: str, value: Any, followed: set[str]) -> bool:
    """Whether an entry of the summary is a number, and not just another form of a figure of the history."""
    base, _, kind = name.rpartition(".")
    repeats = name in followed or (
        base in followed and kind in ("min", "max", "mean", "first", "last", "best")
    )
    return not repeats and name != "step" and (value is None or isinstance(value, (int, float)))


def _commit(segment: Segment) -> dict:
    git = segment.environment.get("git") or segment.run.get("git") or {}
    return {"commit": git["commit"]} if git.get("commit") else {}


def _config(segments: list[Segment], config: dict) -> dict:
    """Everything known about the run except its figures, under the names that our config.json uses."""
    run, environment = {}, {}
    for segment in segments:
        run |= segment.run
        environment |= segment.environment
    flags = flatten({name: value for name, value in config.items() if name != "_wandb"})
    program = str(environment.get("program") or "")
    program = "" if program.startswith("<") else program  # an interactive session: <python with no main file>
    script = environment.get("code_path") or program
    if program.startswith("-m "):
        words = ["python", *program.split(maxsplit=1)]
    elif program.endswith(".py"):
        words = ["python", script]
    else:  # a notebook
        words = []
    known = {
        "name": run.get("display_name"),
        "project": run.get("project"),
        "entity": run.get("entity"),
        "group": run.get("run_group"),
        "job_type": run.get("job_type"),
        "tags": run.get("tags"),
        "notes": run.get("notes"),
        "sweep_id": run.get("sweep_id"),
        "started": segments[0].run.get("start_time"),
        "family": program.removeprefix("-m ") if program.startswith("-m ") else PurePosixPath(script).name,
        "source": _commit(segments[0]),
        "step_metrics": {name: over for s in segments for name, over in s.step_metrics.items()},
    }
    given = [str(word) for word in environment.get("args") or ()]
    return {
        "flags": flags,
        "wandb_id": segments[-1].id,
        "command": [*words, *given] if words else [],
    } | {name: value for name, value in known.items() if value}


# ------------------------------------------------------------------------------------ a folder


def place_of(folder: Path | str) -> Path | None:
    """The folder in which W&B's client kept runs: `folder`, which may be that of one run, or `wandb` or
    `.wandb` in it.

    If none of these has runs, but folders further below do, it is `folder` itself: launchers such as Hydra
    give each run a folder of its own. None if there are no runs at all.
    """
    folder = Path(folder).resolve()
    places = (folder, folder / "wandb", folder / ".wandb")
    found = next((place for place in places if _runs_in(place)), None)
    return found or (folder if _run_folders(folder) else None)


def _run_folders(place: Path) -> list[Path]:
    """The runs' folders in `place`, or else those below it."""
    return _runs_in(place) or sorted(
        path for folder in _folders_below(place) if folder.name in CLIENTS for path in _runs_in(folder)
    )


def _runs_in(place: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        if _run_files(place):
            return [place]
        found = (path for path in place.iterdir() if RUN_FOLDER.fullmatch(path.name) and path.is_dir())
        return sorted(found)
    return []


def _folders_below(place: Path) -> Iterator[Path]:
    """The folders below `place`, as far as DEEPEST and MOST allow, without those of our own runs."""
    for _, (at, names, files) in zip(range(MOST), os.walk(place)):
        folder = Path(at)
        ours = {CONFIG, STATUS} <= set(files) or SWEEP in files
        if ours or len(folder.relative_to(place).parts) == DEEPEST:
            names.clear()
        names[:] = sorted(name for name in names if name == ".wandb" or not name.startswith((".", "_")))
        if not ours:
            yield from (folder / name for name in names)
        names[:] = [name for name in names if name not in CLIENTS]


def _run_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("run-*.wandb"))


def read_wandb(folder: Path | str, metric: str | None = None, goal: str | None = None) -> Sweep:
    """The runs that W&B's client kept in a folder (see `place_of`). A run that was resumed counts once.

    metric, goal: what runs are judged by; if None, headline.py chooses it. UserError: no run has logged this
    metric, or the folder has no runs.
    """
    place = place_of(folder)
    if place is None:
        raise UserError(f"{folder}: holds no runs")
    starts: dict[str, list[Segment]] = defaultdict(list)
    empty = []
    for path in _run_folders(place):
        files = _run_files(path)
        for file in files:
            segment = read_segment(file)
            starts[segment.id].append(segment)
        if not files:
            empty.append(_nothing(path))
    runs = []
    for segments in starts.values():
        runs += map(join, _by_project(sorted(segments, key=lambda segment: segment.order)))
    runs = [*runs, *empty]
    runs.sort(key=lambda run: (run.folder.name.removeprefix("offline-"), run.title))
    spec = {"parameters": {name: {} for name in _sweep_parameters(runs)}}
    projects = sorted({str(run.config["project"]) for run in runs if "project" in run.config})
    sweep = Sweep(
        place,
        projects[0] if len(projects) == 1 else place.name,
        text="",
        spec=spec if spec["parameters"] else {},
        header="",
        runs=runs,
        open_trials=[],
        foreign=True,
    )
    _tell_apart(sweep)
    choice = _judge(runs, metric, goal)
    _choose_figures(sweep, choice)
    lines = _header(sweep, choice, projects)
    # names may contain characters that control a terminal
    sweep.header = "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines)
    return sweep


def _nothing(path: Path) -> WandbRun:
    """An unreadable run, for a run's folder that has no .wandb file."""
    key = path.name.rpartition("-")[2]
    status = {"status": "unreadable", "segments": []}
    return WandbRun(
        path, {"wandb_id": key, "flags": {}, "command": []}, status, problem="it has no .wandb file"
    )


def _by_project(segments: list[Segment]) -> Iterable[list[Segment]]:
    """The starts with one id, a list for each run: an id belongs to one run within a project only. A start
    that names no project belongs to the run before it.
    """
    projects: dict[Any, list[Segment]] = {}
    for segment in segments:
        project = segment.run.get("project")
        if project is None and projects:
            projects[next(reversed(projects))].append(segment)
        elif None in projects:  # the start that named none came first
            projects[project] = [*projects.pop(None), segment]
        else:
            projects.setdefault(project, []).append(segment)
    return projects.values()


def _sweep_parameters(runs: list[WandbRun]) -> list[str]:
    """Parameters of the W&B sweeps to which the runs belong; `wandb agent` writes them beside the runs."""
    names: dict[str, None] = {}
    for run in runs:
        sweep, key = run.config.get("sweep_id"), run.config["wandb_id"]
        if sweep:
            with contextlib.suppress(OSError, ValueError, TypeError, yaml.YAMLError):
                kept = run.folder.parent / f"sweep-{sweep}" / f"config-{key}.yaml"
                given = yaml.safe_load(kept.read_text("utf-8"))
                values = {
                    name: (value or {}).get("value")
                    for name, value in given.items()
                    if name != "wandb_version"
                }
                names |= dict.fromkeys(flatten(values))
    return [name for name in names if any(name in run.flags for run in runs)]


def _tell_apart(sweep: Sweep) -> None:
    """Exclude flags that only say where or when a run was made from the comparison; give runs whose flags are
    equal their id as one more flag.
    """
    apart = frozenset(_own_places(sweep.runs))
    left = read.varied_flags(sweep.runs, sweep.spec.get("parameters") or ())
    if set(left) - apart:  # else there would be nothing to compare
        for run in sweep.runs:
            run.own_places = apart
    varied = sweep.varied
    points = [tuple(show(run.flags.get(name)) for name in varied) for run in sweep.runs]
    if varied and len(set(points)) < len(points) and "seed" not in varied:
        for run in sweep.runs:
            run.config["flags"] = run.flags | {"run id": run.config["wandb_id"]}


def _own_places(runs: list[WandbRun]) -> Iterator[str]:
    """Flags whose value is a different text in every run, and whose name speaks of a place or a time."""
    for name in {name for run in runs for name in run.flags}:
        words = set(re.findall(r"[a-z]+", name.rpartition(".")[2].lower()))
        speaks = (words & PLACE_WORDS and not words & INPUT_WORDS) or name.lower() in PLACE_NAMES
        values = [run.flags[name] for run in runs if name in run.flags]
        if speaks and all(isinstance(value, str) for value in values) and len(set(values)) == len(values) > 1:
            yield name


def _judge(runs: list[WandbRun], metric: str | None, goal: str | None) -> headline.Choice | None:
    """Choose the figure by which the runs are judged, and note it in each of them."""
    own = [{name for row in run.rows for name in row if name != "step" and name[:1] != "_"} for run in runs]
    recorded: dict[str, str] = {}
    for run in runs:
        recorded |= run.goals
    choice = headline.choose(Counter(name for names in own for name in names), recorded, metric, goal)
    if choice:
        for run in runs:
            run.config |= {"headline": choice.metric.name, "goal": choice.metric.goal}
            run.status["headline"] = choice.metric.value(run.rows)
    return choice


def _choose_figures(sweep: Sweep, choice: headline.Choice | None) -> None:
    """Choose the figures that get a column in a table: first the metric, then those that say most."""
    taken = {*COLUMNS, *sweep.varied}
    names = {name for run in sweep.runs for row in run.rows for name in row if name[:1] != "_"} - taken
    judge = choice.metric.name if choice else None
    sweep.figures = sorted(names, key=lambda name: (name != judge, headline.rank(name)))


def _header(sweep: Sweep, choice: headline.Choice | None, projects: list[str]) -> Iterator[str]:
    """The lines at the top of the report: what was read, what runs are judged by, and what is left out."""
    starts = sum(run.starts for run in sweep.runs)
    of = f" of {' and '.join(projects)}" if projects else ""
    yield f"{counted(len(sweep.runs), 'run')}{of}, read from W&B's own files in {sweep.folder.name}"
    if starts > len(sweep.runs):
        again = [f"{run.title} ({run.starts} starts)" for run in sweep.runs if run.starts > 1]
        yield f"Resumed: {_listed(again)}; joined by step"
    how = "--metric=NAME --goal=minimize (or maximize)"
    if choice:
        name, goal = choice.metric.name, choice.metric.goal
        yield f"Judged by: {name}, to {goal} ({choice.why}); to choose another: {how}"
    else:
        yield f"Judged by: nothing, because no logged name says which run is better; to choose one: {how}"
    for title, name in (("Groups", "group"), ("Tags", "tags"), ("Sweeps", "sweep_id")):
        found = [run.config.get(name) or [] for run in sweep.runs]
        counts = Counter(word for words in found for word in (words if isinstance(words, list) else [words]))
        if counts:
            yield f"{title}: {_listed([f'{word} ({n})' for word, n in counts.most_common()])}"
    apart = sorted(set().union(*(run.own_places for run in sweep.runs)))
    if apart:
        yield f"Not compared: {_listed(apart)}, since that only says where or when each run was made"
    unseen = {key: kind for run in sweep.runs for key, kind in run.unseen.items()}
    if unseen:
        yield f"Not shown: {_listed([f'{key} ({kind})' for key, kind in sorted(unseen.items())])}"


def _listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
