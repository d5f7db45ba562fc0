"""What a trained autoencoder or β-VAE on faces has learned: pictures and numbers from a checkpoint.

Run     python research/bvae_faces.py --task=TASK --checkpoint=runs/<run>; the files go to runs/<run>/TASK/
Tasks   random_generation   samples from the prior, and from a Gaussian fitted to the codes of training faces
        latent_analysis     every latent from −3 to 3, and which known factor it carries
        rotate              a face turned left and right, or moved along --dim (faces_rotation.py)
        interpolate         pictures between two faces; with --random between random codes, by line and arc
Faces   --index=N is the N-th picture of the test part, --image=FILE any picture file.
Flags   The model's flags and β come from the checkpoint's run. So do --dataset and --data_dir, unless they
        were given; a value equal to the flag's default counts as not given. --seed is the task's own, so that
        models are compared on the same noise.
Shapes  D latents, S image size. Codes (…, D) are on the CPU, so that draws and directions are the same on all
        devices. Every picture shows sigmoid(x_logits). RMSE is over pixels in [0, 1].
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from research import bvae_faces as script
from research.common.checkpoints import load_weights
from research.common.flags import require
from research.common.task import find_run, flags_of_run, start_task
from research.draw import charts, pictures
from research.measure import latents
from research.measure import mutual_information as information
from research.measure.disentanglement import disentanglement
from research.tasks.faces_bench import (
    N_FIT,
    N_FRAMES,
    N_TEST,
    Bench,
    Face,
    animate,
    pick_face,
    signed,
    stack,
)
from research.tasks.faces_rotation import rotate
from research.tasks.faces_ways import between_random_codes, measured

N_REPEATS = 5  # of the jackknife, which computes the scores 11 times; that takes 15 s
N_SHOWN = 16  # latents in a composed picture, at most; the numbers are about all latents


def bench_of(cfg: script.Config) -> tuple[Bench, dict[str, Any]]:
    """The model of --checkpoint with its data, and the config.json of its run. Raises UserError and
    DataError.
    """
    file, run_config = find_run(cfg, "bvae_faces")
    run_config = run_config | {"flags": script.renewed(run_config.get("flags", {}))}
    cfg = flags_of_run(cfg, run_config)
    task = start_task(cfg, file, run_config)
    model = load_weights(cfg, script.build(cfg, task.device), file).eval()
    data = script.load_data(cfg)
    bench = Bench(
        cfg,
        data,
        task,
        name=f"β\u00a0=\u00a0{cfg.beta:g}, {data.name}",  # \u00a0: no line break here
        encoder=lambda x: script.encode_all(model, x, task.device),
        decoder=lambda z: torch.sigmoid(model.decode(z)),
        shown_range=lambda mu: script.shown_range(model, mu, cfg),
        has_prior=cfg.beta > 0,
    )
    return bench, run_config


# ------------------------------------------------------------------------------------------------ random


def kl_to_prior(fit: latents.Aggregate) -> float:
    """KL(N(mean, cov) ‖ N(0, I)) in nats; infinite if the covariance is singular."""
    spread = fit.cov.trace() - len(fit.mean) - torch.linalg.slogdet(fit.cov).logabsdet
    return float(0.5 * (fit.mean.square().sum() + spread))


def random_generation(bench: Bench) -> dict[str, Any]:
    """64 pictures from the prior N(0, I) beside 64 from the aggregate posterior, a Gaussian fitted to q(z)
    over training faces. Pictures in the same place come from the same noise. The decoder was trained on codes
    of q(z), so the farther q(z) is from N(0, I), the worse are samples from the prior. The video moves
    through 16 of each.
    """
    mu, logvar = bench.encode(bench.data.train[:N_FIT])
    fit = latents.fit_aggregate(mu, logvar if bench.has_prior else None)
    fitted_to = f"{'q(z|x)' if bench.has_prior else 'the codes'} of {len(mu):,} training {bench.data.nouns}"
    of_prior = torch.randn(64, bench.cfg.latent_dim, generator=bench.task.rng())
    of_aggregate = latents.sample_aggregate(fit, 64, bench.task.rng())
    untrained = "" if bench.has_prior else "; with β = 0, training does not move codes towards it"
    codes = {  # by their title
        f"prior: z ~ N(0, I){untrained}": of_prior,
        f"aggregate posterior: z ~ N(mean, cov), fitted to {fitted_to}": of_aggregate,
    }
    panels = [
        pictures.grid(bench.decode(z), 8, title=f"{name}\n{bench.name}", scale=bench.scale)
        for name, z in codes.items()
    ]
    bench.task.picture("samples", stack(panels, 1))

    # For two independent codes a, b: cos·a + sin·b has their distribution at every angle and period 2π.
    angle = torch.linspace(0, 2 * torch.pi, 2 * N_FRAMES - 1)[:-1, None, None]
    walks = []
    for centre, z in zip((torch.zeros_like(fit.mean), fit.mean), codes.values(), strict=True):
        a, b = (z - centre.float())[:32].split(16)
        walks.append(bench.decode(centre.float() + angle.cos() * a + angle.sin() * b))  # (T, 16, S, S, 3)
    titles = [f"{name}, {bench.name}" for name in ("prior", "aggregate posterior")]
    frames = [
        stack([pictures.grid(w, 4, title=t, scale=bench.scale) for w, t in zip(pair, titles)], 1)
        for pair in zip(*walks)
    ]
    animate(bench, "walk", frames, loop=True)
    return {
        "n_train": len(mu),
        "aggregate_kl_nats": kl_to_prior(fit),
        "aggregate_mean_norm": fit.mean.norm(),
        "aggregate_variances": torch.linalg.eigvalsh(fit.cov),
    }


# ------------------------------------------------------------------------------------------------ latents


def latent_analysis(bench: Bench) -> dict[str, Any]:
    """Every latent by itself: its KL, the information that it carries about each known factor, and pictures
    from −3 to 3. A silent latent is marked as such and not interpreted: its mean may correlate with a factor,
    but it reaches the decoder under noise that drowns it.

    With β = 0 there is no prior. Pictures then go from −3 to 3 standard deviations of the codes, and variance
    replaces KL.
    """
    cfg, data = bench.cfg, bench.data
    mu, logvar = bench.encode(data.test[:N_TEST])
    order, value = script.latent_order(mu, logvar, cfg)
    kl = value if bench.has_prior else None
    # without a prior, silence can't be measured: the decoder may amplify any latent
    silent = latents.silent(value) if bench.has_prior else torch.zeros(len(value), dtype=torch.bool)
    results: dict[str, Any] = {
        "n_test": len(mu),
        "active_units": int(latents.active_units(mu).sum()),
        "latents_sorted": order,
        "silent_latents": order[silent],
        "kl_nats": None if kl is None else kl.sum(),
        "kl_nats_per_latent": kl,
        "variance_per_latent": mu.var(0)[order],
    }
    names, values = [f"z{d}" for d in order.tolist()], value.tolist()
    measure, unit = ("Variance of the mean", "variance") if kl is None else ("KL", "KL, nats")
    title = f"{measure} per latent, {bench.name}"
    if silent.any():
        title += f"; {silent.sum()} of {len(silent)} are silent: below {latents.SILENT_NATS:g} nats"
    bench.task.picture("per_latent", charts.bars(values, names, title, unit, "latent"))
    rows = [f"{name}  {'var' if kl is None else 'KL'} {v:.2f}" for name, v in zip(names, values)]
    carried = ["silent" if quiet else "" for quiet in silent.tolist()]
    if data.factors is not None:
        found = information.mig(mu.numpy(), data.factors["test"][: len(mu)])
        mi, entropy = found.mi[order.numpy()], found.factor_entropy
        share = np.divide(mi, entropy, out=np.full_like(mi, np.nan), where=entropy > 0)
        main = information.main_factors(mi, entropy, data.factor_names)
        main = [(None, None) if quiet else pair for pair, quiet in zip(main, silent.tolist(), strict=True)]
        carried = [f"{name} {part:.0%}" if name else told for (name, part), told in zip(main, carried)]
        results |= {
            "mig": found.score,
            "mig_per_factor": dict(zip(data.factor_names, found.per_factor, strict=True)),
            "main_factors": [{"factor": name, "share": part} for name, part in main],
            "factors": data.factor_names,
            "factor_entropy_nats": entropy,
            "mi_nats": mi,
            "mi_share": share,
        } | scores(bench, mu, logvar)
        shown = np.where(silent.numpy()[:, None], np.nan, share)  # of silent latents the share means nothing
        title = "Share of each factor's information that a latent carries, I(z; v) / H(v)"
        title += "; grey: silent" if silent.any() else ""
        title = f"{title}; {bench.name}, MIG {found.score:.3f}"
        bench.task.picture("factors", charts.heatmap(shown, rows, data.factor_names, title))
    given = cfg.image is not None or cfg.index is not None
    chosen = [pick_face(bench, i) for i in range(1 if given else min(3, len(data.test)))]
    traversals(bench, chosen, order[:N_SHOWN], bench.shown_range(mu), rows, carried)
    return results | {"faces": [face.label for face in chosen]}


def scores(bench: Bench, mu: Tensor, logvar: Tensor) -> dict[str, Any]:
    """Every score of disentanglement with its 95 % interval over the examples, for mu and logvar (N, D) of
    the first N test faces. Also the MIG of codes drawn from q(z|x), as Chen et al. 2018 define it.
    """
    truth = bench.data.factors["test"][: len(mu)]
    shift, scale = bench.shown_range(mu)
    codes = ((mu - shift) / scale.clamp(min=1e-12)).numpy()
    names = list(disentanglement(codes, truth))
    score, low, high = information.jackknife(
        lambda z, v: list(disentanglement(z, v).values()), codes, truth, n_repeats=N_REPEATS
    )
    results: dict[str, Any] = dict(zip(names, score, strict=True))
    results["intervals"] = {name: [a, b] for name, a, b in zip(names, low, high, strict=True)}
    if bench.has_prior:
        z = mu + (logvar / 2).exp() * torch.randn(mu.shape, generator=bench.task.rng())
        results["mig_of_draws"] = information.mig(z.numpy(), truth).score
    return results


def traversals(
    bench: Bench, chosen: list[Face], top: Tensor, shown: tuple[Tensor, Tensor], rows: list, carried: list
) -> None:
    """A picture for each face, in which the latents `top` (R,) go from −3 to 3; and a video with all of these
    latents side by side.

    shown: (shift, scale), each (D,), of these values; rows, carried: two texts about each latent.
    """
    z, (shift, scale) = bench.encode(torch.cat([face.x for face in chosen]))[0], shown
    unit = "" if bench.has_prior else " sd"
    which = f"the {len(top)} most informative of" if len(top) < len(rows) else "all"
    by = "KL" if bench.has_prior else "variance"
    quiet = f"; silent: KL below {latents.SILENT_NATS:g} nats" if "silent" in carried[: len(top)] else ""
    which = f"{which} {len(rows)} latents, sorted by {by}{quiet}; {bench.name}"

    def moved(values: Tensor) -> np.ndarray:  # (faces, R, C, S, S, 3)
        return np.stack([bench.decode(latents.traversal(code, top, values, scale, shift)) for code in z])

    nine = torch.linspace(-3, 3, 9)
    columns = [signed(v, 2) + unit for v in nine.tolist()]
    for i, (face, code, tiles) in enumerate(zip(chosen, z, moved(nine), strict=True)):
        own = ((code - shift) / scale.clamp(min=1e-12))[top].tolist()
        labels = [f"{row}  here {signed(v)}\n{what}".strip() for row, v, what in zip(rows, own, carried)]
        two = [face.x[0].numpy(), bench.decode(code)]
        above = bench.row(two, [face.label, "reconstructed"])
        title = f"One latent changed at a time, the others as in {face.label} ('here'): {which}"
        below = pictures.grid(tiles, 9, labels, columns, title, bench.scale)
        bench.task.picture(f"traversal_{i + 1}", stack([above, below], 0))

    values, frames = torch.linspace(-3, 3, N_FRAMES // 3 * 2 - 1), []
    labels = [f"{row.split()[0]}\n{what}".strip() for row, what in zip(rows, carried)][: len(top)]
    names = [face.label for face in chosen]
    for v, tiles in zip(values.tolist(), moved(values).transpose(2, 0, 1, 3, 4, 5), strict=True):
        title = f"One latent changed to {signed(v)}{unit} in each column: {which}"
        halves = []  # with eight latents each; tiles: (faces, R, S, S, 3)
        for at in range(0, len(top), 8):
            shown_tiles, columns = tiles[:, at : at + 8], labels[at : at + 8]
            heading = title if at == 0 else None
            halves.append(pictures.grid(shown_tiles, None, names, columns, heading, bench.scale, pad=8))
        frames.append(stack(halves, 0))
    animate(bench, "sweep", frames)


# ------------------------------------------------------------------------------------------------ between


def interpolate(bench: Bench) -> dict[str, Any]:
    """From one face to another on the straight line between their codes. With --random it is between two
    random codes, and also along the great arc, on which codes keep the length that the decoder was trained
    on.
    """
    ratios, cfg = torch.linspace(0, 1, N_FRAMES), bench.cfg
    if cfg.random:
        chosen = [n for n in ("image", "index", "image2", "index2") if getattr(cfg, n) is not None]
        require(not chosen, cfg, "random", f"used without --{chosen[0] if chosen else ''}")
        return between_random_codes(bench, ratios)
    ends = [pick_face(bench, 0), pick_face(bench, 1, "2")]
    z0, z1 = bench.encode(torch.cat([face.x for face in ends]))[0]
    codes = latents.lerp(z0, z1, ratios)
    frames = bench.decode(codes)
    nine = range(0, N_FRAMES, N_FRAMES // 8)
    first, last = (face.x[0].numpy() for face in ends)
    labels = [ends[0].label, *(f"t = {ratios[i]:.3g}" for i in nine), ends[1].label]
    title = f"{ends[0].label} to {ends[1].label}, straight between their codes (linear); {bench.name}"
    bench.task.picture("strip", bench.row([first, *frames[nine], last], labels, title))
    shown = [
        bench.row([first, frame, last], [labels[0], f"t = {ratio:.2f}", labels[-1]])
        for ratio, frame in zip(ratios.tolist(), frames, strict=True)
    ]
    animate(bench, "way", shown)
    return {
        "from": ends[0].label,
        "to": ends[1].label,
        "way": "linear",
        "code_distance": (z1 - z0).norm(),
        "ratios": ratios,
    } | measured(codes, frames)


# ------------------------------------------------------------------------------------------------ entry

RUNS = {task.__name__: task for task in (random_generation, latent_analysis, rotate, interpolate)}


def run(cfg: script.Config) -> dict[str, Any]:
    """Do --task with --checkpoint; returns the content of results.json. Raises UserError and DataError."""
    bench, run_config = bench_of(cfg)
    results = {
        "beta": bench.cfg.beta,
        "data": bench.data.name,
        "data_hash": bench.data.content_hash,
        "trained_on_data_hash": run_config.get("data_hash"),
    } | RUNS[cfg.task](bench)
    bench.task.numbers(results)
    bench.task.finish()
    return results
