"""Autoencoders, VAEs and GANs of faces side by side: what each makes at random, between two codes, and how
close that is to real pictures. For --task=compare of research/gan_faces.py.

Shapes  D latents, S image size; codes (…, D) lie on the CPU; pictures are uint8 (N, S, S, 3).
"""

import base64
import dataclasses
import html
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data import images
from research import bvae_faces, gan_faces
from research.common.checkpoints import config_of, load_weights, resolve
from research.common.flags import require, result_names
from research.common.task import start_task
from research.draw import pages, pictures
from research.measure import latents
from research.tasks.faces_bench import N_FIT
from research.tasks.faces_scores import N_SCORED, scores

N_SHOWN = 16  # random pictures of each model
SCORES = ("kernel_distance", "frechet_distance", "precision", "recall", "two_sample_accuracy")
HEADS = ("kernel distance", "Fréchet distance", "precision", "recall", "told from real")
FLOORS = (
    "kernel_distance_floor",
    "frechet_distance_floor",
    "precision_of_real",
    "recall_of_real",
    "two_sample_accuracy_of_real",
)


@dataclass(frozen=True)
class Model:
    """One of the models. draw: noise (N, D), standard normal → codes; decode: codes → pictures on the CPU;
    rebuild: pictures → pictures, None for a model that encodes nothing.
    """

    name: str
    flags: dict[str, Any]
    latent_dim: int
    draw: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    rebuild: Callable[[Tensor], Tensor] | None


def load(cfg: gan_faces.Config, spec: str, device: torch.device) -> tuple[Any, Any]:
    """The network of one --checkpoint with its weights, and the flags of its run."""
    cfg = dataclasses.replace(cfg, checkpoint=spec)
    file = resolve(spec, cfg.weights, Path(cfg.data_dir) / "artifacts").absolute()
    config = config_of(file) or {}
    scripts = {"bvae_faces": bvae_faces, "gan_faces": gan_faces}
    family = config.get("family")
    known = " or ".join(scripts)
    require(family in scripts, cfg, "checkpoint", f"of a run of {known}; this one is of {family}")
    script = scripts[family]
    known = set(result_names(script.Config)) | {"dataset", "data_dir"}
    known -= {"checkpoint", "weights"}  # what it began with is in its weights
    own = script.Config(**{k: v for k, v in config.get("flags", {}).items() if k in known})
    model = load_weights(cfg, script.build(own, device), file).eval()
    return model, own


def described(model: Any, own: Any, data: images.ImageSplits, device: torch.device) -> Model:
    """A loaded model in the terms that all have in common."""
    if isinstance(own, gan_faces.Config):

        def made(z: Tensor) -> Tensor:
            return gan_faces.generate(model.average, z, device)

        return Model(f"GAN, {own.loss}", dataclasses.asdict(own), own.latent_dim, lambda z: z, made, None)

    @torch.no_grad()
    def decode(z: Tensor) -> Tensor:
        parts = [torch.sigmoid(model.decode(part.to(device))).cpu() for part in z.split(250)]
        return torch.from_numpy(pictures.to_uint8(torch.cat(parts)))

    def rebuild(x: Tensor) -> Tensor:
        return decode(bvae_faces.encode_all(model, x, device)[0].cpu())

    flags = dataclasses.asdict(own)
    if own.beta > 0:
        return Model(f"VAE, β = {own.beta:g}", flags, own.latent_dim, lambda z: z, decode, rebuild)
    # no prior: draws of the Gaussian with the codes' mean and covariance
    fit = latents.fit_aggregate(bvae_faces.encode_all(model, data.train[:N_FIT], device)[0].cpu())
    values, vectors = torch.linalg.eigh(fit.cov)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T

    def draw(z: Tensor) -> Tensor:
        return (fit.mean + z.double() @ root).float()

    return Model("autoencoder", flags, own.latent_dim, draw, decode, rebuild)


