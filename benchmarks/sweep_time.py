"""How long a sweep takes, against its runs as plain commands one after the other.

    python benchmarks/sweep_time.py
    python benchmarks/sweep_time.py --family=bvae_faces --rounds=3

Each round is a whole `launch/local.py` on a grid of seeds, with a core for each of its workers, and then
`python research/FAMILY.py` for each of these seeds, which uses as many threads as it finds cores: what one
does without a launcher. Both are timed from the start of the first command to the end of the last, so that
imports, evaluations, pictures, checkpoints and the sweep's report count. They learn the family's embedded
data, without W&B. The faces of bvae_faces are rendered beforehand, by a run of one step.

After each round it is checked that both ways have done the same: the same runs by their keys, all finished,
with the same steps and with headlines that differ by at most 5 %, since other numbers of threads round sums
otherwise. If not, no ratio is printed.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

if not __package__:  # run as a script: import from this tree
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import grid, race
from research.common.commandline import main
from research.common.flags import require
from research.common.folder import CONFIG, STATUS
from research.common.identity import ROOT
from research.common.messages import UserError, counted

TOLERANCE = 0.05  # of a headline, relative


@dataclass(frozen=True, kw_only=True)
class Flags(race.JsonFlag):
    """Time a sweep against its runs one after the other."""

    family: str = "vae_mnist"
    """whose script is trained"""
    runs: int = 8
    """how many runs a sweep has, each with its own seed"""
    steps: int | None = None
    """steps of each run; default: some seconds' worth, by family"""
    workers: int = os.cpu_count() or 1
    """how many runs the sweep trains at a time"""
    rounds: int = 3
    """rounds of both, in turn; none is left out"""

    def __post_init__(self):
        super().__post_init__()
        require(self.family in grid.FAMILIES, self, "family", f"one of {', '.join(grid.FAMILIES)}")
        for name in ("runs", "workers", "rounds"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        require(self.steps is None or self.steps >= 1, self, "steps", "at least 1")


class Run(NamedTuple):
    """What a run did, according to its folder."""

    seed: int
    status: str
    step: int
    headline: float | None


def plain_run(family: str, steps: int, seed: int, out: Path) -> None:
    """One run as a user would type it; raises RuntimeError, with the output, if it fails."""
    command = [sys.executable, f"{ROOT}/research/{family}.py", f"--steps={steps}", f"--seed={seed}"]
    command += [f"--out={out}", "--wandb=disabled"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if made.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{made.stderr}")


def done(out: Path) -> dict[str, Run]:
    """The runs whose folders lie in `out`, by their keys."""
    runs = {}
    for path in sorted(out.glob(f"*/{STATUS}")):
        status = json.loads(path.read_text(encoding="utf-8"))
        config = json.loads((path.parent / CONFIG).read_text(encoding="utf-8"))
        run = Run(config["flags"]["seed"], status["status"], status["step"], status["headline"])
        runs[config["key"]] = run
    return runs


def check_same(sweep: dict[str, Run], plain: dict[str, Run]) -> None:
    """Raises UserError, naming the seed, unless both ways did the same work."""
    if sweep.keys() != plain.keys():
        raise UserError(
            f"no ratio: the sweep did {len(sweep)} runs, {len(sweep.keys() - plain.keys())} of "
            f"which are not among the {len(plain)} plain ones"
        )
    for key, ours in sweep.items():
        theirs = plain[key]
        work = (ours.status, ours.step) == (theirs.status, theirs.step) and ours.status == "finished"
        if not work or not close(ours.headline, theirs.headline):
            raise UserError(
                f"no ratio: seed {ours.seed} is not the same work: {words(ours)} in the sweep, "
                f"{words(theirs)} alone"
            )


def close(a: float | None, b: float | None) -> bool:
    """Whether two headlines are those of the same run."""
    if a is None or b is None:
        return False
    return math.isclose(a, b, rel_tol=TOLERANCE)


def words(run: Run) -> str:
    return f"{run.status} at step {run.step} with {run.headline}"


def ways(flags: Flags, steps: int) -> dict[str, Callable[[], float]]:
    """The contenders; the second checks that it did the same as the sweep before it."""
    found = {}

    def sweep() -> float:
        with tempfile.TemporaryDirectory() as folder:
            work = (ROOT, flags.family, steps, flags.runs, flags.workers, Path(folder))
            took = race.seconds(lambda: grid.sweep(*work))
            found["sweep"] = done(Path(folder, "runs/trials"))
        return took

    def plain() -> float:
        with tempfile.TemporaryDirectory() as folder:
            took = race.seconds(
                lambda: [plain_run(flags.family, steps, seed, Path(folder)) for seed in range(flags.runs)]
            )
            check_same(found["sweep"], done(Path(folder)))
        return took

    return {"sweep": sweep, "one after another": plain}


def run(flags: Flags) -> None:
    steps = flags.steps or grid.FAMILIES[flags.family]
    each, workers = counted(steps, "step"), counted(flags.workers, "worker")
    race.header(f"{flags.runs} runs of {flags.family}, {each} each, {workers}", "seconds: fewer are better")
    if flags.family == "bvae_faces":  # the first run ever renders them, which takes a minute
        with tempfile.TemporaryDirectory() as folder:
            plain_run(flags.family, 1, 0, Path(folder))
    figures = race.alternate(ways(flags, steps), flags.rounds, warm_up=0)
    race.report(figures, "s", peer="one after another")
    race.keep(flags, __file__, figures, "s", peer="one after another", variant=flags.family)


if __name__ == "__main__":
    main(Flags, run)
