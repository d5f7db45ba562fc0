"""How much memory a run of each family takes at its peak, and how that grows with the data.

    python benchmarks/memory.py
    python benchmarks/memory.py --only=charlm --largest=1000     # a text of 1 GB: half an hour on a core

Each figure is that of one process, `python research/FAMILY.py` with its default sizes and a few steps: it
reads its data, evaluates, draws its pictures, saves and measures the test part. The data are made for this: a
text of 1 MB, 6,000 pictures of digits, a folder of 100 pictures, 10,000 sums. Larger sets are 10, 100 … times
as large, up to --largest times; the text is Python's manual, again and again.

The figure is the largest resident set, in MiB, as the system reports it when the process ends (ru_maxrss):
all memory that the process had in use at once, including pages of files that it has mapped, such as libraries
and caches of data. The system can take the latter away at any time, so on Linux the largest anonymous part,
which it can't, is printed as well; it is looked up 50 times a second. A bare `import torch` is measured in
the same way: it takes more with a build of torch for CUDA than with one for CPUs. A process that the run
itself starts counts only if it is larger than the run.
"""

import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

if not __package__:  # run as a script: import from this tree
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import race
from data import text
from research.common.commandline import main
from research.common.flags import require
from research.common.identity import ROOT
from research.common.messages import counted

TORCH = "import torch"
EVERY_S = 0.02  # seconds between two readings of the anonymous memory
MANY = 6000  # training pictures of digits, with a sixth of this number to test; MNIST has ten times as many
FEW = 100  # pictures in a folder


# ------------------------------------------------------------------------------------------------ the data


def text_file(folder: Path, times: int) -> list[str]:
    """A text of `times` MB; returns the flags that name it."""
    path = folder / f"text_{times}.txt"
    manual = text.read("pydoc", folder)[0].encode()
    left = times * 1_000_000
    with open(path, "wb") as f:
        while left > 0:
            left -= f.write(manual[:left])
    return [f"--dataset={path}"]


