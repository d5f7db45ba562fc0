"""The values of a sweep's metric that its runs have logged, read while the files grow, by the rules of W&B's
engine.

An evaluation is a row of metrics.jsonl that has the metric with a finite value; the one at step 0 is the
first. W&B counts in the same way: its server ignores history rows without the metric, and its engine NaN.
"""

import contextlib
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.sweep.queue import Queue, Trial
from research.common.folder import CONFIG, HYPERBAND, METRICS, read_json, read_rows


@dataclass
class _File:
    """What was read of a .jsonl file so far. found: (step, value) of the rows that have a value."""

    inode: int = -1
    read: int = 0  # number of bytes read, always up to the end of a line
    found: list[tuple[int, float]] = field(default_factory=list)


class Histories:
    """The metric of each run of a sweep folder. A file that has not grown is not opened again."""

    def __init__(self, queue: Queue, spec: dict[str, Any]):
        self.queue, self.metric = queue, spec["metric"]["name"]
        if spec["metric"].get("goal") == "maximize":
            self.best, self.worst = max, min  # they take values
        else:
            self.best, self.worst = min, max
        self._files: dict[Path, _File] = {}

    def logged(self, trial: Trial) -> list[tuple[int, float]]:
        """(step, value) of the evaluations in the run's metrics.jsonl."""
        return self._read(self.queue.run_folder(trial) / METRICS, self.metric)

    def names(self, trial: Trial) -> list[str]:
        """The figures of the validation part, val/*, that the run has logged with a finite value."""
        found: set[str] = set()
        with contextlib.suppress(OSError):  # a folder that we may not read: its trial has failed
            for row in read_rows(self.queue.run_folder(trial) / METRICS):
                found |= {name for name, value in row.items() if value is not None}
        return sorted(name for name in found if name.startswith("val/"))

    def of(self, trial: Trial) -> list[float]:
        """The values of all evaluations that the run is known to have had.

        A run that was killed and continues has lost rows, which it will write again unchanged. Until then,
        the values on which early stopping has decided replace them, so that a kill hides nothing from other
        runs.
        """
        logged = self.logged(trial)
        decided = self._read(self.queue.run_folder(trial) / HYPERBAND, "value")
        return [value for _, value in max(logged, decided, key=len)]

    def value(self, trial: Trial, status: dict[str, Any]) -> float | None:
        """The value by which the run is judged: its best, or its worst if it diverged; None without a finite
        one.

        status: of this trial.
        """
        if status["status"] != "diverged":
            return self.best(self.of(trial), default=None)
        headline = (read_json(self.queue.run_folder(trial) / CONFIG) or {}).get("headline")
        if self.metric in (headline, f"{headline}_best"):
            return status.get("headline")  # the worst value is there; the running best does not include it
        return self.worst(self.of(trial), default=None)

    def _read(self, path: Path, name: str) -> list[tuple[int, float]]:
        kept = self._files.setdefault(path, _File())
        quoted = json.dumps(name).encode()  # rows without it, which are most, need not be parsed
        try:
            stat = path.stat()
            if (stat.st_ino, stat.st_size) == (kept.inode, kept.read):
                return kept.found
            with open(path, "rb") as f:
                stat = os.fstat(f.fileno())
                if stat.st_ino != kept.inode or stat.st_size < kept.read:  # a resumed run rewrote its log
                    kept = self._files[path] = _File(stat.st_ino)
                f.seek(kept.read)
                data = f.read()
        except OSError:  # the file is not there yet, or the network file system is replacing it
            return kept.found
        whole = data[: data.rfind(b"\n") + 1]  # without a line that is still being written
        for line in whole.split(b"\n"):
            with contextlib.suppress(ValueError):  # a power cut may have damaged a line
                row = json.loads(line) if quoted in line else {}
                value = row.get(name)
                if isinstance(value, (int, float)) and math.isfinite(value):
                    kept.found.append((row["step"], value))
        kept.read += len(whole)
        return kept.found
