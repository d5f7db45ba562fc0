"""Run a W&B sweep YAML on this machine, with or without a W&B server.

    python launch/local.py sweeps/bvae.yaml
    python launch/local.py sweeps/bvae.yaml --set steps=300 --set 'seed=[0, 1]' --name=quick
    python launch/local.py sweeps/bvae.yaml --wandb=online      # a W&B sweep, its agents in the same slots

The same command again goes on where it stopped: Ctrl-C once makes the workers save and stop.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: import from this tree
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console
from rich.live import Live
from rich.table import Table

from launch.results import html
from launch.results import read as collect
from launch.sweep import begin, plan
from launch.sweep.early_stop import is_early
from launch.sweep.proposer import Proposer
from launch.sweep.queue import DONE, Queue, Trial
from launch.sweep.worker import last_line
from research.common import lease as leases
from research.common.commandline import EXIT_PREEMPTED, EXIT_USER_ERROR, main
from research.common.folder import CODE, ENDED, METRICS, OUTPUT, TIMES
from research.common.messages import UserError, console, escape

REFRESH_S = 1.0
MAX_RESTARTS = 20  # a worker that is killed is replaced, so often in all


@dataclass(frozen=True, kw_only=True)
class Flags(plan.SweepFlags):
    """Run a W&B sweep YAML on this machine, with or without a W&B server."""

    workers: int | None = None
    """trials at the same time; default: one per visible GPU, else one per CPU core"""
    runs_per_gpu: int = 1
    """workers that share one GPU"""
    threads: int | None = None
    """CPU threads of each worker; default: the cores shared out, on GPUs torch's own choice"""

    def __post_init__(self):
        super().__post_init__()
        for name in ("workers", "runs_per_gpu", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name}={value}: must be at least 1")


@dataclass(frozen=True)
class Slot:
    """Where a worker runs: its environment and its threads (None: torch's own choice)."""

    env: dict[str, str]
    threads: int | None


