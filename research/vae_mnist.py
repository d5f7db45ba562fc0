"""Variational autoencoder on 28×28 digits, with a latent space that can be shown as a map.

What    An encoder q(z|x) and a decoder p(x|z) for small grey pictures, trained on the evidence lower bound.
        By default z has two latents, so all codes lie on a plane, and a map of this plane shows all digits.
Run     python research/vae_mnist.py                                             # the embedded digits
        python research/vae_mnist.py --dataset=mnist --batch_size=128 --steps=4690
        python research/vae_mnist.py --task=interpolate --checkpoint=runs/<run>  # and the other TASKS below
        python launch/local.py sweeps/vae_mnist.yaml      or: wandb sweep sweeps/vae_mnist.yaml
Expect  Time and test figures: the headers of sweeps/vae_mnist*.yaml and docs/vae_mnist.md.
Models  784-512-256-128-z by default. With one hidden layer: --width=256 --depth=1 is 784-256-2, and
        --width=400 --depth=1 --latent_dim=20 the classic 784-400-20. --arch=conv uses convolutions instead.
Sources Kingma & Welling 2013 (arXiv:1312.6114), eq. 10, appendices B and C.1, and the map of their fig. 4;
        Higgins et al. 2017 (β-VAE, ICLR), eq. 4; Burda et al. 2016 (arXiv:1509.00519), eq. 8.
Departs GELU instead of tanh or ReLU, initial weights of He et al. 2015 (arXiv:1502.01852), eq. 10; the
        learning rate decays to 0 along a half cosine; Adam's second moment decays faster (0.99).
Shapes  B batch, D latents; pictures (B, 1, 28, 28), pixels x in [0, 1]. The likelihood is Bernoulli on
        logits, whose best possible value for grey pixels is not 0 but `val/rec_floor_nats`.
Units   Nats: reconstruction summed over 784 pixels, KL summed over latents, both averaged over the batch.
        Figures of binarised pixels (--binarize) are on another scale: their keys end in _bin.
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

if not __package__:  # run as a script: import from this tree, which may be a snapshot of another
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import digits
from research.common.checkpoints import load_weights
from research.common.commandline import main
from research.common.flags import RunFlags, aside, of_data, per_task, require, with_epochs
from research.common.media import File, picture
from research.common.randomness import make_rng, seeded
from research.common.run import Run
from research.common.start import start_run
from research.draw import charts, pictures
from research.measure import latents
from research.parts import vae_mnist_maps as views

KEY_VERSION = 1  # raised when a default or a meaning changes: runs then get new keys
DATA_FLAGS = ("dataset", "data_dir", "transpose")  # what load_data depends on
TASKS = ("train", "generate", "latent_space", "interpolate", "evaluate")
EDGE, PIXELS = digits.SIZE, digits.SIZE**2
N_NEIGHBOURS = 10


@dataclass(frozen=True, kw_only=True)
class Config(RunFlags):
    """Variational autoencoder on 28×28 digits, with a latent space that can be shown as a map."""

    task: Literal[TASKS] = aside("train")
    """train, or a task that reads a --checkpoint and writes pictures beside it"""
    dataset: str = aside("digits")
    """digits (embedded), mnist, fashion, or your own: a folder of IDX files as MNIST has, or a .csv of
    pixels"""
    transpose: bool = of_data(False)
    """exchange rows and columns of all pictures, as EMNIST's files need"""
    steps: int = 2000
    """training length in steps; a step is one optimiser update"""
    batch_size: int = 128
    """pictures per step"""
    learning_rate: float = 0.003
    """peak learning rate"""
    eval_every: int = 250
    """steps between evaluations on the validation part; step 0 and the last step are always evaluated"""
    sample_every: int = aside(250, "train")
    """steps between pictures; 0: at steps 0, 1, 2, 4, 8 ..."""
    arch: Literal["mlp", "conv"] = "mlp"
    """mlp: fully connected layers; conv: convolutions"""
    width: int = 512
    """mlp: units of the first hidden layer; each further layer has half as many as the one before. conv:
    units of the hidden layer; the first convolution has a 16th of this number as channels, each further one
    twice as many as the one before"""
    depth: int = 3
    """mlp: number of hidden layers; conv: number of convolutions, each of which halves the edge of the
    picture"""
    latent_dim: int = 2
    """size D of the code z"""
    beta: float = 1.0
    """weight β of the KL term in the objective; logged ELBOs always use β = 1"""
    binarize: Literal["none", "static", "dynamic"] = "none"
    """none: grey pixels; static: black or white, drawn once with the grey value as probability; dynamic:
    drawn anew at each step"""
    input_dropout: float = 0.0
    """share of the pixels hidden from the encoder in training, so that it does not memorise the pictures"""
    iw_samples: int = per_task(100, "train", "evaluate")
    """number of codes per picture for the importance-weighted bound on the log-likelihood of the test part"""
    z: str | None = aside(None, "generate")
    """generate: the code to decode, D numbers separated by commas"""
    label: str | None = aside(None, "generate")
    """generate: only digits of this class, given by its name or number"""
    index: int | None = aside(None, "interpolate")
    """interpolate: number of the first held-out picture; default: one of a random class"""
    index2: int | None = aside(None, "interpolate")
    """interpolate: number of the second held-out picture; default: one of another random class"""

    def __post_init__(self):
        super().__post_init__()
        require(
            0 < self.beta < float("inf"), self, "beta", "above 0: without the KL term the model is not a VAE"
        )
        require(0 <= self.input_dropout < 1, self, "input_dropout", "from 0 to below 1")
        for name in ("width", "latent_dim", "depth", "iw_samples"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        most = 3 if self.arch == "conv" else 8
        require(self.depth <= most, self, "depth", f"from 1 to {most} with --arch={self.arch}")
        require(self.z is None or self.label is None, self, "z", "used without --label")


# ------------------------------------------------------------------------------------------------ model


def mlp(width: int, depth: int) -> tuple[list[nn.Module], list[nn.Module], int]:
    """Layers from pictures to the last hidden layer, layers back from it, and its units."""
    sizes = [PIXELS] + [max(1, width >> i) for i in range(depth)]
    encoder, decoder = [nn.Flatten()], [nn.Unflatten(1, (1, EDGE, EDGE))]
    for n_in, n_out in pairwise(sizes):
        encoder += [nn.Linear(n_in, n_out), nn.GELU()]
        decoder = [nn.GELU(), nn.Linear(n_out, n_in), *decoder]
    return encoder, decoder, sizes[-1]


def conv(width: int, depth: int) -> tuple[list[nn.Module], list[nn.Module], int]:
    """As `mlp`, with `depth` convolutions between the picture and one hidden layer of `width` units."""
    channels, edge = [1] + [max(1, width // 16) << i for i in range(depth)], EDGE
    encoder, decoder = [], []
    for c_in, c_out in pairwise(channels):
        kernel = 4 - edge % 2  # 28 → 14 → 7 → 4, and the same sizes on the way back
        encoder += [nn.Conv2d(c_in, c_out, kernel, 2, 1), nn.GELU()]
        decoder = [nn.GELU(), nn.ConvTranspose2d(c_out, c_in, kernel, 2, 1), *decoder]
        edge = (edge + 1) // 2
    flat = channels[-1] * edge * edge
    encoder += [nn.Flatten(), nn.Linear(flat, width), nn.GELU()]
    decoder = [nn.GELU(), nn.Linear(width, flat), nn.Unflatten(1, (channels[-1], edge, edge)), *decoder]
    return encoder, decoder, width


def initialise(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Weights of variance 2 / (inputs of one output), He et al. 2015, eq. 10.

    torch's default weights are smaller: codes would carry no information at first, and one of two latents
    then stays unused for good.
    """
    inputs = layer.weight[0].numel()
    if isinstance(layer, nn.ConvTranspose2d):  # (in, out, k, k), of which a stride of 2 uses a quarter
        inputs = layer.weight[:, 0].numel() / 4
    nn.init.normal_(layer.weight, std=(2 / inputs) ** 0.5)
    nn.init.zeros_(layer.bias)


class VAE(nn.Module):
    """Encoder to mean and log variance of q(z|x), decoder to pixel logits."""

    def __init__(self, arch: str, width: int, depth: int, latent_dim: int):
        super().__init__()
        encoder, decoder, hidden = {"mlp": mlp, "conv": conv}[arch](width, depth)
        self.encoder = nn.Sequential(*encoder, nn.Linear(hidden, 2 * latent_dim))
        self.decoder = nn.Sequential(nn.Linear(latent_dim, hidden), *decoder)
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                initialise(layer)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, 1, 28, 28) in [0, 1] → mu, logvar (B, D)."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        # exp of a larger value, from one odd picture, breaks a good model in one step
        return mu, logvar.clamp(-20, 6)

    def decode(self, z: Tensor) -> Tensor:
        """z (B, D) → x_logits (B, 1, 28, 28)."""
        return self.decoder(z)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x and noise (B, D), standard normal → x_logits, mu, logvar (float32)."""
        mu, logvar = (t.float() for t in self.encode(x))
        z = mu + noise * (0.5 * logvar).exp()
        return self.decode(z).float(), mu, logvar


def build(cfg: Config, device: torch.device) -> VAE:
    """The model of `cfg` on `device`; its initial weights are a function of the seed."""
    with seeded(cfg.seed):
        model = VAE(cfg.arch, cfg.width, cfg.depth, cfg.latent_dim)
    return model.to(device, memory_format=torch.channels_last)


def to_float(batch: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 28, 28) → float32 (B, 1, 28, 28) in [0, 1]."""
    return batch.to(device)[:, None].float() / 255


# ------------------------------------------------------------------------------------------------ objective


def bernoulli_nats(x: Tensor, x_logits: Tensor) -> Tensor:
    """−log p(x|z) per pixel, from logits l: −[x log σ(l) + (1 − x) log(1 − σ(l))] = log(1 + eˡ) − x·l.

    The first term is computed by softplus, which neither overflows nor loses small values.
    """
    return F.softplus(x_logits) - x * x_logits


def terms_of(x: Tensor, x_logits: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction −log p(x|z), summed over pixels, and KL per latent (D,), means over the batch; nats."""
    return bernoulli_nats(x, x_logits).sum() / len(x), latents.kl_per_latent(mu, logvar)


def loss_fn(
    model: nn.Module, x: Tensor, rng: torch.Generator, cfg: Config, seen: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective rec + β·KL on x (B, 1, 28, 28), one z ~ q(z|x) each, and its terms, in nats. seen: what
    the encoder is shown in place of x.

    The only place where it is written, for training and validation: Kingma & Welling 2013, eq. 10 (β = 1);
    Higgins et al. 2017, eq. 4, with the sign of a loss.
    """
    noise = torch.randn(len(x), cfg.latent_dim, generator=rng, device=x.device)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
        x_logits, mu, logvar = model(x if seen is None else seen, noise)
    rec, kl_each = terms_of(x, x_logits, mu, logvar)
    kl = kl_each.sum()
    return rec + cfg.beta * kl, {"rec_nats": rec, "kl_nats": kl, "elbo_nats": -(rec + kl)}


def lr_at(step: int, cfg: Config) -> float:
    """Learning rate of `step`: up over the first 100 steps, then down to 0 along a half cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / cfg.steps))
    return cfg.learning_rate * min(1.0, (step + 1) / 100) * cosine


# ------------------------------------------------------------------------------------------------ measuring


@torch.no_grad()
def encode_all(model: VAE, data: Tensor, device: torch.device, chunk: int = 1000) -> tuple[Tensor, Tensor]:
    """Means and log variances (N, D) of all of data, uint8 (N, 28, 28)."""
    parts = [model.encode(to_float(part, device)) for part in data.split(chunk)]
    mu, logvar = (torch.cat(t).float() for t in zip(*parts, strict=True))
    return mu, logvar


@torch.no_grad()
def evaluate(model: VAE, x_all: Tensor, part: str, cfg: Config, device: torch.device) -> dict[str, float]:
    """Terms and active units on uint8 (N, 28, 28), with the same noise at every call; keys as in
    docs/METRICS.md.
    """
    sums, rng = torch.zeros(3, dtype=torch.float64), make_rng(cfg.seed, 0, "eval", device)
    for chunk in x_all.split(1000):
        x = to_float(chunk, device)
        _, terms = loss_fn(model, x, rng, cfg)
        sums += torch.stack(list(terms.values())).cpu().double() * len(x)
    mu, _ = encode_all(model, x_all, device)
    metrics = {f"{part}/{name}{suffix(cfg)}": v / len(x_all) for name, v in zip(terms, sums.tolist())}
    return metrics | {f"{part}/active_units": int(latents.active_units(mu).sum())}


def suffix(cfg: Config) -> str:
    """The ending of keys for binarised pixels: their nats are not comparable with those of grey pixels."""
    return "" if cfg.binarize == "none" else "_bin"


def iw_bound(
    log_p: Callable[[Tensor], Tensor], mu: Tensor, logvar: Tensor, k: int, rng: torch.Generator
) -> Tensor:
    """log 1/k Σ_i p(x|z_i) p(z_i) / q(z_i|x) with k codes z_i ~ q(z|x) per example: (B,), nats.

    In expectation this is a lower bound of log p(x) that rises with k; for k = 1 it is the ELBO. Burda et al.
    2016, eq. 8. log_p(z) returns log p(x|z) (K, B) of codes z (K, B, D); mu, logvar: (B, D).
    """
    log_w = []
    for start in range(0, k, 16):  # 16 codes a picture at a time: memory does not grow with k
        noise = torch.randn(min(16, k - start), *mu.shape, generator=rng, device=mu.device)
        z = mu + noise * (0.5 * logvar).exp()
        # log p(z) − log q(z|x): the terms (D/2) ln 2π cancel
        log_w.append(log_p(z) + 0.5 * (noise.square() - z.square() + logvar).sum(2))
    return torch.logsumexp(torch.cat(log_w), 0) - math.log(k)


@torch.no_grad()
def log_likelihood(model: VAE, x_all: Tensor, cfg: Config, device: torch.device) -> float:
    """Importance-weighted bound on log p(x), the mean over uint8 (N, 28, 28); --iw_samples codes each."""
    rng, total = make_rng(cfg.seed, 0, "eval", device), 0.0
    for chunk in x_all.split(250):
        x = to_float(chunk, device)

        def log_p(z: Tensor, x: Tensor = x) -> Tensor:
            x_logits = model.decode(z.flatten(0, 1)).view(len(z), len(x), PIXELS)
            return -bernoulli_nats(x.view(1, -1, PIXELS), x_logits).sum(2)

        total += iw_bound(log_p, *model.encode(x), cfg.iw_samples, rng).cpu().double().sum().item()
    return total / len(x_all)


def knn_accuracy(codes: Tensor, labels: Tensor, held_out: Tensor, truth: Tensor) -> float:
    """Share of held-out codes (N, D) for which most of the nearest neighbours among `codes` have the same
    class, truth (N,).
    """
    from sklearn.neighbors import KNeighborsClassifier

    known = KNeighborsClassifier(min(N_NEIGHBOURS, len(codes))).fit(codes.cpu().numpy(), labels.numpy())
    return float(known.score(held_out.cpu().numpy(), truth.numpy()))


def rec_floor(data: Tensor) -> float:
    """The smallest reconstruction loss that a model can reach: the entropy of grey pixels, nats per
    picture.
    """
    counts = torch.bincount(data.flatten().int(), minlength=256).double()
    p = torch.arange(256, dtype=torch.float64) / 255
    return float((counts * -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))).sum() / len(data))


# ------------------------------------------------------------------------------------------------ pictures


@torch.no_grad()
def training_pictures(
    model: VAE, data: digits.DigitSplits, cfg: Config, device: torch.device, step: int
) -> dict[str, File]:
    """Reconstructions, samples, codes by class, maps, KL per latent; always the same pictures and noise."""
    x = data.val[:2000]
    mu, logvar = (t.cpu() for t in encode_all(model, x, device))
    rebuilt = torch.sigmoid(model.decode(mu[:12].to(device))).cpu()
    both = torch.cat([to_float(x[:12], torch.device("cpu")), rebuilt])
    noise = torch.randn(36, cfg.latent_dim, generator=make_rng(cfg.seed, 0, "pictures"))
    random = torch.sigmoid(model.decode(noise.to(device))).cpu()
    axes, (order, kl) = views.plane(mu), latents.sort_by_kl(mu, logvar)
    about = f"step {step:,}, β = {cfg.beta:g}"
    title = f"Codes of {len(mu):,} validation pictures{views.on_plane(cfg.latent_dim)}; {about}"
    names = [views.latent_name(d) for d in order.tolist()]
    codes = (mu @ axes, data.val_labels[: len(mu)], data.class_names, title, cfg.latent_dim)
    what = f"Validation pictures x and their reconstructions x̂; {about}"
    drawn = f"The same {len(random)} codes z ~ N(0, I) at every step; {about}"
    return {
        "sample/reconstructions": picture(pictures.grid, both, len(rebuilt), ["x", "x̂"], None, what, scale=2),
        "sample/random": picture(pictures.grid, random, 6, title=drawn, scale=2),
        "latent/scatter": views.scatter_file(*codes),
        "latent/kl_per_latent": picture(charts.bars, kl.tolist(), names, f"KL per latent, {about}", "nats"),
    } | views.map_files(model.decode, axes, device, about)


# ------------------------------------------------------------------------------------------------ training


def load_data(cfg: Config) -> digits.DigitSplits:
    """The data set of `cfg`. Raises DataError when it is missing or unusable."""
    return digits.load(cfg.dataset, cfg.data_dir, cfg.transpose)


def draw_pixels(data: Tensor, part: str, cfg: Config) -> Tensor:
    """The pictures of `part`, uint8 (N, 28, 28), in the form in which `cfg` evaluates them: grey, or black
    and white; these are drawn once, the same for every seed.
    """
    if cfg.binarize == "none":
        return data
    rng = make_rng(0, digits.PARTS.index(part), "init")
    pixels = [torch.bernoulli(chunk.float() / 255, generator=rng) for chunk in data.split(5000)]
    return 255 * torch.cat(pixels).byte()


def hide_pixels(x: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """x with that share of its pixels black, drawn by rng, and the others scaled up so that the sum stays the
    same.
    """
    return x * (torch.rand(x.shape, generator=rng, device=x.device) >= share) / (1 - share)


def headline(cfg: Config) -> tuple[str, str]:
    """The metric by which the best weights are chosen, and its goal: the ELBO, whatever --beta is."""
    return "val/elbo_nats" + suffix(cfg), "maximize"


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
    grey = data.train
    measured = {part: draw_pixels(getattr(data, part), part, cfg) for part in digits.PARTS}
    data = dataclasses.replace(data, **measured)
    model.to(device)
    optimizer = torch.optim.Adam(
        model.parameters(), cfg.learning_rate, betas=(0.9, 0.99), fused=device.type != "mps"
    )
    run.describe(model, to_float(data.val[:1], device), torch.zeros(1, cfg.latent_dim, device=device))
    forward = torch.compile(model) if cfg.compile else model
    train_images = (grey if cfg.binarize == "dynamic" else data.train).to(device)  # whole: 784 bytes each
    for step, last in run.loop(model, optimizer):  # steps 0 … cfg.steps; the last one makes no update
        metrics = {}

        # once in a while: how good is the model on digits it has not seen? The best weights so far are kept
        if run.due("eval", step):
            metrics |= evaluate(model, data.val, "val", cfg, device)
            run.keep_best(model, metrics, step)
        if step == 0 and cfg.binarize == "none":
            metrics["val/rec_floor_nats"] = rec_floor(data.val)

        # pictures of what the model does now; their random stream is separate, so they do not affect the
        # training
        if run.due("sample", step):
            metrics |= training_pictures(model, data, cfg, device, step)

        # at the end, once: the test part, with the best weights
        if last:
            metrics |= final(run.best(model), data, cfg, device)
            if metrics["test/active_units"] == 0:
                run.warn("posterior collapse", "no latent carries information about the pictures")

        # one update; its pictures and all that is drawn for them are functions of (seed, step)
        if not last:
            rng = run.rng(step)
            x = to_float(train_images[run.batch_indices(step)], device)
            if cfg.binarize == "dynamic":
                x = torch.bernoulli(x, generator=rng)
            seen = hide_pixels(x, cfg.input_dropout, rng) if cfg.input_dropout else None
            loss, terms = loss_fn(forward, x, rng, cfg, seen)
            for group in optimizer.param_groups:
                group["lr"] = lr_at(step, cfg)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            run.update(loss)
            if run.due("log", step):
                metrics |= {"train/loss": loss} | {f"train/{k}{suffix(cfg)}": v for k, v in terms.items()}
                metrics["train/learning_rate"] = lr_at(step, cfg)

        run.log(metrics, step)  # one call, one row a step
    return run.finish()  # finished, stopped, diverged, or preempted: then the process exits with 75


def final(best: VAE, data: digits.DigitSplits, cfg: Config, device: torch.device) -> dict[str, Any]:
    """The metrics of the test part, once, with the best weights; an interpolation and the film of codes."""
    metrics: dict[str, Any] = evaluate(best, data.test, "test", cfg, device)
    metrics[f"test/iw_nats{suffix(cfg)}"] = log_likelihood(best, data.test, cfg, device)
    codes, held_out = (encode_all(best, x, device)[0] for x in (data.train, data.test))
    metrics["test/knn_accuracy"] = knn_accuracy(codes, data.train_labels, held_out, data.test_labels)
    i, j = views.two_of_different_classes(data.test_labels, make_rng(cfg.seed, 0, "pictures"))
    ends = [f"test picture {n:,} ({data.class_names[int(data.test_labels[n])]})" for n in (i, j)]
    title = f"From the code of {ends[0]} to that of {ends[1]}, straight"
    return (
        metrics
        | views.interpolation(best.decode, held_out[i], held_out[j], title)
        | {"latent/film": views.film("latent/scatter")}
    )


if __name__ == "__main__":
    main(Config, train, tasks="research.tasks.vae_mnist")
