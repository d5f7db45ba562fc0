"""Autoencoders, VAEs and GANs of faces side by side: the pictures that each makes from random codes and
between two codes, and how close they are to real ones. For --task=compare of research/gan_faces.py.

Shapes  D latents, S image size; codes (…, D) lie on the CPU; pictures are uint8 (N, S, S, 3).
"""

import base64
import dataclasses
import html
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data import images
from research import bvae_faces, gan_faces
from research.common.checkpoints import config_of, load_weights, resolve
from research.common.flags import GIVEN, RunFlags, require, result_names
from research.common.messages import console, escape
from research.common.start import pick_device
from research.common.task import start_task
from research.draw import pages, pictures
from research.measure import latents
from research.tasks.faces_bench import N_FIT
from research.tasks.faces_scores import N_SCORED, scores

COMMON = {field.name for field in dataclasses.fields(RunFlags)}
N_SHOWN = 16  # random pictures of each model
SCORES = ("kernel_distance", "frechet_distance", "precision", "recall", "two_sample_accuracy")
HEADS = ("kernel distance", "Fréchet distance", "precision", "recall", "classifier accuracy")
FLOORS = (
    "kernel_distance_floor",
    "frechet_distance_floor",
    "precision_of_real",
    "recall_of_real",
    "two_sample_accuracy_of_real",
)


@dataclass(frozen=True)
class Model:
    """One of the models. draw: standard normal noise (N, D) → codes (N, D); decode: codes → pictures on the
    CPU; rebuild: pictures → their reconstructions, None for a model without an encoder.
    """

    name: str
    latent_dim: int
    draw: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    rebuild: Callable[[Tensor], Tensor] | None


class Loaded(NamedTuple):
    """What one --checkpoint contains: its network, the flags of its run, the hash of its training data."""

    network: Any
    flags: Any
    data_hash: str | None


def load(cfg: gan_faces.Config, spec: str, device: torch.device) -> Loaded:
    """The network of one --checkpoint with its weights, on `device`. UserError: there is no such run, or it
    is of another family.
    """
    cfg = dataclasses.replace(cfg, checkpoint=spec)
    file = resolve(spec, cfg.weights, Path(cfg.data_dir) / "artifacts").absolute()
    config = config_of(file)
    require(config is not None, cfg, "checkpoint", f"of a run: no readable config.json in {file.parents[1]}")
    scripts = {"bvae_faces": bvae_faces, "gan_faces": gan_faces}
    family = config.get("family")
    families = " or ".join(scripts)
    require(family in scripts, cfg, "checkpoint", f"of a run of {families}; this one is of {family}")
    script = scripts[family]
    kept = config.get("flags", {})
    kept = bvae_faces.renewed(kept) if script is bvae_faces else kept
    names = {*result_names(script.Config), "dataset", "data_dir"} - {"checkpoint", "weights"}
    own = script.Config(**{name: value for name, value in kept.items() if name in names})
    network = load_weights(cfg, script.build(own, device), file).eval()
    return Loaded(network, own, config.get("data_hash"))


def described(model: Any, own: Any, data: images.ImageSplits, device: torch.device) -> Model:
    """A loaded network as a `Model`, so that all kinds can be used alike."""
    if isinstance(own, gan_faces.Config):

        def made(z: Tensor) -> Tensor:
            return gan_faces.generate(model.average, z, device)

        return Model(f"GAN, {own.loss}", own.latent_dim, lambda z: z, made, None)

    @torch.no_grad()
    def decode(z: Tensor) -> Tensor:
        parts = [torch.sigmoid(model.decode(part.to(device))).cpu() for part in z.split(250)]
        return torch.from_numpy(pictures.to_uint8(torch.cat(parts)))

    def rebuild(x: Tensor) -> Tensor:
        return decode(bvae_faces.encode_all(model, x, device)[0].cpu())

    if own.beta > 0:
        return Model(f"VAE, β = {own.beta:g}", own.latent_dim, lambda z: z, decode, rebuild)
    # there is no prior: codes are drawn from the Gaussian with the codes' mean and covariance
    fit = latents.fit_aggregate(bvae_faces.encode_all(model, data.train[:N_FIT], device)[0].cpu())
    values, vectors = torch.linalg.eigh(fit.cov)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T

    def draw(z: Tensor) -> Tensor:
        return (fit.mean + z.double() @ root).float()

    return Model("autoencoder", own.latent_dim, draw, decode, rebuild)