def slots(flags: Flags) -> list[Slot]:
    """One slot per worker: each visible GPU `runs_per_gpu` times, or the cores shared out."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        n = flags.workers or gpus * flags.runs_per_gpu
        omp = {f"{k}_NUM_THREADS": str(flags.threads) for k in ("OMP", "MKL") if flags.threads}
        return [Slot({"CUDA_VISIBLE_DEVICES": visible[i % gpus]} | omp, flags.threads) for i in range(n)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    n = flags.workers or cores
    threads = flags.threads or max(1, cores // n)
    return [
        Slot({"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}, threads) for _ in range(n)
    ]


class Local:
    """Workers on this machine, and what they are doing."""

    def __init__(self, flags: Flags, sweep: plan.Sweep, queue: Queue, planned: int):
        self.flags, self.sweep, self.queue, self.first_planned = flags, sweep, queue, planned
        self.proposer = Proposer(queue, sweep.content if flags.wandb != "online" else {})
        self.slots = slots(flags)
        self.workers: dict[int, subprocess.Popen] = {}
        self.stops = self.restarts = 0
        self.started = time.monotonic()

    @property
    def planned(self) -> int:
        """How many trials there will be: fewer than at first thought where a search is exhausted."""
        return self.first_planned if self.flags.wandb == "online" else self.proposer.planned()

    def start_worker(self, i: int) -> None:
        slot, online = self.slots[i], self.flags.wandb == "online"
        extra = [f"--threads={slot.threads}"] if slot.threads and "threads" not in self._parameters() else []
        extra += [f"--{k}={v}" for k in ("wandb", "project", "entity") if (v := getattr(self.flags, k))]
        launch = self.queue.folder / CODE / "launch" / "sweep"
        command = [sys.executable, str(launch / ("agent.py" if online else "worker.py"))]
        command += [f"--sweep={self.queue.folder}", f"--program={self.sweep.program}"]
        command += [f"--parent={os.getpid()}"]
        command += [f"--retry={self.flags.retry}"] if online else [f"--extra={' '.join(extra)}"]
        with open(self.queue.folder / f"worker-{i}.log", "ab") as log:
            self.workers[i] = subprocess.Popen(
                command, env=os.environ | slot.env, stdout=log, stderr=log, start_new_session=True
            )

    def _parameters(self) -> dict[str, Any]:
        return self.sweep.content["parameters"]

    def stop(self, *_: object) -> None:
        """Ctrl-C: the workers save and stop; the second time their training processes are killed."""
        self.stops += 1
        if self.stops == 1:
            console.print("stopping: the workers save their runs (Ctrl-C again: kill them)")
        for worker in self.workers.values():
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM if self.stops == 1 else signal.SIGINT)

    def run(self) -> None:
        """Keep the workers going until nothing is open, and show what happens."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.stop)
        for i in range(min(len(self.slots), begin.n_open(self.queue, self.planned))):
            self.start_worker(i)
        shown: dict[str, str] = {}
        live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        with live or contextlib.nullcontext():
            while any(worker.poll() is None for worker in self.workers.values()):
                time.sleep(REFRESH_S)
                self._replace_dead()
                self._tell_changes(shown)
                if live:
                    live.update(self.view())
        self._tell_changes(shown)

    def _replace_dead(self) -> None:
        for i, worker in list(self.workers.items()):
            code = worker.poll()
            if code not in (None, 0, EXIT_PREEMPTED) and not self.stops and self.restarts < MAX_RESTARTS:
                self.restarts += 1
                why = last_line(self.queue.folder / f"worker-{i}.log") if code > 0 else ""
                told = f"[yellow]worker {i} ended with {code}[/] {escape(why)}"
                if code == EXIT_USER_ERROR and self.flags.wandb != "online":  # another would be refused too
                    del self.workers[i]
                    console.print(told)
                    continue
                console.print(f"{told}; another takes its place")
                self.start_worker(i)

    def _tell_changes(self, shown: dict[str, str]) -> None:
        """A line for every trial that starts or ends; for a failure, its last lines."""
        if "" not in shown and (blind := self.proposer.blind()):
            shown[""] = blind
            console.print(f"[yellow]{escape(blind)}[/]")
        for trial in self.queue.trials():
            status = self.queue.status(trial)
            now = status["status"]
            before = shown.get(trial.key)
            shown[trial.key] = now
            if before == now or (before is None and now in (*ENDED, "open", "preempted")):
                continue
            headline = f", {status['headline']:.5g}" if status.get("headline") is not None else ""
            reason = f": {status['reason']}" if status.get("reason") else ""
            console.print(f"{trial.index:04d}  {escape(self.label(trial))}  {now}{headline}{escape(reason)}")
            if now == "failed":
                log = self.queue.run_folder(trial) / OUTPUT
                for line in log.read_text(errors="replace").splitlines()[-8:] if log.exists() else ():
                    console.print(f"      {escape(line)}", style="dim")

    def _varied(self) -> list[str]:
        """The flags that differ between trials; of a search's first one those that it searches."""
        return self.queue.varied() or [k for k, v in self._parameters().items() if "value" not in v]

    def label(self, trial: Trial) -> str:
        varied = self._varied()
        shown = (f"{name}={collect.show(trial.flags[name], 6)}" for name in varied if name in trial.flags)
        return " ".join(shown) or trial.key

    def told(self, values: list[float], others: Counter[str]) -> str:
        """Of a trial that was run over further seeds: how these ended, the mean of those that finished."""
        told = f"{len(values)} of {len(values) + others.total()}" if others else f"{len(values)}"
        told = f"  confirmed over {told} further seeds"
        if others:
            told += "; " + ", ".join(f"{k} {state}" for state, k in others.items())
        if values:
            told += f": {self.sweep.content['metric']['name']} {statistics.fmean(values):.5g}"
        return told + (f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else "")

    def view(self) -> Table:
        """The live table: a row per trial that has started, what is open in the caption."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        trials, names = self.queue.trials(), self._varied()
        for name in ("trial", *names, "status", "step", "headline", "examples/s", "left"):
            table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
        counts: dict[str, int] = {}
        rows = []
        for trial in trials:
            status = self.queue.status(trial)
            state = self._state(trial, status)
            counts[state] = counts.get(state, 0) + 1
            if state != "open":
                varied = [collect.show(trial.flags.get(v), 6) for v in names]
                cells = [f"{trial.index:04d}", *varied, *self._cells(trial, status, state)]
                rows.append((state != "running", cells))
        for _, row in sorted(rows, key=lambda r: r[0])[: max(5, console.height - 6)]:
            table.add_row(*row)
        done = sum(counts.get(s, 0) for s in DONE)
        minutes = (time.monotonic() - self.started) / 60
        table.caption = f"{done} of {self.planned} done, {counts.get('failed', 0)} failed, {minutes:.1f} min"
        return table

    def _state(self, trial: Trial, status: dict[str, Any]) -> str:
        """'running' only while somebody holds the lease: a killed run's status still says so."""
        if status["status"] != "running":
            return status["status"]
        n, info = leases.newest(self.queue.run_folder(trial))
        return (
            "interrupted"
            if info and leases.Watch().stale(self.queue.run_folder(trial), n, info)
            else "running"
        )

    def _cells(self, trial: Trial, status: dict[str, Any], state: str) -> list[str]:
        folder = self.queue.run_folder(trial)
        row, timed = _tail(folder / METRICS), _tail(folder / TIMES)
        step, steps = row.get("step", status.get("step") or 0), status.get("steps") or 0
        headline = "" if status.get("headline") is None else f"{status['headline']:.5g}"
        speed, left = "", ""
        if state == "running" and "time/step_ms" in timed:
            speed = f"{timed['time/examples_per_s']:.0f}"
            left = f"{timed['time/step_ms'] * (steps - step) / 60000:.1f} min"
        state += " (hyperband)" * is_early(status.get("reason"))
        return [state, f"{step}/{steps}", headline, speed, left]


