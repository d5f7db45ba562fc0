"""Faces turned by a trained autoencoder or β-VAE, and how far they really turn: --task=rotate of bvae_faces.

How     All faces are moved by the same step of their codes. If the yaw of training faces is known, the step
        is a degree of yaw; if not, it goes along the direction in which mirroring moves codes. With --dim it
        goes along one latent.
Measure Rendered faces: a network trained on the ground truth, the reader (parts/face_reader.py), reads the
        yaw and every other factor of N_FACES faces at N_VALUES values each. Its own error is reported too,
        and what it reads from faces that are really rendered at those yaws. Photos: the mirror test.
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

N_FACES, N_VALUES = 100, 13  # how many faces of the test part are measured, and at how many values each
NO_CHANGE = 0.01  # a smaller RMSE between both ends of a turn is invisible: 2.5 of 255
TURNED_DEGREES = 30  # the least change of the yaw read that counts as a turn; 120 degrees are asked for
MIRRORED = 0.5  # a turn removes at least this share of the fine detail that distinguishes left from right
STAYS = 0.25  # if less than this share is gone, the head has not turned at all; in between, hardly


class Turn(NamedTuple):
    """A way to move codes z (N, D): the picture at the value v shows the code z + (v − own(z))·step; step
    (D,).
    """

    step: Tensor
    reading: Tensor  # (D,): the value of an unmoved code, own(z), is z @ reading + intercept
    intercept: float
    ends: float  # shown from −ends to ends
    unit: str
    how: str  # for titles
    numbers: dict[str, Any]
    sides: bool = False  # whether it goes along the direction in which mirroring moves codes

    def own(self, z: Tensor) -> Tensor:
        """The values (N,) of unmoved codes (N, D)."""
        return z @ self.reading + self.intercept

    def at(self, z: Tensor, values: Tensor) -> Tensor:
        """Codes z (N, D) moved to each of the values (T,): (N, T, D)."""
        return z[:, None] + (values[:, None] - self.own(z)[:, None, None]) * self.step


def turn_by_yaw(bench: Bench) -> Turn:
    """A turn by the yaw in degrees (0: straight ahead) that a linear regression on the codes of training
    faces predicts.

    Of all steps that change the prediction by a degree, it takes the one with the least Mahalanobis length:
    Σw / wᵀΣw for weights w and codes with covariance Σ. This is how codes change with yaw on average (Haufe
    et al. 2014, doi:10.1016/j.neuroimage.2013.10.067). Along w itself, the latents that vary least would move
    most; they change the prediction, but hardly the picture.
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
        console.print(f"[yellow]the codes hardly predict the yaw[/] (R² {r2:.2f})")
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
    """A turn along the direction in which mirroring a picture moves its code. Values are in standard
    deviations over training faces and their mirror images, with 0 in the middle. If heads in the data are
    turned, this is mostly left and right; if they are not, it may be the light.
    """
    x = bench.data.train[:N_FIT]
    mu, mirrored = bench.encode(x)[0], bench.encode(x.flip(2))[0]
    direction, share = latents.mirror_direction(mu, mirrored)
    along = torch.cat([mu, mirrored]) @ direction
    centre, spread = float(along.mean()), float(along.std())
    reading = direction / spread if spread > 0 else torch.zeros_like(direction)
    numbers = {
        "direction": f"difference between codes of {bench.data.nouns} and of their mirror images",
        "n_train": len(mu),
        "share_explained": share,
        "spread": spread,
        "step": direction * spread,
    }
    how = f"along the direction in which mirroring moves the codes ({share:.0%} of their differences)"
    intercept = -centre / spread if spread > 0 else 0.0
    return Turn(direction * spread, reading, intercept, 2.0, " sd", how, numbers, sides=True)


