"""What a trained GAN on faces has learned: pictures and scores from a checkpoint.

Run     python research/gan_faces.py --task=TASK --checkpoint=runs/<run>; the files go to runs/<run>/TASK/
Tasks   random_generation   64 random pictures, a walk through 16, and the training pictures nearest to 16
        interpolate         between two random codes, by line and by arc
        evaluate            distances, precision and recall of generated pictures against held-out ones, by
                            the features of a random network and of a network that reads rendered faces; how
                            often a classifier tells generated from real pictures
        compare             autoencoders, VAEs and GANs side by side, one --checkpoint each (faces_compare.py)
Flags   The model's flags come from the checkpoint's run. So do --dataset and --data_dir, unless they were
        given; a value equal to the flag's default counts as not given. --seed is the task's own, so that
        models are compared on the same noise.
Shapes  D latents, S image size; codes (…, D) are on the CPU. The averaged generator makes all pictures.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from research import gan_faces as script
from research.common.checkpoints import load_weights
from research.common.task import find_run, flags_of_run, start_task
from research.draw import pictures
from research.measure import sample_quality
from research.parts import picture_features
from research.tasks.faces_bench import N_FRAMES, Bench, animate, stack
from research.tasks.faces_compare import compare
from research.tasks.faces_scores import N_SCORED, scores
from research.tasks.faces_ways import between_random_codes

N_KNOWN = 5000  # the nearest training pictures are looked for among at most this many


def bench_of(cfg: script.Config) -> tuple[Bench, script.GAN, dict[str, Any]]:
    """The model of --checkpoint in a bench with its data, the model itself, and its run's config.json.

    Raises UserError and DataError.
    """
    file, run_config = find_run(cfg, "gan_faces")
    cfg = flags_of_run(cfg, run_config)
    task = start_task(cfg, file, run_config)
    model = load_weights(cfg, script.build(cfg, task.device), file).eval()
    data = script.load_data(cfg)
    bench = Bench(
        cfg,
        data,
        task,
        name=f"GAN, {data.name}",
        encoder=no_encoder,
        decoder=model.average,
        shown_range=lambda mu: (torch.zeros_like(mu[0]), torch.ones_like(mu[0])),
        has_prior=True,
    )
    return bench, model, run_config


def no_encoder(x: Tensor) -> tuple[Tensor, Tensor]:
    """Stands in for the encoder that a GAN does not have; no task may call it."""
    raise AssertionError(f"a GAN encodes no pictures, here {tuple(x.shape)}")


def random_generation(bench: Bench, model: script.GAN) -> dict[str, Any]:
    """64 pictures from random codes; a video of 16 that move through the codes; and the training pictures
    that are nearest to 16 of them by their features, which shows whether any is copied.
    """
    z = torch.randn(64, bench.cfg.latent_dim, generator=bench.task.rng())
    made = bench.decode(z)  # (64, S, S, 3)
    title = f"G(z), z ~ N(0, I); {bench.name}"
    bench.task.picture("samples", pictures.grid(made, 8, title=title, scale=bench.scale))

    # for two independent codes a, b: cos·a + sin·b has their distribution at every angle and period 2π
    angle = torch.linspace(0, 2 * torch.pi, 2 * N_FRAMES - 1)[:-1, None, None]
    a, b = z[:32].split(16)
    walk = bench.decode(angle.cos() * a + angle.sin() * b)  # (T, 16, S, S, 3)
    frames = [pictures.grid(tiles, 4, title=bench.name, scale=bench.scale) for tiles in walk]
    animate(bench, "walk", frames, loop=True)

    known = bench.data.train[:N_KNOWN]
    of_known = picture_features.random_features(known)
    of_made = picture_features.random_features(torch.from_numpy(made))
    of_test = picture_features.random_features(bench.data.test[:64])
    indices, distances = sample_quality.nearest(of_made, of_known)
    _, of_held_out = sample_quality.nearest(of_test, of_known)
    rows = [np.stack([made[i : i + 8], known[indices[i : i + 8, 0]].numpy()]) for i in (0, 8)]
    names, noun = ["G(z)", "nearest"], bench.data.nouns
    title = f"G(z) above the nearest of {len(known):,} training {noun}; {bench.name}"
    panels = [pictures.grid(pair, 8, names, title=title, scale=bench.scale) for pair in rows]
    bench.task.picture("nearest", stack(panels, 0))
    return {
        "n_train": len(known),
        "nearest_distance": distances.median(),
        "nearest_distance_of_test": of_held_out.median(),
    }


def interpolate(bench: Bench, model: script.GAN) -> dict[str, Any]:
    """From one random code to another, straight and along the great arc."""
    return between_random_codes(bench, torch.linspace(0, 1, N_FRAMES))


def evaluate(bench: Bench, model: script.GAN) -> dict[str, Any]:
    """Scores of generated pictures against as many test pictures, each with the score of real ones, its
    floor.
    """
    cfg, data, device = bench.cfg, bench.data, bench.task.device
    n = min(N_SCORED, len(data.test), len(data.train))
    z = torch.randn(n, cfg.latent_dim, generator=bench.task.rng())
    made = script.generate(model.average, z, device)
    results: dict[str, Any] = {"n_scored": n}
    results |= scores(made, data, cfg)
    results |= script.judge(model, data.train, data.test, made, device)
    accuracy = results["random"]["two_sample_accuracy"]
    title = f"G(z); a classifier tells them from real {data.nouns} with {accuracy:.0%} accuracy; {bench.name}"
    both = [made[:32], data.test[:32]]
    panels = [
        pictures.grid(part, 8, title=what, scale=bench.scale)
        for part, what in zip(both, (title, f"test {data.nouns}"), strict=True)
    ]
    bench.task.picture("samples", stack(panels, 1))
    return results


# ------------------------------------------------------------------------------------------------ entry

RUNS = {task.__name__: task for task in (random_generation, interpolate, evaluate)}


def run(cfg: script.Config) -> dict[str, Any]:
    """Do --task with --checkpoint; returns the content of results.json. Raises UserError and DataError."""
    if cfg.task == "compare":
        return compare(cfg)
    bench, model, run_config = bench_of(cfg)
    results = {
        "data": bench.data.name,
        "data_hash": bench.data.content_hash,
        "trained_on_data_hash": run_config.get("data_hash"),
    } | RUNS[cfg.task](bench, model)
    bench.task.numbers(results)
    bench.task.finish()
    return results
