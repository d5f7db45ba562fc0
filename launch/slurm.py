"""Run a W&B sweep YAML on a SLURM cluster, whose nodes may have no internet. Run it on a login node.

    python launch/slurm.py sweeps/bvae.yaml --partition gpu --gpus 1 --time 4:00:00 --tasks 8 --dry_run
    python launch/slurm.py sweeps/bvae.yaml --partition gpu --gpus 1 --time 4:00:00 --tasks 8
    python launch/slurm.py sweeps/bvae.yaml --status        # or --cancel: save, then leave the queue

Submitting again fills in what is missing. Flags that are the same every day can be put into
~/.config/letters-and-latents/slurm.toml: partition, account, qos, gpus, gpu_option, cpus, mem, time, setup,
sbatch.
"""

import contextlib
import dataclasses
import math
import os
import shlex
import sys
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

if not __package__:  # run as a script: import from this tree
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro
import yaml

from data.names import closest, did_you_mean
from data.terminal import argument
from launch.results import read
from launch.results.metric import Metric
from launch.sweep import agent, begin, options, plan, sbatch, sweep_file
from launch.sweep.progress import Progress, Row
from launch.sweep.proposer import Proposer
from launch.sweep.queue import Queue
from research.common.commandline import main
from research.common.folder import SWEEP, TRIALS, WANDB_SWEEP, read_json, write_bytes, write_json
from research.common.messages import UserError, console, counted, escape

JOBS = Path("slurm") / "jobs.json"  # in the sweep's folder: the arrays that were submitted for it
ALIVE = (
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "SUSPENDED",
    "REQUEUED",
    "REQUEUE_HOLD",
    "RESIZING",
    "SIGNALING",
)
STATES = (
    "finished",
    "running",
    "pending",
    "preempted",
    "interrupted",
    "stopped",
    "diverged",
    "failed",
    "unreadable",
)
UNUSUAL = ("interrupted", "unreadable")  # only mentioned if there are any


@dataclass(frozen=True, kw_only=True)
class Flags(plan.SweepFlags):
    """Run a W&B sweep YAML on a SLURM cluster."""

    sweep: str
    """the sweep's YAML file (--sweep= may be left out); with --status or --cancel also the sweep's folder"""
    tasks: int = 8
    """number of tasks in the queue at the same time, pending ones included; never more than there are open
    trials"""
    throttle: int | None = None
    """number of tasks that run at the same time (at least one of each array, if there are several); default:
    all"""
    partition: str | None = None
    """partition, or several separated by commas; default: the cluster's own"""
    account: str | None = None
    """account to charge"""
    qos: str | None = None
    """quality of service"""
    gpus: str | None = None
    """GPUs of each task, as in 1 or a100:1; with several GPUs, one worker for each"""
    gpu_option: str | None = None
    """how to ask SLURM for --gpus: gres (the default), gpus, gpus-per-node, gpus-per-task; or shard: --gpus
    is then a number of shards, which are parts of one GPU"""
    cpus: int | None = None
    """CPU cores of each task; its workers divide them into threads"""
    mem: str | None = None
    """memory of each task, as in 16G"""
    time: str | None = None
    """time limit of each task, in SLURM's form: 4:00:00, or 1-12 for a day and a half"""
    runs_per_gpu: int = 1
    """number of workers that share one GPU (or the shards of a task; without GPUs, its cores)"""
    setup: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """--setup 'module load cuda': a shell line to run before the workers start; repeatable"""
    sbatch: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """--sbatch constraint=a100: a further option of sbatch, which must not contradict any other;
    repeatable"""
    signal_s: int = 120
    """seconds before the time limit at which the workers save and the task goes back into the queue"""
    stagger_s: int = 10
    """seconds over which the first starts are spread; 0: all at once"""
    dry_run: bool = False
    """print the batch script and the commands; write and submit nothing"""
    status: bool = False
    """show the progress of the sweep, and submit nothing"""
    cancel: bool = False
    """make the sweep's tasks save, and remove them from the queue"""

    def __post_init__(self):
        super().__post_init__()
        options.check_flags(self)


def defaults_file() -> Path:
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "letters-and-latents" / "slurm.toml"


