"""How far the trials of a sweep folder have come. Only reads; launch/local.py and launch/slurm.py show it."""

import contextlib
import json
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.results.read import show
from launch.sweep.early_stop import is_early
from launch.sweep.queue import Queue, Trial
from research.common import lease as leases
from research.common.folder import ENDED, METRICS, OUTPUT, TIMES


@dataclass(frozen=True)
class Row:
    """One trial, and what is known of its run."""

    trial: Trial
    folder: Path
    label: str  # its varied flags
    varied: dict[str, str]  # of each varied flag the value, as people write it
    status: str  # as the run itself says; "open" before there is one
    held: bool  # a process has it: trains it, or is about to
    step: int  # the last one that is known of
    steps: int | None
    headline: float | None
    examples_per_s: float | None  # only while it runs, as what follows
    minutes_left: float | None
    where: str  # host, and on a cluster the job and how often that was started again
    reason: str | None  # why it ended as it did
    early: bool  # early stopping ended it

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


class Progress:
    """Looks at the trials of a sweep. parameters: those of its YAML."""

    def __init__(self, queue: Queue, parameters: dict[str, Any]):
        self.queue, self.watch = queue, leases.Watch()
        self._ended: dict[str, tuple[dict[str, Any], list[str], Row]] = {}  # by key, and what it was made of
        self._searched = [name for name, given in parameters.items() if "value" not in given]

    def varied(self) -> list[str]:
        """The flags that differ between trials; of a search's first one those that it searches."""
        return self.queue.varied() or self._searched

    def label(self, trial: Trial) -> str:
        shown = [f"{name}={show(trial.flags[name], 6)}" for name in self.varied() if name in trial.flags]
        return " ".join(shown) or trial.key

    def rows(self, running: Collection[str] = ()) -> list[Row]:
        """One row a trial, by index. running: the SLURM jobs that are known to run."""
        return [self._row(trial, running) for trial in self.queue.trials()]

    def _row(self, trial: Trial, running: Collection[str]) -> Row:
        folder, status = self.queue.run_folder(trial), self.queue.status(trial)
        ended, varied = status["status"] in ENDED, self.varied()
        if trial.key in self._ended and self._ended[trial.key][:2] == (status, varied):
            return self._ended[trial.key][2]  # a view looks every second, and most trials have ended long ago
        n, info = leases.newest(folder)
        held = not ended and self._is_held(folder, n, info, running)
        step, steps = status.get("step") or 0, status.get("steps")
        examples_per_s = minutes_left = None
        if not ended:
            step = max(step, _last_row(folder / METRICS).get("step", 0))
        if held and status["status"] == "running":
            timed = _last_row(folder / TIMES)
            if "time/step_ms" in timed:
                examples_per_s = timed["time/examples_per_s"]
                minutes_left = timed["time/step_ms"] * ((steps or 0) - step) / 60000
        row = Row(
            trial=trial,
            folder=folder,
            label=self.label(trial),
            varied={name: show(trial.flags.get(name), 6) for name in varied},
            status=status["status"],
            held=held,
            step=step,
            steps=steps,
            headline=status.get("headline"),
            examples_per_s=examples_per_s,
            minutes_left=minutes_left,
            where=_where(info),
            reason=status.get("reason"),
            early=is_early(status.get("reason")),
        )
        if ended:
            self._ended[trial.key] = (status, varied, row)
        return row

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
    with contextlib.suppress(OSError, ValueError), open(path, "rb") as f:
        f.seek(max(0, f.seek(0, os.SEEK_END) - 8192))
        return json.loads(f.read().rpartition(b"\n")[0].rpartition(b"\n")[2])
    return {}
