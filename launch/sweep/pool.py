"""The workers on this machine: how many there are, what each may use, and the live view of their training."""

import contextlib
import os
import shlex
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import dataclass

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from launch.results.columns import GAP, Column, fitting, left_out
from launch.sweep import begin, plan
from launch.sweep.progress import Progress, Row
from launch.sweep.proposer import Proposer
from launch.sweep.queue import DONE, Queue
from launch.sweep.worker import last_line
from research.common.commandline import EXIT_PREEMPTED, EXIT_USER_ERROR
from research.common.messages import UserError, console, escape

REFRESH_S = 1.0
MAX_RESTARTS = 20  # killed workers are replaced, at most so often in all


@dataclass(frozen=True, kw_only=True)
class LocalFlags(plan.SweepFlags):
    """The flags of a sweep that runs on this machine."""

    workers: int | None = None
    """number of trials that run at the same time; default: one per visible GPU, else one per CPU core"""
    runs_per_gpu: int = 1
    """workers that share one GPU"""
    threads: int | None = None
    """CPU threads of each worker; default: the cores divided among the workers; on GPUs, torch's own
    choice"""

    def __post_init__(self):
        super().__post_init__()
        for name in ("workers", "runs_per_gpu", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name}={value}: must be at least 1")


@dataclass(frozen=True)
class Slot:
    """Where a worker runs: its environment, and its largest number of threads (None: torch chooses)."""

    env: dict[str, str]
    threads: int | None


