"""For names that do not exist: which one may be meant; and how to get a data set that is not here."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from data import DataError


def closest(known: Iterable[str], *spellings: str) -> str | None:
    """The known name closest to the first of these spellings that is close to any; None if there is none."""
    names = list(known)
    for spelling in spellings:
        for name in difflib.get_close_matches(spelling, names, n=1):
            return name
    return None


def did_you_mean(name: str | Path | None) -> str:
    """The end of a message that suggests `name`; empty if `name` is None."""
    return "" if name is None else f"; did you mean {name}?"


def missing(name: str, data_dir: Path, layout: str, what: str = "is not there") -> DataError:
    """The error for a named set that is missing or damaged; layout: which files it needs under data_dir."""
    return DataError(
        f"--dataset={name} {what}: get it with `python data/prepare.py {name} --data_dir={data_dir}`, or "
        f"place by hand under {data_dir}: {layout}"
    )
