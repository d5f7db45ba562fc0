"""Interpolation between random codes, and its figures; for every family of faces.

Shapes  D latents, S image size, T pictures on the way.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from research.draw import pictures
from research.measure import latents
from research.tasks.faces_bench import N_FRAMES, N_TEST, Bench, animate, rmse


def measured(codes: Tensor, frames: np.ndarray) -> dict[str, Any]:
    """Figures of one way: the norms of its codes (T, D), and distances between its pictures (T, S, S, 3)."""
    return {
        "code_norms": codes.norm(dim=-1),
        "rmse_to_first": rmse(frames, frames[0]),
        "rmse_to_last": rmse(frames, frames[-1]),
        "rmse_between_frames": rmse(frames[1:], frames[:-1]),
    }


def between_random_codes(bench: Bench, ratios: Tensor) -> dict[str, Any]:
    """The line and the great arc between two random codes, at ratios (T,), shown one below the other."""
    z0, z1 = torch.randn(2, bench.cfg.latent_dim, generator=bench.task.rng())
    paths = {"linear": latents.lerp(z0, z1, ratios), "spherical": latents.slerp(z0, z1, ratios)}
    distribution = "N(0, I)"
    if not bench.has_prior:  # no prior: noise with the codes' own mean and spread
        shift, scale = bench.shown_range(bench.encode(bench.data.test[:N_TEST])[0])
        paths = {name: shift + scale * codes for name, codes in paths.items()}
        distribution = "N(mean, sd²) of the codes"
    ways = {name: bench.decode(codes) for name, codes in paths.items()}  # (T, S, S, 3) each
    nine = range(0, N_FRAMES, N_FRAMES // 8)
    title = f"Between two z ~ {distribution}: straight (linear), and along the great arc (spherical)"
    tiles = np.stack([frames[nine] for frames in ways.values()])
    columns = [f"t = {ratios[i]:.3g}" for i in nine]
    strip = pictures.grid(tiles, 9, [*ways], columns, f"{title}; {bench.name}", 2 * bench.scale)
    bench.task.picture("strip", strip)
    first, last = ways["linear"][[0, -1]]
    shown = [
        bench.row([first, *tiles, last], ["t = 0", *(f"{way}\nt = {t:.2f}" for way in ways), "t = 1"])
        for t, *tiles in zip(ratios.tolist(), *ways.values(), strict=True)
    ]
    animate(bench, "way", shown)
    return {
        "from": "random",
        "to": "random",
        "way": "linear and spherical",
        "code_distance": (paths["linear"][-1] - paths["linear"][0]).norm(),
        "ratios": ratios,
    } | {way: measured(codes, ways[way]) for way, codes in paths.items()}
