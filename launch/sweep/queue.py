"""A sweep as a folder that any number of equal workers share. There is no controller and no lock to clean up.

`runs/<sweep>/` contains `sweep.yaml` (frozen), `code/` (a snapshot), `trials/NNNN.json` (a point of the sweep
and the key of its run, each made once) and one run folder per trial, `runs/<sweep>/<key>/`. The first trials
of a grid or a random search are made together with the sweep; workers make all others (proposer.py). A trial
is open until its run says that it is done. The lease of its run folder decides who may run it: a worker makes
the lease, and its training process adopts it. Any process can be killed at any moment: no trial is lost and
none counts twice. If a trial's run folder can't be written, `trials/NNNN.failed` says why.
"""

import contextlib
import errno
import json
import os
import random
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.results.read import why
from research.common import lease as leases
from research.common.checkpoints import Checkpoints
from research.common.folder import CHECKPOINTS, DONE, ENDED, STATUS, TRIALS, read_json, write_json
from research.common.lease import Lease, Watch
from research.common.wandb_client import PER_RUN  # noqa: F401, the worker and the agent import it from here

OF_ONE_FOLDER = (
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)


@dataclass(frozen=True)
class Trial:
    """One point of a sweep. flags: what the sweep sets; key: identity and folder name of its run; confirms:
    the key of the trial that it repeats with another seed.
    """

    index: int
    flags: dict[str, Any]
    key: str
    confirms: str | None = None


