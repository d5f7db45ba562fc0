"""What β buys, in pictures for docs/bvae_faces.md: docs/pictures/beta_*.png, drawn from committed results.

Run     python docs/beta_curve.py                                  # draws from sweeps/results/bvae_beta*
        python docs/beta_curve.py --collect=runs/bvae_beta         # measures the runs of that sweep first
        python docs/beta_curve.py --collect=runs/bvae_anneal       # likewise; it has no pictures of its own
Reads   sweeps/results/bvae_beta.csv            one row a run: test figures (launch/report.py --csv)
        sweeps/results/bvae_beta_rotation.csv   one row a run: what --task=rotate measured
        sweeps/results/bvae_beta_latents.csv    one row a latent: KL and I(z; v) / H(v) of every factor
        sweeps/results/bvae_beta_faces.png      rows by β: reconstructed, random and turned faces of one seed
Collect measures every finished run as its tasks rotate and latent_analysis do, and writes the last three.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pandas as pd
import torch
from PIL import Image

from data.synthetic import FACTOR_NAMES
from research import bvae_faces
from research.common.commandline import main
from research.common.identity import ROOT
from research.common.messages import UserError, console
from research.draw import charts, pictures
from research.measure.latents import SILENT_NATS
from research.measure.mutual_information import mig
from research.tasks.bvae_faces import bench_of
from research.tasks.faces_bench import Bench
from research.tasks.faces_rotation import measure, turn_by_yaw

RESULTS, PICTURES = ROOT / "sweeps" / "results", ROOT / "docs" / "pictures"
ROTATION = (  # columns of the table of rotations
    "yaw_span_degrees",
    "yaw_spearman",
    "yaw_spearman_min",
    "others_change_mean",
    "others_change_rendered_mean",
    "yaw_asked_error_degrees",
    "r2_test",
)
MEASURED = ("bvae_beta", "bvae_anneal")
SEED = 0  # whose faces and latents are shown
N_LATENTS = 12  # of a heat map
PANELS = {  # title → columns of the merged table, unit
    "Reconstruction, test": ("test/rec_nats", "nats per picture"),
    "KL, test": ("test/kl_nats", "nats per picture"),
    "Active units, test": ("test/active_units", "latents"),
    "MIG, test": ("test/mig", "share"),
    "Turned from −60 to 60°: yaw read": ("yaw_span_degrees", "degrees from end to end"),
    "What else changes when turned": ("others_change_mean", "share of the range, mean of factors"),
}


@dataclass(frozen=True)
class Flags:
    """Draw the pictures of docs/bvae_faces.md."""

    collect: str | None = None
    """a finished sweep folder: measure its runs and write sweeps/results/<sweep>_* first"""


def collect(folder: Path) -> None:
    """Do the tasks on every finished run of `folder` and write the evidence."""
    from launch.results.read import read_sweep

    found = read_sweep(folder) if folder.is_dir() else None
    runs = [run for run in found.runs if run.status["status"] == "finished"] if found else []
    ours = bool(runs) and {run.config.get("family") for run in runs} == {"bvae_faces"}
    if not ours or folder.name not in MEASURED:
        names = " or ".join(f"runs/{name}" for name in MEASURED)
        raise UserError(f"--collect={folder}: must be a folder with finished runs, {names}")
    runs.sort(key=lambda run: (run.flags["beta"], run.flags["seed"]))
    rotation, latents, shown = [], [], []
    for i, run in enumerate(runs):
        console.print(f"{i + 1}/{len(runs)}  β = {run.flags['beta']:g}, seed {run.flags['seed']}")
        of, bench = {name: run.flags[name] for name in ("beta", "seed")}, _bench(run.folder)
        turn = turn_by_yaw(bench)
        measured = turn.numbers | measure(bench, turn)
        rotation.append(of | {name: float(measured[name]) for name in ROTATION})
        mu, logvar = bench.encode(bench.data.test)
        order, kl = bvae_faces.latent_order(mu, logvar, bench.cfg)
        found = mig(mu.numpy(), bench.data.factors["test"])
        share = found.mi / found.factor_entropy
        for rank, (latent, value) in enumerate(zip(order.tolist(), kl.tolist(), strict=True)):
            kl_nats = value if bench.has_prior else None
            row = of | {"rank": rank, "latent": latent, "kl_nats": kl_nats}
            latents.append(row | dict(zip(FACTOR_NAMES, share[latent].tolist(), strict=True)))
        if run.flags["seed"] == SEED:
            shown.append(_faces(bench))
    for name, table in (("rotation", rotation), ("latents", latents)):
        rounded = pd.DataFrame(table).map(lambda v: float(f"{v:.4g}") if isinstance(v, float) else v)
        rounded.to_csv(RESULTS / f"{folder.name}_{name}.csv", index=False, lineterminator="\n")
    if folder.name == "bvae_beta":
        pictures.write_png(RESULTS / "bvae_beta_faces.png", np.concatenate(shown))


def _bench(run: Path) -> Bench:
    """A run's model and data, as its tasks have them."""
    return bench_of(bvae_faces.Config(task="rotate", checkpoint=str(run), wandb="disabled"))[0]


