"""How far the trials of a sweep folder are. It only reads; launch/local.py and launch/slurm.py show it."""

import contextlib
import json
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launch.results.metric import Metric, is_finite, metric_of
from launch.results.read import show, why
from launch.sweep.early_stop import is_early
from launch.sweep.history import Histories
from launch.sweep.queue import Queue, Trial
from launch.sweep.sweep_file import searched
from research.common import lease as leases
from research.common.folder import CONFIG, ENDED, METRICS, OUTPUT, STATUS, SWEEP, TIMES, read_json


@dataclass(frozen=True)
class Row:
    """One trial, and what is known about its run."""

    trial: Trial
    folder: Path
    label: str  # its varied flags
    varied: dict[str, str]  # each varied flag and its value, as people write it
    status: str  # from the run itself; "open" before there is a run, "unreadable" if it can't be read
    held: bool = False  # whether a process trains it or is about to
    step: int = 0  # the last step that is known
    steps: int | None = None
    headline: float | None = None
    judged_by: str | None = None  # the headline's name, as soon as the run has written it
    metric: float | None = None  # the run's value of the metric that the YAML names
    examples_per_s: float | None = None  # this and the next only while it runs
    minutes_left: float | None = None
    where: str = ""  # host, and on a cluster also the job and how often it was restarted
    reason: str | None = None  # why it ended as it did, or what can't be read
    early: bool = False  # whether early stopping ended it

    @property
    def state(self) -> str:
        """The status, or 'interrupted' if the run says that it is running but no process has it."""
        return "interrupted" if self.status == "running" and not self.held else self.status

    def last_lines(self, n: int = 8) -> list[str]:
        """The last n lines that the training process has printed."""
        try:
            return (self.folder / OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()[-n:]
        except FileNotFoundError:
            return []
        except OSError as error:
            return [f"{OUTPUT} cannot be read ({why(error)})"]


class Progress:
    """Looks at the trials of a sweep. parameters: those of its YAML.

    metric: the metric in the sweep's frozen YAML, but only after a run was seen whose headline is another
    one.
    """

    def __init__(self, queue: Queue, parameters: dict[str, Any]):
        self.queue, self.watch = queue, leases.Watch()
        self.metric: Metric | None = None
        self._given = _metric_of(queue.folder)
        if self._given:
            named = {"name": self._given.name, "goal": self._given.goal}
            self._histories = Histories(queue, {"metric": named})
        self._headlines: dict[str, str] = {}  # key of a run -> the name of its headline, which never changes
        self._ended: dict[str, tuple[dict[str, Any], list[str], Row]] = {}  # key -> (status, flags, row)
        self._searched = searched(parameters)

    def varied(self) -> list[str]:
        """The flags that differ between trials, including trials that are not made yet."""
        return list(dict.fromkeys([*self._searched, *self.queue.varied()]))

    def label(self, trial: Trial) -> str:
        shown = [f"{name}={show(trial.flags[name], 6)}" for name in self.varied() if name in trial.flags]
        return " ".join(shown) or trial.key

    def rows(self, running: Collection[str] = ()) -> list[Row]:
        """A row for each trial, by index. running: the SLURM jobs that are known to run."""
        return [self._row(trial, running) for trial in self.queue.trials()]

    def _row(self, trial: Trial, running: Collection[str]) -> Row:
        """The row of a trial. If its run can't be read, the row says so, and the other rows
        are still shown.
        """
        folder, failed = self.queue.run_folder(trial), self.queue.failure(trial)
        try:
            status = _status(folder)
            if failed and status["status"] not in ENDED:
                status = failed
            return self._readable(trial, folder, status, running)
        except OSError as error:
            if failed:
                return Row(trial, folder, self.label(trial), self._shown(trial), **_told(failed))
            name = Path(os.fsdecode(error.filename or folder)).name
            reason = f"{'the folder' if name == folder.name else name} cannot be read ({why(error)})"
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # from damaged files
            reason = f"its files are damaged ({type(error).__name__}: {why(error)})"
        return Row(trial, folder, self.label(trial), self._shown(trial), "unreadable", reason=reason)

    def _shown(self, trial: Trial) -> dict[str, str]:
        return {name: show(trial.flags.get(name), 6) for name in self.varied()}

    def _readable(self, trial: Trial, folder: Path, status: dict[str, Any], running: Collection[str]) -> Row:
        ended, varied = status["status"] in ENDED, self.varied()
        if trial.key in self._ended and self._ended[trial.key][:2] == (status, varied):
            return self._ended[trial.key][2]  # for speed: views look every second, and most trials have ended
        reason, early = status.get("reason"), is_early(status.get("reason"))
        try:
            n, info = leases.newest(folder)
            held = not ended and self._is_held(folder, n, info, running)
            where = _where(info)
        except (OSError, TypeError, KeyError) as error:  # the rest of the run is readable, and shown
            held, where, reason = not ended, "", f"its lease cannot be read ({why(error)})"
        step, steps = _count(status.get("step")) or 0, _count(status.get("steps"))
        examples_per_s = minutes_left = None
        if not ended:
            step = max(step, _count(_last_row(folder / METRICS).get("step")) or 0)
        if held and status["status"] == "running":
            timed = _last_row(folder / TIMES)
            if "time/step_ms" in timed:
                examples_per_s = timed["time/examples_per_s"]
                minutes_left = timed["time/step_ms"] * ((steps or 0) - step) / 60000
        row = Row(
            trial=trial,
            folder=folder,
            label=self.label(trial),
            varied=self._shown(trial),
            status=status["status"],
            held=held,
            step=step,
            steps=steps,
            headline=status.get("headline") if is_finite(status.get("headline")) else None,
            judged_by=self._headline(trial, folder),
            metric=self._value(trial, status),
            examples_per_s=examples_per_s,
            minutes_left=minutes_left,
            where=where,
            reason=reason,
            early=early,
        )
        if ended and row.judged_by:
            self._ended[trial.key] = (status, varied, row)
        return row

    def _headline(self, trial: Trial, folder: Path) -> str | None:
        """The name of the run's headline. If the sweep's metric is another figure, `metric` is set."""
        if trial.key not in self._headlines:
            name = (read_json(folder / CONFIG) or {}).get("headline")
            if not isinstance(name, str):
                return None
            self._headlines[trial.key] = name
            if self._given and not self._given.is_headline(name):
                self.metric = self._given
        return self._headlines[trial.key]

    def _value(self, trial: Trial, status: dict[str, Any]) -> float | None:
        """The run's value of the sweep's metric; None if there is none."""
        name = self._headlines.get(trial.key)
        if self._given is None or name is None:
            return None
        value = status.get("headline")
        if not self._given.is_headline(name):
            value = self._histories.value(trial, status)
        return value if is_finite(value) else None

    def _is_held(self, folder: Path, n: int, info: dict[str, Any] | None, running: Collection[str]) -> bool:
        """Whether a process has the run. n, info: the number and content of its newest lease."""
        if n == 0:
            return False
        if info is None:  # the lease is there, but not readable at the moment
            return True
        if info["released"] is not None:
            return False
        if info["slurm_job"] not in running and self.watch.stale(folder, n, info):
            return False
        if leases.is_local(info):
            return True
        # one look must be enough: a training process that is alive beats every 10 s
        try:
            age = time.time() - (folder / f"lease.{n}").stat().st_mtime
        except OSError:
            return False
        return age < leases.PATIENCE_S[info["role"]]


def _told(failed: dict[str, Any]) -> dict[str, str]:
    return {"status": "failed", "reason": str(failed.get("reason"))}


def _metric_of(folder: Path) -> Metric | None:
    """The metric that the frozen YAML of a sweep folder names; None if there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        return metric_of(yaml.safe_load((folder / SWEEP).read_text(encoding="utf-8")))
    return None


def _status(folder: Path) -> dict[str, Any]:
    """The content of status.json; the status "open" before there is one. OSError or
    ValueError: unreadable.
    """
    try:
        status = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if folder.is_symlink() and not folder.exists():
            raise OSError(0, "a broken link", str(folder)) from None
        return {"status": "open"}
    except ValueError:
        raise ValueError(f"{STATUS} is no JSON") from None
    if not isinstance(status, dict) or not isinstance(status.get("status"), str):
        raise ValueError(f"{STATUS} says no status")
    return status


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _where(info: dict[str, Any] | None) -> str:
    """The machine that made a lease; on a cluster also the job, and how often it was restarted."""
    if info is None:
        return ""
    words = [info["host"]]
    if info["slurm_job"]:
        words.append(f"job {info['slurm_job']}")
        if info["slurm_restarts"]:
            words.append(f"start {info['slurm_restarts']}")
    return " ".join(words)


def _last_row(path: Path) -> dict[str, Any]:
    """The last whole row of a .jsonl file, looked for in its last 8 KB; {} if there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError), open(path, "rb") as f:
        f.seek(max(0, f.seek(0, os.SEEK_END) - 8192))
        return dict(json.loads(f.read().rpartition(b"\n")[0].rpartition(b"\n")[2]))
    return {}
