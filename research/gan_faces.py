"""Generative adversarial network on faces, or on a few hundred pictures of your own.

What    A generator makes pictures G(z) from noise z ~ N(0, I); a discriminator D learns to distinguish
        them from real ones. Each learns from the other's success. There is no encoder and no likelihood, so
        results are measured by comparing features of generated and of held-out real pictures.
Run     python research/gan_faces.py --dataset=path/to/pictures             # your own
        python research/gan_faces.py                                        # the project's rendered faces
        python research/gan_faces.py --task=evaluate --checkpoint=runs/<run>    # and the other TASKS below
Sources Losses: Goodfellow et al. 2014 (arXiv:1406.2661), §3: nonsaturating. Lim & Ye 2017 (arXiv:1705.02894),
        eqs. 5-6: hinge. Gulrajani et al. 2017 (arXiv:1704.00028), eq. 3: wgan_gp. Jolicoeur-Martineau 2018
        (arXiv:1807.00734), and Huang et al. 2024 (arXiv:2501.05441), §2: relativistic, with R1 and R2.
        Penalties: Mescheder et al. 2018 (arXiv:1801.04406), eq. 9: R1; Karras et al. 2020
        (arXiv:1912.04958), app. B: every few steps. Miyato et al. 2018 (arXiv:1802.05957): spectral norm.
        Averaged weights: Yazıcı et al. 2018 (arXiv:1806.04498). Augmentation: Zhao et al. 2020
        (arXiv:2006.10738). Layers: Radford et al. 2015 (arXiv:1511.06434), all of --arch=dcgan.
        Two learning rates: Heusel et al. 2017 (arXiv:1706.08500), §2.
Departs Each step updates each network once, for wgan_gp too (the paper updates the critic 5 times). The
        penalty of wgan_gp is applied every few steps, and R1 and R2 are added unless they are 0.
        Relativistic: generated pictures are compared with D's judgement of real pictures from before D's
        update. Penalties use gradients of pictures in [−1, 1]; the learning rates go down to 0 over the
        second half of the training.
Expect  7 to 8 minutes on a busy core with --precision=bf16. Figures and pictures of three sets,
        compared with autoencoder and VAE: docs/gan_faces.md.
Shapes  B batch, C = 3 channels, S image size, D latents. Pictures are in [0, 1], sigmoid(logits).
Units   Losses are means over the batch, in logits of D.
"""

import copy
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

if not __package__:  # run as a script: import from this tree, which may be a snapshot of another
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from data import DataError, images
from research.common.checkpoints import load_weights
from research.common.commandline import main
from research.common.flags import RunFlags, aside, require, with_epochs
from research.common.media import File, picture, video
from research.common.randomness import make_rng, seeded
from research.common.run import Run
from research.common.start import start_run
from research.draw import pictures
from research.measure import latents, sample_quality
from research.parts.picture_features import random_features

KEY_VERSION = 1  # raised when a default or a meaning changes: runs then get new keys
DATA_FLAGS = ("dataset", "data_dir", "image_size")  # what load_data depends on
TASKS = ("train", "random_generation", "interpolate", "evaluate", "compare")
AUGMENTATIONS = ("color", "translation", "cutout")
N_SCORED = 500  # pictures of each kind that are scored, or as many as there are
N_JUDGED = 250  # pictures of each kind that the discriminator classifies
MIN_HELD_OUT = 6  # pictures in val and in test: precision and recall ask for five neighbours of each
N_FILMED = 100  # largest number of pictures of a film, about
N_NEAREST = 2000  # training pictures among which the nearest are searched for


