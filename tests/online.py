"""What the tests against the loopback W&B server share: runs, agents, comparisons."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.wandb_server import Run, Server

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = "research/bvae_faces.py"
QUICK = "tests/quick_faces.py"  # the same run without charts: a third of a short one's time


def flags(tiny: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The tiny run's flags for a command line, without those that say how W&B is used."""
    return {k: v for k, v in tiny.items() if k != "wandb"} | more


def as_args(values: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


class Process(subprocess.Popen):
    """A client process with a log. When the `with` block ends, it is killed with all that it started."""

    def __init__(
        self, command: list[str], server: Server, home: Path, log: str, cwd: Path = ROOT, **env: str
    ):
        self.log = home / f"{log}.log"
        home.mkdir(parents=True, exist_ok=True)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # agents run its python
        known = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        with open(self.log, "ab") as out:
            super().__init__(
                command,
                stdout=out,
                stderr=out,
                cwd=cwd,
                start_new_session=True,
                env=known | server.env(home) | {"PATH": path} | env,
            )

    def __exit__(self, *error: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for folder in Path("/proc").glob("[0-9]*"):  # the runs of an agent have process groups of their own
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(int(folder.name)) == self.pid:
                    os.kill(int(folder.name), signal.SIGKILL)
        super().__exit__(*error)

    def ended(self, timeout_s: float = 120) -> int:
        """Its exit code; fails with the log's end if the process does not end in time."""
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.args} goes on after {timeout_s} s:\n{self.said()}") from None

    def said(self) -> str:
        return self.log.read_text(errors="replace")


def log_in_here(monkeypatch: Any, server: Server, home: Path) -> None:
    """This process becomes a client of `server`; one of an earlier server is ended first."""
    import wandb

    wandb.teardown()
    for name, value in server.env(home).items():
        monkeypatch.setenv(name, value)


def training(
    server: Server, home: Path, values: dict[str, Any], log: str = "train", script: str = SCRIPT, **env: str
) -> Process:
    """A run as a user starts it."""
    return Process([sys.executable, script, *as_args(values)], server, home, log, **env)


# `wandb agent` as it is, but that it asks the server and looks at its run once a second instead of every 5 s
AGENT = """
from wandb.cli.cli import cli
from wandb.wandb_agent import Agent

Agent.POLL_INTERVAL = 1
cli(prog_name="wandb")
"""


def agent(server: Server, home: Path, sweep: str, log: str, usual: bool = False, **env: str) -> Process:
    """A real `wandb agent --forward-signals`. usual: start it by the exact command of the docs, at its own
    pace.
    """
    wandb = ["-m", "wandb"] if usual else ["-c", AGENT]
    command = [sys.executable, *wandb, "agent", "--forward-signals", sweep]
    return Process(command, server, home, log, **{"QUICK_STOP_POLL": "1"} | env)


def gates(folder: Path, *steps: int) -> dict[str, str]:
    """Environment in which QUICK waits before each of these steps until its gate in `folder` is opened."""
    return {"QUICK_GATE": json.dumps({step: str(folder / f"gate-{step}") for step in steps})}


def open_gate(folder: Path, step: int) -> None:
    (folder / f"gate-{step}").touch()


def wandb_sweep(server: Server, home: Path, yaml_file: Path, project: str = "p") -> str:
    """`wandb sweep FILE` with the real command; returns entity/project/id."""
    known = set(server.sweeps)
    with Process(
        [sys.executable, "-m", "wandb", "sweep", f"--project={project}", str(yaml_file)],
        server,
        home,
        "sweep",
    ) as made:
        assert made.ended(60) == 0, made.said()
    (name,) = set(server.sweeps) - known
    assert f"wandb agent tester/{project}/{name}" in made.said()  # what the user is told to type
    return f"tester/{project}/{name}"


def make_sweep(server: Server, content: dict[str, Any], project: str = "p") -> str:
    """The same without a process: entity/project/id of a new sweep."""
    made = server.upsertSweep(None, {"config": yaml.safe_dump(content), "projectName": project})
    return f"tester/{project}/{made['sweep'].name}"


def until(
    what: Callable[[], Any], process: Process | None = None, timeout_s: float = 90, every_s: float = 0.05
) -> Any:
    """The first true value of `what()`; fails if the process ends before that, or time is up."""
    end = time.monotonic() + timeout_s
    while not (value := what()):
        if process and process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}:\n{process.said()}")
        if time.monotonic() > end:
            raise AssertionError("waited too long" + (f":\n{process.said()}" if process else ""))
        time.sleep(every_s)
    return value


def rows_of(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def lost_rows(run: Run, folder: Path) -> int:
    """How many rows of metrics.jsonl the server lacks; fails if a row differs or comes twice."""
    there = {row["_step"]: row for row in run.rows}
    assert [row["_step"] for row in run.rows] == sorted(there), "steps come twice or out of order"
    lost = 0
    for row in rows_of(folder):
        got = there.get(row["step"])
        lost += got is None
        for key, value in row.items() if got else ():
            if key != "step":
                assert _equal(got.get(key), value), f"{key}, {row['step']}: {got.get(key)}, not {value}"
    return lost


def _equal(got: Any, value: Any) -> bool:
    if value is None:
        return got in (None, "NaN") or (isinstance(got, float) and math.isnan(got))
    return got is not None and float(got) == float(value)


def figures(server: Server, folders: dict[str, Path], kills: int = 0) -> dict[str, int]:
    """What `make test-wandb` prints at its end: for each run (by W&B id) its folder is compared."""
    runs = [server.run(name) for name in folders]
    lost = sum(lost_rows(run, folders[run.name]) for run in runs)
    return {
        "runs": len(runs),
        "rows": sum(len(rows_of(folder)) for folder in folders.values()),
        "files": sum(len(run.files) for run in runs),
        "artifacts": sum(len(run.logged) for run in runs),
        "kills": kills,
        "rows lost": lost,
        "refused": len(server.refused),
    }


def folder_with_id(out: Path, wandb_id: str) -> Path:
    """The run folder under `out` whose W&B id this is."""
    for config in out.glob("*/config.json"):
        if json.loads(config.read_text())["wandb_id"] == wandb_id:
            return config.parent
    raise AssertionError(f"no folder of {wandb_id} in {out}")
