"""How far the trials of a sweep folder have come. Only reads; launch/local.py and launch/slurm.py show it."""

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
    """One trial, and what is known of its run."""

    trial: Trial
    folder: Path
    label: str  # its varied flags
    varied: dict[str, str]  # of each varied flag the value, as people write it
    status: str  # as the run itself says; "open" before there is one, "unreadable" where it can't be told
    held: bool = False  # a process has it: trains it, or is about to
    step: int = 0  # the last one that is known of
    steps: int | None = None
    headline: float | None = None
    judged_by: str | None = None  # the headline's name, once the run has said it
    metric: float | None = None  # what it counts for by the metric that the YAML names
    examples_per_s: float | None = None  # only while it runs, as what follows
    minutes_left: float | None = None
    where: str = ""  # host, and on a cluster the job and how often that was started again
    reason: str | None = None  # why it ended as it did, or what can't be read of it
    early: bool = False  # early stopping ended it

    @property
    def state(self) -> str:
        """The status; but 'interrupted' where the run says that it is running and no process has it."""
        return "interrupted" if self.status == "running" and not self.held else self.status

    def last_lines(self, n: int = 8) -> list[str]:
        """The end of what the training process has printed."""
        try:
            return (self.folder / OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()[-n:]
        except FileNotFoundError:
            return []
        except OSError as error:
            return [f"{OUTPUT} cannot be read ({why(error)})"]


class Progress:
    """Looks at the trials of a sweep. parameters: those of its YAML.

    metric: the sweep's, as its frozen YAML says, once a run was seen whose headline is another.
    """

    def __init__(self, queue: Queue, parameters: dict[str, Any]):
        self.queue, self.watch = queue, leases.Watch()
        self.metric: Metric | None = None
        self._given = _metric_of(queue.folder)
        if self._given:
            named = {"name": self._given.name, "goal": self._given.goal}
            self._histories = Histories(queue, {"metric": named})
        self._headlines: dict[str, str] = {}  # of each run, by key: the name does not change
        self._ended: dict[str, tuple[dict[str, Any], list[str], Row]] = {}  # by key, and what it was made of
        self._searched = searched(parameters)

    def varied(self) -> list[str]:
        """The flags that differ between trials, those included that are yet to be made."""
        return list(dict.fromkeys([*self._searched, *self.queue.varied()]))

    def label(self, trial: Trial) -> str:
        shown = [f"{name}={show(trial.flags[name], 6)}" for name in self.varied() if name in trial.flags]
        return " ".join(shown) or trial.key

    def rows(self, running: Collection[str] = ()) -> list[Row]:
        """One row a trial, by index. running: the SLURM jobs that are known to run."""
        return [self._row(trial, running) for trial in self.queue.trials()]

    def _row(self, trial: Trial, running: Collection[str]) -> Row:
        """A run that can't be read has a row that says so: it must not hide the others."""
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
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # what damaged files bring up
            reason = f"its files are damaged ({type(error).__name__}: {why(error)})"
        return Row(trial, folder, self.label(trial), self._shown(trial), "unreadable", reason=reason)

    def _shown(self, trial: Trial) -> dict[str, str]:
        return {name: show(trial.flags.get(name), 6) for name in self.varied()}

    def _readable(self, trial: Trial, folder: Path, status: dict[str, Any], running: Collection[str]) -> Row:
        ended, varied = status["status"] in ENDED, self.varied()
        if trial.key in self._ended and self._ended[trial.key][:2] == (status, varied):
            return self._ended[trial.key][2]  # a view looks every second, and most trials have ended long ago
        reason, early = status.get("reason"), is_early(status.get("reason"))
        try:
            n, info = leases.newest(folder)
            held = not ended and self._is_held(folder, n, info, running)
            where = _where(info)
        except (OSError, TypeError, KeyError) as error:  # it says nothing of what the run has done
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
        """The name of the run's headline. Notes it where that is another than the sweep's metric."""
        if trial.key not in self._headlines:
            name = (read_json(folder / CONFIG) or {}).get("headline")
            if not isinstance(name, str):
                return None
            self._headlines[trial.key] = name
            if self._given and not self._given.is_headline(name):
                self.metric = self._given
        return self._headlines[trial.key]

    def _value(self, trial: Trial, status: dict[str, Any]) -> float | None:
        """What the run counts for by the sweep's metric; None without one."""
        name = self._headlines.get(trial.key)
        if self._given is None or name is None:
            return None
        value = status.get("headline")
        if not self._given.is_headline(name):
            value = self._histories.value(trial, status)
        return value if is_finite(value) else None

    def _is_held(self, folder: Path, n: int, info: dict[str, Any] | None, running: Collection[str]) -> bool:
        """Whether a process has the run of this newest lease."""
        if n == 0:
            return False
        if info is None:  # there, but not readable at the moment
            return True
        if info["released"] is not None:
            return False
        if info["slurm_job"] not in running and self.watch.stale(folder, n, info):
            return False
        if leases.is_local(info):
            return True
        # one look has to do: a live training beats every 10 s
        try:
            age = time.time() - (folder / f"lease.{n}").stat().st_mtime
        except OSError:
            return False
        return age < leases.PATIENCE_S[info["role"]]


def _told(failed: dict[str, Any]) -> dict[str, str]:
    return {"status": "failed", "reason": str(failed.get("reason"))}


def _metric_of(folder: Path) -> Metric | None:
    """The metric that the frozen YAML of a sweep folder names; None before there is one."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        return metric_of(yaml.safe_load((folder / SWEEP).read_text(encoding="utf-8")))
    return None


def _status(folder: Path) -> dict[str, Any]:
    """What status.json says; "open" before there is one. OSError or ValueError where it can't be read."""
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
    """The machine that made a lease; on a cluster also its job, and how often this was started again."""
    if info is None:
        return ""
    words = [info["host"]]
    if info["slurm_job"]:
        words.append(f"job {info['slurm_job']}")
        if info["slurm_restarts"]:
            words.append(f"start {info['slurm_restarts']}")
    return " ".join(words)


def _last_row(path: Path) -> dict[str, Any]:
    """The last whole row of a .jsonl file, from its last 8 KB; {} without one."""
    with contextlib.suppress(OSError, ValueError, TypeError), open(path, "rb") as f:
        f.seek(max(0, f.seek(0, os.SEEK_END) - 8192))
        return dict(json.loads(f.read().rpartition(b"\n")[0].rpartition(b"\n")[2]))
    return {}
