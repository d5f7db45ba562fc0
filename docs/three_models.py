"""Scores of autoencoder, VAE and GAN on three sets of pictures, for docs/gan_faces.md.

Run     python docs/three_models.py                             # draws sweeps/results/gan_sets_curve.csv
        python docs/three_models.py --gan=runs/gan_sets --bvae=runs/bvae_sets    # scores the runs first
Does    --task=compare of each data set and seed, on the runs of sweeps/gan_sets.yaml and bvae_sets.yaml
Writes  sweeps/results/three_models.csv                  one row a model: its scores, those of real pictures
        sweeps/results/gan_sets_curve.csv                one row an evaluation of each GAN
        docs/pictures/gan_curve.png                      the latter drawn
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

import numpy as np
import pandas as pd

from launch.results.read import Run, read_sweep
from research.common.commandline import main
from research.common.identity import ROOT
from research.common.messages import UserError, console, escape
from research.draw import charts, pictures
from research.gan_faces import Config
from research.tasks.faces_compare import compare

RESULTS, PICTURES = ROOT / "sweeps" / "results", ROOT / "docs" / "pictures"
SEED = 0  # whose pictures are shown
FOLLOWED = ("train/kernel_distance", "val/kernel_distance", "val/kernel_distance_now", "val/diversity")
FOLLOWED += ("val/d_train_real", "val/d_held_out_real", "val/d_generated")
DRAWN = (  # panels from top to bottom
    {"val/kernel_distance": "averaged generator", "val/kernel_distance_now": "generator of now"},
    {
        "val/d_train_real": "training pictures",
        "val/d_held_out_real": "held-out pictures",
        "val/d_generated": "generated pictures",
    },
)
SHOWN = {"random": "", "interpolation": "_between"}  # picture of the task → end of its name here


@dataclass(frozen=True)
class Flags:
    """Score autoencoders, VAEs and GANs of the same data side by side."""

    gan: str | None = None
    """a finished sweep folder of sweeps/gan_sets.yaml: score its runs first"""
    bvae: str | None = None
    """a finished sweep folder of sweeps/bvae_sets.yaml, with --gan"""


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


def curves_of(runs: list[Run]) -> pd.DataFrame:
    """One row for each evaluation of each GAN."""
    rows = []
    for run in sorted(runs, key=lambda run: (run.flags["dataset"], run.flags["seed"])):
        for row in run.rows:
            if "train/kernel_distance" in row:
                of_run = {"dataset": run.flags["dataset"], "seed": run.flags["seed"], "step": row["step"]}
                rows.append(of_run | {name: float(f"{row[name]:.4g}") for name in FOLLOWED})
    return pd.DataFrame(rows)


def drawn(curves: pd.DataFrame) -> np.ndarray:
    """For each data set how near the pictures came to real ones, with averaged weights and with those of now,
    and how often the discriminator recognises training and held-out pictures; a thin line a seed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sets = sorted(curves["dataset"].unique())
    figure = Figure(figsize=(4 * len(sets), 6), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(sets), squeeze=False, sharex=True, sharey="row")
    for column, dataset in zip(axes.T, sets, strict=True):
        of_set = curves[curves["dataset"] == dataset]
        for ax, names in zip(column, DRAWN, strict=True):
            for color, (name, label) in zip(charts.COLORS, names.items(), strict=False):
                for i, (_, of) in enumerate(of_set.groupby("seed")):
                    shown = of[of["step"] > 0]
                    ax.plot(shown["step"], shown[name], color=color, linewidth=1, label=None if i else label)
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
        column[0].set_title(dataset)
        column[0].set_yscale("log")
        column[1].set_ylim(0, 1)
        column[1].set_xlabel("step")
    axes[0, 0].set_ylabel("kernel distance to validation pictures")
    axes[1, 0].set_ylabel("share that D recognises")
    for ax in axes[:, 0]:
        ax.legend(fontsize=8, frameon=False)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3].copy()


def run(flags: Flags) -> None:
    if (flags.gan is None) != (flags.bvae is None):
        raise UserError("--gan and --bvae: must both be given, or neither")
    files = {name: RESULTS / f"{name}.csv" for name in ("three_models", "gan_sets_curve")}
    if flags.gan is not None:
        made = {"three_models": collect(flags), "gan_sets_curve": curves_of(runs_of("gan", flags.gan))}
        for name, table in made.items():
            table.to_csv(files[name], index=False, lineterminator="\n")
            console.print(str(files[name].relative_to(ROOT)))
    picture = drawn(pd.read_csv(files["gan_sets_curve"]))
    console.print(str(pictures.write_png(PICTURES / "gan_curve.png", picture).relative_to(ROOT)))


if __name__ == "__main__":
    main(Flags, run)
