"""Run a sweep again, or some of its runs, and check figure by figure whether its committed results hold here.

    python launch/reproduce.py sweeps/seq2seq_short.yaml
    python launch/reproduce.py sweeps/vae_mnist.yaml --runs=3
    python launch/reproduce.py sweeps/vae_mnist.yaml --compare=runs/vae_mnist     # train nothing

Committed results are the CSV that launch/report.py --csv has written: sweeps/results/NAME.csv beside
sweeps/NAME.yaml. The rows of the CSV are run, so it does not matter what chose them. Rows that finished or
diverged are run to their end. Rows that were stopped early are left out, because it is not known at which
step they stopped. The same command again continues where it stopped.

The verdict on a figure is: equal (to the last digit of the CSV), within the seeds (it differs no more than
other seeds of a setting do), differs, or can't tell. The test is described at the head of
launch/results/repetition.py. Exit code 0: the results hold; 1: a figure differs, or a run ended in another
way; 2: a flag or a file is wrong; 3: nothing differs, but for a figure that the sweep is judged by the
verdict is can't tell; 75: not all runs have ended.
"""

import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if not __package__:  # run as a script: import from this tree
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console

from launch.results import read, repetition, verdict
from launch.results.metric import metric_of
from launch.results.repetition import Again
from launch.results.words import POINTS, from_root
from launch.sweep import begin, plan, rows
from launch.sweep.pool import Local, LocalFlags
from launch.sweep.queue import Queue
from research.common.commandline import EXIT_PREEMPTED, main
from research.common.folder import ENDED, read_json, write_json
from research.common.identity import ROOT, git_state, source_files
from research.common.messages import UserError, console, counted, escape

EXIT_DIFFERS, EXIT_UNTOLD = 1, 3
EXIT = {
    repetition.EQUAL: 0,
    repetition.WITHIN: 0,
    repetition.DIFFERS: EXIT_DIFFERS,
    repetition.UNTOLD: EXIT_UNTOLD,
}


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Run a sweep again and tell whether its committed results hold here."""

    sweep: str
    """the sweep's YAML file (--sweep= may be left out)"""
    runs: int | None = None
    """run only this many of its rows again, from as many different settings as possible; default: all"""
    csv: Path | None = None
    """the committed results; default: results/NAME.csv beside the YAML"""
    compare: Path | None = None
    """train nothing: compare the runs in this folder, whatever made them, such as launch/slurm.py"""
    json: Path | None = None
    """also write every figure and its verdict here, for scripts"""
    out: str = "runs"
    """folder that holds the sweep folders"""
    name: str | None = None
    """name of the new sweep's folder; default: the name of the YAML file with _again"""
    workers: int | None = None
    """runs at the same time; default: one per visible GPU, else one per CPU core"""
    runs_per_gpu: int = 1
    """workers that share one GPU"""
    threads: int | None = None
    """CPU threads of each worker; default: the cores divided among the workers; on GPUs torch's own choice"""
    wandb: Literal["offline", "disabled"] = "disabled"
    """offline: also record the runs for W&B, to be uploaded by launch/upload.py"""
    retry: bool = False
    """also run again the runs that failed here"""
    fresh: bool = False
    """set an existing folder of the repetition aside and start anew"""
    reuse: bool = False
    """continue with the existing folder's snapshot of the code although the code has changed since"""

    def __post_init__(self):
        if self.runs is not None and self.runs < 1:
            raise UserError(f"--runs={self.runs}: must be at least 1")
        if self.json is not None and (self.json.is_dir() or not self.json.absolute().parent.is_dir()):
            raise UserError(f"--json={self.json}: must be a file in an existing folder")
        if self.compare is not None:
            for field in dataclasses.fields(self):
                value = getattr(self, field.name)
                if field.name not in ("sweep", "csv", "compare", "json") and value != field.default:
                    given = f"--{field.name}={value}"
                    raise UserError(f"{given}: must be left out with --compare, which runs nothing")

    def of_sweep(self, sweep: plan.Sweep) -> LocalFlags:
        """The flags with which launch/local.py would run the repetition."""
        own = {**sweep.content["parameters"], **sweep.command.literals}
        return LocalFlags(
            sweep=self.sweep,
            out=self.out,
            name=self.name or f"{sweep.path.stem}_again",
            workers=self.workers,
            runs_per_gpu=self.runs_per_gpu,
            threads=self.threads,
            wandb=None if "wandb" in own else self.wandb,
            retry=self.retry,
            fresh=self.fresh,
            reuse=self.reuse,
        )


# ---- running -------------------------------------------------------------------------------------------


def chosen_rows(flags: Flags, table: rows.Table) -> list[int]:
    """The indices of the rows that --runs requests. Raises UserError."""
    repeatable = table.repeatable()
    if not repeatable:
        raise UserError(f"{table.path}: no row finished or diverged: there is nothing to run again")
    n = len(repeatable) if flags.runs is None else flags.runs
    if n > len(repeatable):
        raise UserError(f"--runs={n}: {table.path} has {counted(len(repeatable), 'row')} to run again")
    return rows.choose(table, n) if n < len(repeatable) else repeatable


