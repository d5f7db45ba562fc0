"""What the runs of a sweep have logged of its metric: read as the files grow, by the rules of W&B's engine.

An evaluation is a row of metrics.jsonl that has the metric with a finite value; the one at step 0 is the
first. W&B's server counts in the same way: a history row without the metric is none; its engine drops NaN.
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
    """A .jsonl file as far as it was read: (step, value) of the rows that have a value."""

    inode: int = -1
    read: int = 0  # bytes, always up to the end of a line
    found: list[tuple[int, float]] = field(default_factory=list)


class Histories:
    """The metric of each run of a sweep folder. A file that has not grown is not opened again."""

    def __init__(self, queue: Queue, spec: dict[str, Any]):
        self.queue, self.metric = queue, spec["metric"]["name"]
        if spec["metric"].get("goal") == "maximize":
            self.best, self.worst = max, min  # of some values
        else:
            self.best, self.worst = min, max
        self._files: dict[Path, _File] = {}

    def logged(self, trial: Trial) -> list[tuple[int, float]]:
        """(step, value) of the evaluations in the run's metrics.jsonl."""
        return self._read(self.queue.run_folder(trial) / METRICS, self.metric)

    def names(self, trial: Trial) -> list[str]:
        """What else the run has logged of its validation, with a finite value."""
        found: set[str] = set()
        with contextlib.suppress(OSError):  # a folder that nobody may read: the trial has failed for that
            for row in read_rows(self.queue.run_folder(trial) / METRICS):
                found |= {name for name, value in row.items() if value is not None}
        return sorted(name for name in found if name.startswith("val/"))

    def of(self, trial: Trial) -> list[float]:
        """The values of all evaluations that the run is known to have had.

        A run that was killed and goes on has lost rows, which come again as they were: until then those
        on which early stopping has decided stand in for them, so that a kill hides nothing from others.
        """
        logged = self.logged(trial)
        decided = self._read(self.queue.run_folder(trial) / HYPERBAND, "value")
        return [value for _, value in max(logged, decided, key=len)]

    def value(self, trial: Trial, status: dict[str, Any]) -> float | None:
        """What the run counts for: its best value; diverged, its worst. None without a finite one."""
        if status["status"] != "diverged":
            return self.best(self.of(trial), default=None)
        headline = (read_json(self.queue.run_folder(trial) / CONFIG) or {}).get("headline")
        if self.metric in (headline, f"{headline}_best"):
            return status.get("headline")  # there the worst: the running best knows nothing of it
        return self.worst(self.of(trial), default=None)

    def _read(self, path: Path, name: str) -> list[tuple[int, float]]:
        kept = self._files.setdefault(path, _File())
        quoted = json.dumps(name).encode()  # most rows lack it, and need not be parsed
        try:
            stat = path.stat()
            if (stat.st_ino, stat.st_size) == (kept.inode, kept.read):
                return kept.found
            with open(path, "rb") as f:
                stat = os.fstat(f.fileno())
                if stat.st_ino != kept.inode or stat.st_size < kept.read:  # a resumed run wrote its log anew
                    kept = self._files[path] = _File(stat.st_ino)
                f.seek(kept.read)
                data = f.read()
        except OSError:  # not there yet; or the network file system is replacing it
            return kept.found
        whole = data[: data.rfind(b"\n") + 1]  # less a line that is being written
        for line in whole.split(b"\n"):
            with contextlib.suppress(ValueError):  # a line damaged by a power cut
                row = json.loads(line) if quoted in line else {}
                value = row.get(name)
                if isinstance(value, (int, float)) and math.isfinite(value):
                    kept.found.append((row["step"], value))
        kept.read += len(whole)
        return kept.found