def _tail(path: Path) -> dict[str, Any]:
    """The last whole row of a .jsonl file, from its last 8 KB."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(path, "rb") as f:
        f.seek(max(0, f.seek(0, os.SEEK_END) - 8192))
        return json.loads(f.read().rpartition(b"\n")[0].rpartition(b"\n")[2])
    return {}


def run(flags: Flags) -> None:
    sweep = plan.read(flags.sweep, flags.set, flags.wandb == "online", flags.confirm)
    queue, planned = begin.prepare(flags, sweep)
    folder, local = queue.folder, Local(flags, sweep, queue, planned)
    shown = ", ".join(k for k, v in sweep.content["parameters"].items() if "value" not in v)
    console.print(
        f"[bold]{escape(str(folder))}[/]: {planned} trials, {begin.n_open(queue, planned)} of them open, "
        f"{len(local.slots)} workers; varied: {shown or 'nothing'}"
    )
    local.run()
    results = collect.read_sweep(folder)
    wide = console if console.is_terminal else Console(stderr=True, width=110)  # a log has no edge
    collect.print_table(collect.table(results), wide, wide.width)
    console.print(f"report: {escape(str(html.write_report(folder, planned=begin.planned(folder))))}")
    for trial, values, others in local.proposer.confirmed():
        console.print(f"{trial.index:04d}  {escape(local.label(trial) + local.told(values, others))}")
    blind = local.proposer.blind()
    if (reason := local.proposer.exhausted) and not blind:
        console.print(f"ended early: {escape(reason)}")
    if reason := local.proposer.unconfirmed():
        console.print(escape(reason))
    states = [queue.status(trial)["status"] for trial in queue.trials()]
    if any(state == "failed" for state in states):
        console.print("some trials failed; --retry runs them again")
        sys.exit(1)
    if begin.n_open(queue, local.planned):
        console.print("stopped before the end; the same command goes on")
        sys.exit(EXIT_PREEMPTED)
    if blind:
        raise UserError(f"{blind}: metric in {flags.sweep} must be one of those")


if __name__ == "__main__":
    main(Flags, run, positional="sweep")