def slots(flags: LocalFlags) -> list[Slot]:
    """One slot per worker: each visible GPU `runs_per_gpu` times, or without GPUs a share
    of the CPU cores.
    """
    import torch

    gpus = torch.cuda.device_count()
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        n, threads = flags.workers or gpus * flags.runs_per_gpu, flags.threads
        return [
            Slot({"CUDA_VISIBLE_DEVICES": visible[i % gpus]} | limits(threads), threads) for i in range(n)
        ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    n = flags.workers or cores
    threads = flags.threads or max(1, cores // n)
    return [Slot(limits(threads), threads) for _ in range(n)]


def limits(threads: int | None) -> dict[str, str]:
    """The environment variables that limit a process to so many threads; None: no limit."""
    if threads is None:
        return {}
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


class Local:
    """The workers on this machine, and the view of what they are doing."""

    def __init__(self, flags: LocalFlags, sweep: plan.Sweep, queue: Queue, planned: int):
        self.flags, self.sweep, self.queue, self.first_planned = flags, sweep, queue, planned
        self.progress = Progress(queue, sweep.content["parameters"])
        self.proposer = Proposer(queue, sweep.content if flags.wandb != "online" else {})
        self.slots = slots(flags)
        self.workers: dict[int, subprocess.Popen] = {}
        # for each trial, the status that was printed last, or that an earlier call has left
        self.shown = {r.trial.key: r.status for r in self.progress.rows() if r.status != "running"}
        self.failed_before = [key for key, status in self.shown.items() if status == "failed"]
        self.warned = False  # whether a warning was printed that no trial logs the sweep's metric
        self.look_for_metric = self.stops = self.restarts = 0
        self.started = time.monotonic()

    @property
    def planned(self) -> int:
        """How many trials there will be; fewer than planned at first if a search is exhausted."""
        return self.first_planned if self.flags.wandb == "online" else self.proposer.planned()

    def start_worker(self, i: int) -> None:
        slot, online = self.slots[i], self.flags.wandb == "online"
        program = begin.program_in(self.queue.folder, "agent.py" if online else "worker.py")
        command = [sys.executable, str(program), f"--sweep={self.queue.folder}"]
        command += [f"--program={self.sweep.program}", f"--parent={os.getpid()}"]
        if online:
            command.append(f"--retry={self.flags.retry}")
        else:
            extra = plan.extra_flags(self.flags)
            own = {**self.sweep.content["parameters"], **self.sweep.command.literals}
            if self.flags.threads and "threads" not in own:
                extra.append(f"--threads={self.flags.threads}")
            command.append(f"--extra={shlex.join(extra)}")
        with open(self.queue.folder / f"worker-{i}.log", "ab") as log:
            self.workers[i] = subprocess.Popen(
                command, env=os.environ | slot.env, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self, *_: object) -> None:
        """At the first Ctrl-C the workers save and stop; at the second their training
        processes are killed.
        """
        self.stops += 1
        if self.stops == 1:
            console.print("stopping: the workers save their runs (Ctrl-C again: kill them)")
        for worker in self.workers.values():
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM if self.stops == 1 else signal.SIGINT)

    def run(self) -> None:
        """Keep the workers running until nothing is open, and show what happens."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.stop)
        for i in range(min(len(self.slots), begin.n_open(self.queue, self.planned))):
            self.start_worker(i)
        live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        with live or contextlib.nullcontext():
            while any(worker.poll() is None for worker in self.workers.values()):
                time.sleep(REFRESH_S)
                self._replace_dead()
                rows = self.progress.rows()
                self.print_changes(rows)
                if live:
                    live.update(self.view(rows))
        self.print_changes(self.progress.rows())

    def _replace_dead(self) -> None:
        for i, worker in list(self.workers.items()):
            code = worker.poll()
            if code in (None, 0, EXIT_PREEMPTED) or self.stops or self.restarts >= MAX_RESTARTS:
                continue
            self.restarts += 1
            why = last_line(self.queue.folder / f"worker-{i}.log") if code > 0 else ""
            message = f"[yellow]worker {i} ended with {code}[/] {escape(why)}"
            if code == EXIT_USER_ERROR and self.flags.wandb != "online":  # a new one would be refused, too
                del self.workers[i]
                console.print(message)
                continue
            console.print(f"{message}; another worker takes its place")
            self.start_worker(i)

    def print_changes(self, rows: list[Row]) -> None:
        """Print a line for every trial that starts or ends; after a failure also the last lines of its
        output.
        """
        if not self.warned and time.monotonic() >= self.look_for_metric:
            self.look_for_metric = time.monotonic() + len(rows) / 100  # not often, as it looks at every trial
            if blind := self.proposer.blind():
                self.warned = True
                console.print(f"[yellow]{escape(blind)}[/]")
        for row in rows:
            if self.shown.get(row.trial.key, "open") == row.status:
                continue
            self.shown[row.trial.key] = row.status
            figures = self.figures_of(row)
            reason = f": {row.reason}" if row.reason else ""
            index = f"{row.trial.index:04d}"
            console.print(f"{index}  {escape(row.label)}  {row.status}{escape(figures + reason)}")
            if row.status == "failed":
                for line in row.last_lines():
                    console.print(f"      {escape(line)}", style="dim")

    def figures_of(self, row: Row) -> str:
        """The end of a trial's line: its headline. If the sweep has another metric, both,
        with their names.
        """
        metric = self.progress.metric
        if metric is None:
            return "" if row.headline is None else f", {row.headline:.5g}"
        figures = [(metric.heading, row.metric), (f"best {row.judged_by}", row.headline)]
        return "".join(f", {name} {value:.5g}" for name, value in figures if value is not None)

    def further_seeds(self, values: list[float], others: Counter[str]) -> str:
        """A line about a trial that was run with further seeds: how these runs ended, and the mean over those
        that finished. values: their values of the metric; others: state → number of the other runs.
        """
        n = f"{len(values)} of {len(values) + others.total()}" if others else f"{len(values)}"
        line = f"confirmed over {n} further seeds"
        if others:
            line += "; " + ", ".join(f"{k} {state}" for state, k in others.items())
        if values:
            line += f": {self.sweep.content['metric']['name']} {statistics.fmean(values):.5g}"
        if len(values) > 1:
            line += f" ± {statistics.stdev(values):.2g}"
        return line

    def view(self, rows: list[Row], width: int | None = None) -> Group:
        """The live table, with a row per trial that has started; below it, a line counts all trials.

        Columns that don't fit into `width` (default: the terminal's) are left out, in this order: left,
        examples/s, step, the headline if the sweep's metric is shown beside it, varied flags from the last
        to the first, status. No cell is truncated.
        """
        started = [row for row in rows if row.state != "open"]
        started.sort(key=lambda row: row.state != "running")  # running trials come first
        cells = [cells_of(row) for row in started[: max(5, console.height - 6)]]
        shown = started[: len(cells)]
        trial = Column("trial", [f"{row.trial.index:04d}" for row in shown])
        flags = [Column(name, [row.varied.get(name, "") for row in shown]) for name in self.progress.varied()]
        metric = self.progress.metric
        beside = ["headline"] if metric else []
        names = ["status", "step", *(["metric"] if metric else []), "headline", "examples/s", "left"]
        rest = {name: Column(name, [of_row[name] for of_row in cells]) for name in names}
        rest["status"].justify = "left"
        dropped = [rest[name] for name in ("left", "examples/s", "step", *beside)]
        dropped += [*reversed(flags), rest["status"]]
        columns = [trial, *flags, *rest.values()]
        fit = fitting(columns, dropped, width or console.width)

        table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
        for column in fit:
            table.add_column(Text(column.name), justify=column.justify, no_wrap=True)
        for texts in zip(*(column.cells for column in fit)):
            table.add_row(*map(Text, texts))
        states = Counter(row.state for row in rows)
        done = sum(states[state] for state in DONE)
        minutes = (time.monotonic() - self.started) / 60
        below = f"{done} of {self.planned} done, {states['failed']} failed, {minutes:.1f} min"
        if states["unreadable"]:
            below += f", {states['unreadable']} unreadable"
        if note := left_out(len(columns) - len(fit)):
            below += f"; {note}"
        if metric:
            below += f"; the metric is {metric.name}, to {metric.goal}"
        lines = textwrap.wrap(below, width or console.width)  # the console itself wraps nothing
        return Group(table, Text("\n".join(lines), style="table.caption"))


def cells_of(row: Row) -> dict[str, str]:
    """A trial's cells of the live table after its flags."""
    return {
        "status": f"{row.state} (hyperband)" if row.early else row.state,
        "step": f"{row.step}/{row.steps or 0}",
        "metric": "" if row.metric is None else f"{row.metric:.5g}",
        "headline": "" if row.headline is None else f"{row.headline:.5g}",
        "examples/s": "" if row.examples_per_s is None else f"{row.examples_per_s:.0f}",
        "left": "" if row.minutes_left is None else f"{row.minutes_left:.1f} min",
    }