class Queue:
    """The trials of one sweep folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._trials: dict[int, Trial] = {}  # by index; trial files never change, so each is read once
        self.problems: list[str] = []  # trial files that could not be read at the last look, in words
        self._by_key: dict[str, Trial] = {}
        self._by_flags: dict[str, Trial] = {}
        self._done: set[str] = set()
        self._busy: dict[str, Trial] = {}  # trials that others were running: they are tried last
        self._place = 0  # index at which we begin to look for an open trial
        self._varied: tuple[int, list[str]] = (0, [])  # number of trials, flags that differ between them

    def trials(self) -> list[Trial]:
        """All trials made so far, by index; `problems` then says which files can't be read."""
        folder, self.problems, names = self.folder / TRIALS, [], []
        try:
            names = os.listdir(folder)  # glob is far slower
        except FileNotFoundError:
            pass
        except OSError as error:
            self.problems.append(f"{TRIALS} cannot be read ({why(error)})")
        for name in names:
            stem, _, suffix = name.partition(".")
            if suffix != "json" or not stem.isdecimal() or int(stem) in self._trials:
                continue
            try:
                kept = json.loads((folder / name).read_text(encoding="utf-8"))
                trial = Trial(int(stem), dict(kept["flags"]), str(kept["key"]), kept.get("confirms"))
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                # `add` makes it in one piece, so it is somebody else's, or a disk has lost it
                reason = why(error) if isinstance(error, OSError) else "it is damaged"
                self.problems.append(f"{TRIALS}/{name} cannot be read ({reason})")
            else:
                self._know(trial)
        self.problems.sort()
        return [self._trials[i] for i in sorted(self._trials)]

    def _know(self, trial: Trial) -> None:
        self._trials[trial.index] = trial
        self._by_key.setdefault(trial.key, trial)
        self._by_flags.setdefault(json.dumps(trial.flags, sort_keys=True), trial)

    def of_flags(self, flags: dict[str, Any]) -> Trial | None:
        """The trial that sets exactly these flags, among those known so far; None if there is none."""
        return self._by_flags.get(json.dumps(flags, sort_keys=True))

    def of_key(self, key: str) -> Trial | None:
        """The trial whose run has this key, among those known so far; None if there is none."""
        return self._by_key.get(key)

    def chosen(self) -> list[Trial]:
        """The trials that the sweep's method chose: all except confirming ones."""
        return [trial for trial in self.trials() if trial.confirms is None]

    def trial_file(self, trial: Trial) -> Path:
        return self.folder / TRIALS / f"{trial.index:04d}.json"

    def varied(self) -> list[str]:
        """Names of the flags whose values differ between the trials known so far."""
        if not self._trials:
            self.trials()
        if self._varied[0] != len(self._trials):  # cached, because it is called often, and for every trial
            trials = list(self._trials.values())
            names = dict.fromkeys(name for trial in trials for name in trial.flags)
            values = {name: {json.dumps(trial.flags.get(name)) for trial in trials} for name in names}
            self._varied = len(trials), [name for name in names if len(values[name]) > 1]
        return self._varied[1]

    def add(self, flags: dict[str, Any], key: str, at: int | None = None, **kept: Any) -> Trial | None:
        """The trial of the run with this key; it is made if there is none. Others may add trials at the same
        time.

        at: the index that it must get; returns None if that is taken. kept: further entries of its file.
        """
        folder = self.folder / TRIALS
        folder.mkdir(parents=True, exist_ok=True)
        tmp = folder / f".{secrets.token_hex(8)}.tmp"  # not a process id: another machine may have the same
        if not self._trials:
            self.trials()
        index = 0
        while True:
            if key in self._by_key:
                return self._by_key[key]
            # Everybody takes the next free index. While it is free, nobody has added a trial unknown to us.
            index = max(index, len(self._trials))
            while index in self._trials:  # a trial file that nobody can read leaves a gap
                index += 1
            if at is not None and index != at:
                return None
            write_json(tmp, {"index": index, "flags": flags, "key": key} | kept)
            try:
                os.link(tmp, folder / f"{index:04d}.json")
            except FileExistsError:
                self.trials()  # somebody has taken this index: read their trial, and try the next
                index += 1
            else:
                self._know(Trial(index, json.loads(json.dumps(flags)), key, kept.get("confirms")))
            finally:
                tmp.unlink()

    def run_folder(self, trial: Trial) -> Path:
        return self.folder / trial.key

    def status(self, trial: Trial) -> dict[str, Any]:
        """The run's status.json, or {"status": "open"} before there is one. If its folder can't be written,
        the status is failed, with the reason.
        """
        found = read_json(self.run_folder(trial) / STATUS) or {"status": "open"}
        return found if found["status"] in ENDED else (self.failure(trial) or found)

    def failure(self, trial: Trial) -> dict[str, Any] | None:
        """The status of a trial that failed because its folder can't be used; None for any other trial."""
        return read_json(self._failed_file(trial))

    def _failed_file(self, trial: Trial) -> Path:
        return self.trial_file(trial).with_suffix(".failed")

    def open_trials(self) -> Iterator[Trial]:
        """Trials that are neither done nor failed, in the order in which to try them."""
        for trial in self._turns():
            status = self.status(trial)["status"]
            if status in DONE:
                self._done.add(trial.key)
                self._busy.pop(trial.key, None)
            elif status != "failed":
                yield trial

    def _turns(self) -> Iterator[Trial]:
        """All trials that are not known to be done: first those from our place on, then those before it, then
        new ones from another listing of the folder, and last those that others were running.
        """
        busy = dict(self._busy)
        looked = self._done | busy.keys()

        def new(trials: Iterable[Trial]) -> Iterator[Trial]:
            for trial in trials:
                if trial.key not in looked:
                    looked.add(trial.key)
                    yield trial

        yield from new(sorted(self._trials.values(), key=lambda t: (t.index < self._place, t.index)))
        yield from new(self.trials())  # only now, because listing a folder with many trials takes long
        yield from busy.values()

    def claim(self, watch: Watch) -> tuple[Trial, Lease] | None:
        """An open trial that nobody is running, and its lease, now ours; None if there is none at the moment.

        It is the first open trial in order. But when we meet another worker, we continue from a random place:
        otherwise we would move in step with the others and try each trial that they hold, every time. Trials
        whose attempts keep dying without progress are marked as failed on the way.
        """
        turns = self.open_trials()
        while trial := next(turns, None):
            folder, lease = self.run_folder(trial), None
            try:
                lease = leases.acquire(folder, watch, role="worker")
                step = Checkpoints(folder / CHECKPOINTS).newest_step() if lease else None
            except OSError as error:
                if lease:
                    with contextlib.suppress(OSError):
                        lease.release("failed")
                self.unusable(trial, error)
                continue
            if lease is None:
                if trial.key not in self._busy:  # this ends at the latest when all are known to be busy
                    self._busy[trial.key] = trial
                    self._place = random.SystemRandom().choice([*self._trials, 0])  # the seed has no effect
                    turns = self.open_trials()
                continue
            self._busy.pop(trial.key, None)
            status = self.status(trial)["status"]
            if status in DONE or status == "failed":  # it ended before the lease was ours
                lease.release(status)
                continue
            died = leases.deaths_without_progress(folder, step) - 1  # without this lease
            if died >= leases.MAX_DEATHS:
                self.fail(trial, lease, f"died {died} times at step {step}")
                continue
            return trial, lease
        return None

    def fail(self, trial: Trial, lease: Lease | None, reason: str) -> None:
        """Mark the run of `trial` as failed, unless another process has it now. lease:
        ours, if there is one.
        """
        path = self.run_folder(trial) / STATUS
        kept = read_json(path) or {"step": 0, "steps": None, "headline": None, "segments": []}
        failed = kept | {"status": "failed", "reason": reason}
        try:
            if lease is None:
                write_json(self._failed_file(trial), failed)
            elif lease.check():
                write_json(path, failed)
                lease.release("failed")
        except OSError:
            if lease is None:
                raise
            write_json(self._failed_file(trial), failed)

    def unusable(self, trial: Trial, error: OSError) -> None:
        """Mark a trial as failed because its run folder can't be used: it is somebody else's, or not a
        folder.

        Raises the error again if it is not about this folder, such as a full disk or an unreachable server:
        every trial would meet it.
        """
        if error.errno not in OF_ONE_FOLDER:
            raise error
        what = "what is there is not a folder" if isinstance(error, FileExistsError) else error.strerror
        self.fail(trial, None, f"its folder can't be used: {what} ({error.filename})")

    def retry_failed(self, watch: Watch) -> int:
        """Open failed trials again; returns how many."""
        count = 0
        for trial in self.trials():
            status = self.status(trial)
            if status["status"] != "failed":
                continue
            self._failed_file(trial).unlink(missing_ok=True)
            try:
                lease = leases.acquire(self.run_folder(trial), watch, role="worker")
                if lease:
                    write_json(self.run_folder(trial) / STATUS, status | {"status": "preempted"})
                    lease.release("retried")
                    count += 1
            except OSError as error:  # its folder still can't be written
                self.unusable(trial, error)
        return count