def compare(cfg: gan_faces.Config) -> dict[str, Any]:
    """Random pictures, ways between two codes, rebuilt pictures and scores of all --checkpoint, on one page.

    On --dataset, else on that of the first one. UserError: another family, or other image sizes.
    """
    specs = [cfg.checkpoint, *cfg.checkpoints]
    first = resolve(cfg.checkpoint, cfg.weights, Path(cfg.data_dir) / "artifacts").absolute()
    # its flags are another family's, perhaps: the folder is not to be named after how they differ
    task = start_task(cfg, first, (config_of(first) or {}) | {"flags": {}})
    loaded = [load(cfg, spec, task.device) for spec in specs]
    size = loaded[0][1].image_size
    for spec, (_, own) in zip(specs, loaded, strict=True):
        allowed = f"of {size} pixels, like the first one; this one is of {own.image_size}"
        require(own.image_size == size, dataclasses.replace(cfg, checkpoint=spec), "checkpoint", allowed)
    # the first one's data, unless others are asked for
    of_first = {
        name: getattr(loaded[0][1], name)
        for name in ("dataset", "data_dir")
        if getattr(cfg, name) == getattr(gan_faces.Config, name)
    }
    cfg = dataclasses.replace(cfg, image_size=size, **of_first)
    data = images.load(cfg.dataset, cfg.data_dir, size)
    models = [described(model, own, data, task.device) for model, own in loaded]
    names = numbered([model.name for model in models])
    scale = max(1, 64 // size)

    def noise(n: int, model: Model) -> Tensor:
        return torch.randn(n, model.latent_dim, generator=task.rng())

    rows = [model.decode(model.draw(noise(N_SHOWN, model))) for model in models]
    real = data.test[:N_SHOWN]
    n = len(real)
    shown = torch.cat([real, *(row[:n] for row in rows)])
    title = f"Random pictures; {data.name}, {len(data.train):,} training {data.nouns}"
    labels = [f"real {data.nouns}", *names]
    task.picture("random", pictures.grid(shown, n, labels, title=title, scale=scale))

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
        title = f"Test {data.nouns} and what is rebuilt from their codes; {data.name}"
        task.picture("reconstructions", pictures.grid(rebuilt, n, labels, title=title, scale=scale))

    results: dict[str, Any] = {"data": data.name, "data_hash": data.content_hash, "models": {}}
    for name, model, spec in zip(names, models, specs, strict=True):
        made = model.decode(model.draw(noise(min(N_SCORED, len(data.test), len(data.train)), model)))
        found: dict[str, Any] = {"checkpoint": spec} | scores(made, data, cfg)
        if model.rebuild:
            x = data.test[:N_SCORED]
            error = (model.rebuild(x).double() - x.double()).div(255).square().mean()
            found["mse"] = float(error)
        results["models"][name] = found
    kinds = {"random": "", "interpolation": "", "reconstructions": ""}
    found = {kind: task.folder / f"{kind}.png" for kind in kinds if (task.folder / f"{kind}.png").exists()}
    task.html("page", page_of(results, found, data))
    task.numbers(results)
    task.finish()
    return results


def numbered(names: list[str]) -> list[str]:
    """Names that are all different: equal ones get a number."""
    return [
        f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


def page_of(results: dict[str, Any], files: dict[str, Path], data: images.ImageSplits) -> str:
    """The page: scores in each network's features beside those of real pictures, then the pictures."""
    body = []
    first = next(iter(results["models"].values()))
    for network in ("random", "reader"):
        rows = [
            [html.escape(name), *(shown(found[network][k]) for k in SCORES), shown(found.get("mse"))]
            for name, found in results["models"].items()
        ]
        rows.append(
            [f"other real {html.escape(data.nouns)}", *(shown(first[network][k]) for k in FLOORS), ""]
        )
        which = {
            "random": "a network with random weights, which was never trained",
            "reader": "the reader of rendered faces",
        }[network]
        nouns, n = html.escape(data.nouns), first[network]["n"]
        about = (
            f"{n:,} generated against as many test {nouns}, by features of {which} "
            f"({first[network]['network']}). Distances: the smaller, the better. Told from real: accuracy "
            "of a classifier, 0.5 where it cannot tell."
        )
        head = ["model", *HEADS, "error of rebuilt pictures (MSE)"]
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


def shown(value: float | None) -> str:
    """A number of the table; nothing where a model has none."""
    return "" if value is None or not np.isfinite(value) else f"{value:.4g}"