def read_defaults(path: Path) -> dict[str, Any]:
    """The flags in the user's TOML file; none if there is no such file. Raises UserError."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as TOML ({' '.join(str(error).split())})") from None
    defaults = {}
    for name, value in found.items():
        if name not in options.IN_FILE:
            hint = did_you_mean(closest(options.IN_FILE, name))
            raise UserError(f"{path}: unknown key {name}; allowed: {', '.join(options.IN_FILE)}{hint}")
        kind = options.IN_FILE[name]
        if kind is tuple and isinstance(value, str):
            value = (value,)
        elif kind is tuple and isinstance(value, list):
            value = tuple(value)
        elif name == "gpus" and type(value) is int:
            value = str(value)
        parts = value if type(value) is tuple else ()
        if type(value) is not kind or not all(isinstance(part, str) for part in parts):
            wanted = {int: "a whole number", str: "text in quotes", tuple: "a list of texts"}[kind]
            raise UserError(f"{path}: {name} = {found[name]!r}: must be {wanted}")
        defaults[name] = value
    return defaults


def with_defaults(flags: Flags) -> Flags:
    """`flags`, where flags that were not given come from the user's TOML file. Raises UserError.

    A list that is given replaces the file's whole list, and a line says so.
    """
    path = defaults_file()
    more = {}
    for name, value in read_defaults(path).items():
        if getattr(flags, name) in (None, ()):
            more[name] = value
        elif options.IN_FILE[name] is tuple and value:
            console.print(f"not from {escape(str(path))}: {name}, which the command line gives")
    if more:
        taken = ", ".join(f"{k}={' '.join(v) if isinstance(v, tuple) else v}" for k, v in more.items())
        console.print(f"from {escape(str(path))}: {escape(taken)}")
    try:
        merged = dataclasses.replace(flags, **more)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if flags.gpu_option and merged.gpus is None:
        raise UserError(f"--gpu_option={flags.gpu_option}: says how to ask for --gpus, which is not given")
    return merged


def jobs_of(folder: Path) -> list[dict[str, Any]]:
    """The arrays that were submitted for a sweep: id, tasks, logs, submitted."""
    return (read_json(folder / JOBS) or {}).get("jobs", [])


def in_queue(folder: Path) -> list[dict[str, str]]:
    """The sweep's tasks that SLURM knows: id (array_task), raw (the job's own id), state, reason, used
    (time).
    """
    ids = [job["id"] for job in jobs_of(folder)]
    if not ids:
        return []
    try:
        answer = sbatch.ask("squeue", "-h", "-r", "-j", ",".join(ids), "-o", "%i|%A|%T|%r|%M")
    except UserError as error:
        if "Invalid job id" in str(error):  # SLURM has already forgotten the only array
            return []
        raise
    fields = ("id", "raw", "state", "reason", "used")
    return [dict(zip(fields, line.strip().split("|", 4))) for line in answer.splitlines() if line.strip()]


def submit(flags: Flags) -> None:
    online = flags.wandb == "online"
    checked = True
    try:
        sbatch.check_limits(flags)
        size = sbatch.array_size()
    except UserError as error:
        if not flags.dry_run or str(error).startswith("--"):
            raise
        checked, size = False, 1001
        console.print(f"[yellow]not checked against a cluster:[/] {escape(str(error))}")
    sweep = plan.read(flags.sweep, flags.set, online, flags.confirm)
    flags = plan.with_place(flags, sweep)
    folder = begin.folder_of(flags, sweep)
    there = [t for t in in_queue(folder) if t["state"] in ALIVE] if checked else []
    held = [t for t in there if t["state"] == "PENDING" and "held" in t["reason"].lower()]
    there = [t for t in there if t not in held]
    for task in held:  # after a failed launch SLURM waits for somebody to release it, so it may never start
        console.print(f"not counted: {task['id']} is held ({task['reason']}): scontrol release {task['id']}")
    if flags.fresh and (there or held):
        raise UserError(
            f"--fresh: {len(there) + len(held)} tasks of {folder} are in the queue; --cancel takes them out"
        )
    if flags.dry_run:
        planned, n_open = begin.foresee(flags, sweep)
    else:
        queue, planned = begin.prepare(flags, sweep)
        n_open = begin.n_open(queue, planned)
    shown = ", ".join(sweep_file.searched(sweep.content["parameters"]))
    console.print(
        f"[bold]{escape(str(folder))}[/]: {counted(planned, 'trial')}, {n_open} of them open; "
        f"varied: {shown or 'nothing'}"
    )
    per_task = sbatch.workers(flags)
    useful = math.ceil(n_open / per_task)
    tasks = min(flags.tasks, useful) - len(there)
    if useful < flags.tasks:
        console.print(f"more than {counted(useful, 'task')} would find nothing to do (--tasks={flags.tasks})")
    if there:
        console.print(
            f"{len(there)} tasks of this sweep are pending or running already: {max(0, tasks)} more"
        )
    if tasks <= 0:
        console.print("nothing to submit; --status shows the progress of the sweep")
        return
    logs = folder / "slurm" / time.strftime("%Y%m%d-%H%M%S")
    arrays = sbatch.split(tasks, size, flags.throttle)
    text = sbatch.script(flags, folder, sweep.program, logs, arrays[0])
    commands = [["sbatch", "--parsable", f"--array={array}", str(logs / "job.sh")] for array in arrays]
    if flags.dry_run:
        print(text, flush=True)
        for command in commands:
            print(shlex.join(command), flush=True)
        return
    logs.mkdir(parents=True, exist_ok=True)
    write_bytes(logs / "job.sh", argument(text))  # with paths in it
    for array, command in zip(arrays, commands):
        ident = sbatch.job_id(sbatch.ask(*command))
        n = int(array.partition("%")[0].partition("-")[2]) + 1
        job = {"id": ident, "tasks": n, "logs": str(logs), "submitted": time.strftime("%Y-%m-%d %H:%M:%S")}
        write_json(folder / JOBS, {"jobs": [*jobs_of(folder), job]})
        each = f" of {per_task} workers" if per_task > 1 else ""
        console.print(f"array {ident}: {n} tasks{each}")
    console.print(f"script and logs: {escape(str(logs))}; the same command with --status shows the progress")


def queue_of(flags: Flags) -> tuple[Path, Queue, int]:
    """The folder of an existing sweep, its trials, and how many there will be."""
    folder, _, queue, planned = look_at(flags)
    return folder, queue, planned


def look_at(flags: Flags) -> tuple[Path, dict[str, Any], Queue, int]:
    """The folder of an existing sweep, its frozen YAML, its trials, and how many there will be.

    UserError: there is no such sweep, or its YAML can't be read. Unreadable trials and runs are no reason to
    stop.
    """
    folder = Path(flags.sweep)
    if not folder.is_dir():
        if flags.set and not flags.name:
            folder = begin.folder_of(flags, plan.read(flags.sweep, flags.set, flags.wandb == "online"))
        else:
            folder = Path(flags.out) / (flags.name or folder.stem)
    try:
        text = (folder / SWEEP).read_text(encoding="utf-8")
        spec = yaml.safe_load(text)
    except FileNotFoundError:
        raise UserError(
            f"{folder}: no sweep was submitted there; give its folder, or its --out and --name"
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{folder / SWEEP} cannot be read ({read.why(error)})") from None
    if not isinstance(spec, dict) or not isinstance(spec.get("parameters"), dict):
        raise UserError(f"{folder / SWEEP}: not the YAML of a sweep")
    online = (folder / WANDB_SWEEP).exists() and not (folder / TRIALS).exists()
    queue = agent.Runs(folder, spec["parameters"]) if online else Queue(folder)
    known = read.Sweep(folder, folder.name, text, spec, "", [], [{}] * len(queue.trials()))
    return folder, spec, queue, begin.planned(folder, known)


def show_status(flags: Flags) -> None:
    folder, spec, queue, planned = look_at(flags)
    try:
        tasks, unknown = in_queue(folder), None
    except UserError as error:
        tasks, unknown = [], str(error)
    running = {task["raw"] for task in tasks if task["state"] == "RUNNING"}
    progress = Progress(queue, spec["parameters"])
    rows = progress.rows(running)

    # how many are in each state, including trials that are not made yet
    counts = Counter(state_of(row) for row in rows)
    counts["pending"] += max(0, planned - len(rows) - len(queue.problems))
    counts["unreadable"] += len(queue.problems)
    words = [f"{counts[state]} {state}" for state in STATES if counts[state] or state not in UNUSUAL]
    print(f"{folder}: {', '.join(words)}; {planned} expected")

    # a line for each trial; below them, more about those that failed or can't be read
    lines = [cells_of(row, progress.metric) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    for row in rows:
        if row.status == "failed":
            print(f"{row.trial.index:04d} failed: {row.reason}")
            for line in row.last_lines():
                print(f"      {line}")
        elif row.status == "unreadable":
            print(f"{row.trial.index:04d} unreadable: {row.reason}")
    for problem in queue.problems:
        print(problem)
    logs = [f"{folder}/<key>/output.log", *dict.fromkeys(job["logs"] for job in jobs_of(folder))]
    print(f"logs: {', '.join(logs)}; the key of trial 0002 is in trials/0002.json")

    # the state of the sweep's search and of --confirm
    search = Proposer(queue, spec)
    if not isinstance(queue, agent.Runs):
        try:
            found = [search.exhausted or search.blind(), search.unconfirmed()]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:  # damage, reported above
            found = [f"the state of the search can't be read ({read.why(error)})"]
        for line in filter(None, found):
            print(line)
    if flags.confirm and flags.confirm > (kept := search.to_confirm):
        print(f"--confirm={flags.confirm}: {kept} are asked for so far; submitting adds the rest")

    if unknown:
        print(f"SLURM can't be asked: {unknown}")
        return
    kinds: Counter[str] = Counter()
    for task in tasks:
        reason = "" if task["reason"] in ("None", "") else f" ({task['reason']})"
        kinds[task["state"] + reason] += 1
    queued = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    print(f"in the queue: {queued or 'none of its tasks'}")


def state_of(row: Row) -> str:
    """A trial's state as the queue sees it: it is running as soon as a worker has it."""
    if row.held:
        return "running"
    return "pending" if row.state == "open" else row.state


