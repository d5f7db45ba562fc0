"""Starts a worker's trials by forking a process that has already imported torch and the script's modules.

A worker has one server, `python launch/sweep/fork_server.py PROGRAM FD LATER`, with which it talks over a
socket. It sends a job, which is a line of JSON; it gets the process id of the trial and, when the trial has
ended, its exit code. The trial is a process of its own in a session of its own, as if `python PROGRAM …` had
been started: it runs the script from its first line, with the job's arguments, environment and log.

Before a fork the server only imports. Whatever a fork would break or share, such as OpenMP's threads, a CUDA
context or random numbers, is created in the trial. A trial leaves as a forked process should: its threads and
exit handlers have their turn, but it doesn't take apart, object by object, what it has inherited, since that
would copy all of it and takes longer than a short training. Each process may be killed at any moment:

- the server: its trial continues, and because the trial holds the socket too, the worker notices its end;
- the worker: its trial continues; the server ends after the trial;
- the trial: the server reports its exit code, as a shell would.
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

# modules that trials import while they run, by the module that imports them
LATER = {
    "torch": ["torch._dynamo"],  # it comes with an optimizer
    "research.common.run": ["torchinfo", "tyro", "wandb"],
    "research.draw.charts": ["matplotlib.figure", "matplotlib.backends.backend_agg"],
    "research.parts.vae_mnist_maps": ["sklearn.neighbors"],
}
POSSIBLE = sys.platform == "linux"  # Apple's libraries may crash in a forked process
ASKED_TO_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


# ---- in the worker --------------------------------------------------------------------------------------


class Forked:
    """A trial that the server has started; the part of subprocess.Popen that `Child` uses."""

    def __init__(self, pid: int, connection: socket.socket):
        self.pid, self._connection = pid, connection
        self._code: int | None = None
        self._received: list[bytes] = []

    def poll(self) -> int | None:
        """Its exit code, or −n if signal n has ended it; None while it runs.

        It never waits. A signal handler may call it in the middle of another call, so received bytes are only
        ever appended.
        """
        if self._code is None:
            with contextlib.suppress(BlockingIOError):
                try:
                    self._received.append(self._connection.recv(4096, socket.MSG_DONTWAIT))
                except ConnectionResetError:
                    self._received.append(b"")
            line = b"".join(self._received)
            if line.endswith(b"\n"):
                self._code = json.loads(line)["code"]
            elif b"" in self._received:  # the server is gone, and the exit code is lost with it
                self._code = -signal.SIGKILL
        return self._code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it may have just ended
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Starts trials of one script, one at a time; the first one starts the server's process, too."""

    def __init__(self, program: Path, later: Mapping[str, Sequence[str]] = LATER):
        self.program, self.later = program, later
        self._process: subprocess.Popen | None = None
        self._connection: socket.socket | None = None

    def start(self, args: Sequence[str], log: Path, env: Mapping[str, str]) -> Forked:
        """Run the script with `args` in a process of its own, whose output is appended to `log`.

        Raises ChildProcessError if two servers in a row die before they have started it.
        """
        job = {"args": list(args), "log": str(log), "env": dict(env)}
        for _ in range(2):
            if self._process is None or self._process.poll() is not None:
                self._begin(env)
            try:
                self._connection.sendall(f"{json.dumps(job)}\n".encode())
                answer = read_line(self._connection)
            except OSError:
                answer = None
            if answer is not None:
                return Forked(answer["pid"], self._connection)
            self.close()
        raise ChildProcessError(f"the process that starts trials of {self.program} died twice")

    def _begin(self, env: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        for one in (ours, theirs):  # ignore socket.setdefaulttimeout: importing torch may take a while
            one.setblocking(True)
        command = [sys.executable, __file__, str(self.program), str(theirs.fileno()), json.dumps(self.later)]
        self._process = subprocess.Popen(
            command, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        self._connection = ours

    def close(self) -> None:
        """End the server; a trial that it has started continues."""
        if self._process is not None:
            self._connection.close()
            self._process = self._connection = None


def read_line(connection: socket.socket) -> dict | None:
    """Wait for the next message; None if the other side is gone."""
    line = b""
    while not line.endswith(b"\n"):
        try:
            byte = connection.recv(1)
        except ConnectionResetError:
            byte = b""
        if not byte:
            return None
        line += byte
    return json.loads(line)


# ---- in the server and its trials -----------------------------------------------------------------------


def serve(program: str, connection: socket.socket, later: Mapping[str, Sequence[str]]) -> None:
    """Start one trial after the other, until the worker is gone."""
    # A cluster sends these signals to all processes, but they are meant for the trial. A new trial receives
    # them as soon as it can handle them.
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKED_TO_STOP)
    with contextlib.suppress(Exception, SystemExit):  # the trial meets the same error and reports it
        runpy.run_path(program, run_name="imported")
    # Python 3.12 warns of forks if there are threads; here only OpenBLAS has some, which end before a fork
    warnings.simplefilter("ignore", DeprecationWarning)
    for n, line in enumerate(connection.makefile("rb")):
        wanted = [name for by in later if by in sys.modules for name in later[by]]
        for name in wanted if n == 1 else ():  # not for the first trial, which may be the only one
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        gc.freeze()  # trials never search what was imported for garbage, which would copy it, too
        if (pid := os.fork()) == 0:
            leave(become(program, json.loads(line)))
        tell(connection, pid=pid)
        _, status = os.waitpid(pid, 0)
        tell(connection, code=os.waitstatus_to_exitcode(status))


def tell(connection: socket.socket, **what: int) -> None:
    try:
        connection.sendall(f"{json.dumps(what)}\n".encode())
    except OSError:  # the worker has been killed
        leave(0)


def become(program: str, job: dict) -> int:
    """In the trial: run the script as `python program …` does; returns the exit code."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED_TO_STOP)
    log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    os.environ.clear()
    os.environ.update(job["env"])
    sys.argv = [program, *job["args"]]
    sys.path[0] = str(Path(program).parent)
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(*sys.exc_info())  # prints it; W&B's client has one that also notes it
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def leave(code: int) -> NoReturn:
    """End the process as Python does, in the same order, but leave its memory to the system.

    code: the exit code, or −n to end by signal n.
    """
    try:
        threading._shutdown()  # waits for threads that are no daemons, and ends pools of them
        atexit._run_exitfuncs()
        for thing in gc.get_objects():  # those made since the fork, as all others are frozen
            if issubclass(type(thing), (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)):
                with contextlib.suppress(OSError, ValueError):  # as Python ignores it; closed
                    thing.flush()  # the script has left it open
    except BaseException:  # such as a signal meanwhile: what the script has said counts
        sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:  # a full disk, for which Python has this code
            code = code or 120
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])), json.loads(sys.argv[3]))
    leave(0)
