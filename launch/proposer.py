"""Trials that are made while a sweep runs: points of a bayes search, and the seeds that confirm a best trial.

A worker that finds nothing to claim makes the next one, under the lease of the folder `proposer/`; where that
worker is killed, another takes over. A trial file is made whole and at one index only, so no point is made
twice even by two that both believe to hold the lease.
"""

import importlib
import json
import math
from pathlib import Path
from typing import Any

from launch import bayes
from launch.history import Histories
from launch.queue import Queue, Trial
from research.common import lease as leases
from research.common.files import read_json, write_json
from research.common.flags import UserError, console, run_key

FOLDER = "proposer"  # in the sweep folder: leases, and how a search ended
CONFIRM = "confirm.json"  # over how many further seeds the best trial is to be run again
DATA = "data.json"  # content hash of each data set that the sweep's flags name


class Proposer:
    """What is still to be made in a sweep folder. spec: its frozen YAML; confirm: seeds asked for on top."""

    def __init__(self, queue: Queue, spec: dict[str, Any], confirm: int | None = None):
        self.queue, self.spec = queue, spec
        self.lazy = spec.get("method") == "bayes"
        self.histories = Histories(queue, spec) if (spec.get("metric") or {}).get("name") else None
        self._asked = confirm or 0
        self._known_hashes: dict[str, str] = {}

    # ---------------------------------------------------------------------------------- how many

    @property
    def exhausted(self) -> str | None:
        """Why a bayes sweep ended before its run_cap; None when it did not."""
        return (read_json(self.queue.folder / FOLDER / "exhausted.json") or {}).get("reason")

    @property
    def to_confirm(self) -> int:
        """How many further seeds the best trial is to be run with."""
        return max(self._asked, (read_json(self.queue.folder / CONFIRM) or {}).get("seeds", 0))

    def size(self) -> int:
        """How many trials the sweep's method means to make, or has made where it ended before that."""
        made, cap = len(self.queue.chosen()), self.spec.get("run_cap", math.inf)
        if self.lazy:
            return made if self.exhausted else max(made, cap)
        if self.spec.get("method") != "grid":
            return made  # a random search has all its trials from the start; few where points repeat
        sizes = (len(given.get("values", "1")) for given in self.spec["parameters"].values())
        return max(made, min(math.prod(sizes), cap))

    def planned(self, size: int | None = None) -> int:
        """How many trials there will be, those that confirm included. size: of the method, if known."""
        size = self.size() if size is None else size
        confirming = len(self.queue.trials()) - len(self.queue.chosen())
        return size + confirming + self._seeds_left(size)

    def _seeds_left(self, size: int) -> int:
        if not self.to_confirm:
            return 0
        if (best := self.best()) is None:
            return 0 if self._settled(size) else self.to_confirm
        return max(0, self.to_confirm - sum(trial.confirms == best.key for trial in self.queue.trials()))

    def _settled(self, size: int) -> bool:
        """Whether every trial that the method makes has come to an end."""
        return len(self.queue.chosen()) >= size and all(t.confirms for t in self.queue.open_trials())

    def best(self) -> Trial | None:
        """The finished trial with the best value of the metric, confirming ones aside."""
        sign, found = -1 if self.spec["metric"]["goal"] == "maximize" else 1, []
        for trial in self.queue.chosen():
            status = self.queue.status(trial)
            value = self.histories.value(trial, status) if status["status"] == "finished" else None
            if value is not None:
                found.append((sign * value, trial.index, trial))
        return min(found)[2] if found else None

    def confirmed(self) -> list[tuple[Trial, list[float]]]:
        """Each trial that was run over further seeds, and the values that these have reached so far."""
        values: dict[str, list[float]] = {}
        for trial in self.queue.trials():
            status = self.queue.status(trial)
            value = self.histories.value(trial, status) if trial.confirms else None
            if status["status"] == "finished" and value is not None:
                values.setdefault(trial.confirms, []).append(value)
        return [(trial, values[trial.key]) for trial in self.queue.chosen() if trial.key in values]

    def wanted(self) -> bool:
        """Whether there is a trial to be made now."""
        size = self.size()
        if len(self.queue.chosen()) < size:
            return True
        return self.to_confirm > 0 and self._settled(size) and self._seeds_left(size) > 0

    # ---------------------------------------------------------------------------------- making them

    def make(self, watch: leases.Watch) -> bool:
        """Make the next trial, or all that confirm; False when another worker is at it."""
        lease = leases.acquire(self.queue.folder / FOLDER, watch)
        if lease is None:
            return False
        how = "died"
        try:
            lease.start_beating()
            if self.wanted():  # still: it may have been made until the lease was ours
                if len(self.queue.chosen()) < self.size():
                    self._propose()
                else:
                    self._confirm(self.best())
            how = "done"
        finally:
            lease.release(how)
        return True

    def _propose(self) -> None:
        """The next point of a bayes sweep; none is left where every attempt only finds known ones."""
        seen = bayes.look(self.queue, self.histories, self.spec)
        index = max((trial.index for trial in self.queue.trials()), default=-1) + 1
        known = {trial.key for trial in self.queue.trials()}
        for attempt in range(bayes.ENGINE_TRIES + bayes.RANDOM_TRIES):
            given = [(trial.flags, state, value) for trial, state, value in seen]
            flags = bayes.propose(self.spec, index, attempt, given)
            try:
                key = self._key(flags)
            except UserError:  # flags that don't go together: each alone was checked
                continue
            if key not in known:
                kept = {"attempt": attempt, "seen": [[t.key, state, value] for t, state, value in seen]}
                self.queue.add(flags, key, at=index, **kept)
                return
        reason = f"the search found no further point after {index} trials; run_cap is {self.spec['run_cap']}"
        write_json(self.queue.folder / FOLDER / "exhausted.json", {"reason": reason})
        console.print(reason)

    def _confirm(self, best: Trial) -> None:
        """The best trial over further seeds, those that are missing."""
        seed = self._config(best.flags).seed
        for k in range(1, self.to_confirm + 1):
            flags = best.flags | {"seed": seed + k}
            self.queue.add(flags, self._key(flags), confirms=best.key)

    def _sweep(self) -> Any:
        from launch import plan  # with tyro and the training script's imports: only where trials are made

        path = self.queue.folder / "sweep.yaml"
        program = self.spec["program"]
        module = importlib.import_module(program.removesuffix(".py").replace("/", "."))
        return plan.Sweep(path, "", self.spec, module)

    def _config(self, flags: dict[str, Any]) -> Any:
        from launch import plan

        return plan.flags_of(self._sweep(), flags)

    def _key(self, flags: dict[str, Any]) -> str:
        """The key of a run with these flags. Raises UserError for flags that the script refuses."""
        sweep, cfg = self._sweep(), self._config(flags)
        return run_key(sweep.family, sweep.module.KEY_VERSION, cfg, self._data_hash(sweep.module, cfg))

    def _data_hash(self, module: Any, cfg: Any) -> str:
        from launch import plan

        name = data_name(plan.data_flags(cfg))
        if name not in self._known_hashes:
            kept = read_json(self.queue.folder / DATA) or {}
            self._known_hashes[name] = kept.get(name) or module.load_data(cfg).content_hash
        return self._known_hashes[name]


def data_name(flags: tuple[Any, ...]) -> str:
    return json.dumps(flags)


def keep_data_hashes(folder: Path, hashes: dict[tuple[Any, ...], str]) -> None:
    """Keep what freezing a sweep found, so that workers need not load the data to know a run's key."""
    kept = read_json(folder / DATA) or {}
    new = kept | {data_name(flags): value for flags, value in hashes.items()}
    if new != kept:
        write_json(folder / DATA, new)


def ask_to_confirm(folder: Path, seeds: int) -> None:
    """Keep --confirm in the sweep folder, for workers of now and later; it can only grow."""
    kept = (read_json(folder / CONFIRM) or {}).get("seeds", 0)
    if seeds > kept:
        write_json(folder / CONFIRM, {"seeds": seeds})