def digits_folder(folder: Path, times: int) -> list[str]:
    """A folder of IDX files like those of MNIST, with pictures of noise."""
    place, rng = folder / f"digits_{times}", np.random.default_rng(0)
    place.mkdir()
    for part, n in (("train", MANY * times), ("t10k", MANY * times // 6)):
        with open(place / f"{part}-images-idx3-ubyte", "wb") as f:
            f.write(struct.pack(">4B3i", 0, 0, 8, 3, n, 28, 28))
            for some in range(0, n, MANY):
                f.write(rng.bytes(28 * 28 * min(MANY, n - some)))
        labels = struct.pack(">4Bi", 0, 0, 8, 1, n) + (np.arange(n) % 10).astype(np.uint8).tobytes()
        (place / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return [f"--dataset={place}"]


def pictures_folder(folder: Path, times: int) -> list[str]:
    """A folder of pictures of noise, each in a file of its own."""
    place, rng = folder / f"pictures_{times}", np.random.default_rng(0)
    place.mkdir()
    for i in range(FEW * times):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(place / f"{i}.png")
    return [f"--dataset={place}"]


def sums(_: Path, times: int) -> list[str]:
    """All sums of two numbers with this many digits; with one digit more there are a hundred times as
    many.
    """
    return ["--ops=+", f"--digits={2 if times == 1 else 3}", "--train_fraction=0.95"]


class Family(NamedTuple):
    """How a family's data are made; `amount`: the size of the smallest set; and how many times as large the
    largest may be.
    """

    make: Callable[[Path, int], list[str]]
    amount: int
    unit: str
    most: int

    def size(self, times: int) -> str:
        """How large the data are: "10 MB"."""
        grown = 100 if self.make is sums and times > 1 else times
        return f"{self.amount * grown:,} {self.unit}"


FAMILIES = {
    "charlm": Family(text_file, 1, "MB", 10_000),
    "text_vae": Family(text_file, 1, "MB", 10_000),
    "vae_mnist": Family(digits_folder, MANY, "pictures", 100),
    "bvae_faces": Family(pictures_folder, FEW, "pictures", 1000),
    "gan_faces": Family(pictures_folder, FEW, "pictures", 1000),
    "seq2seq_arith": Family(sums, 10_000, "sums", 10),
}


@dataclass(frozen=True, kw_only=True)
class Flags(race.JsonFlag):
    """Measure the peak memory of each family, and how it grows with the data."""

    only: str | None = None
    """some of the families, separated by commas"""
    largest: int = 10
    """how many times as large as the smallest the largest set is: 1, 10, 100 ..."""
    steps: int = 2
    """steps of each run"""
    threads: int = 1
    """CPU threads of each run"""

    def __post_init__(self):
        super().__post_init__()
        known = self.only is None or set(self.only.split(",")) <= FAMILIES.keys()
        require(known, self, "only", f"some of {', '.join(FAMILIES)}")
        is_power = re.fullmatch("10*", str(self.largest)) is not None
        require(is_power and self.largest <= 10_000, self, "largest", "1, 10, 100, 1000 or 10000")
        for name in ("steps", "threads"):
            require(getattr(self, name) >= 1, self, name, "at least 1")


# ------------------------------------------------------------------------------------------------ measuring


class Peak(NamedTuple):
    """The largest memory of a process in MiB: all that was resident, and its anonymous part (0: unknown)."""

    resident: float
    anonymous: float


def peak_of(command: Sequence[str], threads: int = 1) -> Peak:
    """Run a command and measure it alone. Raises RuntimeError, with the command's output, if it fails."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=said)
        anonymous, ended = 0.0, 0
        while not ended:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            anonymous = max(anonymous, anonymous_now(process.pid))
            time.sleep(0 if ended else EVERY_S)
        process.returncode = os.waitstatus_to_exitcode(status)  # wait4 took it from subprocess
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)}\n{said.read()}")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # macOS reports bytes, Linux KiB
    return Peak(usage.ru_maxrss / unit, anonymous)


def anonymous_now(pid: int) -> float:
    """The anonymous memory of a process in MiB, as Linux reports it; 0 on other systems, or after the process
    has ended.
    """
    try:
        found = re.search(r"RssAnon:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return int(found[1]) / 1024 if found else 0.0


def runs_of(family: str, flags: Flags, folder: Path) -> dict[str, Callable[[], Peak]]:
    """The functions that measure a run on each set, by the size of the set; and the bare import."""
    about = FAMILIES[family]
    runs = {TORCH: lambda: peak_of([sys.executable, "-c", TORCH], flags.threads)}
    times = 1
    while times <= min(flags.largest, about.most):

        def run(times: int = times) -> Peak:
            with tempfile.TemporaryDirectory(dir=folder) as place:  # removed before the next set is made
                words = [sys.executable, f"research/{family}.py", *about.make(Path(place), times)]
                words += [f"--steps={flags.steps}", f"--threads={flags.threads}", "--wandb=disabled"]
                words += [f"--out={place}/runs", f"--data_dir={place}/store", "--quiet", "--device=cpu"]
                return peak_of(words, flags.threads)

        runs[about.size(times)] = run
        times *= 10
    return runs


def run(flags: Flags) -> None:
    about = counted(flags.steps, "step"), counted(flags.threads, "thread")
    race.header("cpu", *about, "MiB at the peak: fewer are better")
    for family in flags.only.split(",") if flags.only else FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            peaks = {name: measure() for name, measure in runs_of(family, flags, Path(folder)).items()}
        rows = [[family, "resident", f"above `{TORCH}`", "anonymous"]]
        for name, peak in peaks.items():
            more = peak.resident - peaks[TORCH].resident
            anonymous = f"{peak.anonymous:,.0f}" if peak.anonymous else "unknown"
            rows.append([name, f"{peak.resident:,.0f}", f"{more:,.0f}", anonymous])
        race.table(rows)
        print(flush=True)
        smallest = list(peaks)[1]
        figures = {name: [peak.resident] for name, peak in peaks.items()}
        race.keep(flags, __file__, figures, "MiB", peer=smallest, variant=family)


if __name__ == "__main__":
    main(Flags, run)
