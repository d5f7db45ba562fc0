"""Scores of autoencoder, VAE and GAN on three sets of pictures, for docs/gan_faces.md.

Run     python docs/three_models.py --gan=runs/gan_sets --bvae=runs/bvae_sets
Does    --task=compare of each data set and seed, on the runs of sweeps/gan_sets.yaml and bvae_sets.yaml
Writes  sweeps/results/three_models.csv                  one row a model: its scores, those of real pictures
        docs/pictures/three_models_<set>.png             random pictures of one seed's models
        docs/pictures/three_models_<set>_between.png     ways between two random codes of the same
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd

from launch.results.read import Run, read_sweep
from research.common.commandline import main
from research.common.identity import ROOT
from research.common.messages import UserError, console, escape
from research.gan_faces import Config
from research.tasks.faces_compare import compare

RESULTS, PICTURES = ROOT / "sweeps" / "results", ROOT / "docs" / "pictures"
SEED = 0  # whose pictures are shown
SHOWN = {"random": "", "interpolation": "_between"}  # picture of the task → end of its name here


@dataclass(frozen=True)
class Flags:
    """Score autoencoders, VAEs and GANs of the same data side by side."""

    gan: str = "runs/gan_sets"
    """a finished sweep folder of sweeps/gan_sets.yaml"""
    bvae: str = "runs/bvae_sets"
    """a finished sweep folder of sweeps/bvae_sets.yaml"""


def runs_of(flag: str, value: str) -> list[Run]:
    """The finished runs of a sweep folder. Raises UserError where there are none."""
    found = read_sweep(Path(value)) if Path(value).is_dir() else None
    runs = [run for run in found.runs if run.status.get("status") == "finished"] if found else []
    if not runs:
        raise UserError(f"--{flag}={value}: must be a sweep folder with finished runs")
    return runs


def collect(flags: Flags) -> pd.DataFrame:
    """One row for each data set, seed and model; pictures of seed SEED are copied to PICTURES."""
    gans, others = runs_of("gan", flags.gan), runs_of("bvae", flags.bvae)
    rows = []
    for run in sorted(gans, key=lambda run: (run.flags["dataset"], run.flags["seed"])):
        dataset, seed = run.flags["dataset"], run.flags["seed"]
        console.print(f"{escape(dataset)}, seed {seed}")
        beside = [r for r in others if (r.flags["dataset"], r.flags["seed"]) == (dataset, seed)]
        beside.sort(key=lambda r: r.flags["beta"])
        if not beside:
            raise UserError(f"--bvae={flags.bvae}: must hold runs of --dataset={dataset} and --seed={seed}")
        first, *further = (str(r.folder) for r in [*beside, run])
        cfg = Config(task="compare", checkpoint=first, checkpoints=tuple(further), wandb="disabled")
        before = folders(beside[0].folder)
        results = compare(cfg)
        (folder,) = folders(beside[0].folder) - before or {newest(beside[0].folder)}
        for name, scores in results["models"].items():
            rows.append({"dataset": dataset, "seed": seed, "model": name} | flat(scores))
        if seed == SEED:
            for picture, end in SHOWN.items():
                shutil.copy(folder / f"{picture}.png", PICTURES / f"three_models_{dataset}{end}.png")
    return pd.DataFrame(rows)


def folders(run: Path) -> set[Path]:
    """What --task=compare has written in a run."""
    return {path.parent for path in run.glob("compare*/results.json")}


def newest(run: Path) -> Path:
    """The folder of the last call."""
    return max(folders(run), key=lambda path: (path / "results.json").stat().st_mtime_ns)


def flat(scores: dict[str, Any]) -> dict[str, Any]:
    """Scores of one model as columns, `network/score`; names of files and of data left out."""
    row = {"mse": scores.get("mse")}
    for network in ("random", "reader"):
        row |= {f"{network}/{name}": value for name, value in scores[network].items()}
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}


def write(flags: Flags) -> None:
    path = RESULTS / "three_models.csv"
    collect(flags).to_csv(path, index=False, lineterminator="\n")
    console.print(str(path.relative_to(ROOT)))


if __name__ == "__main__":
    main(Flags, write)
