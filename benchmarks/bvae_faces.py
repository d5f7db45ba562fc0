"""Training steps of bvae_faces per second, against another implementation's model in the same run.

    python benchmarks/bvae_faces.py --peer path/to/Beta-VAE --threads 1

--peer is a checkout of github.com/1Konny/Beta-VAE. Its `model.BetaVAE_H` has the same layers: four
convolutions, 256 units, 10 latents. It is trained with the loss and optimiser of its solver.py on pictures
that are already in memory, which is faster than its own loader. Our script takes its batches by index from
uint8 pictures, as in training. Blocks of both alternate (benchmarks/race.py). Without --peer only our script
is timed.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F

from benchmarks import race
from research import bvae_faces
from research.common.commandline import main
from research.common.randomness import make_rng


@dataclass(frozen=True, kw_only=True)
class Flags(race.JsonFlag):
    """Time training steps of bvae_faces, alone or against a peer."""

    peer: str | None = None
    """checkout of 1Konny/Beta-VAE"""
    threads: int = 1
    """CPU threads of torch"""
    batch_size: int = 64
    """pictures per step"""
    steps: int = 10
    """steps per block"""
    blocks: int = 7
    """blocks of each, in turn; the first of each is not counted"""
    device: str = "cpu"
    """cpu or cuda"""


def ours(flags: Flags, precision: str) -> Callable[[], None]:
    """A function that makes one training step of ours at the peer's sizes."""
    layers = {"arch": "conv", "width": 32, "depth": 4, "hidden_dim": 256, "latent_dim": 10}
    cfg = bvae_faces.Config(**layers, batch_size=flags.batch_size, precision=precision)
    device = torch.device(flags.device)
    model = bvae_faces.build(cfg, device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)
    data = torch.randint(0, 256, (4096, 64, 64, 3), dtype=torch.uint8, device=device)

    def step() -> None:
        rng = make_rng(0, step.n, "train", device)
        indices = torch.randint(len(data), (flags.batch_size,), generator=rng, device=device)
        x = bvae_faces.to_float(data[indices], device)
        loss, _ = bvae_faces.loss_fn(model, x, rng, cfg, 0, len(data))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step.n += 1

    step.n = 0
    return step


def peer(flags: Flags) -> Callable[[], None]:
    """A function that makes one training step of the peer's model, with loss and optimiser as in its
    solver.py (H, β = 4).
    """
    module = race.module_of(Path(flags.peer, "model.py"))
    device = torch.device(flags.device)
    model = module.BetaVAE_H(10, 3).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.999))
    data = torch.rand(1024, 3, 64, 64, device=device)

    def step() -> None:
        i = step.n * flags.batch_size % (len(data) - flags.batch_size)
        x = data[i : i + flags.batch_size]
        x_recon, mu, logvar = model(x)
        rec = F.binary_cross_entropy_with_logits(x_recon, x, reduction="sum").div(len(x))
        kl = (-0.5 * (1 + logvar - mu.pow(2) - logvar.exp())).sum(1).mean(0, True)
        loss = rec + 4 * kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step.n += 1

    step.n = 0
    return step


def block(flags: Flags, step: Callable[[], None]) -> Callable[[], None]:
    """Run a block of steps, until the device has finished them."""

    def work() -> None:
        for _ in range(flags.steps):
            step()
        if flags.device == "cuda":
            torch.cuda.synchronize()

    return work


def run(flags: Flags) -> None:
    race.begin(flags.threads, f"batch {flags.batch_size}", device=flags.device)
    steps = {"ours fp32": ours(flags, "fp32"), "ours bf16": ours(flags, "bf16")}
    if flags.peer:
        steps["peer"] = peer(flags)
    pictures = flags.steps * flags.batch_size
    contenders = {name: race.speed_of(block(flags, step), pictures) for name, step in steps.items()}
    figures = race.alternate(contenders, flags.blocks)
    race.report(figures, "pictures/s", peer="peer")
    race.keep(flags, __file__, figures, "pictures/s", peer="peer")


if __name__ == "__main__":
    main(Flags, run)
