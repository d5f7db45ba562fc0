"""Chooses the columns of a table that fit into a terminal: they are left out whole; no cell is truncated."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

GAP = 2  # blanks between two columns


@dataclass(eq=False)
class Column:
    """A column: its heading, which may have several lines, and its cells from top to bottom."""

    name: str
    cells: Sequence[str]
    justify: str = "right"

    @property
    def width(self) -> int:
        return max(map(cell_len, [*self.name.split("\n"), *self.cells]))


def fitting(columns: Sequence[Column], drop: Sequence[Column], room: int) -> list[Column]:
    """The columns that fit into `room` characters. Those in `drop` are left out one by one, in that order, as
    long as there is not enough room.
    """
    kept = list(columns)
    for column in drop:
        if sum(c.width + GAP for c in kept) - GAP <= room:
            break
        kept.remove(column)
    return kept


def left_out(n: int) -> str:
    """A sentence that says how many columns are not shown; '' if none are missing."""
    if n == 0:
        return ""
    return "1 column is not shown" if n == 1 else f"{n} columns are not shown"
