"""How many CPU threads torch gets on a machine that other processes use too.

The threads of an operation wait for one another by spinning: as long as one of them has no core, the others
use theirs for nothing, and a step takes many times its fair share (benchmarks/results/threads.md). So a run
begins with as many threads as there are free cores, and continues with one thread when it has had to wait for
cores.
"""

import os
import time
from pathlib import Path

import torch

LOOK_S = 1.0
PATIENCE_S = 5.0  # our own videos and the start of W&B also take a core for some seconds
CROWDED = 0.3  # seconds per second in which threads could have run but had no core


def free_cores() -> int:
    """The number of cores on which nothing else runs at the moment, at least 1; all cores if Linux does not
    say.
    """
    cores, busy = os.cpu_count() or 1, []
    try:
        for _ in range(5):
            running = Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0]
            busy.append(int(running) - 1)  # less ourselves
            time.sleep(0.01)
    except (OSError, ValueError, IndexError):
        return cores
    return max(1, cores - sorted(busy)[len(busy) // 2])


def waited_s() -> float | None:
    """Seconds that the threads of this process have waited for a core; None if Linux does not say."""
    try:
        files = Path("/proc/self/task").glob("*/schedstat")
        return sum(int(file.read_text(encoding="ascii").split()[1]) for file in files) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def set_threads(asked: int | None, before: int | None = None) -> None:
    """Give torch the requested number of threads, else the number it had before, else one for each free
    core.
    """
    own = torch.get_num_threads()
    looks = own > 1 and "OMP_NUM_THREADS" not in os.environ  # by which a launcher gives each run its share
    torch.set_num_threads(asked or before or (min(own, free_cores()) if looks else own))


class Crowd:
    """Notices when a run has had to share its cores for a while."""

    def __init__(self):
        self._looked, self._waited = time.monotonic(), waited_s()
        self._since: float | None = None  # when it began to be crowded

    def noticed(self) -> bool:
        """Whether the threads have had to wait for cores in the last seconds; checks once a second."""
        now = time.monotonic()
        if self._waited is None or now - self._looked < LOOK_S or torch.get_num_threads() == 1:
            return False
        waited = waited_s()
        share = ((waited or 0.0) - self._waited) / (now - self._looked)
        if share < CROWDED:
            self._since = None
        elif self._since is None:  # one check is not enough, however long ago the last one was
            self._since, self._looked, self._waited = self._looked, now, waited
            return False
        self._looked, self._waited = now, waited
        return self._since is not None and now - self._since >= PATIENCE_S