def cells_of(row: Row, metric: Metric | None) -> list[str]:
    """A trial's line of --status: index, varied flags, state, step, headline, machine and job. If the sweep's
    metric is not the headline, it comes before the headline, and both have their names.
    """
    step = f"{row.step}/{row.steps}" if row.steps else "-"
    headline = "-" if row.headline is None else f"{row.headline:.5g}"
    figures = [headline]
    if metric:
        value = "-" if row.metric is None else f"{row.metric:.5g}"
        figures = [f"{metric.heading} {value}", f"best {row.judged_by or 'headline'} {headline}"]
    where = f"{row.where} by hyperband" if row.early else row.where
    return [f"{row.trial.index:04d}", row.label, state_of(row), step, *figures, where]


def cancel(flags: Flags) -> None:
    """Remove waiting tasks from the queue, ask running ones to save, and then cancel those that are left.

    After a plain `scancel` tasks would have only the cluster's KillWait to save. Waiting tasks are removed
    first, because otherwise SLURM would start them in place of those that have saved.
    """
    folder, _, _ = queue_of(flags)
    tasks = [task for task in in_queue(folder) if task["state"] in ALIVE]
    if not tasks:
        console.print(f"no task of {escape(str(folder))} is in the queue")
        return
    arrays = sorted({task["id"].partition("_")[0] for task in tasks})
    sbatch.ask("scancel", "--state=PENDING", *arrays)
    running = [task["id"] for task in in_queue(folder) if task["state"] == "RUNNING"]
    if running:
        console.print(f"saving {counted(len(running), 'running task')}, for up to {flags.signal_s} s")
        with contextlib.suppress(UserError):  # scancel retries for long if a task ends at this very moment
            sbatch.ask("scancel", "--signal=TERM", "--full", *running, within_s=20)
    deadline = time.monotonic() + flags.signal_s
    while time.monotonic() < deadline and any(t["state"] == "RUNNING" for t in in_queue(folder)):
        time.sleep(1)
    left = sorted({task["id"].partition("_")[0] for task in in_queue(folder) if task["state"] in ALIVE})
    if left:
        sbatch.ask("scancel", *left)
    console.print(f"{counted(len(tasks), 'task')} cancelled; submitting the sweep again continues it")


def run(flags: Flags) -> None:
    if flags.status and flags.cancel:
        raise UserError("--status and --cancel: give one of the two")
    if flags.status:
        show_status(flags)
    elif flags.cancel:
        cancel(flags)
    else:
        submit(with_defaults(flags))


if __name__ == "__main__":
    main(Flags, run, positional="sweep")
