"""What the benchmarks share: contenders that are measured in turn, how their figures are printed and kept.

A contender is a function that does one round of work and returns its figure, such as pictures per second.
Rounds of all contenders alternate, and a ratio is always that of two figures of the same round, so that it is
right even if the machine's speed drifts. The first rounds, in which caches fill and compilers work, do not
count; a benchmark of whole commands, which fill no cache, counts all.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from rich.progress import track

from research.common import processor
from research.common.flags import require
from research.common.identity import ROOT, git_state
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
    """The contender whose figure is `amount` per second, where `amount` is the work that one call of `work`
    does.
    """
    return lambda: amount / seconds(work)


def alternate(
    contenders: Mapping[Name, Callable[[], float]], rounds: int, warm_up: int = 1, about: str = "measuring"
) -> dict[Name, list[float]]:
    """The figures of each contender in `rounds` rounds, of which the first `warm_up` are left out.

    In a round each contender is called once, in order. Raises UserError if no round is left.
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
    print(
        ", ".join([f"{processor.cpu()} ({os.cpu_count()} cores)", f"torch {torch_version()}", *about]),
        flush=True,
    )


def begin(threads: int, *about: str, device: str = "cpu") -> None:
    """Give torch `threads` CPU threads, and print the header."""
    import torch

    torch.set_num_threads(threads)
    header(device, "1 thread" if threads == 1 else f"{threads} threads", *about)


def lstm_precisions(device: str = "cpu") -> tuple[str, ...]:
    """The precisions in which a device computes LSTM layers: see `research.parts.lstm.in_float32`."""
    from research.parts.lstm import in_float32  # imports torch

    return ("fp32",) if in_float32(device) else ("fp32", "bf16")


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


# ------------------------------------------------------------------------------------------------ keeping


@dataclass(frozen=True, kw_only=True)
class JsonFlag:
    """The flag of each benchmark whose figures `keep` can write."""

    json: str | None = None
    """also write the figures into this folder, as JSON"""

    def __post_init__(self):
        is_folder = self.json is None or Path(self.json).is_dir() or not Path(self.json).exists()
        require(is_folder, self, "json", "a folder, which is made if it does not exist")


def keep(
    flags: JsonFlag,
    script: str,
    figures: Mapping[str, Sequence[float]],
    unit: str,
    peer: str | None = None,
    variant: str | None = None,
    losses: Mapping[str, float] | None = None,
) -> None:
    """Write the figures of all rounds to FOLDER/<benchmark>[-<variant>].json, if --json is given.

    script: the benchmark's `__file__`; unit: "s" or "MiB", of which less is better, or something per second;
    peer: the contender with which the others are compared, if it was run; losses: what each reached, in a
    race to one.
    """
    if flags.json is None:
        return
    benchmark = Path(script).stem
    theirs = figures.get(peer)
    ratios = {} if theirs is None else {name: Spread.of_ratios(of, theirs) for name, of in figures.items()}
    device = getattr(flags, "device", "cpu")
    commit, committed = state_of_code()
    content = {
        "benchmark": benchmark,
        "variant": variant,
        "unit": unit,
        "peer": None if theirs is None else peer,
        "figures": {name: [float(f"{figure:.6g}") for figure in of] for name, of in figures.items()},
        "ratios": {
            name: {"median": ratio.median, "min": ratio.low, "max": ratio.high}
            for name, ratio in ratios.items()
        },
        "losses": losses,
        "flags": {name: shown(value) for name, value in dataclasses.asdict(flags).items() if name != "json"},
        "command": command(flags, benchmark),
        "device": device,
        "cpu": processor.cpu(),
        "instructions": processor.instructions(),
        "gpu": gpu() if device.startswith("cuda") else None,
        "cores": os.cpu_count(),
        "threads": getattr(flags, "threads", None),
        "torch": torch_version(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "committed": committed,
    }
    folder = Path(flags.json)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{'-'.join(filter(None, (benchmark, variant)))}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def shown(value: Any) -> Any:
    """A flag's value; for an absolute path only the name, because the rest has no meaning on other
    machines.
    """
    is_elsewhere = isinstance(value, str) and os.path.isabs(value)
    return f"path/to/{Path(value).name}" if is_elsewhere else value


def command(flags: JsonFlag, benchmark: str) -> str:
    """The command that repeats the benchmark: the flags that differ from their defaults, without the places
    of files.
    """
    words = [f"python benchmarks/{benchmark}.py"]
    for f in dataclasses.fields(flags):
        value = getattr(flags, f.name)
        if f.name not in ("json", "data_dir") and value != f.default:
            words.append(f"--{f.name}={shown(value)}")
    return " ".join(words)


def gpu() -> str:
    """The name of the GPU."""
    import torch

    return torch.cuda.get_device_name()


def state_of_code() -> tuple[str, str | None]:
    """The commit, with "-dirty" if files other than results have changed since, and when it was made.

    The commit is "unknown" and its time None outside of a checkout.
    """
    state = git_state()
    if not (commit := state["commit"]):
        return "unknown", None
    changed = re.findall(r"(?m)^diff --git (?:\w/)?(\S+)", state["diff"])
    dirty = any(not name.startswith("benchmarks/results/") for name in changed)
    asked = ["git", "-C", str(ROOT), "show", "--no-patch", "--format=%cI", commit]
    shown = subprocess.run(asked, capture_output=True, text=True, encoding="utf-8")
    return commit + ("-dirty" if dirty else ""), shown.stdout.strip() or None


# ------------------------------------------------------------------------------------------------ peers


def module_of(path: Path) -> ModuleType:
    """The Python file of a peer, imported under a name of its own, with `print` disabled."""
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    module.print = lambda *_, **__: None
    spec.loader.exec_module(module)
    return module
