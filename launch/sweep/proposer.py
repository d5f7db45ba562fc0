"""Makes trials while a sweep runs: points of a bayes search, further points of a large grid, and the seeds
that confirm a best trial.

A worker that finds nothing to claim makes the next trial, under the lease of the folder `proposer/`; if that
worker is killed, another takes over. A trial file is made in one piece and at one index only, so no point is
made twice, even by two workers that both believe that they hold the lease.
"""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from data.names import closest, did_you_mean
from launch.sweep import bayes, command
from launch.sweep.command import Command
from launch.sweep.history import Histories
from launch.sweep.points import points_of
from launch.sweep.program import DataHashes, Program
from launch.sweep.queue import Queue, Trial
from research.common import lease as leases
from research.common.folder import SWEEP, read_json, write_json
from research.common.messages import UserError, console, escape

FOLDER = "proposer"  # in the sweep folder: leases, and how a search ended
SIZE = "size.json"  # in the sweep folder: how many runs a grid or a random search has
BATCH = 100  # trials of a grid or a random search that a worker makes at a time
CONFIRM = "confirm.json"  # in the sweep folder: with how many further seeds the best trial is run again
BLIND = 3  # a bayes sweep ends when so many trials have finished and none has logged its metric


def keep_size(folder: Path, n_runs: int) -> None:
    """Write into a sweep folder how many runs a grid or a random search has."""
    if (read_json(folder / SIZE) or {}).get("runs") != n_runs:
        write_json(folder / SIZE, {"runs": n_runs})


class Further:
    """Makes the missing trials of a grid or a random search, in the order of its points.

    config: a function from a point to its Config, which raises UserError if the script refuses the point.
    """

    def __init__(
        self,
        queue: Queue,
        points: Sequence[dict[str, Any]],
        command: Command,
        config: Callable[[dict[str, Any]], Any],
        hashes: DataHashes,
    ):
        self.queue, self.points, self.command = queue, points, command
        self.config, self.hashes = config, hashes
        self._at = 0  # all trials before this point exist

    def make(self, most: int) -> int:
        """Make at most `most` of them; returns how many were made."""
        self.queue.trials()
        made = 0
        while self._at < len(self.points) and made < most:
            point = self.points[self._at]
            flags = self.command.literals | point
            # first compared by flags: if the code has changed meanwhile, so have the keys
            if self.queue.of_flags(flags) is None:
                cfg = self.config(point)
                key = self.hashes.program.key(cfg, self.hashes.of(cfg))
                if self.queue.of_key(key) is None:
                    self.queue.add(flags, key)
                    made += 1
            self._at += 1
        return made


