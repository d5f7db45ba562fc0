"""Works on a sweep that W&B directs: runs `wandb agent -f`, then finishes runs that agents left half done.

launch/local.py --wandb=online starts it in each slot, from the sweep's snapshot. W&B decides on points, order
and early stopping. The runs are in the sweep's folder as usual, named by their W&B ids. For W&B, a run that
was killed is `crashed`, and W&B does not hand it out again; here it is trained to the end, under the same id.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

if not __package__:  # run as a script: import from this tree, which is the sweep's snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from data.terminal import argument
from launch.sweep import sweep_file
from launch.sweep.child import Child
from launch.sweep.queue import DONE, PER_RUN, Queue, Trial
from research.common import lease as leases
from research.common.commandline import EXIT_PREEMPTED, main
from research.common.flags import VARIED
from research.common.folder import CONFIG, STATUS, SWEEP, WANDB_SWEEP, read_json
from research.common.identity import ROOT
from research.common.messages import UserError, console

FOLDER, CODE_AT = "RUN_SWEEP", "RUN_CODE"  # environment of the agents, filled into the sweep's command


def command_of(program: str, words: Sequence[str] = ("${args}",)) -> list[str]:
    """The `command` of the W&B sweep: it runs the snapshot's script, with the sweep's folder as --out.

    words: what follows the script, as the sweep's YAML says it.
    """
    script, out = f"${{envvar:{CODE_AT}}}/{program}", f"--out=${{envvar:{FOLDER}}}"
    return ["${env}", "${interpreter}", script, *words, out]


class Runs(Queue):
    """The run folders of a sweep that W&B directs, seen as trials: there are no trial files."""

    def __init__(self, folder: Path, parameters: dict[str, Any]):
        super().__init__(folder)
        self.parameters = parameters
        self._known: dict[str, Trial] = {}

    def trials(self) -> list[Trial]:
        """The runs that have begun, in that order; a run that can't be read has no flags."""
        for path in sorted(self.folder.iterdir(), key=_changed):
            if path.name in self._known or not _may_be_run(path):
                continue
            try:
                given = json.loads((path / CONFIG).read_text(encoding="utf-8"))["flags"]
                flags = {k: v for k, v in given.items() if k in self.parameters}
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                flags = {}  # the run's row says what is wrong
            self._known[path.name] = Trial(len(self._known), flags, path.name)
        return list(self._known.values())


def _changed(path: Path) -> float:
    """When a run folder's config.json changed last, in UNIX seconds; 0 if there is none."""
    try:
        return (path / CONFIG).stat().st_ctime
    except OSError:
        return 0.0


def _may_be_run(path: Path) -> bool:
    """Whether a folder has a config.json; also true if that can't be found out, except for hidden folders."""
    try:
        return (path / CONFIG).exists()
    except PermissionError:
        return not path.name.startswith(".")


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Run a W&B agent on a sweep folder, then finish what was left half done."""

    sweep: str
    """the sweep folder, runs/<sweep>"""
    program: str
    """the training script, relative to the root of the code"""
    retry: bool = False
    """also finish the runs that failed"""
    parent: int = 0
    """stop as on SIGTERM when this process (our parent) is gone; 0: don't look"""
    until: float = 0
    """finish no left run from this moment on (seconds since 1970), but end with 75; 0: no limit"""


def make_it_kill(process: subprocess.Popen) -> None:
    """Make an agent that was asked to stop kill its run, which it does at the third SIGTERM."""
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)


class Agent:
    """Runs one process at a time: the W&B agent, then the runs that it left unfinished."""

    def __init__(self, flags: Flags):
        self.flags, self.folder = flags, Path(flags.sweep).absolute()
        self.sweep = read_json(self.folder / WANDB_SWEEP)
        if self.sweep is None:
            raise UserError(f"--sweep={flags.sweep}: not the folder of a W&B sweep (no {WANDB_SWEEP})")
        self.child = Child(flags.parent, force=make_it_kill)
        kept = {k: v for k, v in os.environ.items() if k not in (*PER_RUN, "WANDB_MODE")}
        self.env = kept | {
            FOLDER: str(self.folder),
            CODE_AT: str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # its `python`
            "PYTHONUNBUFFERED": "1",
            "WANDB_ENTITY": self.sweep["entity"],
            "WANDB_PROJECT": self.sweep["project"],
            "WANDB_DIR": str(self.folder),  # for the agent's own files; runs say where their files go
            "WANDB_AGENT_DISABLE_FLAPPING": "true",  # without it, three early failures end the agent
            "WANDB_AGENT_MAX_INITIAL_FAILURES": "1000000",
        }
        self.env.setdefault("WANDB_RUN_GROUP", self.folder.name)
        parameters = yaml.safe_load((self.folder / SWEEP).read_text(encoding="utf-8"))["parameters"]
        self.env[VARIED] = ",".join(sweep_file.searched(parameters))

    def work(self) -> int:
        """Run the agent, then the runs that it left unfinished; returns the exit code: 0 if nothing is open,
        75 if it was stopped before that, above 128 if a child was killed, else the agent's own.
        """
        path = "/".join(self.sweep[k] for k in ("entity", "project", "id"))
        command = [sys.executable, "-m", "wandb", "agent", "--forward-signals", path]
        code = self.run(command, self.env)
        late, worst = False, min(code, 0)
        for folder in self.left_open():
            late = 0 < self.flags.until < time.time()
            if self.child.stops or late:
                break
            console.print(f"finishing {folder.name}, which its agent left unfinished")
            command = [sys.executable, str(ROOT / self.flags.program)]
            command += [f"--config={folder / CONFIG}", f"--out={self.folder}"]
            ids = {"WANDB_RUN_ID": folder.name, "WANDB_SWEEP_ID": self.sweep["id"]}
            worst = min(worst, self.run(command, self.env | ids))
        if self.child.stops or late:
            return EXIT_PREEMPTED
        return 128 - worst if worst < 0 else code

    def run(self, command: list[str], env: dict[str, str]) -> int:
        """Run a command to its end; returns its exit code."""
        command = list(map(argument, command))
        return self.child.run(partial(subprocess.Popen, command, env=env, start_new_session=True))

    def left_open(self) -> Iterator[Path]:
        """Folders of runs that are not done and that nobody is training."""
        watch = leases.Watch()
        for config in sorted(self.folder.glob(f"*/{CONFIG}")):
            status = (read_json(config.parent / STATUS) or {}).get("status")
            if status in DONE or (status == "failed" and not self.flags.retry):
                continue
            if watch.stale(config.parent, *leases.newest(config.parent)):
                yield config.parent


def run(flags: Flags) -> None:
    code = Agent(flags).work()
    console.print(f"agent {os.getpid()}: " + {0: "nothing is open any more"}.get(code, f"ended with {code}"))
    sys.exit(code)


if __name__ == "__main__":
    main(Flags, run, positional="sweep")
