"""Prints a comparison of committed results with their repetition, and makes its JSON."""

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.results import repetition
from launch.results.columns import GAP, Column, fitting, left_out
from launch.results.repetition import DIFFERS, EQUAL, STATUS, UNTOLD, VERDICTS, WITHIN, Compared
from research.common.messages import counted

LISTED = 20  # figures that are described one by one, at most
HOLDS = {
    EQUAL: "holds exactly",
    WITHIN: "holds within the seeds",
    DIFFERS: "does not hold",
    UNTOLD: "can't be told",
}


def signed(value: float) -> str:
    """A deviation in standard deviations, with its sign."""
    return f"{value:+.1f}" if abs(value) < 1000 else f"{value:+.0e}"


def by_figure(found: Sequence[Compared]) -> dict[str, list[Compared]]:
    """The comparisons of each figure, in the order of the CSV; the status comes first, if one differs."""
    groups: dict[str, list[Compared]] = {}
    for one in sorted(found, key=lambda one: one.figure != STATUS):
        groups.setdefault(one.figure, []).append(one)
    return groups


def print_table(found: Sequence[Compared], console: Console) -> None:
    """Print a row for each figure: how many runs have which verdict, and the worst run unless all are equal.

    If there is no room, columns are left out whole, in this order: the worst run's flags, its new and its
    committed value, the largest deviation that is allowed, the run's own deviation, its line in the CSV.
    """
    groups = by_figure(found)
    worst = [repetition.worst(of) for of in groups.values()]

    def cells(text: Callable[[Compared], str]) -> list[str]:
        return ["" if one.verdict == EQUAL else text(one) for one in worst]

    counts = [
        Column(name.replace("the ", "").replace(" ", "\n"), [str(_count(of, name)) for of in groups.values()])
        for name in VERDICTS
    ]
    line = Column("line", cells(lambda one: str(one.row.line)))
    sds = Column("in sd", cells(lambda one: "" if one.sds is None else signed(one.sds)))
    allowed = Column("allowed", cells(_allowed))
    committed = Column("committed", cells(lambda one: one.committed))
    new = Column("here", cells(lambda one: one.new))
    run = Column("worst run", cells(lambda one: one.row.label), "left")
    columns = [Column("figure", list(groups), "left"), *counts, line, sds, allowed, committed, new, run]
    kept = fitting(columns, [run, new, committed, allowed, sds, line], console.width - 2)
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for column in kept:
        out.add_column(Text(column.name), justify=column.justify, no_wrap=True)
    for row in zip(*(column.cells for column in kept)):
        out.add_row(*map(Text, row))
    console.print(out)
    if note := left_out(len(columns) - len(kept)):
        console.print(f"{note} at this width; --json has all", style="dim")


def _count(found: Sequence[Compared], verdict: str) -> int:
    return sum(one.verdict == verdict for one in found)


def _allowed(one: Compared) -> str:
    if one.allowed is None or not one.sd:
        return ""
    allowed = one.allowed / one.sd
    return f"±{allowed:.1f}" if allowed < 100 else f"±{allowed:.0f}"


def told(one: Compared) -> str:
    """One comparison in words: verdict, figure, run, both values, and by how much they differ."""
    text = f"{one.verdict}: {one.figure} of {one.row.label}: {_value(one.committed)} committed"
    text += f", {_value(one.new)} here"
    committed = repetition.number(one.committed)
    if one.sds is None and one.deviation is not None and committed:
        text += f", {100 * one.deviation / abs(committed):+.2g} %"
    if one.sds is not None:
        text += f", {signed(one.sds)} standard deviations"
        text += f" (allowed {_allowed(one)})" if _allowed(one) else ""
    return text + (f"; {one.why}" if one.why else "")


def _value(text: str) -> str:
    return text or "no value"


def lines(found: Sequence[Compared]) -> list[str]:
    """What differs and what can't be told, in words, the worst first, at most LISTED of them. If there is
    nothing of the kind, the worst comparison that is not equal.
    """
    order = sorted(found, key=repetition.distance, reverse=True)
    bad = [one for one in order if one.verdict in (DIFFERS, UNTOLD)]
    if not bad:
        return [told(order[0])] if order and order[0].verdict != EQUAL else []
    more = len(bad) - LISTED
    said = [told(one) for one in bad[:LISTED]]
    return said + ([f"and {more} more; --json has all"] if more > 0 else [])


def weakness(found: Sequence[Compared]) -> str:
    """A sentence that says so if there are so few committed seeds that only a figure far off differs; else
    ''.
    """
    known = [one.allowed / one.sd for one in found if one.allowed is not None and one.sd]
    if not known or min(known) <= repetition.FAR * math.sqrt(2):
        return ""
    return (
        f"few committed seeds: only a figure that is off by {min(known):.0f} standard deviations or more "
        "would be said to differ"
    )


def conclusion(found: Sequence[Compared], n_runs: int) -> str:
    """The verdict for the sweep, in one line."""
    verdict, n = repetition.verdict(found), len(found)
    counts = {name: _count(found, name) for name in VERDICTS}
    of_all = f"{counted(n, 'figure')} of {counted(n_runs, 'run')}"
    if not found:
        return f"{HOLDS[UNTOLD]}: nothing was compared"
    if verdict == EQUAL:
        return f"{HOLDS[EQUAL]}: all {of_all} are equal to the last digit"
    listed = [f"{counts[EQUAL]} equal", f"{counts[WITHIN]} within the seeds"]
    if counts[DIFFERS]:
        listed.append(f"{counts[DIFFERS]} {'differs' if counts[DIFFERS] == 1 else 'differ'}")
    if counts[UNTOLD]:
        listed.append(f"{counts[UNTOLD]} can't be told")
    return f"{HOLDS[verdict]}: of {of_all} {', '.join(listed)}"


def say(text: str, console: Console, indent: str = "") -> None:
    """Print a line, broken at blanks at the terminal's width."""
    wrapped = textwrap.wrap(
        text, max(20, console.width), subsequent_indent=indent + "  ", initial_indent=indent
    )
    console.print("\n".join(wrapped), markup=False, highlight=False)


def as_json(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """Every comparison, for scripts."""
    return [
        {
            "line": one.row.line,
            "run": one.row.label,
            "figure": one.figure,
            "committed": one.committed,
            "new": one.new,
            "verdict": one.verdict,
            "deviation": one.deviation,
            "sd": one.sd,
            "sds": one.sds,
            "allowed": one.allowed,
            "why": one.why or None,
        }
        for one in found
    ]
