"""How many one-step trials a sweep completes per minute, which shows what it costs to start a trial.

    python benchmarks/trials.py
    python benchmarks/trials.py --peer path/to/another/checkout --rounds 3

Each round is a whole `launch/local.py` on a grid of seeds, with a family's embedded data, one step per trial
and without W&B. It is timed from the start of the command to its end. With --peer, rounds alternate with
those of another checkout of this project, and ratios are those of rounds with the same number.
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import grid, race
from research.common.commandline import main
from research.common.flags import require
from research.common.identity import ROOT


@dataclass(frozen=True, kw_only=True)
class Flags(race.JsonFlag):
    """Time sweeps of one-step trials."""

    family: str = "vae_mnist"
    """whose script is trained"""
    trials: int = 40
    """how many trials a sweep has"""
    workers: int = os.cpu_count() or 1
    """how many are trained at a time"""
    peer: str | None = None
    """another checkout of this project to compare with"""
    rounds: int = 3
    """rounds of each, in turn; none is left out"""

    def __post_init__(self):
        super().__post_init__()
        require(self.family in grid.FAMILIES, self, "family", f"one of {', '.join(grid.FAMILIES)}")
        for name in ("trials", "workers", "rounds"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        is_checkout = self.peer is None or Path(self.peer, "launch/local.py").is_file()
        require(is_checkout, self, "peer", "a checkout of this project")


def sweep(root: Path, flags: Flags) -> None:
    """Run one sweep with the code in `root`, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        grid.sweep(root, flags.family, 1, flags.trials, flags.workers, Path(folder))


def run(flags: Flags) -> None:
    race.header(f"{flags.trials} one-step trials of {flags.family}, {flags.workers} workers, trials a minute")
    contenders = {"ours": ROOT} | ({"peer": Path(flags.peer).resolve()} if flags.peer else {})
    figures = race.alternate(
        {
            name: race.speed_of(lambda root=root: sweep(root, flags), 60 * flags.trials)
            for name, root in contenders.items()
        },
        flags.rounds,
        warm_up=0,
    )
    race.report(figures, "trials/min", "peer")
    race.keep(flags, __file__, figures, "trials/min", peer="peer", variant=flags.family)


if __name__ == "__main__":
    main(Flags, run)