def with_those_begun(table: rows.Table, chosen: list[int], folder: Path) -> list[int]:
    """The chosen rows, and those that an earlier call has begun in the folder."""
    kept = (read_json(folder / POINTS) or {}).get("points", ())
    return chosen + [i for i, point in enumerate(table.points) if point in kept and i not in chosen]


def words_of(flags: Flags) -> list[str]:
    """The command that continues the repetition, after `python`, for the repository's root."""
    words = ["launch/reproduce.py", from_root(Path(flags.sweep))]
    given = {"runs": flags.runs, "name": flags.name}
    given |= {"csv": flags.csv and from_root(flags.csv)}
    given |= {"out": None if flags.out == Flags.out else from_root(Path(flags.out))}
    return words + [f"--{name}={value}" for name, value in given.items() if value is not None]


def train(flags: Flags, table: rows.Table) -> tuple[Path, list[int]]:
    """Run rows again, or continue to do so; returns the folder, and the indices of the rows in it."""
    asked = chosen_rows(flags, table)
    own = flags.of_sweep(table.sweep)
    folder = begin.folder_of(own, table.sweep)
    chosen = asked if flags.fresh else with_those_begun(table, asked, folder)
    sweep = rows.sweep_of(table, chosen, words_of(flags))
    own = plan.with_place(own, sweep)
    queue, planned = begin.prepare(own, sweep)
    local = Local(own, sweep, queue, planned)
    n_open = begin.n_open(queue, planned)
    console.print(
        f"[bold]{escape(str(folder))}[/]: {len(chosen)} of {counted(len(table.rows), 'row')} of "
        f"{escape(str(table.path))}, {n_open} of them open, {counted(len(local.slots), 'worker')}"
    )
    if len(chosen) > len(asked):
        console.print(f"{counted(len(chosen) - len(asked), 'row')} more than requested: begun earlier")
    for i in sorted(chosen) if len(chosen) < len(table.repeatable()) else ():
        console.print(f"  line {table.rows[i].line}: {escape(table.rows[i].label)}")
    if n_open and (line := time_line(table.sweep.text)):
        console.print(f"time, according to the sweep's header: {escape(line)}")
        if likely := likely_minutes(line, n_open, len(local.slots)):
            console.print(escape(likely))
    local.run()
    return folder, sorted(chosen)


def time_line(text: str) -> str:
    """What a YAML's header says after Time, on one line; '' if it says nothing."""
    found = re.search(r"^# Time +(.*\n(?:#  .*\n)*)", text, re.M)
    return " ".join(found[1].replace("\n#", " ").split()) if found else ""


