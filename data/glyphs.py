"""Characters of arithmetic as pictures: handwritten digits, drawn operators, black blanks.

    glyphs = Glyphs(load("digits", "data/store"), "train", device)
    x = glyphs.draw(ids, "0123456789+- ", rng)          # (B, T) → float32 (B, T, 28, 28) in [0, 1]

Every call draws new pictures, on the device: for each digit a random picture from one part of the data, and
for each operator strokes of random place, slant, length, thickness and brightness.
Shapes: B queries, T characters.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from data import DataError, digits
from data.digits import SIZE, DigitSplits

if TYPE_CHECKING:
    import torch

VERSION = 1  # part of the content hash of everything that trains on drawn operators
SLANTS = {"+": (0.0, math.pi / 2), "-": (0.0,), "*": (math.pi / 6, math.pi / 2, 5 * math.pi / 6)}
N_DIGITS = 10


def load(dataset: str, data_dir: str, transpose: bool = False) -> DigitSplits:
    """Like digits.load. Also raises DataError if the classes are not the ten digits, or a part lacks one."""
    data = digits.load(dataset, data_dir, transpose)
    for part in digits.PARTS:
        there = set(getattr(data, f"{part}_labels").tolist())
        if data.class_names != tuple(map(str, range(N_DIGITS))) or len(there) != N_DIGITS:
            why = f"must be pictures of the ten digits, some of each in {part}"
            raise DataError(f"--dataset={dataset}: {why}")
    return data


class Glyphs:
    """The pictures of the ten digits in one part of a set, on `device`, from which to draw."""

    def __init__(self, data: DigitSplits, part: str, device: torch.device | str, vary: bool = False):
        """vary: whether a picture is turned, scaled and moved a little each time that it is drawn."""
        import torch

        labels = getattr(data, f"{part}_labels")
        counts = torch.bincount(labels, minlength=N_DIGITS)
        self.vary = vary
        order = labels.argsort(stable=True)
        self.images = getattr(data, part)[order].to(device)  # by digit
        self.counts, self.first = counts.to(device), (counts.cumsum(0) - counts).to(device)

    def draw(self, ids: torch.Tensor, alphabet: str, rng: torch.Generator) -> torch.Tensor:
        """ids (B, T) of characters → pictures, float32 (B, T, 28, 28), white on black, on
        the device of rng.
        """
        import torch

        device = rng.device
        ids = ids.to(device).long()
        digit = ids.clamp(max=N_DIGITS - 1)  # the id of a digit is the digit itself
        where = torch.rand(ids.shape, generator=rng, device=device)
        chosen = self.first[digit] + (where * self.counts[digit]).long()
        x = self.images[chosen].float().div_(255) * (ids < N_DIGITS)[..., None, None]
        for op, slants in SLANTS.items():
            if op in alphabet and (here := ids == alphabet.index(op)).any():
                x[here] = strokes(int(here.sum()), slants, rng)
        return varied(x.flatten(0, 1), rng).view(x.shape) if self.vary else x


def varied(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """x (N, 28, 28), each turned (sd 8°), scaled (sd 8 %), sheared (sd 0.1) and moved (sd a pixel)."""
    import torch
    import torch.nn.functional as F

    turn, scale, shear, from_right, from_below = torch.randn(5, len(x), generator=rng, device=rng.device)
    turn, scale = turn * math.radians(8), 1 + 0.08 * scale
    cos, sin = turn.cos() * scale, turn.sin() * scale
    pixel = 2 / SIZE  # in coordinates that go from -1 to 1 over the picture
    rows = (cos, 0.1 * shear - sin, from_right * pixel, sin, cos, from_below * pixel)
    theta = torch.stack(rows, 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(x), 1, SIZE, SIZE], align_corners=False)
    return F.grid_sample(x[:, None], grid, align_corners=False)[:, 0].clamp(0, 1)


def strokes(n: int, slants: tuple[float, ...], rng: torch.Generator) -> torch.Tensor:
    """n pictures (n, 28, 28) of strokes through one point with the slants `slants`, in radians."""
    import torch

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(n, *shape, 1, 1, generator=rng, device=rng.device)

    grid = torch.arange(SIZE, device=rng.device) - (SIZE - 1) / 2
    y, x = torch.meshgrid(grid, grid, indexing="ij")  # pixels from the middle
    y, x = y - 1.2 * normal(), x - 1.2 * normal()
    size, tilt = (1 + 0.15 * normal()).clamp(0.6, 1.3), 0.12 * normal()
    thick, light = (1.3 + 0.3 * normal()).clamp(0.7, 2.2), (0.95 + 0.1 * normal()).clamp(0.6, 1)
    out = torch.zeros(n, SIZE, SIZE, device=rng.device)
    for slant in slants:
        angle = slant + tilt + 0.07 * normal()
        half = 7.5 * size * (1 + 0.08 * normal())
        along, across = x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()
        beyond = (along.abs() - half).clamp(min=0)
        distance = torch.hypot(beyond, across)
        out = torch.maximum(out, ((thick + 0.5 - distance).clamp(0, 1) * light)[:, :, :])
    return out


def classes(data: DigitSplits, alphabet: str) -> DigitSplits:
    """A set whose classes are the characters of `alphabet`, for a classifier that reads pictures. It has the
    digits of `data`; of every operator and of the blank it has as many pictures as of one digit.
    """
    import dataclasses
    import hashlib

    import torch

    parts = {}
    for seed, part in enumerate(("train", "val", "test")):
        images, labels = getattr(data, part), getattr(data, f"{part}_labels")
        glyphs, n = Glyphs(data, part, "cpu"), len(images) // N_DIGITS
        ids = torch.arange(N_DIGITS, len(alphabet)).repeat_interleave(n)
        drawn = glyphs.draw(ids[:, None], alphabet, torch.Generator().manual_seed(seed))[:, 0]
        parts[part] = torch.cat((images, drawn.mul(255).round().byte()))
        parts[f"{part}_labels"] = torch.cat((labels, ids))
    made_of = f"glyphs {VERSION} {alphabet} {data.content_hash}".encode()
    digest = hashlib.sha256(made_of).hexdigest()[:16]
    return dataclasses.replace(data, content_hash=digest, class_names=tuple(alphabet), **parts)
