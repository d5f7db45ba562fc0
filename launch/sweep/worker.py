"""A worker: claims an open trial of a sweep folder, trains it in a process of its own, and takes the next.

launch/local.py starts it, or on a cluster each task of the array; it may be killed at any moment.
"""

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

if not __package__:  # run as a script: import from this tree, which is the sweep's snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from data.terminal import argument
from launch.sweep import fork_server, sweep_file
from launch.sweep.child import Child, Process
from launch.sweep.early_stop import Watcher
from launch.sweep.fork_server import ForkServer
from launch.sweep.proposer import Proposer
from launch.sweep.queue import DONE, PER_RUN, Queue, Trial
from research.common.commandline import EXIT_PREEMPTED, EXIT_USER_ERROR, main
from research.common.flags import VARIED
from research.common.folder import OUTPUT, SWEEP, TRIALS
from research.common.identity import ROOT
from research.common.lease import HANDOVER, Lease, Watch, newest
from research.common.messages import UserError, console


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Work on a sweep folder until no trial is open."""

    sweep: str
    """the sweep folder, runs/<sweep>"""
    program: str
    """the training script, relative to the root of the code"""
    extra: str = ""
    """flags for every trial after its own, quoted as for a shell where they hold blanks"""
    parent: int = 0
    """stop as on SIGTERM when this process (our parent) is gone; 0: don't look"""
    until: float = 0
    """claim nothing from this moment on (seconds since 1970), but end with 75; 0: no limit"""
    linger_s: float = 0
    """end when other workers have had every open trial for this long; 0: stay, in case one of them dies"""


class Worker:
    """Claims trials and trains them, one at a time; makes new trials if the sweep needs more."""

    def __init__(self, flags: Flags):
        self.flags, self.queue, self.watch = flags, Queue(Path(flags.sweep)), Watch()
        self.spec = read_spec(self.queue.folder)
        self.proposer = Proposer(self.queue, self.spec, program=flags.program)
        self.child = Child(flags.parent, force=lambda process: process.kill())
        self.server = ForkServer(ROOT / flags.program)

    def work(self) -> int:
        """Train until nothing is open; returns the exit code: 0, or 75 if it was stopped before that."""
        pause, idle_since = 0.2, time.monotonic()
        while not self.child.stops and not self.child.is_orphaned():
            late = 0 < self.flags.until < time.time()
            claim = None if late else self.queue.claim(self.watch)
            if claim:
                self.train(*claim)
                pause, idle_since = 0.2, time.monotonic()
                continue
            # in this order, because a trial that ends in between may be the reason for a new one
            is_open = next(self.queue.open_trials(), None) is not None
            wanted = self.proposer.wanted()
            if not wanted and not is_open:
                return 0
            if wanted and not late and self.proposer.make(self.watch):
                pause, idle_since = 0.2, time.monotonic()
            elif late:
                console.print("too little time is left to begin another trial")
                break
            elif 0 < self.flags.linger_s < time.monotonic() - idle_since:
                console.print(f"other workers have had every open trial for {self.flags.linger_s:.0f} s")
                return 0
            else:  # others train all open trials, or make a new one: stay, in case one of them dies
                time.sleep(pause)
                pause = min(2.0, 1.5 * pause)
        return EXIT_PREEMPTED

    def train(self, trial: Trial, lease: Lease) -> None:
        """Run one trial to its end. Afterwards its run is done or has failed, or the trial is open again."""
        folder = self.queue.run_folder(trial)
        args = [*self.proposer.command.args(trial.flags), *shlex.split(self.flags.extra)]
        args += [f"--out={self.queue.folder}", f"--name={trial.key}"]
        env = {k: v for k, v in os.environ.items() if k not in PER_RUN}
        env |= {HANDOVER: str(lease.n), "PYTHONUNBUFFERED": "1"}
        env.setdefault("WANDB_RUN_GROUP", self.queue.folder.name)
        names = sweep_file.searched(self.spec.get("parameters", {}))  # for trials that are not made yet
        env[VARIED] = ",".join(dict.fromkeys([*names, *self.queue.varied()]))
        try:
            open(folder / OUTPUT, "ab").close()
        except OSError as error:  # somebody else may own the folder or file
            self.queue.unusable(trial, error)
            with contextlib.suppress(OSError):
                lease.release("failed")
            return
        look = self._early_stopping(trial, lease)
        self._after(trial, lease, self.child.run(partial(self.start, args, folder / OUTPUT, env), look))

    def start(self, args: list[str], log: Path, env: dict[str, str]) -> Process:
        """Start the training script in a process and session of its own, with its output in `log`."""
        if fork_server.POSSIBLE:
            return self.server.start(args, log, env)
        command = list(map(argument, [sys.executable, str(ROOT / self.flags.program), *args]))
        with open(log, "ab") as output:
            return subprocess.Popen(command, stdout=output, stderr=output, env=env, start_new_session=True)

    def _early_stopping(self, trial: Trial, lease: Lease) -> Callable[[], None] | None:
        """A function that checks whether a trial in training should end early; None if the sweep has no such
        rule.
        """
        if "early_terminate" not in self.spec or trial.confirms is not None:
            return None
        watcher = Watcher(self.spec, self.proposer.histories, trial, lease)

        def look() -> None:
            with contextlib.suppress(OSError):  # a full disk stops the training, but not the worker
                watcher.look()

        return look

    def _after(self, trial: Trial, lease: Lease, code: int) -> None:
        status = self.queue.status(trial)["status"]
        if status in DONE or status == "failed":
            return
        n, info = newest(self.queue.run_folder(trial))
        if n != lease.n or info is None or info["role"] != "worker":
            return  # the training process adopted the lease, and the lease shows how it ended
        if self.child.stops or code == EXIT_PREEMPTED:
            lease.release("preempted")
        elif code == EXIT_USER_ERROR:  # refused in one line: trying again would not help
            self.queue.fail(trial, lease, last_line(self.queue.run_folder(trial) / OUTPUT))
        else:
            lease.release("died")
            time.sleep(1)


def read_spec(folder: Path) -> dict[str, Any]:
    """The frozen YAML of a sweep folder; {} before there is one."""
    with contextlib.suppress(OSError):
        return yaml.safe_load((folder / SWEEP).read_text(encoding="utf-8"))
    return {}


def last_line(path: Path) -> str:
    """The last line of a log that is not blank; '' if there is none."""
    with contextlib.suppress(OSError):
        lines = path.read_bytes()[-4000:].decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def run(flags: Flags) -> None:
    if not (Path(flags.sweep) / TRIALS).is_dir():
        raise UserError(f"--sweep={flags.sweep}: not a sweep folder (it has no trials)")
    code = Worker(flags).work()
    console.print(f"worker {os.getpid()}: " + ("nothing is left to do" if code == 0 else "stopped"))
    sys.exit(code)


if __name__ == "__main__":
    main(Flags, run, positional="sweep")
