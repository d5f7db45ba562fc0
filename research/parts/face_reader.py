"""A reader of rendered faces: a small CNN that tells the factors of a picture, trained on the ground truth.

What    Reads yaw, hair colour, glasses … off any picture of the embedded data set, rendered or generated: how
        a model's pictures are measured (research/tasks/faces_rotation.py).
Data    The training pictures, half of them blurred by a random share, since decoders blur; 1,500 steps.
Kept    In <data_dir>/readers/, once for each data set and image size; the file's name has the digest of its
        weights, which stands beside whatever is measured with it.
Error   Its own, on test pictures, clean and blurred: `errors`. A minute on one core.
Shapes  B batch, C = 3 channels, S image size, F factors; K outputs, one a continuous factor and one a
        category.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from data.images import ImageSplits
from data.synthetic import FACTORS
from data.waiting import announced
from research.common.messages import console
from research.common.randomness import make_rng, seeded
from research.parts.judge import trained_once

STEPS, BATCH, PEAK_LR = 1500, 64, 0.002


class Reader(nn.Module):
    """Pictures (B, C, S, S) in [0, 1] → (B, K): a continuous factor from −1 (low) to 1 (high), logits of the
    others.
    """

    def __init__(self, image_size: int):
        super().__init__()
        edge = image_size // 16
        outputs = sum(max(1, len(f.labels)) for f in FACTORS)
        self.net = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(64, 96, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(96, 128, 4, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(128 * edge * edge, 256),
            nn.SiLU(),
            nn.Linear(256, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def to_float(batch: Tensor) -> Tensor:
    """uint8 (B, S, S, C) → float32 (B, C, S, S) in [0, 1]."""
    return batch.permute(0, 3, 1, 2).float() / 255


def blur(x: Tensor, rng: torch.Generator) -> Tensor:
    """Pictures (B, C, S, S), a random share of each replaced by itself at half or a quarter of the
    resolution.
    """
    cell = 2 << int(torch.randint(2, (), generator=rng))
    coarse = F.interpolate(F.avg_pool2d(x, cell), scale_factor=cell, mode="bilinear")
    share = (2 * torch.rand(len(x), 1, 1, 1, generator=rng) - 1).clamp(min=0)  # half of them stay sharp
    return torch.lerp(x, coarse, share)


def split(outputs: Tensor) -> list[Tensor]:
    """Outputs (B, K) as one tensor a factor: (B, 1) or (B, categories)."""
    return list(outputs.split([max(1, len(f.labels)) for f in FACTORS], dim=1))


def loss_fn(outputs: Tensor, factors: Tensor) -> Tensor:
    """Squared error of the scaled continuous factors plus cross entropy of the categories; factors (B, F)."""
    total = outputs.new_zeros(())
    for factor, out, truth in zip(FACTORS, split(outputs), factors.T, strict=True):
        if factor.labels:
            total = total + 0.1 * F.cross_entropy(out, truth.long())
        else:
            scaled = 2 * (truth - factor.low) / (factor.high - factor.low) - 1
            total = total + (out[:, 0] - scaled).square().mean()
    return total


@announced("training a reader of faces, once")
def train(data: ImageSplits) -> Reader:
    """A reader trained on data.train, the same one on every call with as many threads."""
    x, factors = data.train, torch.from_numpy(data.factors["train"])
    with seeded(0):
        model = Reader(x.shape[1]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), PEAK_LR, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, STEPS, pct_start=0.1)
    for step in track(range(STEPS), "training the reader of faces, once", console=console, transient=True):
        rng = make_rng(0, step, "train")
        rows = torch.randint(len(x), (BATCH,), generator=rng)
        loss = loss_fn(model(blur(to_float(x[rows]), rng)), factors[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def load(data: ImageSplits, data_dir: str | Path) -> tuple[Reader, str]:
    """The reader for `data`, which has factors, from <data_dir>/readers or trained now; and its digest."""
    model = Reader(data.train.shape[1])
    return trained_once("the reader of faces", __file__, data, data_dir, model, lambda: train(data))


@torch.no_grad()
def read(reader: Reader, pictures: np.ndarray) -> np.ndarray:
    """Factors (…, F), float32, each in its own unit, of uint8 pictures (…, S, S, 3); a category as its
    number.
    """
    flat = torch.from_numpy(np.ascontiguousarray(pictures)).flatten(0, -4)
    columns = []
    for factor, out in zip(
        FACTORS, split(torch.cat([reader(to_float(p)) for p in flat.split(250)])), strict=True
    ):
        if factor.labels:
            columns.append(out.argmax(1).float())
        else:
            columns.append(factor.low + (factor.high - factor.low) * (out[:, 0] + 1) / 2)
    return torch.stack(columns, 1).reshape(*pictures.shape[:-3], len(FACTORS)).numpy()


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far factors a are from b, both (…, F): share of the factor's range; a category: 1 if another."""
    kinds = [bool(f.labels) for f in FACTORS]
    span = np.array([f.high - f.low for f in FACTORS])
    return np.where(kinds, a != b, np.abs(a.astype(np.float64) - b) / span)


def errors(reader: Reader, pictures: np.ndarray, factors: np.ndarray) -> dict[str, float]:
    """Error by factor on pictures (N, S, S, 3) of known factors (N, F): root mean square in the factor's
    unit; of a category the share read wrongly.
    """
    found = read(reader, pictures)
    return {
        f.name: float((a != b).mean() if f.labels else np.sqrt(np.square(a.astype(np.float64) - b).mean()))
        for f, a, b in zip(FACTORS, found.T, factors.T, strict=True)
    }
