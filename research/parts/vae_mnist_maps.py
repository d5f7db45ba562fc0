"""Views of the latent space of small pictures: the plane that is shown, its decoded map, a film of latents.

research/vae_mnist.py logs them while it trains; its tasks use them too. `decode` turns codes (B, D) on the
model's device into logits (B, 1, S, S). Every picture shows sigmoid(logits).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from data.files import becoming
from research.common.media import File, picture, video
from research.draw import charts, pictures
from research.measure import latents

Decode = Callable[[Tensor], Tensor]
WIDE = 4.0  # how far from the prior's mean the wide map goes, in the prior's standard deviations
N_MAP = 20  # pictures along each side of the map
RINGS = (1, 2, 3)  # circles around the prior's mean, in the prior's standard deviations
KEPT = "scatter"  # the name of the text in a PNG that records what it shows


def plane(mu: Tensor) -> Tensor:
    """The plane (D, 2) of latent space that is shown: two latents as they are, else the first two principal
    components of codes mu (N, D). Its axes are orthonormal, so the prior looks the same on it as on two
    latents.
    """
    if mu.shape[1] <= 2 or not mu.isfinite().all():  # diverged: codes that are not finite have no SVD
        return torch.eye(mu.shape[1], 2)
    _, _, rows = torch.linalg.svd((mu - mu.mean(0)).double().cpu(), full_matrices=False)
    axes = rows[:2].T
    signs = torch.sign(axes.gather(0, axes.abs().argmax(0, keepdim=True)))  # an SVD does not determine signs
    return (axes * signs).float()


def on_plane(latent_dim: int) -> str:
    """A phrase for titles that names the plane of `plane`; '' for one or two latents, where it is obvious."""
    return "" if latent_dim <= 2 else f" on the first two principal components of {latent_dim} latents"


def latent_name(d: int) -> str:
    """The name of latent d, such as z₀."""
    return "z" + str(d).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def axis_names(latent_dim: int) -> tuple[str, str]:
    """The names of the two axes of the plane of `plane`; with one latent, the second is ''."""
    if latent_dim > 2:
        return "first principal component", "second principal component"
    return latent_name(0), latent_name(1) if latent_dim == 2 else ""


def map_values(n: int, wide: bool) -> Tensor:
    """Coordinates (n,) of the map's columns: quantiles of the prior, all equally probable, or equal steps
    (wide).
    """
    if wide:
        return torch.linspace(-WIDE, WIDE, n)
    return torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n).float()


@torch.no_grad()
def latent_map(decode: Decode, axes: Tensor, values: Tensor, device: torch.device) -> Tensor:
    """Decoded pictures (n, n, 1, S, S) of the plane, with its second axis upwards.

    axes (D, 2): the plane; values (n,): coordinates on both axes.
    """
    second, first = torch.meshgrid(values.flip(0), values, indexing="ij")
    z = torch.stack([first, second], -1) @ axes.T  # (n, n, D)
    return torch.sigmoid(decode(z.flatten(0, 1).to(device))).cpu().unflatten(0, (len(values), -1))


def map_grid(decode: Decode, axes: Tensor, wide: bool, device: torch.device, about: str) -> dict[str, Any]:
    """The arguments of `pictures.grid` for the map on the prior's quantiles, or on equal steps, which go
    farther (wide).

    about: the end of the title.
    """
    values = map_values(N_MAP, wide)
    ticks = [f"{v:.1f}" for v in values.tolist()]
    scale = f"equal steps from −{WIDE:g} to {WIDE:g}" if wide else "quantiles of the prior"
    right, up = axis_names(len(axes))
    along = f"{right} to the right" + (f", {up} upwards" if up else "")
    return {
        "images": latent_map(decode, axes, values, device),
        "n_cols": N_MAP,
        "pad": 0,
        "row_labels": ticks[::-1],
        "col_labels": ticks,
        "title": f"Decoded codes{on_plane(len(axes))}: {along}; {scale}; {about}",
    }


def map_files(decode: Decode, axes: Tensor, device: torch.device, about: str) -> dict[str, File]:
    """The map on both scales, by key; it is drawn in the background."""
    grids = {wide: map_grid(decode, axes, wide, device, about) for wide in (False, True)}
    keys = {False: "latent/manifold", True: "latent/manifold_wide"}
    return {keys[wide]: picture(pictures.grid, **given) for wide, given in grids.items()}


def scatter_file(points: Tensor, labels: Tensor, names: Sequence[str], title: str, latent_dim: int) -> File:
    """Codes (N, 2) on the plane, coloured by class, as a PNG. The file also records what it shows, so that a
    film of such pictures can draw them again with other limits.
    """
    what = {
        "points": [[round(v, 3) for v in point] for point in points.tolist()],
        "labels": labels.tolist(),
        "names": tuple(names),
        "title": title,
        "rings": RINGS,
        "axes": axis_names(latent_dim),
    }

    def write(path: Path) -> None:
        kept = PngInfo()
        kept.add_text(KEPT, json.dumps(what), zip=True)
        with becoming(path, ".png") as temporary:
            Image.fromarray(charts.scatter(**what)).save(temporary, pnginfo=kept)

    return File(".png", write)


def film(of: str) -> File:
    """A GIF of the pictures that this run has logged under the key `of`, all with the limits of the last one.
    An interrupted run gets the same film, because its pictures are files.
    """

    def write(path: Path) -> None:  # <run>/media/<key>/<step>.gif, where keys have two parts
        kept = [p for p in sorted((path.parents[2] / of).glob("*.png")) if p.stem.isdigit()]
        kept = [p for i, p in enumerate(reversed(kept)) if i % (1 + len(kept) // 60) == 0][::-1]
        frames = same_limits(kept)
        frames = [frame for frame in frames if frame.shape == frames[-1].shape]
        pictures.write_gif(path, [*frames, *frames[-1:] * 6], fps=4)  # the last one is shown for a while

    return File(".gif", write)


def same_limits(files: Sequence[Path]) -> list[np.ndarray]:
    """The pictures in these files, uint8 (H, W, 3). Those by `scatter_file` whose limits differ from the last
    one's are drawn anew with its limits.
    """
    frames, shown = [], []
    for file in files:
        with Image.open(file) as image:
            frames.append(np.asarray(image.convert("RGB")))
            shown.append(json.loads(image.text[KEPT]) if KEPT in image.text else None)
    reach = [charts.reach_of(what["points"]) if what else None for what in shown]
    for i, what in enumerate(shown):
        if what and reach[i] != reach[-1]:
            frames[i] = charts.scatter(**what, reach=reach[-1])
    return frames


def two_of_different_classes(labels: Tensor, rng: torch.Generator) -> tuple[int, int]:
    """Indices of two random pictures of two random classes. If all are of one class, the first is random and
    the second follows it.
    """
    first = int(torch.randint(len(labels), (), generator=rng))
    others = torch.nonzero(labels != labels[first])[:, 0]
    if not len(others):
        return first, (first + 1) % len(labels)
    classes = labels[others].unique()
    own = others[labels[others] == classes[torch.randint(len(classes), (), generator=rng)]]
    return first, int(own[torch.randint(len(own), (), generator=rng)])


@torch.no_grad()
def interpolation(decode: Decode, z0: Tensor, z1: Tensor, title: str, n_frames: int = 49) -> dict[str, File]:
    """The straight line from code z0 (D,) at t = 0 to z1 at t = 1: nine pictures, a video there and back."""
    codes = latents.lerp(z0, z1, torch.linspace(0, 1, n_frames, device=z0.device))
    frames = pictures.to_uint8(torch.sigmoid(decode(codes)).cpu())
    nine = range(0, n_frames, n_frames // 8)
    times = [f"t = {i / (n_frames - 1):.2f}" for i in nine]
    strip = picture(pictures.strip, frames[nine], times, title, scale=3)
    there_and_back = pictures.ping_pong(frames)
    return {"sample/interpolation": strip, "sample/interpolation_video": video(there_and_back, 24, upscale=8)}
