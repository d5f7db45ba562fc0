"""Stops unpromising trials early, by W&B's own hyperband rule and without a controller.

The worker that trains a run watches its log. At each new evaluation it asks W&B's engine about this run,
given what all runs of the sweep have logged by then. If the run should end, the worker writes the file
`stop`, which the training obeys. Each decision is a line of `<run>/hyperband.jsonl`, with the values on which
it is based. It is made only once: a run that was killed and continues is stopped when it reaches the same
evaluation again.
"""

import warnings
from pathlib import Path
from typing import Any

from launch.sweep.history import Histories
from launch.sweep.queue import Trial
from research.common.folder import HYPERBAND, STOP, append_row, read_json, read_rows, write_bytes
from research.common.lease import Lease


def refusal(content: dict[str, Any]) -> str | None:
    """Why a sweep's early_terminate can't be followed, in words; None if it can."""
    rule = content["early_terminate"]
    if not isinstance(rule, dict) or rule.get("type") != "hyperband":
        kind = rule.get("type") if isinstance(rule, dict) else rule
        return f"early_terminate: type: {kind}: must be hyperband"
    if ("min_iter" in rule) == ("max_iter" in rule) or ("max_iter" in rule and "s" not in rule):
        return "early_terminate: give min_iter, or max_iter and s"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine is written for an older pydantic, and says so
        from jsonschema import ValidationError
        from sweeps.config import fill_validate_early_terminate
        from sweeps.hyperband_stopping import hyperband_stop_runs

        try:
            fill_validate_early_terminate({"early_terminate": rule})
            hyperband_stop_runs([], {"metric": content["metric"], "early_terminate": rule})
        except ValidationError as error:
            return f"early_terminate: {': '.join(map(str, [*error.path, error.message]))}"
        except (ValueError, TypeError, OverflowError) as error:
            return f"early_terminate: refused by W&B's engine: {error}"
    return None


def decide(spec: dict[str, Any], own: list[float], others: dict[int, list[float]]) -> dict[str, Any]:
    """What W&B's engine decides about a run with the history `own`, given the histories of `others` (by
    trial).

    band: the evaluation at which the run is compared, None before the first; compared: its value there (or,
    if not strict, its best so far); threshold: the value with which that is compared; among: trials whose
    values made the threshold; stop: whether the run should end.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sweeps import RunState, SweepRun
        from sweeps import hyperband_stopping as engine

        metric = spec["metric"]["name"]

        def as_run(state: RunState, values: list[float]) -> SweepRun:
            return SweepRun(state=state, history=[{metric: value} for value in values])

        config = {name: spec[name] for name in ("metric", "early_terminate")}
        run = as_run(RunState.running, own)  # the states of the others do not matter
        rest = [as_run(RunState.finished, history) for history in others.values()]
        stop = engine.hyperband_stop_runs([run, *rest], config)
        filled = engine.hyperband_baseline_validate_and_fill(config)
    info, maximize = run.early_terminate_info, filled["metric"]["goal"] == "maximize"
    reached = [i for i, band in enumerate(info["bands"]) if band <= len(own)]
    if not reached:
        return {"band": None, "stop": False}
    band, threshold = info["bands"][reached[-1]], info["thresholds"][reached[-1]]
    if maximize:  # the engine minimizes the negative value
        threshold = -threshold
    if filled["early_terminate"]["strict"]:
        compared = own[band - 1]
    else:
        compared = max(own) if maximize else min(own)
    among = [index for index, history in others.items() if len(history) >= band]
    return {"band": band, "compared": compared, "threshold": threshold, "among": among, "stop": bool(stop)}


def recompute(spec: dict[str, Any], made: dict[str, Any], own: list[float], others: dict[int, list[float]]):
    """The recorded decision `made`, computed again from today's histories of the run and of other trials."""
    others_then = {index: others[index][: made["band"]] for index in made.get("among", ())}
    return decide(spec, own[: made["evaluation"]], others_then)


class Watcher:
    """Watches one run while a worker trains it."""

    def __init__(self, spec: dict[str, Any], histories: Histories, trial: Trial, lease: Lease):
        self.spec, self.histories, self.trial, self.lease = spec, histories, trial, lease
        self.folder = histories.queue.run_folder(trial)
        self._began = False
        _cut_torn_line(self.folder / HYPERBAND)
        self._read()

    def _read(self) -> None:
        made = decisions(self.folder)
        self._decided = made[-1]["evaluation"] if made else 0
        self._stop = made[-1] if made and made[-1]["stop"] else None

    def look(self) -> None:
        """Decide on every new evaluation; make sure that a run that should end has its stop file."""
        if not self._began:  # until its log is restored, it may contain rows that are about to be cut
            info = read_json(self.lease.path) or {}
            self._began = info.get("role") == "train" and info.get("start_step") is not None
            if not self._began:
                return
        logged = self.histories.logged(self.trial)
        while self._stop is None and len(logged) > self._decided and self.lease.check():
            if not self._decide(logged[: self._decided + 1]):
                return
        # a start removes the file, and a run that continues must first reach the evaluation that was judged
        if self._stop and len(logged) >= self._stop["evaluation"] and not (self.folder / STOP).exists():
            write_bytes(self.folder / STOP, f"{self.reason(self._stop)}\n".encode())

    def _decide(self, logged: list[tuple[int, float]]) -> bool:
        """Decide on the last of these evaluations; False if the run now belongs to another worker."""
        others = {
            trial.index: self.histories.of(trial)
            for trial in self.histories.queue.chosen()
            if trial.index != self.trial.index
        }
        found = decide(self.spec, [value for _, value in logged], others)
        step, value = logged[-1]
        row = {"evaluation": len(logged), "step": step, "value": value} | found
        if not self.lease.check():  # once more, because the engine may take long
            return False
        _cut_torn_line(self.folder / HYPERBAND)  # the disk may have been full at an earlier attempt
        append_row(self.folder / HYPERBAND, row)
        self._read()  # if two workers overlap for a moment, the first decision counts for both
        return True

    def reason(self, made: dict[str, Any]) -> str:
        at = made["band"] if self.spec["early_terminate"].get("strict", True) else made["evaluation"]
        return (
            f"hyperband: {self.histories.metric} {made['compared']:.4g} at evaluation {at}, "
            f"threshold {made['threshold']:.4g}"
        )


def _cut_torn_line(path: Path) -> None:
    """Remove a last line that was not written to its end: the next row would be lost in it."""
    data = path.read_bytes() if path.exists() else b""
    if data and not data.endswith(b"\n"):
        write_bytes(path, data[: data.rfind(b"\n") + 1])


def is_early(reason: str | None) -> bool:
    """Whether this is the reason of a run that early stopping has stopped."""
    return (reason or "").startswith("hyperband:")


def decisions(folder: Path) -> list[dict[str, Any]]:
    """The decisions on a run, in order; if there are several on one evaluation, only the first."""
    kept: list[dict[str, Any]] = []
    for row in read_rows(folder / HYPERBAND):
        if not kept or (row["evaluation"] > kept[-1]["evaluation"] and not kept[-1]["stop"]):
            kept.append(row)
    return kept