class Proposer:
    """Knows which trials a sweep folder still needs, and makes them. spec: its frozen YAML; confirm: number
    of further seeds, if that is not in the folder yet; program: the script, if it is not where the YAML says.
    """

    def __init__(
        self, queue: Queue, spec: dict[str, Any], confirm: int | None = None, program: str | None = None
    ):
        self.queue, self.spec, self._program = queue, spec, program
        self.searches = spec.get("method") == "bayes"  # such points are made while the sweep runs
        named = isinstance(spec.get("metric"), dict) and spec["metric"].get("name")
        self.histories = Histories(queue, spec) if named else None
        self._asked = confirm or 0
        self._sighted = False  # whether a value of the metric was seen
        self._further: Further | None = None

    # ---------------------------------------------------------------------------------- how many

    @property
    def exhausted(self) -> str | None:
        """Why a bayes sweep ended before its run_cap; None if it did not."""
        if not self.searches:
            return None
        kept = read_json(self.queue.folder / FOLDER / "exhausted.json") or {}
        return kept.get("reason") or self.blind(min(BLIND, self.spec["run_cap"]), early=False)

    @property
    def decides(self) -> bool:
        """Whether the metric decides anything; if not, it is only shown, and tables are sorted by it."""
        return self.searches or "early_terminate" in self.spec or self.to_confirm > 0

    def blind(self, after: int = 1, early: bool = True) -> str | None:
        """A sentence that says so if no trial has logged the metric although at least `after` have finished;
        else None. Several are needed because a single trial may lack it: one with β = 0 has no KL.

        early: a trial counts as soon as it has evaluated once, if an evaluation should have given the metric.
        """
        if self._sighted or self.histories is None:
            return None
        early = early and self.histories.metric.startswith("val/")
        without: list[Trial] = []
        for trial in self.queue.chosen():
            status = self.queue.status(trial)["status"]  # read before the log, which may grow meanwhile
            if self.histories.of(trial):
                self._sighted = True
                return None
            if status == "finished" or (early and status != "open" and self.histories.names(trial)):
                without.append(trial)
        if len(without) < after:
            return None
        first = without[0]
        names = self.histories.names(first)
        metric = self.histories.metric
        longer = [name for name in names if name.startswith(metric)]  # val/kl for val/kl_nats
        figures = {name.partition("/")[2]: name for name in names}
        near = longer[0] if longer else figures.get(closest(figures, metric.partition("/")[2]))
        logged = ", ".join(names) or "nothing like it"
        return f"{first.index:04d} logged no {metric}; it logs {logged}{did_you_mean(near)}"

    @property
    def to_confirm(self) -> int:
        """With how many further seeds the best trial will be run."""
        return max(self._asked, (read_json(self.queue.folder / CONFIRM) or {}).get("seeds", 0))

    def size(self) -> int:
        """How many trials the sweep's method will make, or has made if it ended early.

        A grid or a random search makes one for each run. There are fewer runs than points if points repeat,
        or differ only in flags that don't change numbers.
        """
        made = len(self.queue.chosen())
        if not self.searches:
            return max(made, (read_json(self.queue.folder / SIZE) or {}).get("runs", 0))
        return made if self.exhausted else max(made, self.spec["run_cap"])

    def planned(self, size: int | None = None) -> int:
        """How many trials there will be, including confirming ones. size: that of the method, if known."""
        size = self.size() if size is None else size
        confirming = len(self.queue.trials()) - len(self.queue.chosen())
        return size + confirming + self._seeds_left(size)

    def _seeds_left(self, size: int) -> int:
        if not self.to_confirm:
            return 0
        best = self.best()
        if best is None:
            return 0 if self._settled(size) else self.to_confirm
        confirming = [trial for trial in self.queue.trials() if trial.confirms == best.key]
        return max(0, self.to_confirm - len(confirming))

    def _settled(self, size: int) -> bool:
        """Whether every trial that the method makes has come to an end."""
        return len(self.queue.chosen()) >= size and all(t.confirms for t in self.queue.open_trials())

    def best(self) -> Trial | None:
        """The finished trial with the best value of the metric, without confirming ones; None if there is
        none.
        """
        finished = []
        for trial in self.queue.chosen():
            status = self.queue.status(trial)
            if status["status"] == "finished":
                finished.append((trial, self.histories.value(trial, status)))
        valued = [(trial, value) for trial, value in finished if value is not None]
        if not valued:
            return None
        best, _ = self.histories.best(valued, key=lambda pair: pair[1])  # the first of equal ones
        return best

    def confirmed(self) -> list[tuple[Trial, list[float], Counter[str]]]:
        """Each trial that was run with further seeds, the values of those runs that finished, and state →
        number of the others.
        """
        found: dict[str, tuple[list[float], Counter[str]]] = {}
        for trial in self.queue.trials():
            if trial.confirms is None:
                continue
            values, others = found.setdefault(trial.confirms, ([], Counter()))
            status = self.queue.status(trial)
            value = self.histories.value(trial, status)
            if status["status"] != "finished":
                others[status["status"]] += 1
            elif value is None:
                others[f"without {self.histories.metric}"] += 1
            else:
                values.append(value)
        return [(trial, *found[trial.key]) for trial in self.queue.chosen() if trial.key in found]

    def unconfirmed(self) -> str | None:
        """If all trials have ended and none could be confirmed although --confirm was given, the reason; else
        None.
        """
        if not self.to_confirm or self.best() or not self._settled(self.size()):
            return None
        return f"--confirm: no trial finished with a value of {self.histories.metric}: none is run again"

    def wanted(self) -> bool:
        """Whether a trial has to be made now."""
        size = self.size()
        if len(self.queue.chosen()) < size:
            return True
        return self.to_confirm > 0 and self._settled(size) and self._seeds_left(size) > 0

    # ---------------------------------------------------------------------------------- making them

    def make(self, watch: leases.Watch) -> bool:
        """Make the next trial, or all confirming ones; False if another worker is doing this."""
        lease = leases.acquire(self.queue.folder / FOLDER, watch)
        if lease is None:
            return False
        how = "died"
        try:
            lease.start_beating()
            if self.wanted():  # checked again: another worker may have made it before the lease was ours
                short = len(self.queue.chosen()) < self.size()
                if short and self.searches:
                    self._propose(lease)
                elif short:
                    self._go_on(lease)
                elif best := self.best():
                    self._confirm(best, lease)
            how = "done"
        finally:
            lease.release(how)
        return True

    def _go_on(self, lease: leases.Lease) -> None:
        """Make the next trials of a grid or a random search."""
        if self._further is None:
            points = points_of(self.queue.folder, self.spec)
            self._further = Further(self.queue, points, self.command, self._config, self._data_hashes)
        if self._further.make(BATCH):
            return
        spec = yaml.safe_load((self.queue.folder / SWEEP).read_text(encoding="utf-8"))
        if spec != self.spec:  # the sweep was extended while this worker was busy
            self.spec, self._further = spec, None
        elif lease.check():
            keep_size(self.queue.folder, len(self.queue.chosen()))  # there are fewer than expected

    def _propose(self, lease: leases.Lease) -> None:
        """Make the trial at the next point of a bayes sweep. If every attempt only finds known points, the
        search is exhausted.
        """
        seen = bayes.look(self.queue, self.histories, self.spec)
        index = max((trial.index for trial in self.queue.trials()), default=-1) + 1
        known = {trial.key for trial in self.queue.trials()}
        given, refused = [(trial.flags, state, value) for trial, state, value in seen], ""
        for attempt in range(bayes.ENGINE_TRIES + bayes.RANDOM_TRIES):
            try:
                flags = bayes.propose(self.spec, index, attempt, given)
            except Exception as error:  # of many types, from the engine's model; random draws follow
                refused = f"; W&B's engine: {type(error).__name__}: {' '.join(str(error).split())}"
                console.print(f"trial {index:04d}, attempt {attempt}{escape(refused)}")
                continue
            try:
                cfg = self._config(flags)
            except UserError as error:  # flags that can't be combined; each of them is valid by itself
                refused = f"; the last one refused: {error}"
                continue
            key = self._key(cfg)  # raises an error if the data or a checkpoint can't be read
            if key not in known:
                kept = {"attempt": attempt, "seen": [[t.key, state, value] for t, state, value in seen]}
                self.queue.add(self.command.literals | flags, key, at=index, **kept)
                return
        reason = f"the search found no further point after {index} trials; run_cap is {self.spec['run_cap']}"
        if lease.check():
            write_json(self.queue.folder / FOLDER / "exhausted.json", {"reason": reason + refused})
            console.print(escape(reason + refused))

    def _confirm(self, best: Trial, lease: leases.Lease) -> None:
        """Make the missing trials that repeat the best one with further seeds."""
        seed = self.program.config(best.flags).seed
        for k in range(1, self.to_confirm + 1):
            flags = best.flags | {"seed": seed + k}
            key = self._key(self.program.config(flags))
            if not lease.check():  # another worker makes them, and may know a better trial
                return
            self.queue.add(flags, key, confirms=best.key)

    @functools.cached_property
    def program(self) -> Program:
        return Program(self._program or self.spec["program"])

    @functools.cached_property
    def command(self) -> Command:
        return command.of_folder(self.queue.folder)

    def _config(self, point: dict[str, Any]) -> Any:
        return self.program.config(self.command.literals | point)

    @functools.cached_property
    def _data_hashes(self) -> DataHashes:
        return DataHashes(self.program, self.queue.folder)

    def _key(self, cfg: Any) -> str:
        return self.program.key(cfg, self._data_hashes.of(cfg))


def ask_to_confirm(folder: Path, seeds: int) -> None:
    """Write --confirm into the sweep folder, for present and future workers; the number can only grow."""
    kept = (read_json(folder / CONFIRM) or {}).get("seeds", 0)
    if seeds > kept:
        write_json(folder / CONFIRM, {"seeds": seeds})
