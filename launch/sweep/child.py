"""The one process that a worker or an agent runs at a time, and how a request to stop reaches it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from data.terminal import argument

POLL_S = 0.2


class Child:
    """Runs one process after the other, each in a session of its own: Ctrl-C reaches it only through us.

    The first signal that asks us to stop is passed on as SIGTERM, whichever it was: on USR1 an agent would
    take the next run. Later ones change nothing, since a cluster may say the same thing several times over;
    but Ctrl-C after another request does `force` to the process.
    parent: when this process (our parent) is gone, that is a request to stop too; 0: don't look.
    """

    def __init__(self, parent: int, force: Callable[[subprocess.Popen], Any]):
        self.parent, self.force = parent, force
        self.stops = 0  # how often we were asked to stop
        self.process: subprocess.Popen | None = None
        self._asked: subprocess.Popen | None = None  # the process that a request to stop was passed on to
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
        """SIGTERM to the process, once: to an agent a second one means that it is to kill its run."""
        if self._asked is not self.process:
            self._asked = self.process
            self.process.send_signal(signal.SIGTERM)

    def is_orphaned(self) -> bool:
        return self.parent != 0 and os.getppid() != self.parent

    def run(self, command: Sequence[str], look: Callable[[], Any] | None = None, **options: Any) -> int:
        """Run a command to its end; its exit code. look: done again and again meanwhile."""
        self.process = subprocess.Popen(list(map(argument, command)), start_new_session=True, **options)
        if self.stops:  # the request came while there was no process yet
            self._ask_to_stop()
        while (code := self.process.poll()) is None:
            time.sleep(POLL_S)
            if self.is_orphaned() and not self.stops:
                self.on_signal()
            if look:
                look()
        return code
