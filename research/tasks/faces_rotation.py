"""Faces turned by a trained autoencoder or β-VAE, and how far they really turn: --task=rotate of bvae_faces.

How     One code step for all faces: by yaw where it is known, along the direction in which mirroring moves
        codes where it is not, or along one latent (--dim).
Measure Rendered faces: a reader trained on the ground truth (parts/face_reader.py) tells the yaw, and
        every other factor, of N_FACES faces at N_VALUES values each; its own error and what it reads off
        faces that are truly rendered at those yaws stand beside it. Photos: the mirror test.
Shapes  T values, N faces, F factors, D latents, S image size. Codes lie on the CPU.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data import synthetic
from research.common.flags import require
from research.common.messages import console
from research.draw import charts, pictures
from research.measure import latents
from research.tasks.faces_bench import (
    N_FIT,
    N_FRAMES,
    N_TEST,
    Bench,
    Face,
    animate,
    pick_face,
    rmse,
    signed,
    stack,
)

N_FACES, N_VALUES = 100, 13  # turned faces of the test part that are measured


class Turn(NamedTuple):
    """A way to move codes z (N, D): the picture at value v is that of z + (v − own(z))·step; step (D,)."""

    step: Tensor
    reading: Tensor  # (D,): own(z), the value that a code has by itself, is z @ reading + intercept
    intercept: float
    ends: float  # shown from −ends to ends
    unit: str
    how: str  # for titles
    numbers: dict[str, Any]

    def own(self, z: Tensor) -> Tensor:
        """The values (N,) that codes (N, D) have by themselves."""
        return z @ self.reading + self.intercept

    def at(self, z: Tensor, values: Tensor) -> Tensor:
        """Codes z (N, D) moved to each of values (T,): (N, T, D)."""
        return z[:, None] + (values[:, None] - self.own(z)[:, None, None]) * self.step


def turn_by_yaw(bench: Bench) -> Turn:
    """By yaw in degrees, 0 straight ahead, as a linear regression on the codes of training faces predicts it.

    Of all steps that change the prediction by a degree, that of least Mahalanobis length: Σw / wᵀΣw for
    weights w and codes of covariance Σ, which is how codes change with yaw on the average (Haufe et al. 2014,
    doi:10.1016/j.neuroimage.2013.10.067). Along w itself the latents that vary least would move most, and
    those change the prediction, but hardly the picture.
    """
    column = bench.data.factor_names.index("yaw")
    parts = {"train": bench.data.train[:N_FIT], "test": bench.data.test[:N_TEST]}
    mu = {part: bench.encode(x)[0] for part, x in parts.items()}
    yaw = {part: torch.from_numpy(bench.data.factors[part][: len(mu[part]), column]) for part in parts}
    fit = latents.regression_direction(mu["train"], yaw["train"])
    weights = fit.slope * fit.direction
    error = fit.intercept + mu["test"] @ weights - yaw["test"]
    r2 = 1 - float(error.square().mean() / yaw["test"].var(correction=0))
    if r2 < 0.5:
        console.print(f"[yellow]the codes hardly tell the yaw[/] (R² {r2:.2f}): the face may not turn")
    step = torch.cov(mu["train"].T).reshape(len(weights), len(weights)) @ weights
    change = float(step @ weights)  # of the prediction
    step = step / change if change > 0 else torch.zeros_like(step)
    numbers = {
        "direction": "code change per degree of yaw",
        "n_train": len(mu["train"]),
        "r2_train": fit.r2,
        "r2_test": r2,
        "yaw_error_degrees": error.square().mean().sqrt(),
        "step": step,
    }
    how = f"along the yaw direction of the codes (R² {r2:.2f} on test faces)"
    return Turn(step, weights, fit.intercept, 60.0, "°", how, numbers)


def turn_by_mirror(bench: Bench) -> Turn:
    """By the direction in which mirroring a picture moves its code; in standard deviations over training
    faces, 0 between the faces and their mirror images. Left and right are the strongest such difference where
    heads are turned; where they are not, it may be the light.
    """
    x = bench.data.train[:N_FIT]
    mu, mirrored = bench.encode(x)[0], bench.encode(x.flip(2))[0]
    direction, share = latents.mirror_direction(mu, mirrored)
    along = torch.cat([mu, mirrored]) @ direction
    centre, spread = float(along.mean()), float(along.std())
    reading = direction / spread if spread > 0 else torch.zeros_like(direction)
    numbers = {
        "direction": "difference between codes of faces and of their mirror images",
        "n_train": len(mu),
        "share_explained": share,
        "spread": spread,
        "step": direction * spread,
    }
    how = f"along the direction in which mirroring moves the codes ({share:.0%} of their differences)"
    intercept = -centre / spread if spread > 0 else 0.0
    return Turn(direction * spread, reading, intercept, 2.0, " sd", how, numbers)


def turn_by_latent(bench: Bench, dim: int) -> Turn:
    """By one latent from −3 to 3; with β = 0 in standard deviations of the codes of test faces."""
    require(dim < bench.cfg.latent_dim, bench.cfg, "dim", f"below {bench.cfg.latent_dim}")
    mu, logvar = bench.encode(bench.data.test[:N_TEST])
    shift, scale = bench.shown_range(mu)
    spread, axis = max(float(scale[dim]), 1e-12), torch.eye(bench.cfg.latent_dim)[dim]
    kl = latents.kl_per_latent(mu, logvar)[dim] if bench.has_prior else None
    numbers = {"direction": f"latent {dim}", "variance": mu.var(0)[dim], "kl_nats": kl}
    unit = "" if bench.has_prior else " sd"
    how = f"along latent {dim}"
    return Turn(spread * axis, axis / spread, -float(shift[dim]) / spread, 3.0, unit, how, numbers)


# ------------------------------------------------------------------------------------------------ measuring


def spearman(asked: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Rank correlation of values (T,) with each row of found (N, T): (N,); 0 where a row does not vary."""
    from scipy.stats import rankdata

    ranks = rankdata(found, axis=1) - (len(asked) + 1) / 2
    order = rankdata(asked) - (len(asked) + 1) / 2
    norm = np.sqrt(np.square(ranks).sum(1) * np.square(order).sum())
    return np.divide(ranks @ order, norm, out=np.zeros(len(found)), where=norm > 0)


