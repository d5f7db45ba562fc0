"""The time that it takes to plan a grid, compared with asking W&B's engine for one point after the other.

    python benchmarks/planning.py                     # 1,000, 10,000 and 100,000 points
    python benchmarks/planning.py --peer 1000         # the engine for so many points (quadratic: 34 s)

To plan a grid means to read it, to check each point by the rules of research/vae_mnist.py, to count its
different runs, and to begin the sweep's folder with its first 1,000 trial files and a copy of the code. The
figures are CPU-seconds of this process after the script has been imported.
"""

import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import yaml

from research.common.commandline import main
from research.common.flags import require

SIZES = (1000, 10_000, 100_000)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Time the planning of grids."""

    peer: int = 300
    """points for which W&B's engine is asked, one after the other; a multiple of 100"""

    def __post_init__(self):
        require(self.peer >= 100 and self.peer % 100 == 0, self, "peer", "a multiple of 100, at least 100")


def content(n: int) -> dict:
    """A grid of n points over three flags."""
    parameters = {
        "dataset": {"value": "digits"},
        "latent_dim": {"values": [2, 3, 4, 5, 6, 8, 10, 12, 16, 20]},
        "learning_rate": {"values": [0.0001 * k for k in range(1, 11)]},
        "seed": {"values": list(range(n // 100))},
    }
    metric = {"name": "val/elbo_nats_best", "goal": "maximize"}
    return {"program": "research/vae_mnist.py", "method": "grid", "metric": metric, "parameters": parameters}


def engine_s(n: int) -> float:
    """CPU-seconds in which W&B's engine gives n points; for each of them, the points before
    it are its runs.
    """
    from sweeps import RunState, SweepRun, next_run

    config, runs, start = content(n), [], time.process_time()
    config = {k: config[k] for k in ("method", "parameters")}
    for _ in range(n):
        runs.append(SweepRun(config=next_run(config, runs).config, state=RunState.finished))
    return time.process_time() - start


def ours_s(n: int, folder: Path) -> float:
    """CPU-seconds in which a sweep of n points is read and begun."""
    from launch.sweep import begin, plan

    path = folder / f"{n}.yaml"
    path.write_text(yaml.safe_dump(content(n)), encoding="utf-8")
    start = time.process_time()
    begin.freeze(plan.read(str(path)), folder / str(n), False, False)
    return time.process_time() - start


def run(flags: Flags) -> None:
    warnings.simplefilter("ignore")  # the engine is written for an older pydantic
    from launch.sweep import points
    from research import vae_mnist

    vae_mnist.load_data(vae_mnist.Config(dataset="digits"))
    list(points.Points(content(100)))  # so that the engine is imported for both
    print("| points | planned, CPU-s | a point, ms |\n|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for n in SIZES:
            seconds = ours_s(n, Path(folder))
            print(f"| {n:,} | {seconds:.1f} | {1000 * seconds / n:.2f} |", flush=True)
        ours = ours_s(flags.peer, Path(folder)) if flags.peer not in SIZES else None
    theirs = engine_s(flags.peer)
    beside = "" if ours is None else f" (planned here in {ours:.1f})"
    print(f"\nW&B's engine alone, {flags.peer:,} points one after the other: {theirs:.1f} CPU-s{beside}")


if __name__ == "__main__":
    main(Flags, run)
