"""The trials of a sweep folder for those who only look at it: what can't be read of it ends nothing."""

import json
import os
from pathlib import Path
from typing import Any

from launch.results.read import why
from launch.sweep.agent import Runs
from launch.sweep.queue import Queue, Trial
from research.common.folder import CONFIG, TRIALS, WANDB_SWEEP


class Legible(Queue):
    """The trials whose files can be read. problems: in words, those that can't, and why."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.problems: list[str] = []

    def trials(self) -> list[Trial]:
        self.problems = []
        try:
            names = sorted(os.listdir(self.folder / TRIALS))
        except FileNotFoundError:
            names = []
        except OSError as error:
            names = []
            self.problems.append(f"{TRIALS} cannot be read ({why(error)})")
        for name in names:
            stem, _, suffix = name.partition(".")
            if suffix != "json" or not stem.isdecimal() or int(stem) in self._trials:
                continue
            try:
                kept = json.loads((self.folder / TRIALS / name).read_text(encoding="utf-8"))
                trial = Trial(int(stem), dict(kept["flags"]), str(kept["key"]), kept.get("confirms"))
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                reason = why(error) if isinstance(error, OSError) else "it is damaged"
                self.problems.append(f"{TRIALS}/{name} cannot be read ({reason})")
            else:
                self._trials[trial.index] = trial
        return [self._trials[i] for i in sorted(self._trials)]


class LegibleRuns(Runs):
    """The runs of a sweep that W&B directs; one of which nothing can be read is a trial without flags."""

    problems: tuple[str, ...] = ()  # such a folder has no trial files

    def trials(self) -> list[Trial]:
        for path in sorted(self.folder.iterdir(), key=_changed):
            if path.name in self._known or not _may_be_run(path):
                continue
            try:
                given = json.loads((path / CONFIG).read_text(encoding="utf-8"))["flags"]
                flags = {k: v for k, v in given.items() if k in self.parameters}
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                flags = {}  # the run's row tells what is wrong
            self._known[path.name] = Trial(len(self._known), flags, path.name)
        return list(self._known.values())


def _changed(path: Path) -> float:
    try:
        return (path / CONFIG).stat().st_ctime
    except OSError:
        return 0.0


def _may_be_run(path: Path) -> bool:
    """Whether it has a config.json, as far as that can be told."""
    try:
        return (path / CONFIG).exists()
    except PermissionError:
        return not path.name.startswith(".")


def legible(folder: Path, parameters: dict[str, Any]) -> Legible | LegibleRuns:
    """The trials of a sweep's folder, or the runs of one that W&B directs. parameters: those of its YAML."""
    if (folder / WANDB_SWEEP).exists() and not (folder / TRIALS).exists():
        return LegibleRuns(folder, parameters)
    return Legible(folder)
