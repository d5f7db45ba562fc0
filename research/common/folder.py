"""A run folder: the names of its files, its statuses, and writing that no kill can leave half done.

A file is written whole or not at all; a file of rows can be read even if a kill has cut its last line.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.files import becoming

# in a run folder
CONFIG = "config.json"  # what the run is: family, key, flags, headline, W&B id, source
STATUS = "status.json"  # how far it is: status, reason, step, headline, one segment for each start
METRICS = "metrics.jsonl"  # one row for each logged step
TIMES = "time.jsonl"  # times, keyed by step
MEDIA = "media"  # media/<key>/<step>.<suffix>
CHECKPOINTS = "checkpoints"
MODEL_TEXT = "model.txt"  # layers, shapes, parameters
SOURCE_DIFF = "source.diff"  # the uncommitted change of the code that made the run
STOP = "stop"  # a file of this name makes the run save and stop; its first line is the reason
OUTPUT = "output.log"  # what the training process of a sweep's trial printed
HYPERBAND = "hyperband.jsonl"  # the decisions of early stopping
UPLOADED = "uploaded.json"  # the part of the run that W&B has confirmed
RESULTS = "results.json"  # the numbers of a task, in <run>/<task>/

# in a sweep's folder
SWEEP = "sweep.yaml"  # as it was when the sweep began
TRIALS = "trials"  # trials/NNNN.json
CODE = "code"  # a snapshot of the code, which the workers run
SNAPSHOT = "snapshot.json"  # in it: commit, diff and source hash of the original
REPORT = "report.html"  # where launch/report.py writes it unless told otherwise
WANDB_SWEEP = "wandb-sweep.json"  # the W&B sweep that the folder belongs to: id, entity, project, url

DONE = ("finished", "stopped", "diverged")  # the trial of such a run has its result
ENDED = (*DONE, "failed")  # such a run is not changed again unless the user asks for it
COMPLETE = ("finished", "diverged")  # the same command finds nothing left to do: a stopped run goes on


def write_bytes(path: Path, data: bytes) -> None:
    """Write atomically and durably; on failure (a full disk) no file remains and the error names `path`."""
    try:
        with becoming(path) as temporary:
            temporary.write_bytes(data)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # so that the new name, too, survives a power cut
        finally:
            os.close(folder)
    except OSError as error:
        error.filename = str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically and durably."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in `path`, or None when it is missing or unreadable."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one row to a .jsonl file; on failure the error names `path`."""
    try:
        with open(path, "a", encoding="utf-8") as f:
            f.write(json.dumps(row, allow_nan=False) + "\n")
    except OSError as error:
        error.filename = str(path)
        raise


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a .jsonl file; a last line that a kill has cut is left out."""
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as f:
            for line in f:
                if not line.endswith("\n"):
                    return
                with contextlib.suppress(ValueError):
                    yield json.loads(line)


def media_by_step(folder: Path) -> dict[int, dict[str, Path]]:
    """The files in `folder`/media as {step: {key: file}}; a file is media/<key>/<step>.<suffix>."""
    found: dict[int, dict[str, Path]] = {}
    for path in sorted((folder / MEDIA).glob("**/*.*")):
        if path.stem.isdigit():
            found.setdefault(int(path.stem), {})[path.parent.relative_to(folder / MEDIA).as_posix()] = path
    return found
