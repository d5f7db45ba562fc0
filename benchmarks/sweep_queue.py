"""The queue of a sweep alone, without training: its speed and its file-system operations per trial.

    python benchmarks/sweep_queue.py --trials=100,300,1000 --workers=16
    python benchmarks/sweep_queue.py --folder=/shared/scratch/queue     # on the file system in question

Every worker is a process that runs the loop of launch/sweep/worker.py; in place of starting a training
process it waits for `train_ms`, writes status.json as a finished run would, and gives the lease back. So
everything that a training process does itself is left out: adopting the lease, metrics, checkpoints.

Operations on files below the sweep folder are counted inside the workers, in a round of its own that is not
timed: most of them by Python's audit events; stat and fsync, which have none, by wrapping os.stat and
os.fsync. Those that fail count too. Not seen are read, write, close, and the fstat with which Python follows
an open. A listing is one operation here, but on a network as many requests as its length takes: the names
that listings of trials/ returned are told apart.
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

from launch.sweep import worker
from launch.sweep.queue import Queue, Trial
from research.common import lease as leases
from research.common.commandline import main
from research.common.folder import write_json
from research.common.lease import Lease

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
        # all sync what they opened
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
        """What a path inside the sweep folder is to the queue."""
        if path.parts[0] == "trials":
            return "trials/NNNN.json" if len(path.parts) > 1 else "trials/"
        if len(path.parts) == 1:
            return "run folder"
        return next((w for w in ("status.json", "lease", "checkpoints") if w in path.parts[1]), "else")


class Worker(worker.Worker):
    """A worker whose trials train in its own process, which is to say not at all."""

    def __init__(self, flags: worker.Flags, train_ms: float):
        super().__init__(flags)
        self.train_s, self.trained, self.last = train_ms / 1000, [], 0.0

    def train(self, trial: Trial, lease: Lease) -> None:
        self.queue.varied()  # as for the environment of a training process
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
class Told:
    """What a worker tells of its round; moments on the clock that all processes of a machine share."""

    began: float
    last: float
    ended: float
    cpu_s: float
    trained: list[str]
    counts: Counts


def _start(barrier: Any) -> None:
    global BARRIER
    BARRIER = barrier


def work(folder: Path, train_ms: float, count: bool) -> Told:
    """A worker's life."""
    operations = Operations(folder) if count else None
    one = Worker(worker.Flags(sweep=str(folder), program=""), train_ms)
    BARRIER.wait(60)
    began, cpu = time.monotonic(), time.process_time()
    assert one.work() == 0
    ended, cpu = time.monotonic(), time.process_time() - cpu
    counts = operations.counts if operations else Counter()
    return Told(began, one.last or ended, ended, cpu, one.trained, counts)


def sweep_round(flags: Flags, n: int, count: bool) -> tuple[list[Told], float]:
    """One sweep of n trials, from its making to its end: what the workers tell, and seconds of adding."""
    with tempfile.TemporaryDirectory(prefix="queue-", dir=flags.folder) as tmp:
        queue, began = Queue(Path(tmp)), time.perf_counter()
        keys = [f"{i:012x}" for i in range(n)]
        for i, key in enumerate(keys):
            queue.add({"seed": i, "learning_rate": 0.001, "latent_dim": 10, "steps": 1500}, key)
        added = time.perf_counter() - began
        barrier = FORK.Barrier(flags.workers)
        with ProcessPoolExecutor(flags.workers, FORK, _start, (barrier,)) as pool:
            told = list(pool.map(work, *zip(*[(queue.folder, flags.train_ms, count)] * flags.workers)))
        trained = sorted(key for one in told for key in one.trained)
        assert trained == keys, (
            f"{len(keys)} trials, {len(trained)} trained, {len(set(trained))} of them different"
        )
        for trial in queue.trials():
            assert queue.status(trial)["status"] == "finished", trial
            assert leases.newest(queue.run_folder(trial))[1]["released"] == "finished", trial
    return told, added


def speed(told: list[Told]) -> float:
    """Seconds from the start until the last trial was done."""
    return max(one.last for one in told) - min(one.began for one in told)


def total(told: list[Told]) -> Counts:
    return sum((one.counts for one in told), Counter())


def print_kinds(n: int, counts: Counts) -> None:
    """Operations per trial by kind, as a row of the table whose header `run` prints."""
    by_kind = Counter()
    for (kind, _), k in counts.items():
        by_kind[kind] += k
    cells = [sum(by_kind[kind] for kind in KINDS), *(by_kind[kind] for kind in KINDS), by_kind["listed"]]
    print(f"{n:6d} " + "".join(f"{k / n:8.1f}" for k in cells))


def print_profile(n: int, counts: Counts) -> None:
    """Operations per trial by what they were done to, most frequent first."""
    whats: dict[str, Counter[str]] = {}
    for (kind, what), k in counts.items():
        if kind != "listed":
            whats.setdefault(what, Counter())[kind] += k
    for what, kinds in sorted(whats.items(), key=lambda pair: -pair[1].total()):
        told = ", ".join(f"{kind} {k / n:.1f}" for kind, k in kinds.most_common())
        print(f"{what:17s} {kinds.total() / n:7.1f}  {told}")


def run(flags: Flags) -> None:
    print(f"{flags.workers} workers, a trial trains {flags.train_ms:g} ms; fastest of {flags.repeats} rounds")
    print("trials   adding, s   all done, s   trials/s   CPU ms/trial   last worker gone, s")
    counted: dict[int, Counts] = {}
    for n in map(int, flags.trials.split(",")):
        rounds = [sweep_round(flags, n, count=False) for _ in range(flags.repeats)]
        told, _ = min(rounds, key=lambda pair: speed(pair[0]))
        s, gone = speed(told), max(one.ended for one in told) - min(one.began for one in told)
        cpu = 1000 * min(sum(one.cpu_s for one in others) for others, _ in rounds) / n
        added = min(added for _, added in rounds)
        print(f"{n:6d} {added:11.2f} {s:13.2f} {n / s:10.1f} {cpu:14.1f} {gone:21.2f}", flush=True)
        counted[n] = total(sweep_round(flags, n, count=True)[0])
    print("each trial was trained exactly once, in every round")
    print(
        "\nfile-system operations per trial\ntrials " + "".join(f"{k:>8s}" for k in ("all", *KINDS, "listed"))
    )
    for n, counts in counted.items():
        print_kinds(n, counts)
    n = max(counted)
    print(f"\nto what, per trial, of {n} trials")
    print_profile(n, counted[n])


if __name__ == "__main__":
    main(Flags, run)