def likely_minutes(line: str, n_runs: int, n_workers: int) -> str:
    """A sentence that says how long n_runs runs will take, if the Time line gives the minutes of one run;
    else ''.

    It assumes that each worker always has a run.
    """
    each = r"(\d+)(?: to (\d+))? min(?:utes?)?(?: a run(?! that)| of a core each)"
    found = re.search(each, line)
    if not found:
        return ""
    rounds = -(-n_runs // n_workers)
    low, high = int(found[1]) * rounds, int(found[2] or found[1]) * rounds
    span = f"{low} minutes" if low == high else f"{low} to {high} minutes"
    side = counted(n_workers, "worker")
    return f"so {counted(n_runs, 'run')} on {side} may take about {span} on such a machine"


# ---- comparing -----------------------------------------------------------------------------------------


def found_in(folder: Path, table: rows.Table) -> dict[int, read.Run]:
    """The run of each row in a folder, by the row's index. Raises UserError if there is none."""
    try:
        sweep = read.read_sweep(folder)
    except FileNotFoundError:
        raise UserError(f"--compare={folder}: no such folder") from None
    if not sweep.runs:
        raise UserError(f"--compare={folder}: holds no runs")
    found = rows.runs_of(table, sweep.runs)
    if not found:
        near = rows.nearest(table, sweep.runs)
        nearest = f"; the nearest has {near}" if near else ""
        raise UserError(f"--compare={folder}: none of its runs is a row of {table.path}{nearest}")
    return found


def again_of(table: rows.Table, runs: dict[int, read.Run]) -> dict[int, Again]:
    """The runs that have ended, in the form in which they are compared, by the line of their row."""
    metric = metric_of(table.sweep.content)
    found = {}
    for i, run in runs.items():
        status = str(run.status.get("status"))
        if status in ENDED:
            figures = repetition.figures_of(run, table.figures, metric)
            reason = run.status.get("reason") or run.problem or ""
            found[table.rows[i].line] = Again(status, figures, str(reason))
    return found


# ---- the environment -----------------------------------------------------------------------------------


def of_code(table: rows.Table) -> list[str]:
    """What is known about the code of the committed results and about the code here, a line
    for each commit.
    """
    commits = Counter(row.commit for row in table.rows if row.commit)
    if not commits:
        return ["the CSV does not say which code made it"]
    here = git_state()["commit"]
    now = f"here {here[:10]}" if here else "here the commit is not known"
    found = []
    for commit, n in commits.items():
        said = f"code: {counted(n, 'row')} by {commit}, {now}: {since(commit, table.sweep.script.family)}"
        found.append(said)
    return found


def since(commit: str, family: str) -> str:
    """Whether the files behind a family's numbers are the same as in a commit, in words."""
    names = [path.relative_to(ROOT).as_posix() for path in source_files(family)]
    last = commit.removesuffix("-dirty").split(",")[-1]
    if not re.fullmatch(r"[0-9a-f]{7,40}", last):  # somebody else may have made the table
        return f"{last or 'nothing'} is not a commit"
    command = ["git", "-C", str(ROOT), "diff", "--name-only", last, "--", *names]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "it is not known whether the files differ"
    if done.returncode:
        return "that commit is not in this clone"
    if commit.endswith("-dirty"):
        return "it had changes that were not committed, so the exact code is not known"
    changed = done.stdout.split()
    if not changed:
        return f"the {len(names)} files behind {family} are the same"
    return f"{len(changed)} of the {len(names)} files behind {family} have changed since"


def of_machine(table: rows.Table, runs: dict[int, read.Run]) -> list[str]:
    """On what the new runs, and the committed ones that they repeat, were computed: torch, device, threads
    and processor. runs: by the index of their row.
    """
    here = {i: read.machine_of(run) for i, run in runs.items()}
    there = {i: table.rows[i].machine for i in runs}
    new = "; ".join(dict.fromkeys(filter(None, here.values())))
    found = [f"the new runs: {new}"] if new else []
    if here == there and all(there.values()):
        return [*found, "the committed runs: the same torch, device, threads and processor"]
    counts = Counter(machine for machine in there.values() if machine)
    found += [f"{counted(n, 'committed run')}: {machine}" for machine, n in counts.items()]
    if missing := list(there.values()).count(""):
        which = "the committed runs" if missing == len(there) else counted(missing, "committed run")
        found.append(f"the CSV does not record torch's version, processor and threads of {which}")
    return found


# ---- the command ---------------------------------------------------------------------------------------


def report(flags: Flags, table: rows.Table, folder: Path, wanted: list[int]) -> int:
    """Print the result and write --json; returns the exit code. wanted: indices of the rows that should be
    there.
    """
    runs = found_in(folder, table) if flags.compare else _runs(folder, table)
    runs = {i: run for i, run in runs.items() if i in wanted}
    again = again_of(table, runs)
    found = repetition.compare(table.rows, again, table.figures)
    out = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=110)
    if found:
        verdict.print_table(found, out)
    for line in verdict.lines(found):
        verdict.say(line, out)
    said = [verdict.weakness(found), table.left_out()]
    missing = [i for i in wanted if i not in runs]
    if flags.compare and missing:
        said.append(f"{counted(len(missing), 'row')} of {table.path} without a run in {folder}: not compared")
        missing = []
    if failed := sum(run.status == "failed" for run in again.values()):
        retried = "" if flags.compare else "; --retry runs them again"
        said.append(f"{counted(failed, 'run')} failed here{retried}")
    unfinished = len(missing) + len(runs) - len(again)
    environment = [*of_code(table), *of_machine(table, runs)]
    for line in [*filter(None, said), *environment]:
        verdict.say(line, out)
    concluded = verdict.conclusion(found, len(again))
    if unfinished:
        concluded = f"so far it {concluded}" if found else "nothing can be told yet"
    verdict.say(f"{table.sweep.path.stem}: {concluded}", out)
    code = EXIT_PREEMPTED if unfinished else EXIT[repetition.verdict(found)]
    if unfinished:
        goes_on = "" if flags.compare else "; the same command continues"
        verdict.say(f"not ended: {unfinished} of {counted(len(wanted), 'run')}{goes_on}", out)
    if flags.json:
        write_json(
            flags.json,
            {
                "sweep": str(table.sweep.path),
                "csv": str(table.path),
                "folder": str(folder),
                "verdict": verdict.HOLDS[repetition.verdict(found)],
                "conclusion": concluded,
                "exit_code": code,
                "rows": len(table.rows),
                "runs": len(again),
                "unfinished": unfinished,
                "environment": environment,
                "figures": verdict.as_json(found),
            },
        )
    return code


def _runs(folder: Path, table: rows.Table) -> dict[int, read.Run]:
    """The run of each row in the repetition's own folder, by the row's index; found by the trials' keys."""
    sweep = read.read_sweep(folder)
    by_key = {run.folder.name: run for run in sweep.runs}
    points = {json.dumps(table.sweep.flags(point), sort_keys=True): i for i, point in enumerate(table.points)}
    found = {}
    for trial in Queue(folder).trials():
        i = points.get(json.dumps(trial.flags, sort_keys=True))
        if i is not None and trial.key in by_key:
            found[i] = by_key[trial.key]
    return found


def run(flags: Flags) -> None:
    sweep = plan.read(flags.sweep)
    table = rows.read(sweep, flags.csv)
    if flags.compare is not None:
        folder, wanted = flags.compare, table.repeatable()
    else:
        folder, wanted = train(flags, table)
    sys.exit(report(flags, table, folder, wanted))


if __name__ == "__main__":
    main(Flags, run, positional="sweep")
