"""The one process that a worker or an agent runs at a time, and how a request to stop reaches it."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any, Protocol

POLL_S = 0.2


class Process(Protocol):
    """What `Child` needs of a process: subprocess.Popen and a forked trial both have it."""

    def poll(self) -> int | None: ...
    def send_signal(self, number: int) -> None: ...
    def kill(self) -> None: ...


class Child:
    """Runs one process after the other, each in a session of its own, so that Ctrl-C reaches it only through
    us.

    The first signal that asks us to stop is passed on as SIGTERM, whichever signal it was: on USR1 an agent
    would take the next run. Later signals change nothing, since a cluster may repeat a request several times;
    but Ctrl-C after an earlier request calls `force` on the process.
    parent: when this process (our parent) is gone, we stop, too; 0: don't look.
    """

    def __init__(self, parent: int, force: Callable[[Process], Any]):
        self.parent, self.force = parent, force
        self.stops = 0  # how often we were asked to stop
        self.process: Process | None = None
        self._asked: Process | None = None  # the process that has been asked to stop
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self.on_signal)

    def on_signal(self, number: int = signal.SIGTERM, *_: object) -> None:
        first = self.stops == 0
        self.stops += 1
        if self.process is None or self.process.poll() is not None:
            return
        if first:
            self._ask_to_stop()
        elif number == signal.SIGINT:
            self.force(self.process)

    def _ask_to_stop(self) -> None:
        """Send SIGTERM to the process, but only once: at further ones an agent would kill its run."""
        if self._asked is not self.process:
            self._asked = self.process
            self.process.send_signal(signal.SIGTERM)

    def is_orphaned(self) -> bool:
        return self.parent != 0 and os.getppid() != self.parent

    def run(self, start: Callable[[], Process], look: Callable[[], Any] | None = None) -> int:
        """Start a process and wait for its end; returns its exit code. look: called again and again
        meanwhile.
        """
        self.process = start()
        if self.stops:  # the request came while there was no process yet
            self._ask_to_stop()
        while (code := self.process.poll()) is None:
            time.sleep(POLL_S)
            if self.is_orphaned() and not self.stops:
                self.on_signal()
            if look:
                look()
        return code
