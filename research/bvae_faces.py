"""Autoencoder and β-VAE on faces.

What    A convolutional encoder q(z|x) and decoder p(x|z) for square colour pictures. --beta=0 is the plain
        autoencoder (z is the mean, nothing is drawn); --beta=1 is the VAE; --beta>1 pushes latents back to
        the prior unless they improve the reconstruction enough.
Run     python research/bvae_faces.py --beta=4                                 # the project's rendered faces
        python research/bvae_faces.py --dataset=path/to/photos --steps=2000    # your own pictures
        python research/bvae_faces.py --task=rotate --checkpoint=runs/<run>    # and the other TASKS below
        python launch/local.py sweeps/bvae.yaml      or: wandb sweep sweeps/bvae.yaml
Expect  Time and test figures: the headers of sweeps/bvae*.yaml; the effect of β: docs/bvae_faces.md.
Sources Kingma & Welling 2013 (arXiv:1312.6114), eq. 10; Higgins et al. 2017 (β-VAE, ICLR), eq. 4. Layers of
        --arch=conv as in Locatello et al. 2019 (arXiv:1811.12359), table 1. Muon: Jordan et al. 2024.
Departs --arch=patches and Muon reach a lower error than convolutions and Adam (figures in docs/LOG.md).
        Any --width, --depth and --image_size; SiLU instead of ReLU; padding of 1 instead of 'same'; the
        learning rate decays to 0 along a half cosine. Losses are sums over pixels, so β is on another scale
        than in papers that average over pixels.
Shapes  B batch, C = 3 channels, S image size, D latents. Pixels are in [0, 1]; the likelihood is Bernoulli on
        logits, whose best value for grey pixels is not 0 but `val/rec_floor_nats`.
Units   Nats: reconstruction summed over C·S·S pixels, KL summed over latents, both averaged over the batch.
"""

import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

if not __package__:  # run as a script: import from this tree, which may be a snapshot of another
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from data import images
from research.common.checkpoints import load_weights
from research.common.commandline import main
from research.common.flags import RunFlags, aside, require, resolved, with_epochs
from research.common.media import File, picture, video
from research.common.randomness import make_rng, seeded
from research.common.run import Run
from research.common.start import start_run
from research.draw import charts, pictures
from research.measure import latents
from research.parts.muon import Muon

KEY_VERSION = 2  # raised when a default or a meaning changes: runs then get new keys
DATA_FLAGS = ("dataset", "data_dir", "image_size")  # what load_data depends on
TASKS = ("train", "random_generation", "latent_analysis", "rotate", "interpolate")
LEARNING_RATES = {"muon": 0.02, "adam": 0.002}  # of each optimiser
OF_A_FACE = ("latent_analysis", "rotate", "interpolate")  # tasks that work on a face that the user can choose


