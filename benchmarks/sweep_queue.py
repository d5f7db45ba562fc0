"""The queue of a sweep without training: its speed, and its file-system operations per trial.

    python benchmarks/sweep_queue.py --trials=100,300,1000 --workers=16
    python benchmarks/sweep_queue.py --folder=/shared/scratch/queue     # on the file system in question

Every worker is a process that runs the loop of launch/sweep/worker.py. Instead of starting a training
process, it waits for `train_ms`, writes status.json as a finished run would, and gives the lease back. So
everything that a training process does itself is left out: adopting the lease, metrics, checkpoints.

Operations on files below the sweep folder are counted inside the workers, in an extra round that is not
timed. Most are counted by Python's audit events; stat and fsync, which have none, by wrapping os.stat and
os.fsync. Failed operations count, too. Not counted are read, write, close, and the fstat that Python makes
after an open. A listing counts as one operation, but on a network a long one takes several requests; so the
names that listings of trials/ return are counted separately.
"""

import functools
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import race
from launch.sweep import worker
from launch.sweep.queue import Queue, Trial
from research.common import lease as leases
from research.common.commandline import main
from research.common.folder import write_json
from research.common.lease import Lease
from research.common.messages import console

FORK = get_context("fork")
KINDS = ("open", "create", "list", "stat", "mkdir", "link", "rename", "unlink", "fsync")
EVENTS = {
    "os.listdir": "list",
    "os.scandir": "list",
    "os.mkdir": "mkdir",
    "os.link": "link",
    "os.rename": "rename",
    "os.remove": "unlink",
}
Counts = Counter[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Time and count a sweep's queue without its training."""

    trials: str = "100,300,1000"
    """how many trials the sweep has, for each measurement"""
    workers: int = 16
    """processes that share the folder"""
    train_ms: float = 5.0
    """how long a trial trains"""
    repeats: int = 3
    """timed rounds of each, of which the fastest counts; one more is for counting"""
    folder: str | None = None
    """where to make the folders of the queues, removed afterwards; default: the system's temporary folder"""


class Operations:
    """Counts this process's file-system operations below `root` as {(kind, what): n}."""

    def __init__(self, root: Path):
        self.root, self.counts, self.opened = f"{root}{os.sep}", Counter(), ""
        os.stat = self._wrap(os.stat, lambda path: self._count("stat", path))
        # the file that is synced is always the one that was opened last
        os.fsync = self._wrap(os.fsync, lambda fd: self._count("fsync", self.opened))
        os.listdir = self._wrap(os.listdir, None)
        sys.addaudithook(self._audit)

    def _wrap(self, original: Callable, before: Callable[[Any], None] | None) -> Callable:
        @functools.wraps(original)
        def wrapped(path: Any, *args: Any, **kwargs: Any) -> Any:
            if before:
                before(path)
            result = original(path, *args, **kwargs)
            if isinstance(result, list):
                self._count("listed", path, len(result))
            return result

        return wrapped

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            self.opened = args[0]
            self._count("create" if args[2] & os.O_CREAT else "open", args[0])
        elif event in EVENTS:
            self._count(EVENTS[event], args[0])

    def _count(self, kind: str, path: Any, n: int = 1) -> None:
        text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
        if text.startswith(self.root):
            self.counts[kind, self._what(Path(text[len(self.root) :]))] += n

    def _what(self, path: Path) -> str:
        """The role of a path inside the sweep folder."""
        if path.parts[0] == "trials":
            return "trials/NNNN.json" if len(path.parts) > 1 else "trials/"
        if len(path.parts) == 1:
            return "run folder"
        return next((w for w in ("status.json", "lease", "checkpoints") if w in path.parts[1]), "else")


class Worker(worker.Worker):
    """A worker that does not train: it only waits, in its own process."""

    def __init__(self, flags: worker.Flags, train_ms: float):
        super().__init__(flags)
        self.train_s, self.trained, self.last = train_ms / 1000, [], 0.0

    def train(self, trial: Trial, lease: Lease) -> None:
        self.queue.varied()  # a real worker calls it for the environment of a training process
        time.sleep(self.train_s)
        status = {
            "status": "finished",
            "reason": None,
            "step": 1,
            "steps": 1,
            "headline": 0.5,
            "segments": [],
        }
        write_json(self.queue.run_folder(trial) / "status.json", status)
        lease.release("finished")
        self._after(trial, lease, 0)
        self.trained.append(trial.key)
        self.last = time.monotonic()


@dataclass(frozen=True)
class Life:
    """What a worker did in a round. Times are on the clock that all processes of a machine share."""

    began: float
    last: float
    ended: float
    cpu_s: float
    trained: list[str]
    counts: Counts


def _start(barrier: Any) -> None:
    global BARRIER
    BARRIER = barrier


def work(folder: Path, train_ms: float, count: bool) -> Life:
    """Run a worker from its start to its end."""
    operations = Operations(folder) if count else None
    one = Worker(worker.Flags(sweep=str(folder), program=""), train_ms)
    BARRIER.wait(60)
    began, cpu = time.monotonic(), time.process_time()
    assert one.work() == 0
    ended, cpu = time.monotonic(), time.process_time() - cpu
    counts = operations.counts if operations else Counter()
    return Life(began, one.last or ended, ended, cpu, one.trained, counts)


def sweep_round(flags: Flags, n: int, count: bool) -> tuple[list[Life], float]:
    """Run a sweep of n trials from beginning to end; returns what each worker did, and the seconds that it
    took to add the trials.
    """
    with tempfile.TemporaryDirectory(prefix="queue-", dir=flags.folder) as tmp:
        queue, began = Queue(Path(tmp)), time.perf_counter()
        keys = [f"{i:012x}" for i in range(n)]
        for i, key in enumerate(keys):
            queue.add({"seed": i, "learning_rate": 0.001, "latent_dim": 10, "steps": 1500}, key)
        added = time.perf_counter() - began
        barrier = FORK.Barrier(flags.workers)
        with ProcessPoolExecutor(flags.workers, FORK, _start, (barrier,)) as pool:
            waiting = [pool.submit(work, queue.folder, flags.train_ms, count) for _ in range(flags.workers)]
            lives = [one.result() for one in waiting]
        trained = sorted(key for life in lives for key in life.trained)
        assert trained == keys, (
            f"{len(keys)} trials, {len(trained)} trained, {len(set(trained))} of them different"
        )
        for trial in queue.trials():
            assert queue.status(trial)["status"] == "finished", trial
            assert leases.newest(queue.run_folder(trial))[1]["released"] == "finished", trial
    return lives, added


def until_done(lives: list[Life]) -> float:
    """Seconds from the start until the last trial was done."""
    return max(life.last for life in lives) - min(life.began for life in lives)


def until_gone(lives: list[Life]) -> float:
    """Seconds from the start until the last worker had ended."""
    return max(life.ended for life in lives) - min(life.began for life in lives)


def total(lives: list[Life]) -> Counts:
    return sum((life.counts for life in lives), Counter())


def kinds_row(n: int, counts: Counts) -> list[str]:
    """Operations per trial by kind, as a row of the table."""
    by_kind = Counter()
    for (kind, _), count in counts.items():
        by_kind[kind] += count
    cells = [sum(by_kind[kind] for kind in KINDS), *(by_kind[kind] for kind in KINDS), by_kind["listed"]]
    return [str(n), *(f"{count / n:.1f}" for count in cells)]


def print_profile(n: int, counts: Counts) -> None:
    """Operations per trial by their kind of file, the most frequent first."""
    by_what: dict[str, Counter[str]] = {}
    for (kind, what), count in counts.items():
        if kind != "listed":
            by_what.setdefault(what, Counter())[kind] += count
    for what, kinds in sorted(by_what.items(), key=lambda pair: -pair[1].total()):
        each = ", ".join(f"{kind} {count / n:.1f}" for kind, count in kinds.most_common())
        print(f"{what:17s} {kinds.total() / n:7.1f}  {each}")


def run(flags: Flags) -> None:
    race.header(f"{flags.workers} workers", f"a trial trains {flags.train_ms:g} ms")
    times = [["trials", "adding, s", "all done, s", "trials/s", "CPU ms/trial", "last worker gone, s"]]
    counted: dict[int, Counts] = {}
    for n in map(int, flags.trials.split(",")):
        rounds = [sweep_round(flags, n, count=False) for _ in range(flags.repeats)]
        fastest = min((lives for lives, _ in rounds), key=until_done)
        took, cpu = until_done(fastest), min(sum(life.cpu_s for life in lives) for lives, _ in rounds)
        figures = [f"{min(added for _, added in rounds):.2f}", f"{took:.2f}", f"{n / took:.1f}"]
        times.append([str(n), *figures, f"{1000 * cpu / n:.1f}", f"{until_gone(fastest):.2f}"])
        console.print(f"{n} trials took {took:.2f} s; counting operations in one more round")
        counted[n] = total(sweep_round(flags, n, count=True)[0])
    print(f"\nfastest of {flags.repeats} rounds; in every round each trial was trained exactly once")
    race.table(times)
    print("\nfile-system operations per trial")
    race.table(
        [["trials", "all", *KINDS, "listed"], *(kinds_row(n, counts) for n, counts in counted.items())]
    )
    n = max(counted)
    print(f"\nto what, per trial, of {n} trials")
    print_profile(n, counted[n])


if __name__ == "__main__":
    main(Flags, run)
