"""What a trained VAE on digits has learned: pictures and numbers from a checkpoint.

Run     python research/vae_mnist.py --task=TASK --checkpoint=runs/<run>; the files go to runs/<run>/TASK/
Tasks   generate       digits from random codes, and from codes around each class's centre; with --label only
                       around the centre of that class, with --z=0.5,-1 only from that code
        latent_space   codes of the test part by class, the map on two scales, what each latent carries
        interpolate    from one picture to another: in pixels, and in codes on the line and along a great arc;
                       --index and --index2 are numbers of pictures in the test part
        evaluate       ELBO, log-likelihood from --iw_samples codes, kNN accuracy of the code; Inception
                       Score, with its maximum, and Fréchet distance (research/parts/digit_classifier.py);
                       with two latents also log p(x) itself, and how far the ELBO is below it
Flags   The model's flags, β and the pixels come from the checkpoint's run. So do --dataset and --data_dir,
        unless they were given; a value equal to the flag's default counts as not given. --seed is the task's
        own, so that models are compared on the same noise.
Shapes  D latents. Codes (…, D) are on the CPU, so that draws are the same on all devices. Pictures that are
        shown or scored are sigmoid(x_logits), even if training pixels are binarised.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.digits import DigitSplits
from research import vae_mnist as script
from research.common.checkpoints import load_weights
from research.common.flags import require
from research.common.task import Task, find_run, flags_of_run, start_task
from research.draw import charts, pictures
from research.measure import latents
from research.parts import digit_classifier, vae_mnist_maps

N_SHOWN = 2000  # codes in a scatter plot, at most
N_SCORED = 10_000  # generated pictures for the scores, at most, and as many real ones
GRID_STEP = 0.05  # of the grid of codes over which likelihoods are summed
N_EXACT = 1000  # pictures whose likelihood is summed over a grid, at most
N_FRAMES = 49  # frames from one end to the other


@dataclass(frozen=True)
class Bench:
    """What each task works with. cfg: the task's flags, with those of the checkpoint's model and data."""

    cfg: script.Config
    model: script.VAE
    data: DigitSplits
    task: Task

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 pictures (N, 28, 28) → mu, logvar (N, D) on the CPU."""
        mu, logvar = script.encode_all(self.model, x, self.task.device)
        return mu.cpu(), logvar.cpu()

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Codes (N, D) → pictures (N, 1, 28, 28) in [0, 1], on the CPU."""
        parts = z.to(self.task.device).split(1000)
        return torch.cat([torch.sigmoid(self.model.decode(part)).cpu() for part in parts])

    @property
    def name(self) -> str:
        """The model and its data, for titles."""
        return f"β\u00a0=\u00a0{self.cfg.beta:g}, {self.data.name}"  # \u00a0: no line break here


# ------------------------------------------------------------------------------------------------ generate


def parse_code(cfg: script.Config) -> Tensor:
    """The code (1, D) in --z. UserError: it is not D finite numbers."""
    try:
        z = torch.tensor([[float(word) for word in cfg.z.split(",")]])
    except ValueError:
        z = torch.empty(1, 0)
    ok = z.shape[1] == cfg.latent_dim and bool(z.isfinite().all())
    require(ok, cfg, "z", f"{cfg.latent_dim} numbers separated by commas, the latents of this model")
    return z


def parse_label(cfg: script.Config, data: DigitSplits) -> int:
    """The index of the class that --label names; a label may also be this index itself, if names are words.

    UserError: there is no such class, or it has no training pictures.
    """
    names = data.class_names
    present = [names[k] for k in data.train_labels.unique().tolist()]
    label = cfg.label
    numbered = label.isascii() and label.isdigit() and not any(name.isdigit() for name in names)
    if numbered and int(label) < len(names):
        label = names[int(label)]
    require(label in present, cfg, "label", f"one of {', '.join(present)}")
    return names.index(label)


def generate(bench: Bench) -> dict[str, Any]:
    """Digits from codes: from the code given, from codes of one class, or from random codes and codes of
    every class.

    The codes of a class are those of its training pictures, z ~ q(z|x). Its centre is the code that is
    nearest to all others; if a class lies in two places, its mean would lie in neither.
    """
    cfg, data = bench.cfg, bench.data
    if cfg.z is not None:
        z = parse_code(cfg)
        title = f"z = ({', '.join(f'{v:g}' for v in z[0].tolist())}), {bench.name}"
        bench.task.picture("decoded", pictures.grid(bench.decode(z), 1, title=title, scale=8))
        return {"z": z[0]}
    chosen = range(len(data.class_names)) if cfg.label is None else [parse_label(cfg, data)]
    n = 9 if cfg.label is None else 63
    mu, logvar = bench.encode(script.draw_pixels(data.train, "train", cfg))
    rng, centres, codes = bench.task.rng(), {}, []
    for k in chosen:
        mine = torch.nonzero(data.train_labels == k)[:, 0]
        if len(mine):
            near = mu[mine[:N_SHOWN]]
            centre = near[torch.cdist(near, near).sum(1).argmin()]
            centres[data.class_names[k]] = centre
            rows = mine[torch.randint(len(mine), (n,), generator=rng)]
            noise = torch.randn(n, cfg.latent_dim, generator=rng)
            codes += [centre[None], mu[rows] + noise * (0.5 * logvar[rows]).exp()]
    shown, names = bench.decode(torch.cat(codes)), list(centres)
    about = f"first its centre, then samples of its codes; {bench.name}"
    if cfg.label is None:
        title = f"One class in each row: {about}"
        bench.task.picture("classes", pictures.grid(shown, 1 + n, names, title=title, scale=2))
        random = bench.decode(torch.randn(100, cfg.latent_dim, generator=bench.task.rng()))
        title = f"Random codes of the prior, z ~ N(0, I); {bench.name}"
        bench.task.picture("random", pictures.grid(random, 10, title=title, scale=2))
    else:
        bench.task.picture("class", pictures.grid(shown, 8, title=f"{names[0]}: {about}", scale=2))
    return {"centres": centres}


# ------------------------------------------------------------------------------------------------ latents


def scatter(bench: Bench, mu: Tensor, axes: Tensor, title: str, **more: Any) -> np.ndarray:
    """A chart of the first N_SHOWN codes mu (N, D) of the test part on the plane axes (D, 2), by class.

    more: other arguments of `charts.scatter`.
    """
    mu, labels = mu[:N_SHOWN], bench.data.test_labels[:N_SHOWN]
    names = bench.data.class_names
    more |= {"rings": vae_mnist_maps.RINGS, "axes": vae_mnist_maps.axis_names(len(axes))}
    return charts.scatter((mu @ axes).numpy(), labels.numpy(), names, title, **more)


def latent_space(bench: Bench) -> dict[str, Any]:
    """The codes of test pictures by class, with circles at 1, 2 and 3 standard deviations of the prior; the
    map decoded from the plane; KL per latent. With more than two latents also each of them from −3 to 3.
    """
    mu, logvar = bench.encode(bench.data.test)
    axes, (order, kl) = vae_mnist_maps.plane(mu), latents.sort_by_kl(mu, logvar)
    title = (
        f"Codes of {min(N_SHOWN, len(mu)):,} test pictures{vae_mnist_maps.on_plane(len(axes))}; {bench.name}"
    )
    bench.task.picture("codes", scatter(bench, mu, axes, title))
    for wide in (False, True):
        shown = vae_mnist_maps.map_grid(bench.model.decode, axes, wide, bench.task.device, bench.name)
        bench.task.picture("manifold_wide" if wide else "manifold", pictures.grid(**shown))
    names = [vae_mnist_maps.latent_name(d) for d in order.tolist()]
    title = f"KL per latent, {bench.name}"
    bench.task.picture("kl_per_latent", charts.bars(kl.tolist(), names, title, "nats"))
    if len(order) > 2:
        top, values = order[:16], torch.linspace(-3, 3, 13)
        codes = latents.traversal(torch.zeros(len(order)), top, values)
        rows = [f"{name}  KL {v:.2f}" for name, v in zip(names[:16], kl.tolist())]
        title = f"One latent changed at a time, the others 0; {bench.name}"
        shown = bench.decode(codes.flatten(0, 1))
        ticks = [f"{v:g}" for v in values.tolist()]
        bench.task.picture("traversal", pictures.grid(shown, 13, rows, ticks, title, scale=2))
    present = [k for k in range(len(bench.data.class_names)) if (bench.data.test_labels == k).any()]
    centres = {bench.data.class_names[k]: mu[bench.data.test_labels == k].mean(0) for k in present}
    return {
        "n_test": len(mu),
        "kl_nats": kl.sum(),
        "kl_nats_per_latent": kl,
        "latents_sorted": order,
        "active_units": int(latents.active_units(mu).sum()),
        "centres": centres,
        "plane": axes.T,
    }


# ------------------------------------------------------------------------------------------------ between


def pick_two(bench: Bench) -> tuple[int, int]:
    """Numbers of two test pictures: --index and --index2, or else two random ones of two random classes."""
    cfg, n = bench.cfg, len(bench.data.test)
    i, j = vae_mnist_maps.two_of_different_classes(bench.data.test_labels, bench.task.rng())
    for name in ("index", "index2"):
        value = getattr(cfg, name)
        require(value is None or 0 <= value < n, cfg, name, f"from 0 to {n - 1}, the test part")
    return i if cfg.index is None else cfg.index, j if cfg.index2 is None else cfg.index2


def interpolate(bench: Bench) -> dict[str, Any]:
    """From picture x₁ to x₂ in three ways: (1 − t) x₁ + t x₂ of the pixels; the same of their codes, decoded;
    and the great arc between their codes, decoded. Only ways between codes pass through other digits.
    """
    i, j = pick_two(bench)
    x = bench.data.test[[i, j]]
    classes = [bench.data.class_names[k] for k in bench.data.test_labels[[i, j]].tolist()]
    ends = [f"test picture {n:,} ({name})" for n, name in zip((i, j), classes)]
    z0, z1 = bench.encode(x)[0]
    ratios = torch.linspace(0, 1, N_FRAMES)
    first, last = script.to_float(x, torch.device("cpu"))
    paths = {"linear": latents.lerp(z0, z1, ratios), "spherical": latents.slerp(z0, z1, ratios)}
    ways = {"pixels": latents.lerp(first, last, ratios)} | {k: bench.decode(z) for k, z in paths.items()}
    columns = range(0, N_FRAMES, max(1, N_FRAMES // 12))
    ticks = [f"t = {ratios[c]:.2f}" for c in columns]
    title = f"{ends[0]} to {ends[1]}: pixels mixed, codes mixed (linear) and turned (spherical); {bench.name}"
    tiles = torch.cat([frames[list(columns)] for frames in ways.values()])
    shown = pictures.grid(tiles, len(columns), [*ways], ticks, title, scale=2)
    bench.task.picture("strip", shown)
    mu, _ = bench.encode(bench.data.test[:N_SHOWN])
    axes = vae_mnist_maps.plane(mu)
    on_plane = {name: (z @ axes).numpy() for name, z in paths.items()}
    title = f"{ends[0]} to {ends[1]}{vae_mnist_maps.on_plane(len(axes))}; {bench.name}"
    bench.task.picture("path", scatter(bench, mu, axes, title, paths=on_plane))
    frames = [
        pictures.grid(torch.stack(tiles), 3, None, [*ways], f"t = {t:.2f}", scale=5, pad=4)
        for t, *tiles in zip(ratios.tolist(), *ways.values(), strict=True)
    ]
    there_and_back = pictures.ping_pong(frames)
    bench.task.video("way", there_and_back, fps=24)
    bench.task.gif("way", there_and_back[::2], fps=12)  # half the frames: a GIF is large
    steps = {
        f"rmse_between_frames_{name}": (w[1:] - w[:-1]).square().mean((1, 2, 3)).sqrt()
        for name, w in ways.items()
    }
    return {
        "index": i,
        "index2": j,
        "from": classes[0],
        "to": classes[1],
        "code_distance": (z1 - z0).norm(),
        "codes": torch.stack([z0, z1]),
        "ratios": ratios,
    } | steps


def as_stored(shown: Tensor) -> Tensor:
    """Pictures (N, 1, 28, 28) in [0, 1] → uint8 (N, 28, 28)."""
    return (shown[:, 0] * 255).round().to(torch.uint8)


# ------------------------------------------------------------------------------------------------ evaluate


@torch.no_grad()
def exact_nats(bench: Bench, *parts: Tensor) -> list[float]:
    """The mean of log p(x) = log ∫ p(x|z) p(z) dz over each part, uint8 (N, 28, 28), in nats, by a sum over a
    grid of two latents.

    The grid extends to ±5, or beyond all codes, in steps of h = GRID_STEP. For a posterior with standard
    deviation σ the relative error of p(x) is about 2 exp(−2π²σ²/h²): 0.002 for σ = 0.03, where the KL is 8
    nats.
    """
    edge = max(5.0, *(math.ceil(bench.encode(x)[0].abs().max().item() + 1) for x in parts))
    one = torch.linspace(-edge, edge, 1 + round(2 * edge / GRID_STEP))
    z = torch.cartesian_prod(one, one)
    log_prior = -0.5 * z.square().sum(1) - math.log(2 * math.pi) + 2 * math.log(GRID_STEP)
    flat = [script.to_float(x, torch.device("cpu")).flatten(1) for x in parts]  # (N, 784)
    totals = [torch.full((len(x),), -math.inf) for x in flat]
    for codes, prior in zip(z.split(2000), log_prior.split(2000), strict=True):
        x_logits = bench.model.decode(codes.to(bench.task.device)).flatten(1).cpu()
        # log p(x|z) = x·l − Σ log(1 + eˡ), for all pictures and codes in one product
        rest = prior - torch.nn.functional.softplus(x_logits).sum(1)
        for i, x in enumerate(flat):
            totals[i] = torch.logaddexp(totals[i], torch.addmm(rest, x, x_logits.T).logsumexp(1))
    return [total.double().mean().item() for total in totals]


def inference_gap(bench: Bench) -> dict[str, Any]:
    """How far the ELBO is below log p(x), in nats, which is what a better encoder could gain. With two
    latents log p(x) can be summed over a grid.
    """
    cfg, names = bench.cfg, ("train", "test")
    parts = [script.draw_pixels(getattr(bench.data, name), name, cfg)[:N_EXACT] for name in names]
    by_part: dict[str, Any] = {}
    for name, x, exact in zip(names, parts, exact_nats(bench, *parts), strict=True):
        elbo = script.evaluate(bench.model, x, name, cfg, bench.task.device)
        gap = exact - elbo[f"{name}/elbo_nats{script.suffix(cfg)}"]
        by_part[name] = {"n": len(x), "exact_nats": exact, "gap_nats": gap}
    return {"inference": by_part}


def evaluate(bench: Bench) -> dict[str, Any]:
    """Every figure of the test part: how well the model explains pictures, how well the codes separate the
    classes, and how real generated pictures look to a classifier, with the same scores of as many real
    pictures.
    """
    cfg, data, device = bench.cfg, bench.data, bench.task.device
    x = script.draw_pixels(data.test, "test", cfg)
    figures = script.evaluate(bench.model, x, "test", cfg, device)
    figures[f"test/iw_nats{script.suffix(cfg)}"] = script.log_likelihood(bench.model, x, cfg, device)
    results: dict[str, Any] = {key.removeprefix("test/"): value for key, value in figures.items()}
    codes, held_out = bench.encode(script.draw_pixels(data.train, "train", cfg))[0], bench.encode(x)[0]
    results["knn_accuracy"] = script.knn_accuracy(codes, data.train_labels, held_out, data.test_labels)
    if cfg.latent_dim == 2:
        results |= inference_gap(bench)
    model, digest = digit_classifier.load(data, cfg.data_dir)
    n = min(N_SCORED, len(data.test), len(data.train))
    rng = bench.task.rng()
    made = as_stored(bench.decode(torch.randn(n, cfg.latent_dim, generator=rng)))
    real, others = data.test[:n], data.train[torch.randperm(len(data.train), generator=rng)[:n]]
    score, score_sd = digit_classifier.inception_score(model, made)
    score_of_real, _ = digit_classifier.inception_score(model, real)
    most = len(data.class_names)
    seen = [data.class_names[k] for k in digit_classifier.classify(model, made).tolist()]
    shown = pictures.grid(
        made[:100, None].float() / 255,
        10,
        scale=2,
        title=f"z ~ N(0, I), {bench.name}: Inception Score {score:.2f} (at most {most}; real pictures "
        f"{score_of_real:.2f}) of {n:,}, the first {min(100, n)} shown",
    )
    bench.task.picture("scored", shown)
    return results | {
        "iw_samples": cfg.iw_samples,
        "n_test": len(x),
        "n_neighbours": script.N_NEIGHBOURS,
        "inception_score": score,
        "inception_score_sd": score_sd,
        "inception_score_at_most": most,
        "inception_score_of_real": score_of_real,
        "frechet": digit_classifier.frechet(model, made, real),
        "frechet_of_real": digit_classifier.frechet(model, others, real),
        "n_scored": n,
        "classifier": digest,
        "classifier_accuracy": digit_classifier.accuracy(model, data.test, data.test_labels),
        "share_of_class": {name: seen.count(name) / n for name in data.class_names},
    }


# ------------------------------------------------------------------------------------------------ entry

RUNS = {task.__name__: task for task in (generate, latent_space, interpolate, evaluate)}


def run(cfg: script.Config) -> dict[str, Any]:
    """Do --task with --checkpoint; returns the content of results.json. Raises UserError and DataError."""
    file, run_config = find_run(cfg, "vae_mnist")
    cfg = flags_of_run(cfg, run_config, *(["precision"] if cfg.task == "evaluate" else []))
    task = start_task(cfg, file, run_config)
    model = load_weights(cfg, script.build(cfg, task.device), file).eval()
    bench = Bench(cfg, model, script.load_data(cfg), task)
    results = {"beta": cfg.beta, "data": bench.data.name, "data_hash": bench.data.content_hash}
    results |= {"trained_on_data_hash": run_config.get("data_hash")} | RUNS[cfg.task](bench)
    task.numbers(results)
    task.finish()
    return results