def measure(bench: Bench, turn: Turn) -> dict[str, Any]:
    """What a turn does to N test faces, read off its pictures: yaw, and how much every other factor changes.

    The others' change is the mean distance of what is read at each value from what is read off the unturned,
    decoded face: in shares of the factor's range, of a category the share of pictures in which it is another.
    With a turn in degrees, the same is read off faces rendered at those yaws: what the reader itself adds.
    """
    from research.parts import face_reader

    data, names = bench.data, bench.data.factor_names
    yaw, others = names.index("yaw"), [k for k, name in enumerate(names) if name != "yaw"]

    def by_name(changes: np.ndarray) -> dict[str, float]:  # (F,)
        return {names[k]: float(changes[k]) for k in others}

    reader, digest = face_reader.load(data, bench.cfg.data_dir)
    x, truth = data.test[:N_FACES], data.factors["test"][:N_FACES]
    z, values = bench.encode(x)[0], torch.linspace(-turn.ends, turn.ends, N_VALUES)
    rebuilt, asked = bench.decode(z), values.numpy()
    found = face_reader.read(reader, bench.decode(turn.at(z, values)))  # (N, T, F)
    changes = face_reader.difference(found, face_reader.read(reader, rebuilt)[:, None]).mean((0, 1))
    mean, sd, rho = found[..., yaw].mean(0), found[..., yaw].std(0), spearman(asked, found[..., yaw])
    results = {
        "reader": digest,
        "reader_error": face_reader.errors(reader, data.test.numpy(), data.factors["test"]),
        "reader_error_on_reconstructions": face_reader.errors(reader, rebuilt, truth),
        "n_faces": len(z),
        "asked": asked,
        "yaw_read_mean": mean,
        "yaw_read_sd": sd,
        "yaw_span_degrees": mean[-1] - mean[0],
        "yaw_spearman": rho.mean(),
        "yaw_spearman_min": rho.min(),
        "others_change": by_name(changes),
        "others_change_mean": changes[others].mean(),
    }
    lines = {
        "decoded, mean": (asked, mean),
        "mean + deviation": (asked, mean + sd),
        "mean − deviation": (asked, mean - sd),
    }
    rows, table = ["decoded"], [changes[others]]
    if turn.unit == "°":
        turned = np.repeat(truth[:, None], N_VALUES, axis=1)  # (N, T, F)
        turned[..., yaw] = asked
        rendered = synthetic.render(turned.reshape(-1, len(names)), bench.cfg.image_size)
        seen = face_reader.read(reader, rendered.reshape(*turned.shape[:2], *rendered.shape[1:]))
        floor = face_reader.difference(seen, face_reader.read(reader, x.numpy())[:, None]).mean((0, 1))
        results |= {
            "yaw_asked_error_degrees": np.sqrt(np.square(found[..., yaw] - asked).mean()),
            "others_change_rendered": by_name(floor),
            "others_change_rendered_mean": floor[others].mean(),
        }
        lines |= {"rendered, mean": (asked, seen[..., yaw].mean(0)), "as asked": (asked, asked)}
        rows, table = [*rows, "rendered"], [*table, floor[others]]
    axis = {"°": "yaw asked for, degrees", " sd": "standard deviations", "": "value"}[turn.unit]
    title = f"{len(z)} test faces turned {turn.how}; {bench.name}"
    bench.task.picture("yaw_read", charts.curves(lines, axis, "yaw read off the pictures, degrees", title))
    title = f"Mean change of what is not to change, share of its range; {title}"
    bench.task.picture("others", charts.heatmap(np.array(table), rows, [names[k] for k in others], title))
    return results