@dataclass(frozen=True, kw_only=True)
class Config(RunFlags):
    """Autoencoder (β = 0) and β-VAE on faces, rendered ones or your own pictures."""

    task: Literal[TASKS] = aside("train")
    """train, or a task that reads a --checkpoint and writes pictures beside it"""
    dataset: str = aside("synthetic")
    """synthetic (rendered faces with known factors), celeba, lfw, or a folder of pictures"""
    steps: int = 3000
    """training length in steps; a step is one optimiser update"""
    batch_size: int = 32
    """pictures per step"""
    optimizer: Literal["muon", "adam"] = "muon"
    """muon: Muon on weights, Adam on biases and normalisation layers; adam: Adam on everything"""
    learning_rate: float | None = resolved(0.02)
    """peak learning rate of the weights. Default: 0.02 for muon (biases and normalisation layers then use
    0.15 times this rate), 0.002 for adam"""
    objective: Literal["beta", "capacity", "tc"] = "beta"
    """which part of the loss β multiplies. beta: the KL term; capacity: the distance of the KL term from a
    capacity that rises during training; tc: the total correlation, one part of the KL term"""
    beta: float = 4.0
    """weight β of the term that --objective names; 0 is the plain autoencoder (objective beta only)"""
    beta_start: float | None = None
    """β at the first step; every further step multiplies β by the same factor until it reaches --beta;
    default: β is constant"""
    beta_steps: int = 4000
    """steps over which β moves from --beta_start to --beta"""
    capacity: float = 25.0
    """objective capacity: final capacity of the code, in nats"""
    capacity_steps: int = 3000
    """objective capacity: steps over which the capacity rises from 0 to --capacity"""
    tc_sampling: Literal["weighted", "stratified"] = "stratified"
    """objective tc: how q(z) is estimated from a batch"""
    arch: Literal["patches", "conv", "broadcast"] = "patches"
    """patches: residual blocks over patches of a few pixels; conv: strided convolutions in the encoder,
    transposed convolutions in the decoder; broadcast: the encoder of conv, and a decoder of convolutions over
    a grid in which every cell holds the code"""
    width: int = 64
    """number of channels. patches: those of the finest grid; each coarser grid has half of this number more.
    conv and broadcast: those of the first half of the convolutions; the second half has twice as many"""
    depth: int = 3
    """patches: number of grids, each half as fine as the one before; conv and broadcast: number of
    convolutions, each of which halves the edge of the picture"""
    patch: Literal[2, 4, 8] = 4
    """arch patches: edge of a patch in pixels"""
    latent_dim: int = 32
    """size D of the code z"""
    hidden_dim: int = 128
    """units of the layer between the convolutions and the code"""
    image_size: Literal[32, 64, 128] = 64
    """edge S of the pictures in pixels"""
    image: str | None = aside(None, *OF_A_FACE)
    """latent_analysis, rotate, interpolate: a picture file of the face to use"""
    index: int | None = aside(None, *OF_A_FACE)
    """latent_analysis, rotate, interpolate: number of the test picture to use; default: 0"""
    image2: str | None = aside(None, "interpolate")
    """interpolate: a picture file of the second face"""
    index2: int | None = aside(None, "interpolate")
    """interpolate: number of the second test picture; default: 1"""
    random: bool = aside(False, "interpolate")
    """interpolate: go from one random code of the prior to another, instead of from face to face, along the
    straight line and along the great arc"""
    dim: int | None = aside(None, "rotate")
    """rotate: number of the latent to move along, instead of a direction found from the data"""

    def __post_init__(self):
        if self.learning_rate is None:  # from here on it is a number, which config.json and the key contain
            object.__setattr__(self, "learning_rate", LEARNING_RATES[self.optimizer])
        super().__post_init__()
        require(0 <= self.beta < float("inf"), self, "beta", "at least 0 (0: plain autoencoder)")
        least = {"beta": self.beta >= 0, "capacity": self.beta > 0, "tc": self.beta >= 1}[self.objective]
        require(least, self, "beta", "above 0, with --objective=tc at least 1")  # tc below 1 would reward TC
        single = self.objective == "tc" and self.batch_size == 1
        require(not single, self, "batch_size", "above 1 with --objective=tc")
        positive = self.beta > 0 and 0 < (self.beta_start or 0) < float("inf")
        require(self.beta_start is None or positive, self, "beta_start", "above 0, with --beta above 0")
        require(0 <= self.capacity < float("inf"), self, "capacity", "at least 0 nats")
        for name in ("width", "latent_dim", "hidden_dim", "beta_steps", "capacity_steps"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        most = self.image_size.bit_length() - 2  # convolutions, down to 2×2 pixels
        if self.arch == "patches":  # grids, down to a single cell
            most = self.image_size.bit_length() - self.patch.bit_length() + 1
        sizes = f"--arch={self.arch} --image_size={self.image_size}"
        sizes += f" --patch={self.patch}" if self.arch == "patches" else ""
        require(1 <= self.depth <= most, self, "depth", f"from 1 to {most} with {sizes}")
        require(self.dim is None or self.dim >= 0, self, "dim", "a latent's number, from 0 on")
        require(self.image is None or self.index is None, self, "index", "used without --image")
        require(self.image2 is None or self.index2 is None, self, "index2", "used without --image2")


# ------------------------------------------------------------------------------------------------ model


class Block(nn.Module):
    """x + f(x) on a grid (B, c, h, w). f is 0 at first, so that a stack of new blocks changes nothing and can
    be trained.
    """

    def __init__(self, channels: int):
        super().__init__()
        last = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.f = nn.Sequential(
            nn.GroupNorm(1, channels), nn.Conv2d(channels, channels, 3, 1, 1), nn.SiLU(), last
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class Broadcast(nn.Module):
    """A decoder that need not learn where things are: each cell of a grid with edge S/2 has the code and its
    own coordinates. Watters et al. 2019 (arXiv:1901.07017), whose grid has the full resolution.
    """

    def __init__(self, channels: int, latent_dim: int, image_size: int):
        super().__init__()
        at, c = torch.linspace(-1, 1, image_size // 2), channels
        self.register_buffer("grid", torch.stack(torch.meshgrid(at, at, indexing="ij")), persistent=False)
        self.net = nn.Sequential(
            nn.Conv2d(latent_dim + 2, c, 3, 1, 1),
            nn.SiLU(),
            nn.Conv2d(c, c, 3, 1, 1),
            nn.SiLU(),
            nn.Conv2d(c, c, 3, 1, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(c, c, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(c, 3, 3, 1, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """z (B, D) → x_logits (B, C, S, S)."""
        cells = z[:, :, None, None].expand(-1, -1, *self.grid.shape[1:])
        grid = self.grid.to(z.dtype).expand(len(z), -1, -1, -1)
        x = torch.cat([cells, grid], dim=1)  # (B, D + 2, S/2, S/2)
        return self.net(x.contiguous(memory_format=torch.channels_last))


def patch_layers(cfg: Config) -> tuple[list[nn.Module], list[nn.Module], int, int]:
    """Layers from pictures (B, C, S, S) to the coarsest grid (B, c, e, e) and from there to logits; c and e.

    The pixels of a patch are channels of one cell, because convolutions over all pixels cost most and learn
    least.
    """
    widths = [cfg.width + i * cfg.width // 2 for i in range(cfg.depth)]
    pixels = 3 * cfg.patch**2
    down = [nn.PixelUnshuffle(cfg.patch), nn.Conv2d(pixels, widths[0], 1), Block(widths[0])]
    up = [Block(widths[0]), nn.GroupNorm(1, widths[0]), nn.SiLU()]
    up += [nn.Conv2d(widths[0], pixels, 3, 1, 1), nn.PixelShuffle(cfg.patch)]
    for fine, coarse in pairwise(widths):
        down += [nn.Conv2d(fine, coarse, 2, 2), Block(coarse)]
        up = [Block(coarse), nn.Conv2d(coarse, 4 * fine, 1), nn.PixelShuffle(2), *up]
    down += [nn.GroupNorm(1, widths[-1]), nn.SiLU()]
    return down, up, widths[-1], cfg.image_size // cfg.patch >> (cfg.depth - 1)


def conv_layers(cfg: Config) -> tuple[list[nn.Module], list[nn.Module], int, int]:
    """The same with convolutions, each of which halves the edge of the grid, and with transposed convolutions
    back.
    """
    channels = [3] + [cfg.width if i < cfg.depth / 2 else 2 * cfg.width for i in range(cfg.depth)]
    down, up = [], []
    for c_in, c_out in pairwise(channels):
        down += [nn.Conv2d(c_in, c_out, 4, 2, 1), nn.SiLU()]
        up = [nn.SiLU(), nn.ConvTranspose2d(c_out, c_in, 4, 2, 1), *up]
    return down, up, channels[-1], cfg.image_size >> cfg.depth


class VAE(nn.Module):
    """Encoder to mean and log variance of q(z|x), decoder to pixel logits."""

    def __init__(self, cfg: Config):
        super().__init__()
        layers = patch_layers if cfg.arch == "patches" else conv_layers
        down, up, channels, edge = layers(cfg)
        flat = channels * edge * edge
        self.encoder = nn.Sequential(
            *down,
            nn.Flatten(),
            nn.Linear(flat, cfg.hidden_dim),
            nn.SiLU(),
            nn.Linear(cfg.hidden_dim, 2 * cfg.latent_dim),
        )
        self.decoder = nn.Sequential(
            nn.Linear(cfg.latent_dim, cfg.hidden_dim),
            nn.SiLU(),
            nn.Linear(cfg.hidden_dim, flat),
            nn.Unflatten(1, (channels, edge, edge)),
            *up,
        )
        if cfg.arch == "broadcast":
            self.decoder = Broadcast(2 * cfg.width, cfg.latent_dim, cfg.image_size)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, S, S) in [0, 1] → mu, logvar (B, D)."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """z (B, D) → x_logits (B, C, S, S)."""
        return self.decoder(z)

    def forward(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x and noise (B, D), standard normal or None for z = mu → x_logits, mu, logvar (float32)."""
        mu, logvar = (t.float() for t in self.encode(x))
        z = mu if noise is None else mu + noise * (0.5 * logvar).exp()
        return self.decode(z).float(), mu, logvar


def build(cfg: Config, device: torch.device) -> VAE:
    """The model of `cfg` on `device`; its initial weights are a function of the seed."""
    with seeded(cfg.seed):
        model = VAE(cfg)
    return model.to(device, memory_format=torch.channels_last)


def renewed(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags of a run that was made before there were --arch and --optimizer, by today's names."""
    if "decoder" not in flags:
        return flags
    arch = {"deconv": "conv", "broadcast": "broadcast"}[flags["decoder"]]
    others = {name: value for name, value in flags.items() if name != "decoder"}
    return others | {"arch": arch, "optimizer": "adam"}


def to_float(batch: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, S, S, C) → float32 (B, C, S, S) in [0, 1]; the memory stays channels last."""
    return rearrange(batch.to(device), "b h w c -> b c h w").float() / 255


# ------------------------------------------------------------------------------------------------ objective


def terms_of(x: Tensor, x_logits: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction −log p(x|z), summed over pixels, and KL per latent (D,), means over the batch; nats."""
    rec = F.binary_cross_entropy_with_logits(x_logits, x, reduction="sum") / len(x)
    return rec, latents.kl_per_latent(mu, logvar)


def loss_fn(
    model: nn.Module, x: Tensor, rng: torch.Generator, cfg: Config, step: int, n_train: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective on x (B, C, S, S) at `step` of a training on n_train pictures, and its terms, in nats.

    The only place where it is written, for training and validation. beta: rec + β·KL (Higgins et al. 2017,
    eq. 4, with the sign of a loss); with β = 0, z is the mean. capacity: rec + β·|KL − C|, C rising with the
    step (Burgess et al. 2018, eq. 8, whose γ is β here). tc: rec + KL + (β − 1)·TC (Chen et al. 2018, eq. 4;
    the KL is exact here, where the paper estimates its parts).
    """
    noise = torch.randn(len(x), cfg.latent_dim, generator=rng, device=x.device) if cfg.beta > 0 else None
    with torch.autocast(x.device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
        x_logits, mu, logvar = model(x, noise)
    rec, kl_each = terms_of(x, x_logits, mu, logvar)
    if cfg.beta == 0:
        return rec, {"rec_nats": rec}
    kl, beta = kl_each.sum(), beta_at(step, cfg)
    terms = {"rec_nats": rec, "kl_nats": kl, "elbo_nats": -(rec + kl)}
    if cfg.objective == "capacity":
        capacity = cfg.capacity * min(1.0, step / cfg.capacity_steps)
        return rec + beta * (kl - capacity).abs(), terms
    if cfg.objective == "tc":
        z = mu + noise * (0.5 * logvar).exp()
        tc = latents.total_correlation(z, mu, logvar, n_train, cfg.tc_sampling)
        return rec + kl + (beta - 1) * tc, terms | {"tc_nats": tc}
    return rec + beta * kl, terms


def beta_at(step: int, cfg: Config) -> float:
    """β of `step`: it goes from --beta_start to --beta over the first --beta_steps steps, by the same factor
    at each step.
    """
    start = cfg.beta if cfg.beta_start is None else cfg.beta_start
    return cfg.beta * (start / cfg.beta) ** max(0.0, 1 - step / cfg.beta_steps)


def optimizers(model: nn.Module, cfg: Config) -> list[torch.optim.Optimizer]:
    """Adam on all parameters; or Muon on weights, and Adam on biases and normalisation layers, which are not
    matrices.
    """
    fused = next(model.parameters()).device.type != "mps"
    if cfg.optimizer == "adam":
        return [torch.optim.Adam(model.parameters(), cfg.learning_rate, fused=fused)]
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [
        Muon(weights, cfg.learning_rate),
        torch.optim.Adam(others, 0.15 * cfg.learning_rate, betas=(0.9, 0.99), fused=fused),
    ]


def lr_at(step: int, cfg: Config) -> float:
    """Learning rate of `step`: up over the first 100 steps, then down to 0 along a half cosine."""
    cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / cfg.steps)).item())
    return cfg.learning_rate * min(1.0, (step + 1) / 100) * cosine


# ------------------------------------------------------------------------------------------------ measuring


@torch.no_grad()
def encode_all(model: VAE, data: Tensor, device: torch.device, chunk: int = 250) -> tuple[Tensor, Tensor]:
    """Means and log variances (N, D) of all of data, uint8 (N, S, S, C)."""
    parts = [model.encode(to_float(part, device)) for part in data.split(chunk)]
    mu, logvar = (torch.cat(t).float() for t in zip(*parts, strict=True))
    return mu, logvar


@torch.no_grad()
def evaluate(
    model: VAE, data: images.ImageSplits, part: str, cfg: Config, device: torch.device, step: int
) -> dict[str, float]:
    """Objective, error and the information in the latents, on data.val or data.test; keys as in
    docs/METRICS.md.

    The terms use one z ~ q(z|x) for each picture, the same noise at every call; the error per pixel and the
    pictures use z = mu.
    """
    x_all, rng = getattr(data, part), make_rng(cfg.seed, 0, "eval", device)
    sums: dict[str, float] = {}
    mus, logvars = [], []
    # batches of nearly equal size, because the TC of a few pictures is a poor estimate
    for chunk in x_all.chunk(max(1, round(len(x_all) / 250))):
        x = to_float(chunk, device)
        loss, terms = loss_fn(model, x, rng, cfg, step, len(data.train))
        mu, logvar = model.encode(x)
        error = (torch.sigmoid(model.decode(mu)) - x).square().mean()
        for name, value in (terms | {"loss": loss, "mse": error}).items():
            sums[name] = sums.get(name, 0.0) + value.item() * len(x)
        mus.append(mu)
        logvars.append(logvar)
    mu, logvar = torch.cat(mus).cpu(), torch.cat(logvars).cpu()  # MPS has no float64
    metrics = {f"{part}/{name}": value / len(x_all) for name, value in sums.items()}
    metrics[f"{part}/active_units"] = int(latents.active_units(mu).sum())
    if cfg.beta > 0:
        metrics[f"{part}/gaussian_tc_nats"] = latents.gaussian_tc(latents.fit_aggregate(mu, logvar))
    if data.factors is not None:
        from research.measure import disentanglement as d

        codes, truth = shown_range(model, mu, cfg), data.factors[part]
        codes = ((mu - codes[0]) / codes[1].clamp(min=1e-12)).numpy()  # β = 0 knows no scale
        found = d.disentanglement(codes, truth) if part == "test" else {"mig": d.mig(codes, truth).score}
        metrics |= {f"{part}/{name}": value for name, value in found.items()}
    return metrics


def rec_floor(data: Tensor, device: torch.device) -> float:
    """The smallest reconstruction loss that a model can reach: the entropy of grey pixels, nats per
    picture.
    """
    total = 0.0
    for part in data.split(250):
        x = to_float(part, device)
        total += -(torch.xlogy(x, x) + torch.xlogy(1 - x, 1 - x)).sum().item()
    return total / len(data)


# ------------------------------------------------------------------------------------------------ pictures


def shown_range(model: VAE, mu: Tensor, cfg: Config) -> tuple[Tensor, Tensor]:
    """Shift and scale (D,) of 'from −3 to 3': those of the prior, or with β = 0, where there is no prior,
    those of the codes.
    """
    if cfg.beta > 0:
        return torch.zeros_like(mu[0]), torch.ones_like(mu[0])
    return mu.mean(0), mu.std(0)


def latent_order(mu: Tensor, logvar: Tensor, cfg: Config) -> tuple[Tensor, Tensor]:
    """Latents, the most informative first, with their KL in nats (with β = 0 there is no KL: variance of the
    mean).
    """
    if cfg.beta > 0:
        return latents.sort_by_kl(mu, logvar)
    variance, order = torch.sort(mu.var(0), descending=True, stable=True)
    return order, variance


@torch.no_grad()
def training_pictures(
    model: VAE, data: images.ImageSplits, cfg: Config, device: torch.device
) -> dict[str, File]:
    """Reconstructions, samples, traversals and KL per latent; the same faces and noise at every step."""
    x = to_float(data.val[:256], device)
    mu, logvar = model.encode(x)
    order, value = latent_order(mu, logvar, cfg)
    shift, scale = shown_range(model, mu, cfg)
    rebuilt = torch.sigmoid(model.decode(mu[:8]))
    both = torch.cat([x[:8], rebuilt])  # a user's small set can have fewer than 8 held-out pictures
    rng = make_rng(cfg.seed, 0, "pictures", device)
    noise = torch.randn(16, cfg.latent_dim, generator=rng, device=device)
    random = torch.sigmoid(model.decode(shift + scale * noise))
    codes = latents.traversal(mu[0], order[:12], torch.linspace(-3, 3, 9), scale, shift)
    travelled = torch.sigmoid(model.decode(codes.flatten(0, 1)))
    names, values = [f"z{d}" for d in order.tolist()], value.tolist()
    measure, unit = ("KL", "") if cfg.beta > 0 else ("var", " sd")
    rows = [f"{name} {measure} {v:.2g}" for name, v in zip(names[:12], values)]
    if cfg.beta > 0:
        quiet = latents.silent(value).tolist()
        rows = [f"{row}\nsilent" if q else row for row, q in zip(rows, quiet)]
    cols = [f"{v:g}{unit}" for v in torch.linspace(-3, 3, 9).tolist()]
    label = f"β = {cfg.beta:g}"
    drawn = "z ~ N(0, I)" if cfg.beta > 0 else "z ~ N(mean, sd²) of the codes; with β = 0 there is no prior"
    files = {
        "sample/reconstructions": picture(pictures.grid, both.cpu(), len(rebuilt), ["x", "x̂"]),
        "sample/random": picture(pictures.grid, random.cpu(), 4, title=drawn),
        "latent/traversal": picture(pictures.grid, travelled.cpu(), 9, rows, cols, title=label),
    }
    if cfg.beta > 0:
        title = f"KL per latent, {label}"
        files["latent/kl_per_latent"] = picture(charts.bars, values, names, title, "KL, nats", "latent")
        files["latent/kl_histogram"] = picture(charts.histogram, values, title, "KL, nats")
    return files


@torch.no_grad()
def interpolation(model: VAE, z0: Tensor, z1: Tensor, n_frames: int = 48) -> dict[str, File]:
    """The way from z0 to z1 (D,): a strip of nine pictures and a video there and back."""
    codes = latents.lerp(z0, z1, torch.linspace(0, 1, n_frames, device=z0.device))
    frames = pictures.to_uint8(torch.sigmoid(model.decode(codes)).cpu())
    nine = torch.linspace(0, n_frames - 1, 9).round().long().tolist()
    labels = [f"t = {i / (n_frames - 1):.2f}" for i in nine]
    title = "straight from code to code: z = (1 − t)·z₀ + t·z₁"
    strip = picture(pictures.strip, frames[nine], labels, title, scale=2)
    there_and_back = pictures.ping_pong(frames)
    return {"sample/interpolation": strip, "sample/interpolation_video": video(there_and_back, 24, upscale=4)}


# ------------------------------------------------------------------------------------------------ training


def load_data(cfg: Config) -> images.ImageSplits:
    """The data set of `cfg`. Raises DataError when it is missing or unusable."""
    return images.load(cfg.dataset, cfg.data_dir, cfg.image_size)


def headline(cfg: Config) -> tuple[str, str]:
    """The metric by which the best weights are chosen, and its goal: the error per pixel."""
    return "val/mse", "minimize"


def train(cfg: Config) -> dict[str, float]:
    data = load_data(cfg)
    cfg = with_epochs(cfg, len(data.train))
    model = build(cfg, torch.device("cpu"))
    if cfg.checkpoint:
        load_weights(cfg, model)
    run: Run = start_run(cfg, __file__, KEY_VERSION, data, headline(cfg))
    if run.finished:
        return run.metrics
    device = run.device
    model.to(device)
    updates = optimizers(model, cfg)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in updates]
    run.describe(model, to_float(data.val[:1], device), torch.zeros(1, cfg.latent_dim, device=device))
    forward = torch.compile(model) if cfg.compile else model
    train_images = data.train.to(device)  # 12 kB a picture: all pictures fit on the device
    for step, last in run.loop(model, updates):  # steps 0 … cfg.steps; the last one makes no update
        metrics = {}

        # once in a while: how good is the model on pictures it has not seen? The best weights so far are kept
        if run.due("eval", step):
            metrics |= evaluate(model, data, "val", cfg, device, step)
            run.keep_best(model, metrics, step)
        if step == 0:
            metrics["val/rec_floor_nats"] = rec_floor(data.val, device)

        # pictures of what the model does now; their random stream is separate, so they do not affect the
        # training
        if run.due("sample", step):
            metrics |= training_pictures(model, data, cfg, device)

        # at the end, once: the test part, with the best weights
        if last:
            best = run.best(model)
            metrics |= evaluate(best, data, "test", cfg, device, step)
            mu, _ = encode_all(best, data.test[:2], device)
            metrics |= interpolation(best, mu[0], mu[1])
            if metrics["test/active_units"] == 0:
                run.warn("posterior collapse", "no latent carries information about the pictures")

        # one update; its pictures and its noise are functions of (seed, step)
        if not last:
            x = to_float(train_images[run.batch_indices(step)], device)
            loss, terms = loss_fn(forward, x, run.rng(step), cfg, step, len(data.train))
            model.zero_grad(set_to_none=True)
            loss.backward()
            for optimizer, peak in zip(updates, peaks, strict=True):
                optimizer.param_groups[0]["lr"] = peak * lr_at(step, cfg) / cfg.learning_rate
                optimizer.step()
            run.update(loss)
            if run.due("log", step):
                metrics |= {"train/loss": loss} | {f"train/{k}": v for k, v in terms.items()}
                metrics["train/learning_rate"] = lr_at(step, cfg)

        run.log(metrics, step)  # one call, one row a step
    return run.finish()  # finished, stopped, diverged, or preempted: then the process exits with 75


if __name__ == "__main__":
    main(Config, train, tasks="research.tasks.bvae_faces")
