"""How many one-step trials a sweep completes per minute, which shows what it costs to start a trial.

    python benchmarks/trials.py
    python benchmarks/trials.py --peer path/to/another/checkout --rounds 3

Each round is a whole `launch/local.py` on a grid of seeds, with a family's embedded data, one step per trial
and without W&B. It is timed from the start of the command to its end. With --peer, rounds alternate with
those of another checkout of this project, and ratios are those of rounds with the same number.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import yaml

from benchmarks import race
from research.common.commandline import main
from research.common.flags import require
from research.common.identity import ROOT

FAMILIES = ("vae_mnist", "bvae_faces", "charlm", "seq2seq_arith")


@dataclass(frozen=True, kw_only=True)
class Flags:
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
        require(self.family in FAMILIES, self, "family", f"one of {', '.join(FAMILIES)}")
        for name in ("trials", "workers", "rounds"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        is_checkout = self.peer is None or Path(self.peer, "launch/local.py").is_file()
        require(is_checkout, self, "peer", "a checkout of this project")


def sweep(root: Path, flags: Flags) -> None:
    """Run one sweep with the code in `root`, in a folder of its own."""
    content = {
        "program": f"research/{flags.family}.py",
        "method": "grid",
        "parameters": {"steps": {"value": 1}, "seed": {"values": list(range(flags.trials))}},
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trials.yaml")
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        command = [sys.executable, f"{root}/launch/local.py", str(file), f"--out={folder}/runs"]
        command += [f"--workers={flags.workers}", "--wandb=disabled"]
        made = subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8")
        finished = len(list(Path(folder, "runs").glob("trials/*/status.json")))
        if made.returncode or finished != flags.trials:
            raise RuntimeError(f"{finished} of {flags.trials} trials in {root}\n{made.stderr}")


def run(flags: Flags) -> None:
    race.header(f"{flags.trials} one-step trials of {flags.family}, {flags.workers} workers, trials a minute")
    contenders = {"ours": ROOT} | ({"peer": Path(flags.peer).resolve()} if flags.peer else {})
    race.report(
        race.alternate(
            {
                name: race.speed_of(lambda root=root: sweep(root, flags), 60 * flags.trials)
                for name, root in contenders.items()
            },
            flags.rounds,
            warm_up=0,
        ),
        "trials/min",
        "peer",
    )


if __name__ == "__main__":
    main(Flags, run)