@dataclass(frozen=True, kw_only=True)
class Config(RunFlags):
    """Generative adversarial network on faces, rendered ones or your own pictures."""

    task: Literal[TASKS] = aside("train")
    """train, or a task that reads a --checkpoint and writes pictures beside it"""
    dataset: str = aside("synthetic")
    """synthetic (rendered faces), celeba, lfw, or a folder of pictures"""
    steps: int = 3000
    """training length in steps; a step is one update of each network"""
    batch_size: int = 16
    """real pictures per step, and as many generated ones"""
    learning_rate: float = 0.0005
    """peak learning rate of the generator"""
    d_rate: float = 2.0
    """learning rate of the discriminator as a multiple of the generator's"""
    log_every: int = aside(40, "train")
    """steps between rows of training metrics"""
    arch: Literal["skip", "dcgan"] = "skip"
    """skip: each grid of the generator adds colours to the picture, and the discriminator has residual blocks
    without normalisation; dcgan: transposed and strided convolutions with batch normalisation"""
    width: int = 32
    """channels of the generator's grid at half the picture's edge; each coarser grid has twice as many as the
    one before, up to 8 times this number. Discriminator: the same, counted from the grid at a quarter of the
    edge, up to 4 times; with dcgan: from the grid at half of the edge, without limit"""
    depth: int = 1
    """arch skip: residual blocks of the discriminator on each grid"""
    latent_dim: int = 64
    """size D of the noise z"""
    image_size: Literal[32, 64, 128] = 64
    """edge S of the pictures in pixels"""
    loss: Literal["relativistic", "nonsaturating", "hinge", "wgan_gp"] = "relativistic"
    """the objective of both networks"""
    r1: float = 0.08
    """weight of the penalty on the discriminator's gradient at real pictures"""
    r2: float = 0.08
    """weight of the same penalty at generated pictures; loss wgan_gp uses --r1 and --r2 too, unless they are
    0"""
    gp: float = 10.0
    """loss wgan_gp: weight of the penalty that keeps the gradient's norm at 1 between real and generated
    pictures"""
    penalty_every: int = 8
    """steps between penalties; the weight of each penalty is multiplied by this number"""
    spectral_norm: bool = False
    """divide the discriminator's weights by their largest singular value"""
    ema: float = 0.995
    """decay per step of the generator's averaged weights, which make all pictures; 0: no averaging"""
    augment: str = "translation"
    """changes made to real and generated pictures before the discriminator sees them: none, or some of color,
    translation, cutout, separated by commas"""
    beta1: float = 0.5
    """Adam: decay rate of the running mean of the gradient"""
    beta2: float = 0.99
    """Adam: decay rate of the running mean of the squared gradient"""
    checkpoints: tuple[str, ...] = aside((), "compare")
    """compare: further models, of gan_faces or bvae_faces; give --checkpoint once for each"""

    def __post_init__(self):
        super().__post_init__()
        for name in ("width", "latent_dim", "penalty_every"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        require(self.depth >= 0, self, "depth", "at least 0 blocks")
        require(0 < self.d_rate < float("inf"), self, "d_rate", "above 0")
        for name in ("r1", "r2", "gp"):
            require(0 <= getattr(self, name) < float("inf"), self, name, "at least 0 (0: no penalty)")
        for name in ("ema", "beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, self, name, "at least 0 and below 1")
        chosen = [] if self.augment == "none" else self.augment.split(",")
        known = all(a in AUGMENTATIONS for a in chosen) and len(set(chosen)) == len(chosen)
        known = known and chosen == [a for a in AUGMENTATIONS if a in chosen]
        require(known, self, "augment", f"none, or some of {','.join(AUGMENTATIONS)}, in this order")
        batched = self.batch_size > 1
        require(batched, self, "batch_size", "at least 2: the generator normalises over the batch")


# ------------------------------------------------------------------------------------------------ model


class Generator(nn.Module):
    """Noise (B, D) → pictures (B, C, S, S) in [0, 1]: transposed convolutions, each twice as fine (DCGAN).

    With --arch=skip each grid also adds its own colours to the enlarged picture of those before it, so that
    coarse shapes are learned first (Karras et al. 2020, arXiv:1912.04958, fig. 7b).
    """

    def __init__(self, cfg: Config):
        super().__init__()
        n = int(math.log2(cfg.image_size)) - 2  # doublings from 4×4
        channels = [min(8, 2 ** (n - 1 - i)) * cfg.width for i in range(n)]
        start = nn.ConvTranspose2d(cfg.latent_dim, channels[0], 4, bias=False)
        self.grids = nn.ModuleList([nn.Sequential(start, nn.BatchNorm2d(channels[0]), nn.ReLU())])
        for coarse, fine in pairwise(channels):
            up = nn.ConvTranspose2d(coarse, fine, 4, 2, 1, bias=False)
            self.grids.append(nn.Sequential(up, nn.BatchNorm2d(fine), nn.ReLU()))
        self.last = nn.ConvTranspose2d(channels[-1], 3, 4, 2, 1)
        self.colours = nn.ModuleList(nn.Conv2d(c, 3, 1) for c in channels if cfg.arch == "skip")
        for layer in self.modules():  # DCGAN's initial weights
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(layer.weight, 0, 0.02)

    def forward(self, z: Tensor) -> Tensor:
        x, logits = z[:, :, None, None], 0.0
        for i, grid in enumerate(self.grids):
            x = grid(x)  # (B, c, 4·2ⁱ, 4·2ⁱ)
            if self.colours:
                logits = F.interpolate(self.colours[i](x) + logits, scale_factor=2, mode="bilinear")
        return torch.sigmoid((self.last(x) + logits).float())


class Block(nn.Module):
    """x + f(x) on a grid (B, c, h, w), without normalisation: gradient penalties do not go with normalisation
    over the batch.
    """

    def __init__(self, channels: int):
        super().__init__()
        convs = [nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(2)]
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, 0.2)
        with torch.no_grad():
            convs[1].weight *= 0.5
        self.f = nn.Sequential(nn.LeakyReLU(0.2), convs[0], nn.LeakyReLU(0.2), convs[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class Discriminator(nn.Module):
    """Pictures (B, C, S, S) in [0, 1] → logits (B,), higher for pictures that are judged to be real."""

    def __init__(self, cfg: Config):
        super().__init__()
        n, w, leaky = int(math.log2(cfg.image_size)), cfg.width, nn.LeakyReLU(0.2)
        if cfg.arch == "dcgan":  # strided convolutions to 4×4
            layers = [nn.Conv2d(3, w, 4, 2, 1), leaky]
            for _ in range(n - 3):
                layers += [nn.Conv2d(w, 2 * w, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * w), leaky]
                w *= 2
            layers += [nn.Conv2d(w, 1, 4), nn.Flatten(0)]
        else:
            stem = max(1, w // 2)
            # few channels down to a quarter of the edge, which costs most; then blocks, on grids to 4×4
            layers = [nn.Conv2d(3, stem, 3, 1, 1), leaky, nn.AvgPool2d(2), nn.Conv2d(stem, w, 4, 2, 1)]
            for i in range(n - 3):
                if i:
                    wider = min(2 * w, 4 * cfg.width)
                    layers += [nn.AvgPool2d(2), nn.Conv2d(w, wider, 1)]
                    w = wider
                layers += [Block(w) for _ in range(cfg.depth)]
            layers += [leaky, nn.Conv2d(w, w, 4), nn.Flatten(), leaky, nn.Linear(w, 1), nn.Flatten(0)]
        self.net = nn.Sequential(*layers)
        if cfg.arch == "dcgan":
            for layer in layers:
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, 0, 0.02)
        if cfg.spectral_norm:
            for layer in [m for m in self.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]:
                spectral_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(2 * x - 1).float()


class GAN(nn.Module):
    """Both networks, and the generator with averaged weights, which is the one to draw from."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.generator, self.discriminator = Generator(cfg), Discriminator(cfg)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        """Logits of generated pictures: noise (B, D) → (B,)."""
        return self.discriminator(self.generator(z))


def build(cfg: Config, device: torch.device) -> GAN:
    """The networks of `cfg` on `device`; their initial weights are a function of the seed."""
    with seeded(cfg.seed):
        model = GAN(cfg)
    return model.to(device, memory_format=torch.channels_last)


def to_float(batch: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, S, S, C) → float32 (B, C, S, S) in [0, 1]; the memory stays channels last."""
    return rearrange(batch.to(device), "b h w c -> b c h w").float() / 255


# ------------------------------------------------------------------------------------------------ objective


def discriminator_loss(real: Tensor, fake: Tensor, cfg: Config) -> Tensor:
    """What D minimises, from its logits of real and of generated pictures, both (B,)."""
    if cfg.loss == "relativistic":  # a real picture should have a higher logit than a generated one
        return F.softplus(fake - real).mean()
    if cfg.loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if cfg.loss == "wgan_gp":
        return fake.mean() - real.mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(real: Tensor, fake: Tensor, cfg: Config) -> Tensor:
    """What G minimises, from the same."""
    if cfg.loss == "relativistic":
        return F.softplus(real - fake).mean()
    if cfg.loss == "nonsaturating":
        return F.softplus(-fake).mean()
    return -fake.mean()


def gradient_norms(discriminator: nn.Module, x: Tensor) -> Tensor:
    """Norm (B,) of the gradient of D at each picture of x (B, C, S, S), as if in [−1, 1]; differentiable."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return gradient.flatten(1).norm(dim=1) / 2


def penalties(
    discriminator: nn.Module, real: Tensor, fake: Tensor, rng: torch.Generator, cfg: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of penalties on D's gradients at real and fake (B, C, S, S), and each by its name.

    R1: r1 / 2 · |∇D(x)|², R2: the same at G(z). Loss wgan_gp: gp · (|∇D| − 1)² on the line between them.
    """
    total, terms = real.new_zeros(()), {}
    if cfg.loss == "wgan_gp" and cfg.gp:
        t = torch.rand(len(real), 1, 1, 1, generator=rng, device=real.device)
        terms["gp"] = (gradient_norms(discriminator, torch.lerp(fake, real, t)) - 1).square().mean()
        total = total + cfg.gp * terms["gp"]
    for name, weight, x in (("r1", cfg.r1, real), ("r2", cfg.r2, fake)):
        if weight:
            terms[name] = gradient_norms(discriminator, x).square().mean()
            total = total + weight / 2 * terms[name]
    return total, terms


def augment(x: Tensor, rng: torch.Generator, cfg: Config) -> Tensor:
    """Pictures (B, C, S, S) in [0, 1], each changed at random, so that gradients pass: DiffAugment of Zhao et
    al. 2020. So D sees more pictures than there are. Generated pictures are changed too, so that G does not
    learn the changes.
    """
    chosen, (b, _, s, _), device = cfg.augment.split(","), x.shape, x.device
    if "color" in chosen:
        brightness, saturation, contrast = torch.rand(3, b, 1, 1, 1, generator=rng, device=device)
        x = x + (brightness - 0.5) / 2
        grey = x.mean(1, keepdim=True)
        x = grey + 2 * saturation * (x - grey)
        mean = x.mean((1, 2, 3), keepdim=True)
        x = mean + (0.5 + contrast) * (x - mean)
    at = torch.arange(s, device=device)
    if "translation" in chosen:  # by up to an eighth of the edge; the new border is grey
        reach = s // 8
        dy, dx = torch.randint(-reach, reach + 1, (2, b, 1), generator=rng, device=device)
        padded = F.pad(x - 0.5, [reach] * 4).permute(0, 2, 3, 1) + 0.5
        rows, columns = at + reach + dy, at + reach + dx  # (B, S)
        own = torch.arange(b, device=device)[:, None, None]
        x = padded[own, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if "cutout" in chosen:  # a grey square of half the edge
        cy, cx = torch.randint(0, s + 1, (2, b, 1), generator=rng, device=device)
        rows = (at >= cy - s // 4) & (at < cy + s // 4)
        columns = (at >= cx - s // 4) & (at < cx + s // 4)
        hole = rows[:, None, :, None] & columns[:, None, None, :]
        x = torch.where(hole, 0.5, x)
    return x


@torch.no_grad()
def update_average(model: GAN, step: int, cfg: Config) -> None:
    """Move the averaged generator towards the one that has made update `step`; faster at first."""
    decay = min(cfg.ema, (1 + step) / (10 + step))
    for mean, now in zip(model.average.parameters(), model.generator.parameters(), strict=True):
        mean.lerp_(now, 1 - decay)
    for mean, now in zip(model.average.buffers(), model.generator.buffers(), strict=True):
        mean.copy_(now)


def update(
    model: GAN,
    forward: tuple[Callable, Callable],
    optimizers: Sequence[torch.optim.Optimizer],
    real: Tensor,
    rng: torch.Generator,
    step: int,
    cfg: Config,
) -> dict[str, Tensor]:
    """One update of the discriminator and one of the generator from real pictures (B, C, S, S); what to log.

    forward, optimizers: of the generator and of the discriminator; forward may be compiled.
    """
    generate, discriminate = forward
    bf16 = torch.autocast(real.device.type, torch.bfloat16, enabled=cfg.precision == "bf16")

    # update the discriminator, on generated pictures that give the generator no gradient
    z = torch.randn(len(real), cfg.latent_dim, generator=rng, device=real.device)
    with bf16:
        fake = generate(z)
        seen_real, seen_fake = augment(real, rng, cfg), augment(fake.detach(), rng, cfg)
        # two calls: in a common batch, batch normalisation would reveal which pictures are real
        of_real = discriminate(seen_real)
        d_loss = discriminator_loss(of_real, discriminate(seen_fake), cfg)
    whole, terms = d_loss, {}
    if step % cfg.penalty_every == 0:  # in full precision, because penalties are computed from gradients
        penalty, terms = penalties(model.discriminator, seen_real, seen_fake, rng, cfg)
        whole = d_loss + cfg.penalty_every * penalty
    model.discriminator.zero_grad(set_to_none=True)
    whole.backward()
    optimizers[1].step()

    # update the generator, from the new discriminator's logits of its pictures
    model.discriminator.requires_grad_(False)  # gradients of its weights would be a third of the work
    with bf16:
        of_fake = discriminate(augment(fake, rng, cfg))
        g_loss = generator_loss(of_real.detach(), of_fake, cfg)
    model.generator.zero_grad(set_to_none=True)
    g_loss.backward()
    optimizers[0].step()
    model.discriminator.requires_grad_(True)
    update_average(model, step, cfg)
    return {"loss": d_loss + g_loss, "d_loss": d_loss, "g_loss": g_loss} | terms


def lr_at(step: int, cfg: Config) -> float:
    """Learning rate of `step`: up over the first 50 steps, from half of the training on down to 0."""
    left = 2 * (cfg.steps - step) / cfg.steps
    return cfg.learning_rate * min(1.0, (step + 1) / 50, left)


def total_norm(network: nn.Module) -> Tensor:
    """Norm of all gradients of a network."""
    return torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()


# ------------------------------------------------------------------------------------------------ measuring


def noise(n: int, cfg: Config, seed: int) -> Tensor:
    """n codes (n, D), on the CPU, so that they are the same at every step and on every device."""
    return torch.randn(n, cfg.latent_dim, generator=make_rng(seed, 0, "pictures"))


@torch.no_grad()
def generate(generator: Generator, z: Tensor, device: torch.device) -> Tensor:
    """Codes (N, D) → pictures, uint8 (N, S, S, C), on the CPU."""
    was = generator.training
    generator.eval()
    parts = [generator(part.to(device)).cpu() for part in z.split(250)]
    generator.train(was)
    x = torch.cat(parts).mul(255).round().to(torch.uint8)
    return rearrange(x, "n c h w -> n h w c").contiguous()


@torch.no_grad()
def judge(model: GAN, real: Tensor, held_out: Tensor, fake: Tensor, device: torch.device) -> dict[str, float]:
    """How well D distinguishes training pictures from generated ones, and what it says of held-out pictures;
    uint8 (N, S, S, C) each.

    A picture counts as judged real if its logit is above the middle between the mean logits of training and
    of generated pictures, because with some losses only differences of logits have a meaning.
    """
    # batch normalisation as in training, where each kind is a separate batch; on a copy, because it keeps
    # statistics
    judge_of = copy.deepcopy(model.discriminator).eval()
    for layer in judge_of.modules():
        layer.training = isinstance(layer, nn.BatchNorm2d)
    logits = [
        torch.cat([judge_of(to_float(part, device)) for part in x[:N_JUDGED].split(50)]).cpu()
        for x in (real, held_out, fake)
    ]
    of_real, of_held_out, of_fake = logits
    middle = (of_real.mean() + of_fake.mean()) / 2
    return {
        "d_train_real": (of_real > middle).float().mean().item(),
        "d_held_out_real": (of_held_out > middle).float().mean().item(),
        "d_generated": (of_fake <= middle).float().mean().item(),
    }


def evaluate(
    model: GAN, data: images.ImageSplits, part: str, cfg: Config, device: torch.device
) -> dict[str, float]:
    """Scores of generated pictures against data.val or data.test; keys as in docs/METRICS.md.

    With those of val comes the headline, the kernel distance to training pictures. All scores use features of
    a random network that is the same for every data set, and the same codes at every call.
    """
    z = noise(N_SCORED, cfg, 0)
    real = random_features(getattr(data, part)[:N_SCORED])
    made = generate(model.average, z, device)
    fake = random_features(made)
    now = generate(model.generator, z, device)
    metrics = {
        "kernel_distance": sample_quality.kernel_distance(fake, real),
        "kernel_distance_now": sample_quality.kernel_distance(random_features(now), real),
        "diversity": (fake.var(0).sum() / real.var(0).sum()).sqrt().item(),
    }
    metrics |= judge(model, data.train, getattr(data, part), now, device)
    if part == "test":
        of_train = random_features(data.train[: len(real)])
        found = sample_quality.scores(fake, real, of_train)
        names = ("kernel_distance_floor", "frechet_distance", "frechet_distance_floor", "precision", "recall")
        metrics |= {name: found[name] for name in names}
    metrics = {f"{part}/{name}": value for name, value in metrics.items()}
    if part == "val":
        of_train = random_features(data.train[:N_SCORED])
        metrics["train/kernel_distance"] = sample_quality.kernel_distance(fake, of_train)
    return metrics


def warnings_of(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """What the metrics of an evaluation on val show to be wrong: titles and texts."""
    real, held_out, fake = (metrics[f"val/d_{k}"] for k in ("train_real", "held_out_real", "generated"))
    right = f"it classifies {real:.0%} of training and {fake:.0%} of generated pictures correctly"
    found = []
    if min(real, fake) > 0.99 and held_out > 0.9:
        found.append(("the discriminator has won", f"{right}, and {held_out:.0%} of held-out pictures"))
    if min(real, fake) > 0.99 and held_out < 0.5:
        text = f"{right}, but only {held_out:.0%} of held-out pictures"
        found.append(("the discriminator has memorised the training set", text))
    if metrics["val/diversity"] < 0.3:
        text = f"generated pictures vary {metrics['val/diversity']:.2f} times as much as real ones"
        found.append(("mode collapse", text))
    return found


# ------------------------------------------------------------------------------------------------ pictures


def training_pictures(model: GAN, cfg: Config, device: torch.device) -> dict[str, File]:
    """Generated pictures of the averaged generator, from the same 32 codes at every step."""
    made = generate(model.average, noise(32, cfg, cfg.seed), device)
    return {"sample/random": picture(pictures.grid, made, 8, title="G(z), z ~ N(0, I)")}


def film() -> File:
    """A video of all `sample/random` of this run; an interrupted run has the same pictures."""

    def write(path: Path) -> None:  # <run>/media/<key>/<step>.mp4, where keys have two parts
        files = sorted((path.parents[2] / "sample/random").glob("*.png"))
        files = [file for file in files if file.stem.isdigit()]
        files = files[::-1][:: -(-len(files) // N_FILMED)][::-1]  # the last one is among them
        frames = [pictures.read_png(file) for file in files]
        pictures.write_mp4(path, [*frames, *frames[-1:] * 4], fps=4)  # the last picture is shown for a while

    return File(".mp4", write)


def interpolation(model: GAN, cfg: Config, device: torch.device, n_frames: int = 48) -> dict[str, File]:
    """Interpolation between two random codes, straight and along the great arc: a strip and a video of
    both.
    """
    z0, z1 = noise(2, cfg, cfg.seed)
    t = torch.linspace(0, 1, n_frames)
    line, arc = (
        generate(model.average, way(z0, z1, t), device).numpy() for way in (latents.lerp, latents.slerp)
    )
    nine = torch.linspace(0, n_frames - 1, 9).round().long().tolist()
    shown = torch.cat([torch.from_numpy(line[nine]), torch.from_numpy(arc[nine])])
    columns = [f"t = {i / (n_frames - 1):.2f}" for i in nine]
    title = "between two random codes, straight and along the great arc, on which codes keep their length"
    strip = picture(pictures.grid, shown, 9, ["linear", "spherical"], columns, title)
    frames = [pictures.strip([a[None], b[None]], ["linear", "spherical"]) for a, b in zip(line, arc)]
    return {
        "sample/interpolation": strip,
        "sample/interpolation_video": video(pictures.ping_pong(frames), 24, upscale=3),
    }


def nearest_pictures(
    model: GAN, data: images.ImageSplits, cfg: Config, device: torch.device
) -> dict[str, File]:
    """Eight generated pictures above the training pictures that are nearest by their features."""
    made = generate(model.average, noise(8, cfg, cfg.seed), device)
    known = data.train[:N_NEAREST]
    indices, _ = sample_quality.nearest(random_features(made), random_features(known))
    both = torch.cat([made, known[indices[:, 0]]])
    title = f"G(z) above the nearest of {len(known):,} training {data.nouns}"
    return {"sample/nearest": picture(pictures.grid, both, 8, ["G(z)", "nearest"], title=title)}


# ------------------------------------------------------------------------------------------------ training


def load_data(cfg: Config) -> images.ImageSplits:
    """The data set of `cfg`. Raises DataError when it is missing, unusable, or too small to be scored on."""
    data = images.load(cfg.dataset, cfg.data_dir, cfg.image_size)
    n_val, n_test = len(data.val), len(data.test)
    if min(n_val, n_test) < MIN_HELD_OUT:
        raise DataError(
            f"--dataset={cfg.dataset}: {n_val} pictures are left for validation and {n_test} for the test; "
            f"scores of generated pictures need at least {MIN_HELD_OUT} each, a tenth of "
            f"{10 * MIN_HELD_OUT} different ones"
        )
    return data


def headline(cfg: Config) -> tuple[str, str]:
    """The metric by which the best weights are chosen: the kernel distance, unbiased at any N.

    It is the distance to training pictures, because of a few hundred pictures too few are held out to choose
    by. Copies of training pictures would have the best value; `sample/nearest` and the distance to val would
    reveal them.
    """
    return "train/kernel_distance", "minimize"


def train(cfg: Config) -> dict[str, float]:
    data = load_data(cfg)
    cfg = with_epochs(cfg, len(data.train))
    model = build(cfg, torch.device("cpu"))
    if cfg.checkpoint:
        load_weights(cfg, model)
        # the averaged weights: it was their pictures by which the best weights were chosen
        model.generator.load_state_dict(model.average.state_dict())
    run: Run = start_run(cfg, __file__, KEY_VERSION, data, headline(cfg))
    if run.finished:
        return run.metrics
    device = run.device
    model.to(device)
    run.describe(model, torch.zeros(2, cfg.latent_dim, device=device))
    betas, fused = (cfg.beta1, cfg.beta2), device.type != "mps"
    networks = (model.generator, model.discriminator)
    both = [torch.optim.Adam(n.parameters(), cfg.learning_rate, betas, fused=fused) for n in networks]
    forward = tuple(torch.compile(n) for n in networks) if cfg.compile else networks
    train_images = data.train.to(device)  # 12 kB a picture: all pictures fit on the device
    for step, last in run.loop(model, both):  # steps 0 … cfg.steps; the last one makes no update
        metrics = {}

        # once in a while: how far are generated pictures from unseen real ones? The best weights are kept
        if run.due("eval", step):
            metrics |= evaluate(model, data, "val", cfg, device)
            run.keep_best(model, metrics, step)

        # pictures of what the model makes now; their random stream is separate, so they do not affect the
        # training
        if run.due("sample", step):
            metrics |= training_pictures(model, cfg, device)

        # at the end, once: the test part, with the best weights
        if last:
            for title, text in warnings_of(metrics):
                run.warn(title, text)
            best = run.best(model)
            metrics |= evaluate(best, data, "test", cfg, device)
            metrics |= interpolation(best, cfg, device)
            metrics |= nearest_pictures(best, data, cfg, device)
            metrics["sample/film"] = film()

        # one update of each network; its pictures and all that is drawn are functions of (seed, step)
        if not last:
            for optimizer, rate in zip(both, (1.0, cfg.d_rate), strict=True):
                optimizer.param_groups[0]["lr"] = rate * lr_at(step, cfg)
            real = to_float(train_images[run.batch_indices(step)], device)
            terms = update(model, forward, both, real, run.rng(step), step, cfg)
            run.update(terms["loss"])
            if run.due("log", step):
                metrics |= {f"train/{name}": value for name, value in terms.items()}
                metrics["train/learning_rate"] = lr_at(step, cfg)
                metrics["train/g_grad_norm"] = total_norm(model.generator)
                metrics["train/d_grad_norm"] = total_norm(model.discriminator)

        run.log(metrics, step)  # one call, one row a step
    return run.finish()  # finished, stopped, diverged, or preempted: then the process exits with 75


if __name__ == "__main__":
    main(Config, train, tasks="research.tasks.gan_faces")
