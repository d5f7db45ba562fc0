"""Pictures per second of gan_faces' training, against a plain loop around the same networks in the same run.

    python benchmarks/gan_faces.py --threads 1

The plain loop is written as in introductions (pytorch/examples, dcgan/main.py): a DataLoader that returns one
picture after the other as float, gradients of the discriminator's weights even when the generator learns,
`loss.item()` at each step, float32, the default memory layout. It has no penalties. With --penalty, it has R1
and R2 at each step, and our loop has them at every eighth step, as in their papers. Our loop is what `train`
does, `update` of research/gan_faces.py, including averaging. Blocks of all alternate (benchmarks/race.py).
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import race
from research import gan_faces
from research.common.commandline import main
from research.common.randomness import make_rng


@dataclass(frozen=True, kw_only=True)
class Flags(race.JsonFlag):
    """Time training steps of gan_faces against a plain loop."""

    threads: int = 1
    """CPU threads of torch"""
    batch_size: int = 16
    """pictures per step"""
    image_size: int = 64
    """edge of the pictures in pixels"""
    penalty: bool = False
    """with R1 and R2"""
    steps: int = 16
    """steps per block"""
    blocks: int = 7
    """blocks of each, in turn; the first of each is not counted"""
    device: str = "cpu"
    """cpu or cuda"""


class Pictures(Dataset):
    """Pictures, uint8 (N, S, S, 3), which it returns one at a time as float (3, S, S)."""

    def __init__(self, data: Tensor):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Tensor:
        return self.data[i].permute(2, 0, 1).float().div(255).contiguous()


def config(flags: Flags, precision: str) -> gan_faces.Config:
    weights = {"r1": 0.08, "r2": 0.08} if flags.penalty else {"r1": 0.0, "r2": 0.0}
    sizes = {"batch_size": flags.batch_size, "image_size": flags.image_size}
    return gan_faces.Config(**sizes, **weights, precision=precision, augment="none")


def adam(network: torch.nn.Module, **options: bool) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), 0.0005, (0.5, 0.99), **options)


def ours(flags: Flags, data: Tensor, precision: str) -> Callable[[], None]:
    """A function that runs a block of our training steps."""
    cfg, device = config(flags, precision), torch.device(flags.device)
    model = gan_faces.build(cfg, device)
    forward = (model.generator, model.discriminator)
    both = [adam(network, fused=True) for network in forward]
    on_device = data.to(device)
    done = 0

    def work() -> None:
        nonlocal done
        for step in range(done, done + flags.steps):
            rng = make_rng(0, step, "train", device)
            rows = torch.randint(len(data), (flags.batch_size,), generator=rng, device=device)
            real = gan_faces.to_float(on_device[rows], device)
            gan_faces.update(model, forward, both, real, rng, step, cfg)
        done += flags.steps
        if flags.device == "cuda":
            torch.cuda.synchronize()

    return work


def plain(flags: Flags, data: Tensor) -> Callable[[], None]:
    """A function that runs a block of steps of the plain loop."""
    cfg, device = config(flags, "fp32"), torch.device(flags.device)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = gan_faces.GAN(cfg).to(device)
    generator, discriminator = model.generator, model.discriminator
    of_g, of_d = adam(generator), adam(discriminator)
    loader = DataLoader(Pictures(data), flags.batch_size, shuffle=True, drop_last=True)
    batches = iter(loader)

    def work() -> None:
        nonlocal batches
        for _ in range(flags.steps):
            real = next(batches, None)
            if real is None:
                batches = iter(loader)
                real = next(batches)
            real = real.to(device)
            fake = generator(torch.randn(len(real), cfg.latent_dim, device=device))
            loss_d = gan_faces.discriminator_loss(discriminator(real), discriminator(fake.detach()), cfg)
            if flags.penalty:
                for weight, x in ((cfg.r1, real), (cfg.r2, fake)):
                    norm = gan_faces.gradient_norms(discriminator, x)
                    loss_d = loss_d + weight / 2 * norm.square().mean()
            of_d.zero_grad()
            loss_d.backward()
            of_d.step()
            loss_g = gan_faces.generator_loss(discriminator(real), discriminator(fake), cfg)
            of_g.zero_grad()
            loss_g.backward()
            of_g.step()
            loss_d.item(), loss_g.item()

    return work


def run(flags: Flags) -> None:
    race.begin(flags.threads, f"batch {flags.batch_size}, {flags.image_size} pixels", device=flags.device)
    shape = (2048, flags.image_size, flags.image_size, 3)
    data = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    blocks = {
        "ours fp32": ours(flags, data, "fp32"),
        "ours bf16": ours(flags, data, "bf16"),
        "plain": plain(flags, data),
    }
    pictures = flags.steps * flags.batch_size
    contenders = {name: race.speed_of(work, pictures) for name, work in blocks.items()}
    figures = race.alternate(contenders, flags.blocks)
    race.report(figures, "pictures/s", peer="plain")
    variant = "penalty" if flags.penalty else None
    race.keep(flags, __file__, figures, "pictures/s", peer="plain", variant=variant)


if __name__ == "__main__":
    main(Flags, run)
