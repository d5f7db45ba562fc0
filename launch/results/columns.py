"""Which columns of a table fit into a terminal: columns are left out whole, and no cell is ever truncated."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

GAP = 2  # blanks between two columns


@dataclass(eq=False)
class Column:
    """A column: its heading, which may have several lines, and its cells, from the first row down."""

    name: str
    cells: Sequence[str]
    justify: str = "right"

    @property
    def width(self) -> int:
        return max(map(cell_len, [*self.name.split("\n"), *self.cells]))


def fitting(columns: Sequence[Column], drop: Sequence[Column], room: int) -> list[Column]:
    """The columns that fit into `room` characters: those in `drop` go one by one, in that order."""
    kept = list(columns)
    for column in drop:
        if sum(c.width + GAP for c in kept) - GAP <= room:
            break
        kept.remove(column)
    return kept


def left_out(n: int) -> str:
    """In words, that so many columns are not shown; '' for none."""
    if n == 0:
        return ""
    return "1 column is not shown" if n == 1 else f"{n} columns are not shown"