def mirror_test(bench: Bench, turn: Turn) -> dict[str, Any]:
    """Whether a turn makes of faces their mirror images: of the squared difference between a decoded face and
    its mirror image, the share that is gone when the face is turned to the opposite value. 1: all that tells
    left from right; 0: no better than the face unturned; below 0: worse.
    """
    z = bench.encode(bench.data.test[:N_FACES])[0]
    unturned = bench.decode(z)
    opposite = bench.decode(z - 2 * turn.own(z)[:, None] * turn.step)
    mirrored = unturned[:, :, ::-1]
    before, after = np.square(rmse(unturned, mirrored)), np.square(rmse(opposite, mirrored))
    shown = min(8, len(z))
    tiles = np.stack([unturned[:shown], opposite[:shown], mirrored[:shown]]).reshape(-1, *unturned.shape[1:])
    rows = ["decoded", "turned to the opposite", "mirrored"]
    share = 1 - after.sum() / before.sum() if before.sum() > 0 else float("nan")
    title = f"Mirror test: {share:.0%} of the difference to the mirror image is gone"
    title = f"{title}; {turn.how}; {bench.name}"
    bench.task.picture("mirror_test", pictures.grid(tiles, shown, rows, None, title, bench.scale))
    return {"mirror_share": share, "n_mirrored": len(z)}


# ------------------------------------------------------------------------------------------------ the task


def rotate(bench: Bench) -> dict[str, Any]:
    """A face turned: its pictures, how far each is from the unturned one and, where it can be rendered, from
    the truth; and what the same turn does to many faces, measured.
    """
    cfg, face = bench.cfg, pick_face(bench, 0)
    known = "yaw" in bench.data.factor_names
    if cfg.dim is not None:
        turn = turn_by_latent(bench, cfg.dim)
    else:
        turn = turn_by_yaw(bench) if known else turn_by_mirror(bench)
    results = show(bench, face, turn) | turn.numbers | mirror_test(bench, turn)
    return results | (measure(bench, turn) if known else {})


def show(bench: Bench, face: Face, turn: Turn) -> dict[str, Any]:
    """Strip, video and distances of one face turned."""
    z = bench.encode(face.x)[0]
    values, own = torch.linspace(-turn.ends, turn.ends, N_FRAMES), float(turn.own(z)[0])
    turned = bench.decode(turn.at(z, values)[0])  # (T, S, S, 3)
    original, unturned = face.x[0].numpy(), bench.decode(z[0])
    apart, rows = {"to the unturned face": rmse(turned, unturned)}, ["decoded"]
    shown = turned[:, None]  # (T, rows, S, S, 3)
    if turn.unit == "°" and face.index is not None:
        truth = np.repeat(bench.data.factors["test"][[face.index]], N_FRAMES, axis=0)
        truth[:, bench.data.factor_names.index("yaw")] = values
        rendered = synthetic.render(truth, bench.cfg.image_size)
        apart["to the face rendered at that yaw"] = rmse(turned, rendered)
        rows, shown = ["decoded", "rendered"], np.stack([turned, rendered], axis=1)

    at = [signed(v, 0 if turn.unit == "°" else 2) + turn.unit for v in values.tolist()]
    title = f"{face.label} turned {turn.how}; by itself at {signed(own)}{turn.unit}; {bench.name}"
    nine = range(0, N_FRAMES, N_FRAMES // 8)
    columns = [f"{at[i]}\nRMSE {apart['to the unturned face'][i]:.3f}" for i in nine]
    tiles = shown[nine].swapaxes(0, 1)
    below = pictures.grid(tiles, 9, rows if len(rows) > 1 else None, columns, title, 2 * bench.scale)
    bench.task.picture("strip", stack([bench.row([original, unturned], [face.label, "unturned"]), below], 0))
    labels = ([face.label, *(f"{row}\n{v}" for row in rows)] for v in at)
    animate(bench, "turn", [bench.row([original, *tiles], names) for tiles, names in zip(shown, labels)])
    series = {name: (values.numpy(), distance) for name, distance in apart.items()}
    axis = {"°": "yaw asked for, degrees", " sd": "standard deviations", "": "value"}[turn.unit]
    bench.task.picture("distance", charts.curves(series, axis, "RMSE of pixels", title))
    results = {"face": face.label, "own_value": own, "unit": turn.unit.strip() or None, "values": values}
    results |= {f"rmse {name}".replace(" ", "_"): distance for name, distance in apart.items()}
    return results | {"rmse_to_the_unturned_face_mean": apart["to the unturned face"].mean()}