def _faces(bench: Bench) -> np.ndarray:
    """A row of 13 square tiles (S, 13 S, 3), in the order that `regions` names."""
    x, cfg = bench.data.test[:4], bench.cfg
    z, turn = bench.encode(x)[0], turn_by_yaw(bench)
    shift, scale = bench.shown_range(bench.encode(bench.data.test[:500])[0])
    random = bench.decode(shift + scale * torch.randn(4, cfg.latent_dim, generator=bench.task.rng()))
    turning = bench.decode(turn.at(z[:1], torch.linspace(-60, 60, 5))[0])
    return np.concatenate([*x.numpy()[:2], *bench.decode(z[:2]), *random, *turning], axis=1)


def tables() -> pd.DataFrame:
    """The figures of every run, from the committed files."""
    runs = pd.read_csv(RESULTS / "bvae_beta.csv")
    return runs.merge(pd.read_csv(RESULTS / "bvae_beta_rotation.csv"), on=["beta", "seed"], validate="1:1")


def reference_line(ax: Any, right: float, y: float, label: str) -> None:
    """A dashed line at y, with its label above it, which ends at x = `right`."""
    ax.axhline(y, color=charts.COLORS[1], linestyle="--", linewidth=1)
    ax.text(right, y, label, ha="right", va="bottom", fontsize=8, color=charts.COLORS[1])


