"""Names of data sets that do not exist here: which one may be meant, and how to get it."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from data import DataError


def closest(known: Iterable[str], *spellings: str) -> str | None:
    """The known name that is near the first of these spellings that is near any; None where none is."""
    names = list(known)
    for spelling in spellings:
        for name in difflib.get_close_matches(spelling, names, n=1):
            return name
    return None


def did_you_mean(name: str | Path | None) -> str:
    """The end of a message that suggests `name`; empty where there is nothing to suggest."""
    return "" if name is None else f"; did you mean {name}?"


def missing(name: str, data_dir: Path, layout: str, what: str = "is not there") -> DataError:
    """The error for a named set that is missing or damaged; layout: which files it needs under data_dir."""
    return DataError(
        f"--dataset={name} {what}: get it with `python data/prepare.py {name} --data_dir={data_dir}`, or "
        f"place by hand under {data_dir}: {layout}"
    )