def turn_by_latent(bench: Bench, dim: int) -> Turn:
    """A turn by one latent from −3 to 3; with β = 0 this is in standard deviations of the codes of test
    faces.

    UserError: there is no latent `dim`.
    """
    require(dim < bench.cfg.latent_dim, bench.cfg, "dim", f"below {bench.cfg.latent_dim}")
    mu, logvar = bench.encode(bench.data.test[:N_TEST])
    shift, scale = bench.shown_range(mu)
    spread, axis = max(float(scale[dim]), 1e-12), torch.eye(bench.cfg.latent_dim)[dim]
    kl = latents.kl_per_latent(mu, logvar)[dim] if bench.has_prior else None
    numbers = {"direction": f"latent {dim}", "variance": mu.var(0)[dim], "kl_nats": kl}
    unit = "" if bench.has_prior else " sd"
    quiet = kl is not None and bool(latents.silent(kl))
    how = f"along latent {dim}" + (f", which is silent (KL {kl:.3f} nats)" if quiet else "")
    return Turn(spread * axis, axis / spread, -float(shift[dim]) / spread, 3.0, unit, how, numbers)


# ------------------------------------------------------------------------------------------------ measuring


def spearman(asked: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Rank correlation of asked (T,) with each row of found (N, T): (N,); 0 for a row that does not vary."""
    from scipy.stats import rankdata

    ranks = rankdata(found, axis=1) - (len(asked) + 1) / 2
    order = rankdata(asked) - (len(asked) + 1) / 2
    norm = np.sqrt(np.square(ranks).sum(1) * np.square(order).sum())
    return np.divide(ranks @ order, norm, out=np.zeros(len(found)), where=norm > 0)


def measure(bench: Bench, turn: Turn) -> dict[str, Any]:
    """What a turn does to N test faces, as the reader sees it: the yaw, and how much each other factor
    changes.

    The change of another factor is the distance between what is read at each value and what is read in the
    unturned, decoded face, averaged and divided by the factor's range. For a category it is the share of
    pictures in which it differs. For a turn in degrees, faces rendered at those yaws are read too, which
    shows the reader's own error.
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
    title = f"{len(z)} test {bench.data.nouns} moved {turn.how}; {bench.name}"
    bench.task.picture("yaw_read", charts.curves(lines, axis, "yaw read off the pictures, degrees", title))
    title = f"Mean change of what should not change, as a share of its range; {title}"
    bench.task.picture("others", charts.heatmap(np.array(table), rows, [names[k] for k in others], title))
    return results


def mirror_test(bench: Bench, turn: Turn) -> dict[str, Any]:
    """Whether a turn changes faces into their mirror images: the share of the squared difference between a
    decoded face and its mirror image that disappears when the face is moved to the opposite value. 1: all of
    it; 0: no better than the unturned face; below 0: worse.

    Light that changes sides can be most of that. So `mirror_share_detail` is the same share for
    `fine_detail`, where a turning head moves its eyes, nose and mouth, and light hardly shows. In rendered
    faces of 32 pixels that only turn, 0.87 of the detail disappears (0.71 of the whole); if only the light
    changes sides, 0.02 (0.24 of the whole).
    """
    z = bench.encode(bench.data.test[:N_FACES])[0]
    unturned = bench.decode(z)
    opposite = bench.decode(z - 2 * turn.own(z)[:, None] * turn.step)
    mirrored = unturned[:, :, ::-1]
    share = mirror_share(unturned / 255, opposite / 255, mirrored / 255)
    detail = mirror_share(*(fine_detail(x) for x in (unturned, opposite, mirrored)))
    shown = min(8, len(z))
    tiles = np.stack([unturned[:shown], opposite[:shown], mirrored[:shown]]).reshape(-1, *unturned.shape[1:])
    rows = ["decoded", "moved to the opposite value", "mirrored"]
    title = f"Mirror test: {gone(share, detail)}; {turn.how}; {bench.name}"
    bench.task.picture("mirror_test", pictures.grid(tiles, shown, rows, None, title, bench.scale))
    return {"mirror_share": share, "mirror_share_detail": detail, "n_mirrored": len(z)}


def fine_detail(x: np.ndarray) -> np.ndarray:
    """The fine detail in the middle of pictures (N, S, S, 3) with pixels from 0 to 255: (N, S', S'), grey, in
    units of 255. It is what a blur with a deviation of 1/32 of the edge takes away.
    """
    from scipy.ndimage import gaussian_filter

    grey, size = x.mean(-1) / 255, x.shape[1]
    middle = slice(size // 4, size - size // 4)
    return (grey - gaussian_filter(grey, (0, size / 32, size / 32)))[:, middle, middle]


def mirror_share(unturned: np.ndarray, opposite: np.ndarray, mirrored: np.ndarray) -> float:
    """The share of the squared difference between `unturned` and `mirrored` that is gone between `opposite`
    and `mirrored`; NaN if there is no difference. All three have the same shape.
    """
    before, after = (float(np.square(x - mirrored).sum()) for x in (unturned, opposite))
    return 1 - after / before if before > 0 else float("nan")


def gone(share: float, detail: float) -> str:
    """The result of a mirror test in words; for a share below 0, by how much the difference grows."""

    def words(value: float) -> str:
        if value >= 0.005:
            return f"{value:.0%}"
        return "nothing" if value > -0.005 else f"nothing, it grows by {-value:.0%}"

    if np.isnan(share):
        return "decoded pictures are their own mirror images"
    of_detail = "" if np.isnan(detail) else f"; of its fine detail: {words(detail)}"
    return f"difference to the mirror image that disappears: {words(share)}{of_detail}"


def change_between_ends(bench: Bench, turn: Turn) -> float:
    """RMSE between the pictures at both ends of a turn, averaged over N_FACES test pictures."""
    z = bench.encode(bench.data.test[:N_FACES])[0]
    ends = bench.decode(turn.at(z, torch.tensor([-turn.ends, turn.ends])))  # (N, 2, S, S, 3)
    return float(rmse(ends[:, 0], ends[:, 1]).mean())


def what_is_wrong(turn: Turn, noun: str, numbers: dict[str, Any]) -> str | None:
    """Why this is not a turn, in one line for its pictures; None if it is one.

    If there is a trained reader, the yaw that it reads decides; if not, the mirror test does. noun: what the
    pictures are called; numbers: the results of `change_between_ends`, `mirror_test` and `measure`.
    """
    change = numbers["change_between_ends"]
    if change < NO_CHANGE:
        return f"nothing turns: pictures at both ends are alike (RMSE {change:.3f})"
    still, hardly = "the head does not turn", "the head hardly turns"
    if noun != "face":
        still, hardly = "nothing turns", "hardly anything turns"
    if "yaw_span_degrees" in numbers:
        span = numbers["yaw_span_degrees"]
        if abs(span) >= TURNED_DEGREES:
            return None
        asked = f", {2 * turn.ends:.0f}° were asked for" if turn.unit == "°" else ""
        return f"{still}: the yaw read off {numbers['n_faces']} faces changes by {span:.0f}°{asked}"
    share, detail = numbers["mirror_share"], numbers["mirror_share_detail"]
    if detail >= MIRRORED:
        return None
    # if much of the whole is gone, but little of its detail, what moved is smooth
    smooth = "light and background" if noun == "face" else "light and large shapes"
    moves = f": {smooth} change sides" if turn.sides and share > max(detail, 0) + 0.1 else ""
    return f"{still if not detail >= STAYS else hardly}{moves} (mirror test: {gone(share, detail)})"


# ------------------------------------------------------------------------------------------------ the task


def rotate(bench: Bench) -> dict[str, Any]:
    """Turn a face: its pictures, and how far each is from the unturned one and, if it can be rendered, from
    the truth. Measures what the same turn does to many faces, and decides whether it is a turn at all.
    """
    cfg, face = bench.cfg, pick_face(bench, 0)
    known = "yaw" in bench.data.factor_names
    if cfg.dim is not None:
        turn = turn_by_latent(bench, cfg.dim)
    else:
        turn = turn_by_yaw(bench) if known else turn_by_mirror(bench)
    results = {"change_between_ends": change_between_ends(bench, turn)} | mirror_test(bench, turn)
    results |= measure(bench, turn) if known else {}
    wrong = what_is_wrong(turn, bench.noun, results)
    if wrong:
        console.print(f"[yellow]{wrong}[/]")
    results |= {"turns": wrong is None, "verdict": wrong}
    return show(bench, face, turn, wrong) | turn.numbers | results


def show(bench: Bench, face: Face, turn: Turn, wrong: str | None) -> dict[str, Any]:
    """Strip, video and distances of one turned face. wrong: why it is not a turn; all pictures say so."""
    z = bench.encode(face.x)[0]
    own = float(turn.own(z)[0])
    values = torch.linspace(-1, 1, N_FRAMES) * ends_with(turn, own)
    turned = bench.decode(turn.at(z, values)[0])  # (T, S, S, 3)
    original, unturned = face.x[0].numpy(), bench.decode(z[0])
    change, error, rows = rmse(turned, unturned), None, ["decoded"]
    shown = turned[:, None]  # (T, rows, S, S, 3)
    if turn.unit == "°" and face.index is not None:
        truth = np.repeat(bench.data.factors["test"][[face.index]], N_FRAMES, axis=0)
        truth[:, bench.data.factor_names.index("yaw")] = values
        rendered = synthetic.render(truth, bench.cfg.image_size)
        error, rows = rmse(turned, rendered), ["decoded", "rendered"]
        shown = np.stack([turned, rendered], axis=1)
    curves = {f"change: to the unturned {bench.noun}": (values.numpy(), change)}
    under, measured = "change", f"change: RMSE of pixels to the unturned {bench.noun}"
    if error is not None:
        curves["error: to the face rendered at that yaw"] = (values.numpy(), error)
        under, measured = "error", "error: RMSE of pixels to the face rendered at that yaw"

    at = [signed(v, 0 if turn.unit == "°" else 2) + turn.unit for v in values.tolist()]
    title = f"{face.label} {'moved' if wrong else 'turned'} {turn.how}"
    title = f"{title}; by itself at {signed(own)}{turn.unit}; {bench.name}"
    heading = f"{wrong[0].upper()}{wrong[1:]}\n" if wrong else ""
    nine = range(0, N_FRAMES, N_FRAMES // 8)
    columns = [f"{at[i]}\n{under} {(change if error is None else error)[i]:.3f}" for i in nine]
    tiles, names = shown[nine].swapaxes(0, 1), rows if len(rows) > 1 else None
    below = pictures.grid(tiles, 9, names, columns, f"{heading}{title}; {measured}", 2 * bench.scale)
    bench.task.picture("strip", stack([bench.row([original, unturned], [face.label, "unturned"]), below], 0))
    frames = [
        bench.row([original, *tiles], [face.label, *(f"{row}\n{v}" for row in rows)], heading.strip() or None)
        for tiles, v in zip(shown, at, strict=True)
    ]
    animate(bench, "turn", frames)
    axis = {"°": "yaw asked for, degrees", " sd": "standard deviations", "": "value"}[turn.unit]
    measure = f"change: RMSE to the unturned {bench.noun}" if error is None else "RMSE of pixels"
    short = f"{heading.split(' (')[0].strip()}; {title}" if wrong else title
    bench.task.picture("distance", charts.curves(curves, axis, measure, short))
    results = {"face": face.label, "own_value": own, "unit": turn.unit.strip() or None, "values": values}
    results |= {"rmse_to_the_unturned_face": change, "rmse_to_the_unturned_face_mean": change.mean()}
    if error is None:
        return results
    key = "rmse_to_the_face_rendered_at_that_yaw"
    return results | {key: error, f"{key}_mean": error.mean()}


def ends_with(turn: Turn, own: float) -> float:
    """The value at which the pictures of a turn end, far enough to include the face's own value, `own`.

    A yaw needs no more room than ±60°: the value of a code may lie beyond that, but faces do not.
    """
    return turn.ends if turn.unit == "°" else max(turn.ends, np.ceil(10 * abs(own)) / 10)
