"""What the tasks on faces share: a model with its data, the face to work on, composed pictures.

A folder of your own may contain any pictures; they are called faces only if its name says so.

A family of faces builds a `Bench` from its own model and passes it to the tasks, which know nothing else
about the model.

Shapes  D latents, S image size. Codes (…, D) are on the CPU, so that draws and directions are the same on all
        devices. RMSE is over pixels in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data import image_files, images
from research.common.flags import require
from research.common.messages import UserError
from research.common.task import Task
from research.draw import pictures

N_FIT, N_TEST = 5000, 2000  # at most this many training faces for a fit, and test faces for statistics
N_FRAMES = 49  # frames from one end to the other, 8 k + 1, so that every k-th, nine in all, is in the strip


@dataclass(frozen=True)
class Bench:
    """What each task works with.

    cfg: the task's flags, with those of the checkpoint's model and data. name: model and data, for titles.
    encoder: uint8 pictures (N, S, S, 3) → mu, logvar (N, D). decoder: codes (B, D) on the task's device →
    pictures (B, 3, S, S) in [0, 1]. shown_range: means mu (N, D) → shift and scale, both (D,), of what is
    shown 'from −3 to 3'. has_prior: whether codes were trained towards N(0, I); if not, 'from −3 to 3' is in
    standard deviations of the codes.
    """

    cfg: Any
    data: images.ImageSplits
    task: Task
    name: str
    encoder: Callable[[Tensor], tuple[Tensor, Tensor]]
    decoder: Callable[[Tensor], Tensor]
    shown_range: Callable[[Tensor], tuple[Tensor, Tensor]]
    has_prior: bool

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 pictures (N, S, S, 3) → mu, logvar (N, D) on the CPU."""
        mu, logvar = self.encoder(x)
        return mu.cpu(), logvar.cpu()

    @torch.no_grad()
    def decode(self, z: Tensor) -> np.ndarray:
        """Codes (…, D) → uint8 pictures (…, S, S, 3)."""
        parts = z.reshape(-1, z.shape[-1]).to(self.task.device).split(250)
        shown = np.concatenate([pictures.to_uint8(self.decoder(part)) for part in parts])
        return shown.reshape(*z.shape[:-1], *shown.shape[1:])

    @property
    def noun(self) -> str:
        """What a picture is called: 'face', 'emoji' … if the name of the set says so, else 'picture'."""
        return self.data.noun

    @property
    def scale(self) -> int:
        """The factor by which tiles are enlarged: the largest up to a width of 64 pixels, but at least 1."""
        return max(1, 64 // self.cfg.image_size)

    def row(self, images: Sequence[np.ndarray], labels: list[str], title: str | None = None) -> np.ndarray:
        """Pictures (S, S, 3) in one row, enlarged, with a label above each."""
        return pictures.strip(np.stack(images), labels, title, 2 * self.scale)


class Face(NamedTuple):
    """A face, or another picture, to work on. x: uint8 (1, S, S, 3); label: its name in titles; index: its
    number in the test part, None for a picture file.
    """

    x: Tensor
    label: str
    index: int | None


def pick_face(bench: Bench, default: int, which: str = "") -> Face:
    """The face of --image<which> or --index<which>, or the one with the number `default` in the test part.

    UserError, which names the flag: a file that can't be read, or a number beyond the test part.
    """
    cfg, n = bench.cfg, len(bench.data.test)
    path, index = getattr(cfg, f"image{which}"), getattr(cfg, f"index{which}")
    if path is not None:
        try:
            x = image_files.decode(path, cfg.image_size, bench.data.spans)
        except Exception as error:  # on damaged bytes, Pillow's readers raise exceptions of nearly any type
            raise UserError(f"--image{which}={path}: {image_files.reason(error)}") from None
        label = f"your {bench.noun} {which}" if which else f"your {bench.noun}"
        return Face(torch.from_numpy(x[None].copy()), label, None)
    require(index is None or 0 <= index < n, cfg, f"index{which}", f"from 0 to {n - 1}, the test part")
    index = default if index is None else index
    return Face(bench.data.test[index : index + 1], f"test {bench.noun} {index}", index)


def rmse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root mean square difference of uint8 pictures (…, S, S, 3), over pixels in [0, 1]: (…)."""
    return np.sqrt(np.square((a.astype(np.float64) - b) / 255).mean((-3, -2, -1)))


def stack(parts: Sequence[np.ndarray], axis: int, gap: int = 20) -> np.ndarray:
    """Pictures (H, W, 3) on white, `gap` pixels apart: one below the other (axis 0) or side by side (1)."""
    other = 1 - axis
    extent = max(part.shape[other] for part in parts)
    padded = []
    for i, part in enumerate(parts):
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[axis] = (0 if i == 0 else gap, 0)
        pad[other] = (0, extent - part.shape[other])
        padded.append(np.pad(part, pad, constant_values=255))
    return np.concatenate(padded, axis)


def signed(value: float, digits: int = 1) -> str:
    """A number that always has a sign, so that its width stays the same and titles of a video do not move."""
    value = round(value, digits)
    sign = "−" if value < 0 else "+" if value > 0 else "±"
    return f"{sign}{abs(value):.{digits}f}"


def animate(bench: Bench, name: str, frames: Sequence[np.ndarray], loop: bool = False) -> None:
    """Write frames (H, W, 3) as a GIF and, twice as large, as an MP4. Unless they are a loop, they are shown
    forwards and then backwards.
    """
    shown = list(frames) if loop else pictures.ping_pong(list(frames))
    bench.task.video(name, shown, fps=24, upscale=2)
    bench.task.gif(name, shown[::2], fps=12)  # half the frames: a GIF is large
