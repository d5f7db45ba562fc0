"""What the benchmarks share: contenders that are measured in turn, and how their figures are printed.

A contender is a function that does one round of work and returns its figure, such as pictures per second.
Rounds of all contenders alternate, and a ratio is always that of two figures of the same round, so that it is
right even if the machine's speed drifts. The first round, in which caches fill and compilers work, does not
count.
"""

import importlib.metadata
import importlib.util
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeVar

from rich.progress import track

from research.common.messages import UserError, console

Name = TypeVar("Name", bound=Hashable)


class Spread(NamedTuple):
    """The median of a contender's figures, the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Spread":
        return cls(statistics.median(figures), min(figures), max(figures))

    @classmethod
    def of_ratios(cls, figures: Sequence[float], others: Sequence[float]) -> "Spread":
        """The spread of the ratio figure / other, each of two figures of the same round."""
        return cls.of([a / b for a, b in zip(figures, others, strict=True)])


# ------------------------------------------------------------------------------------------------ measuring


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes, in seconds of wall time."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """The contender whose figure is the number of seconds that `work` takes."""
    return lambda: seconds(work)


def speed_of(work: Callable[[], object], amount: float) -> Callable[[], float]:
    """The contender whose figure is `amount` per second, where `amount` is what `work` gets done."""
    return lambda: amount / seconds(work)


def alternate(
    contenders: Mapping[Name, Callable[[], float]], rounds: int, warm_up: int = 1, about: str = "measuring"
) -> dict[Name, list[float]]:
    """The figures of each contender in `rounds` rounds, of which the first `warm_up` are left out.

    In a round each contender is called once, in their order. Raises UserError where no round is left.
    """
    if rounds <= warm_up:
        raise UserError(f"{rounds} rounds: at least {warm_up + 1} are needed, as {warm_up} warm up")
    figures: dict[Name, list[float]] = {name: [] for name in contenders}
    hidden = not console.is_terminal
    for number in track(range(rounds), about, console=console, transient=True, disable=hidden):
        for name, measure in contenders.items():
            figure = measure()
            if number >= warm_up:
                figures[name].append(figure)
    return figures


# ------------------------------------------------------------------------------------------------ printing


def header(*about: str) -> None:
    """Print the machine and the versions with which the figures below were measured."""
    print(", ".join([f"{cpu()} ({os.cpu_count()} cores)", f"torch {torch_version()}", *about]), flush=True)


def begin(threads: int, *about: str, device: str = "cpu") -> None:
    """Give torch `threads` CPU threads, and print the header."""
    import torch

    torch.set_num_threads(threads)
    header(device, "1 thread" if threads == 1 else f"{threads} threads", *about)


def cpu() -> str:
    """The processor's name, if the system reveals it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()


def torch_version() -> str:
    """The version of torch, found without importing it."""
    loaded = sys.modules.get("torch")
    return loaded.__version__ if loaded else importlib.metadata.version("torch")


def report(figures: Mapping[str, Sequence[float]], unit: str, peer: str | None = None) -> None:
    """Print a line for each contender: its figures, and their ratio to those of `peer` if that was run."""
    width = max(map(len, figures))
    for name, values in figures.items():
        of_all = Spread.of(values)
        line = f"{name:{width}}  {of_all.median:9,.0f} {unit} (min {of_all.low:,.0f}, max {of_all.high:,.0f})"
        if peer in figures:
            ratio = Spread.of_ratios(values, figures[peer])
            line += f"   x{ratio.median:.2f} of {peer} (min {ratio.low:.2f}, max {ratio.high:.2f})"
        print(line, flush=True)


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print `rows` as a Markdown table. The first row is the heading; only the first column is text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for row in [rows[0], rule, *rows[1:]]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("| " + " | ".join(cells) + " |", flush=True)


# ------------------------------------------------------------------------------------------------ peers


def module_of(path: Path) -> ModuleType:
    """The Python file of a peer, imported under a name of its own, with `print` disabled."""
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    module.print = lambda *_, **__: None
    spec.loader.exec_module(module)
    return module
