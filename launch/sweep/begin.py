"""What a sweep's folder means to become."""

import contextlib
from pathlib import Path

from launch.results import read
from launch.sweep.proposer import Proposer
from launch.sweep.queue import Queue
from research.common.folder import TRIALS


def planned(folder: Path) -> int:
    """How many trials the sweep means to have: its grid's size or its run_cap, or those that exist."""
    sweep = read.read_sweep(folder)
    if (sweep.folder / TRIALS).is_dir() and sweep.spec:
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):  # of a damaged folder
            return Proposer(Queue(sweep.folder), sweep.spec).planned()
    return read.expected(sweep)