def curve(runs: pd.DataFrame) -> np.ndarray:
    """Six panels over β, on a logarithmic axis with 0 at its left: every run, and the mean of the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    betas = sorted(runs["beta"].unique())
    positive = [b for b in betas if b > 0]
    x_of = {b: np.log2(b) if b > 0 else np.log2(positive[0]) - 1.5 for b in betas}
    figure = Figure(figsize=(12, 6.6), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for ax, (title, (column, unit)) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        shown = runs.dropna(subset=[column])
        ax.plot(shown["beta"].map(x_of), shown[column], "o", color=charts.COLORS[0], alpha=0.4, markersize=5)
        mean = shown[shown["beta"] > 0].groupby("beta")[column].mean()
        ax.plot([x_of[b] for b in mean.index], mean, color=charts.COLORS[0])
        zero = shown[shown["beta"] == 0][column].mean()
        if np.isfinite(zero):
            ax.plot(x_of[0], zero, "_", color=charts.COLORS[0], markersize=18)
        if column == "others_change_mean":
            floor = shown["others_change_rendered_mean"].mean()
            reference_line(ax, x_of[betas[-1]], floor, "rendered faces, so read")
        if column == "yaw_span_degrees":
            reference_line(ax, x_of[betas[-1]], 120, "asked for")
        ax.set_ylim(bottom=0 if column != "test/rec_nats" else None)
        ax.set_xticks([x_of[b] for b in betas], [f"{b:g}" for b in betas])
        ax.set_xlim(x_of[betas[0]] - 0.6, x_of[betas[-1]] + 0.6)
        ax.set(title=title, ylabel=unit, xlabel="β")
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3].copy()


def regions(runs: pd.DataFrame) -> np.ndarray:
    """A row for each β: test faces, their reconstructions, random faces, a face turned from −60 to 60°."""
    faces = np.asarray(Image.open(RESULTS / "bvae_beta_faces.png").convert("RGB"))
    betas = sorted(runs["beta"].unique())
    size = len(faces) // len(betas)
    tiles = faces.reshape(len(betas), size, -1, size, 3).swapaxes(1, 2)  # (β, column, S, S, 3)
    columns = 2 * ["test face"] + 2 * ["reconstructed"] + 4 * ["random"]
    columns += ["turned −60°", "−30°", "0°", "30°", "60°"]
    rows = [f"β = {b:g}" for b in betas]
    return pictures.grid(tiles, tiles.shape[1], rows, columns, f"seed {SEED}", scale=max(1, 64 // size))


def meanings() -> np.ndarray:
    """For each β a heat map: what the most informative latents of one seed tell of each factor; grey where a
    latent is silent, and tells nothing that its noise would not drown.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = pd.read_csv(RESULTS / "bvae_beta_latents.csv")
    table = table[(table["seed"] == SEED) & (table["rank"] < N_LATENTS)]
    groups = list(table.groupby("beta"))
    columns = 3
    figure = Figure(figsize=(3.6 * columns, 3.4 * -(-len(groups) // columns)), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(-(-len(groups) // columns), columns, squeeze=False).flat
    for (beta, group), ax in zip(groups, axes):
        quiet = (group["kl_nats"] < SILENT_NATS).to_numpy()  # of β = 0, which has no KL, none
        share = np.where(quiet[:, None], np.nan, group[list(FACTOR_NAMES)].to_numpy(float))
        ax.set_facecolor("#bbbbbb")
        image = ax.imshow(share, vmin=0, vmax=1, aspect="auto", cmap="viridis")
        labels = [
            f"z{r.latent}  {r.kl_nats:.2f}" if np.isfinite(r.kl_nats) else f"z{r.latent}"
            for r in group.itertuples()
        ]
        labels = [f"{label} silent" if q else label for label, q in zip(labels, quiet, strict=True)]
        slanted = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(range(len(FACTOR_NAMES)), FACTOR_NAMES, fontsize=8, **slanted)
        ax.set_yticks(range(len(group)), labels, fontsize=8)
        ordered_by = "latents by variance" if beta == 0 else "KL in nats"
        ax.set_title(f"β = {beta:g} ({ordered_by})", fontsize=10)
        for (i, j), value in np.ndenumerate(share):
            if value >= 0.1:
                color = "w" if value < 0.6 else "k"
                ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7, color=color)
    for ax in list(axes):
        ax.set_visible(False)
    figure.colorbar(image, ax=figure.axes[: len(groups)], fraction=0.015, label="I(z; v) / H(v)")
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3].copy()


def table_lines() -> list[str]:
    """The lines of the table in docs/bvae_faces.md: mean and deviation over the seeds of each β."""
    figures = {
        "test/rec_nats": 0,
        "test/kl_nats": 1,
        "test/active_units": 1,
        "test/mig": 2,
        "yaw_span_degrees": 0,
        "yaw_spearman": 2,
        "others_change_mean": 2,
    }
    lines = []
    for beta, group in tables().groupby("beta"):
        cells = [
            "–" if group[name].isna().all() else f"{group[name].mean():.{n}f} ± {group[name].std():.{n}f}"
            for name, n in figures.items()
        ]
        lines.append(f"| {beta:g} | " + " | ".join(cells) + " |")
    return lines


def draw() -> dict[str, np.ndarray]:
    """The three pictures by their file name in docs/pictures. UserError where evidence is missing."""
    for name in ("bvae_beta.csv", "bvae_beta_rotation.csv", "bvae_beta_latents.csv", "bvae_beta_faces.png"):
        file = RESULTS / name
        if not file.exists():
            raise UserError(f"{file} is not there; the header of docs/beta_curve.py says what makes it")
    try:
        runs = tables()
        return {
            "beta_curve.png": curve(runs),
            "beta_regions.png": regions(runs),
            "beta_latents.png": meanings(),
        }
    except FileNotFoundError as error:
        made = "--collect=runs/bvae_beta, and launch/report.py runs/bvae_beta --csv=FILE"
        raise UserError(f"{error.filename} is not there; made by {made}") from None


def run(flags: Flags) -> None:
    if flags.collect:
        collect(Path(flags.collect))
    for name, array in draw().items():
        console.print(str(pictures.write_png(PICTURES / name, array).relative_to(ROOT)))


if __name__ == "__main__":
    main(Flags, run)
