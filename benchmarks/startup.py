"""How long `--help` of each command takes, compared with `import torch` in the same round.

    python benchmarks/startup.py                                   # this tree
    python benchmarks/startup.py --tree path/to/before --tree .    # two trees, measured in turn

`--help` imports what a command has to import before it can begin: a launcher before it makes its first trial,
a script before it reads its data. In each round and for every command, `python -c "import torch"` is timed,
and right after it `--help` in every tree, each in a process of its own; a ratio is that of these neighbours.
The goals: a launcher takes less than a third of the time of `import torch`, a script at most 1.2 times as
long.

The commands are the .py files directly in research/ and launch/ of the tree in which this file lies. All
trees run in the environment of the Python that runs this file. The commands get neither the user's own
settings nor the variables of W&B and SLURM.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import tyro

from benchmarks import race
from research.common.commandline import main
from research.common.flags import require

GOALS = {"launch": 1 / 3, "research": 1.2}  # times `import torch`
TORCH = "import torch"
SETTINGS = ("WANDB", "SLURM", "SBATCH", "PYTHON")  # variables that begin so are not passed on


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Time --help of every command against `import torch`."""

    tree: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """a checkout whose commands are timed; may be given several times; default: this one"""
    rounds: int = 10
    """rounds, of which the first is not counted"""

    def __post_init__(self):
        for tree in self.tree:
            is_checkout = Path(tree, "launch/local.py").is_file()
            require(is_checkout, self, "tree", "a folder with this project's code")
        require(self.rounds >= 2, self, "rounds", "at least 2, of which the first is not counted")


def commands() -> list[str]:
    """The commands of this tree as paths in it, launchers first."""
    paths = [path for folder in GOALS for path in sorted((ROOT / folder).glob("*.py"))]
    return [path.relative_to(ROOT).as_posix() for path in paths if path.stem != "__init__"]


def process(arguments: list[str], tree: Path, config_home: str) -> Callable[[], float]:
    """The contender that starts a process: Python with these arguments, in the folder `tree`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    env["XDG_CONFIG_HOME"] = config_home
    command = [sys.executable, *arguments]
    return race.timed(lambda: subprocess.run(command, cwd=tree, env=env, check=True, capture_output=True))


def run(flags: Flags) -> None:
    trees = [Path(tree).resolve() for tree in flags.tree] or [ROOT]
    with tempfile.TemporaryDirectory() as config_home:
        contenders = {}
        for command in commands():
            contenders[command, TORCH] = process(["-c", TORCH], ROOT, config_home)
            for number, tree in enumerate(trees):
                if (tree / command).exists():
                    contenders[command, number] = process([command, "--help"], tree, config_home)
        figures = race.alternate(contenders, flags.rounds, about="--help")
    race.header(f"{flags.rounds - 1} rounds", f"medians, and times `{TORCH}` with the range")
    rows = [["seconds", f"`{TORCH}`", *(tree.name for tree in trees), "goal"]]
    for command in commands():
        beside = figures[command, TORCH]
        cells = [cell(figures.get((command, number)), beside) for number in range(len(trees))]
        goal = GOALS[command.partition("/")[0]]
        rows.append([f"`{command}`", f"{race.Spread.of(beside).median:.2f}", *cells, f"x{goal:.2f}"])
    race.table(rows)


def cell(took: list[float] | None, beside: list[float]) -> str:
    """The figures of one command in one tree; beside: those of `import torch` just before it."""
    if took is None:
        return "not there"
    ratio = race.Spread.of_ratios(took, beside)
    return f"{race.Spread.of(took).median:.2f}, x{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


if __name__ == "__main__":
    main(Flags, run)