def compare(cfg: gan_faces.Config) -> dict[str, Any]:
    """Random pictures, ways between two codes, reconstructions and scores of every --checkpoint, on one page.

    They are made on --dataset, by default on that of the first checkpoint. UserError: a checkpoint of another
    family, or with another image size.
    """
    for name in set(GIVEN) & {f.name for f in dataclasses.fields(cfg)} - COMMON:
        require(
            name in ("task", "checkpoints"), cfg, name, "left out with --task=compare: models have their own"
        )
    specs = [cfg.checkpoint, *cfg.checkpoints]
    device = pick_device(cfg.device)
    loaded = [load(cfg, spec, device) for spec in specs]
    of_first = loaded[0].flags
    for spec, one in zip(specs, loaded, strict=True):
        allowed = (
            f"of {of_first.image_size} pixels, like the first one; this one is of {one.flags.image_size}"
        )
        alike = one.flags.image_size == of_first.image_size
        require(alike, dataclasses.replace(cfg, checkpoint=spec), "checkpoint", allowed)
    # the data of the first checkpoint, unless the user asked for others
    places = [
        name for name in ("dataset", "data_dir") if getattr(cfg, name) == getattr(gan_faces.Config, name)
    ]
    cfg = dataclasses.replace(
        cfg, image_size=of_first.image_size, **{name: getattr(of_first, name) for name in places}
    )
    data = gan_faces.load_data(cfg)
    first = resolve(cfg.checkpoint, cfg.weights, Path(cfg.data_dir) / "artifacts").absolute()
    # of the flags of its run only the data: the others may belong to another family and are not comparable
    config = (config_of(first) or {}) | {"flags": {"dataset": of_first.dataset}}
    task = start_task(cfg, first, config)
    models = [described(one.network, one.flags, data, task.device) for one in loaded]
    names = numbered([model.name for model in models])
    elsewhere = [one.data_hash not in (None, data.content_hash) for one in loaded]
    for i, other in enumerate(elsewhere):
        if other:
            names[i] += ", trained on other pictures"
            console.print(
                f"[yellow]{escape(specs[i])} was trained on other pictures[/] than {escape(data.name)}"
            )
    size = of_first.image_size
    scale = max(1, 64 // size)

    def noise(n: int, model: Model) -> Tensor:
        return torch.randn(n, model.latent_dim, generator=task.rng())

    rows = [model.decode(model.draw(noise(N_SHOWN, model))) for model in models]
    real = data.test[:N_SHOWN]
    n = len(real)
    tiles = torch.cat([real, *(row[:n] for row in rows)])
    title = f"Random pictures; {data.name}, {len(data.train):,} training {data.nouns}"
    labels = [f"real {data.nouns}", *names]
    task.picture("random", pictures.grid(tiles, n, labels, title=title, scale=scale))

    t = torch.linspace(0, 1, 9)
    ways, names_of_ways = [], []
    for name, model in zip(names, models, strict=True):
        z0, z1 = noise(2, model)
        for how, way in (("linear", latents.lerp), ("spherical", latents.slerp)):
            ways.append(model.decode(model.draw(way(z0, z1, t))))
            names_of_ways.append(f"{name}\n{how}")
    columns = [f"t = {v:.3g}" for v in t.tolist()]
    title = f"Between two random codes; {data.name}"
    task.picture("interpolation", pictures.grid(torch.cat(ways), 9, names_of_ways, columns, title, scale))

    encoders = [(name, model) for name, model in zip(names, models, strict=True) if model.rebuild]
    if encoders:
        rebuilt = torch.cat([real, *(model.rebuild(real) for _, model in encoders)])
        labels = ["x", *(name for name, _ in encoders)]
        title = f"Test {data.nouns} and their reconstructions; {data.name}"
        task.picture("reconstructions", pictures.grid(rebuilt, n, labels, title=title, scale=scale))

    results: dict[str, Any] = {"data": data.name, "data_hash": data.content_hash, "models": {}}
    for name, model, spec, one in zip(names, models, specs, loaded, strict=True):
        n_made = min(N_SCORED, len(data.test), len(data.train))
        made = model.decode(model.draw(noise(n_made, model)))
        of_model: dict[str, Any] = {"checkpoint": spec, "trained_on_data_hash": one.data_hash}
        of_model |= scores(made, data, cfg)
        if model.rebuild:
            x = data.test[:N_SCORED]
            error = (model.rebuild(x).double() - x.double()).div(255).square().mean()
            of_model["mse"] = float(error)
        results["models"][name] = of_model
    kinds = ("random", "interpolation", "reconstructions")
    files = {kind: task.folder / f"{kind}.png" for kind in kinds if kind != "reconstructions" or encoders}
    task.html("page", page_of(results, files, data))
    task.numbers(results)
    task.finish()
    return results


def numbered(names: list[str]) -> list[str]:
    """The names, made different: equal ones get a number."""
    return [
        f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


def page_of(results: dict[str, Any], files: dict[str, Path], data: images.ImageSplits) -> str:
    """The page: a table of scores for the features of each network, with those of real pictures; then the
    picture files by their kind.
    """
    body = []
    first = next(iter(results["models"].values()))
    for network in ("random", "reader"):
        rows = [
            [html.escape(name), *(digits(of[network][k]) for k in SCORES), digits(of.get("mse"))]
            for name, of in results["models"].items()
        ]
        rows.append(
            [f"other real {html.escape(data.nouns)}", *(digits(first[network][k]) for k in FLOORS), ""]
        )
        which = {
            "random": "a network with random weights, which was never trained",
            "reader": "the reader of rendered faces",
        }[network]
        nouns, n = html.escape(data.nouns), first[network]["n"]
        about = (
            f"{n:,} generated {nouns} are compared with as many test {nouns}, by features of {which} "
            f"({first[network]['network']}). Distances: smaller is better. Classifier accuracy: how often a "
            "classifier tells generated pictures from real ones; 0.5 is chance."
        )
        head = ["model", *HEADS, "reconstruction error (MSE)"]
        body.append(f"<p>{about}</p>{pages.table(rows, head)}")
    for kind, file in files.items():
        with Image.open(file) as image:
            packed = io.BytesIO()
            image.save(packed, "PNG")
        data_url = base64.b64encode(packed.getvalue()).decode()
        body.append(
            f'<p><img alt="{kind}" src="data:image/png;base64,{data_url}" style="max-width:100%"></p>'
        )
    return pages.page(f"Autoencoder, VAE and GAN on {data.name}", "\n".join(body))


def digits(value: float | None) -> str:
    """A number of the table; an empty cell if there is none or it is not finite."""
    return "" if value is None or not np.isfinite(value) else f"{value:.4g}"
