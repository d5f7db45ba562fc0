"""Many commands for the price of one start: a process imports what takes seconds, then forks for each.

A child starts before any module of this project is imported, and then runs as `python SCRIPT ARGS` would: as
`__main__`, with the script's folder first on sys.path. What start-up itself costs is not seen this way.
"""

import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORKING = """
import atexit, gc, importlib, json, os, runpy, sys, threading, traceback

usual = ("numpy", "torch", "yaml", "rich.console", "tyro", "PIL.Image")
for name in (*usual, *sys.argv[2:]):
    importlib.import_module(name)
gc.freeze()  # children would search all of this for garbage, and copy it thereby


def child(command, out, err):
    os.dup2(os.open(out, os.O_CREAT | os.O_WRONLY), 1)
    os.dup2(os.open(err, os.O_CREAT | os.O_WRONLY), 2)
    sys.argv = command
    sys.path[0] = os.path.dirname(os.path.abspath(command[0]))
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


folder = sys.argv[1]
for i, command in enumerate(json.load(sys.stdin)):
    pid = os.fork()
    if pid == 0:
        code = child(command, f"{folder}/{i}.out", f"{folder}/{i}.err")
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    with open(f"{folder}/{i}.code", "w") as f:
        f.write(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended, like subprocess.CompletedProcess."""

    returncode: int
    stdout: str
    stderr: str


def run_each(
    commands: Sequence[Sequence[str]],
    scratch: Path,
    cwd: Path,
    timeout_s: float = 240,
    imported: Sequence[str] = (),
    before: Callable[[], None] | None = None,
    **env: str,
) -> list[Ended]:
    """Run each [script, *args] in `cwd`, one after the other; `scratch` is a new folder for their output.

    imported: modules that these commands take seconds to import, besides torch and those of most scripts;
    before: done in the process that becomes the parent of all.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    server = subprocess.run(
        [sys.executable, "-c", FORKING, str(scratch), *imported],
        input=json.dumps([list(map(str, command)) for command in commands]),
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        preexec_fn=before,
    )
    assert server.returncode == 0, server.stderr
    read = lambda i, kind: (scratch / f"{i}.{kind}").read_text()  # noqa: E731
    return [Ended(int(read(i, "code")), read(i, "out"), read(i, "err")) for i in range(len(commands))]


def fork(what: Callable[[], Any], out: Path, err: Path, env: Mapping[str, str]) -> int:
    """Do `what` in a fork of this very process, with what it has imported already; the fork's process id.

    out, err: files, emptied before, for what it prints; they may be the same. env: its whole environment.
    """
    for file in (out, err):
        file.write_bytes(b"")
    if pid := os.fork():
        return pid
    code = 1
    try:
        for number, file in ((1, out), (2, err)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
        sys.stdout = sys.__stdout__ = os.fdopen(1, "w", buffering=1, closefd=False)  # not pytest's
        sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, closefd=False)
        os.environ.clear()
        os.environ.update(env)
        what()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if stop.code is not None and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run_script(command: Sequence[str], cwd: Path) -> None:
    """As `python SCRIPT ARGS` in that folder would: for `fork`."""
    os.chdir(cwd)
    sys.argv = list(command)
    runpy.run_path(command[0], run_name="__main__")
