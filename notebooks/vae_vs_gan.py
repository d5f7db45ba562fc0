# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Autoencoder, VAE and GAN on one set of pictures
#
# Authors: _your names here_

# %%
import sys

sys.path.insert(0, "..")  # the repository's root
from launch.results import notebook

gans = notebook.runs_of("gan_sets")
autoencoders = notebook.runs_of("bvae_sets")

# %% [markdown]
# ## Introduction
#
# Three kinds of networks learn the same pictures. An autoencoder squeezes each picture through a short code
# and rebuilds it. A variational autoencoder (VAE) does the same and also arranges its codes, so that random
# codes give pictures. A generative adversarial network (GAN) never sees a picture and its copy side by
# side: a generator makes pictures from random codes, and a second network judges them. This notebook
# explains the three, shows what each has learned, and compares random pictures and the lines between two
# random codes. Nothing is trained here. The runs were made by
#
# ```sh
# python launch/local.py sweeps/gan_sets.yaml
# python launch/local.py sweeps/bvae_sets.yaml
# ```
#
# and everything below is read from their folders. One set of pictures is shown, with the first seed. The
# sweeps cover three sets and three seeds; `docs/gan_faces.md` compares all of them.

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from PIL import Image

from research import bvae_faces, gan_faces
from research.draw import charts, pictures
from research.measure import latents, sample_quality
from research.parts.picture_features import random_features
from research.tasks import faces_compare

figures = {}  # what the conclusion is made from
device = torch.device("cpu")


def last(run) -> dict:
    """The last value of each figure that a run has logged."""
    return {key: value for row in run.rows for key, value in row.items()}


def first_seed(sweep, **flags):
    """The run with these flags and the smallest seed."""
    wanted = [run for run in sweep.runs if all(run.flags[name] == value for name, value in flags.items())]
    return min(wanted, key=lambda run: run.flags["seed"])


dataset = gans.runs[-1].flags["dataset"]  # the set that is shown; name another one of the sweep here
runs = {
    "autoencoder": first_seed(autoencoders, dataset=dataset, beta=0),
    "VAE": first_seed(autoencoders, dataset=dataset, beta=1),
    "GAN": first_seed(gans, dataset=dataset),
}

# %% [markdown]
# ## The pictures
#
# The committed notebook shows 435 photos of faces from Caltech-101, category Faces_easy (Li, Andreeto,
# Ranzato and Perona, doi 10.22002/D1.20086, licence CC BY 4.0), cropped to squares of 64 pixels. Where you
# show other photos, say here whose they are. Copies of a picture are left out. The models learn from the
# training part, the best weights are chosen on the validation part, and figures are of the test part.

# %%
flags = runs["GAN"].flags
data = gan_faces.load_data(gan_faces.Config(**{name: flags[name] for name in gan_faces.DATA_FLAGS}))
sizes = {part: len(getattr(data, part)) for part in ("train", "val", "test")}
display(pd.DataFrame({"pictures": sizes}))
notebook.picture(pictures.grid(data.train[:24], 12, scale=1), f"The first training pictures of {data.name}.")
figures |= {"pictures": sizes["train"], "size": flags["image_size"]}

# %% [markdown]
# ## How an autoencoder and a VAE work
#
# The encoder turns a picture into a code of a few numbers, and the decoder turns the code back into a
# picture. The decoder gets nothing but the code, so the code has to hold what matters. An autoencoder is
# trained on the difference between the picture and its copy alone. Nothing says where its codes lie, and a
# code that belongs to no picture may decode to anything.
#
# The encoder of a VAE gives each picture a small cloud of codes, with a mean and a variance for each
# number, and a code is drawn from the cloud. So codes near each other have to decode to similar pictures.
# A second term in the loss pulls all clouds towards one normal distribution, from which random codes can
# be drawn later. The price is detail: what is too expensive to encode is left out, and the decoder paints
# the mean of all possibilities, which is blurred. Both models are one class; β, the weight of the second
# term, is 0 for the autoencoder and 1 for the VAE.

# %%
notebook.source(bvae_faces.VAE, bvae_faces.terms_of, latents.kl_per_latent)
notebook.layers(runs["VAE"])

# %% [markdown]
# ## How a GAN works
#
# The generator turns random codes into pictures. The discriminator sees real pictures and generated ones
# and learns to tell them apart. Each step updates both: the discriminator gets better at telling, the
# generator gets better at looking real to it. No generated picture is compared with a particular real one,
# so nothing is averaged and nothing has to blur. But there is no code for a given picture, and no loss says
# how good the pictures are: the two losses only show the balance between the networks. The generator may
# also settle for a few pictures that always work, which is called mode collapse.

# %%
notebook.source(gan_faces.Generator, gan_faces.Discriminator)
notebook.layers(runs["GAN"])

# %% [markdown]
# The losses of the two networks. In the relativistic form the discriminator asks whether a real picture
# looks more real than a generated one. Two penalties, R1 and R2, keep it from becoming steep around the
# pictures that it knows.

# %%
notebook.source(gan_faces.discriminator_loss, gan_faces.generator_loss, gan_faces.penalties)

# %% [markdown]
# ## How they differ
#
# | | autoencoder | VAE | GAN |
# |---|---|---|---|
# | learns from | the difference to the picture | that, and the code's price | a discriminator's judgement |
# | random pictures | from codes that were never trained | yes, blurred | yes, sharp |
# | code of a given picture | yes | yes, with its uncertainty | no |
# | likelihood | no | a lower bound | no |
# | typical failure | random codes decode to nothing | codes that say nothing | mode collapse |
# | used for | compression, features | the same, with uncertainty | sharp pictures in one pass |
#
# Three numbers of each run: its size, the number of its latents, and how many pictures it has seen (steps
# times batch).

# %%
rows = {}
for name, run in runs.items():
    rows[name] = {"parameters": notebook.n_parameters(run), "latents": run.flags["latent_dim"]}
    rows[name]["pictures seen"] = run.flags["steps"] * run.flags["batch_size"]
display(pd.DataFrame(rows).T)
figures |= {"seen": rows["VAE"]["pictures seen"], "seen_gan": rows["GAN"]["pictures seen"]}

# %% [markdown]
# ## Training of autoencoder and VAE
#
# The error of rebuilt validation pictures, the squared difference per pixel. Where it rises again, the model
# is learning its training pictures by heart; the best weights are kept.


# %%
def line(run, key: str) -> tuple:
    """Steps and values of a figure, without step 0."""
    return tuple(zip(*[(row["step"], row[key]) for row in run.rows if key in row and row["step"] > 0]))


errors = {name: line(runs[name], "val/mse") for name in ("autoencoder", "VAE")}
notebook.picture(charts.curves(errors, "step", "MSE", logy=True), "Error of rebuilt validation pictures.")
figures |= {"mse": last(runs["autoencoder"])["test/mse"], "mse_vae": last(runs["VAE"])["test/mse"]}

# %% [markdown]
# ## Training of the GAN
#
# How close are generated pictures to real ones? The kernel distance compares their features, taken from a
# network with random weights: 0 would be perfect. The curve of validation pictures shows whether the
# generator learned the training pictures alone.

# %%
gan = runs["GAN"]
distances = {
    part: line(gan, key)
    for part, key in {"training": "train/kernel_distance", "validation": "val/kernel_distance"}.items()
}
notebook.picture(charts.curves(distances, "step", "kernel distance", logy=True), "Distance to real pictures.")
figures |= {"first": distances["validation"][1][0], "end": distances["validation"][1][-1]}

# %% [markdown]
# What the discriminator recognises: real pictures that it trains on, real pictures that it has never seen,
# and generated ones. If it knows the first and not the second, it has memorised its pictures.

# %%
seen_by_d = {
    "training pictures taken for real": line(gan, "val/d_train_real"),
    "validation pictures taken for real": line(gan, "val/d_held_out_real"),
    "generated pictures recognised": line(gan, "val/d_generated"),
}
notebook.picture(charts.curves(seen_by_d, "step", "share"), "What the discriminator recognises.")
figures |= {"d_train": seen_by_d["training pictures taken for real"][1][-1]}
figures |= {"d_held_out": seen_by_d["validation pictures taken for real"][1][-1]}

# %% [markdown]
# Pictures from the same random codes at three steps, the last of which is the end of the training, and the
# nearest training pictures of some at the end: a GAN that copies would show the same face twice.

# %%
made = notebook.media(gan, "sample/random")
for step, path in (made[len(made) // 3], made[2 * len(made) // 3], made[-1]):
    notebook.picture(path, f"The GAN at step {step:,}.")
notebook.picture(
    notebook.media(gan, "sample/nearest")[-1][1], "Generated pictures and the nearest real ones."
)

# %% [markdown]
# ## Rebuilt pictures
#
# Validation pictures and their copies at the end of the training. The GAN has no encoder and rebuilds
# nothing.

# %%
for name in ("autoencoder", "VAE"):
    path = notebook.media(runs[name], "sample/reconstructions")[-1][1]
    notebook.picture(np.asarray(Image.open(path).convert("RGB")), name)

# %% [markdown]
# ## Random pictures
#
# Real test pictures, and what each model makes of random codes. VAE and GAN draw from the normal
# distribution that they were trained for. The autoencoder has none; its codes are drawn from a normal
# distribution with the mean and covariance of the codes of training pictures.

# %%
cfg = gan_faces.Config(task="compare", checkpoint=str(gan.folder), **notebook.QUIET)
models = {}
for name, run in runs.items():
    loaded = faces_compare.load(cfg, str(run.folder), device)
    models[name] = faces_compare.described(loaded.network, loaded.flags, data, device)


def noise(n: int, model) -> torch.Tensor:
    """Codes (n, D), standard normal, the same at every call."""
    return torch.randn(n, model.latent_dim, generator=torch.Generator().manual_seed(0))


n = min(500, len(data.test), len(data.train))
random = {name: model.decode(model.draw(noise(n, model))) for name, model in models.items()}
shown = torch.cat([data.test[:12], *(x[:12] for x in random.values())])
names = ["real", *models]
notebook.picture(pictures.grid(shown, len(data.test[:12]), names), "Real pictures and random ones.")

# %% [markdown]
# Four figures, beside those of real training pictures in place of generated ones. *Kernel distance*: as
# above, lower is better. *Sharpness*: how much neighbouring pixels differ, relative to test pictures, so 1
# is right and less is blurred. *Recall*: the share of test pictures that have generated ones near them; it
# is low when kinds of pictures are missing. *Told from real*: how often a classifier tells generated from
# real pictures; 0.5 is chance.

# %%
notebook.source(sample_quality.kernel_distance, sample_quality.precision_recall)


def sharpness(x: torch.Tensor) -> float:
    """Mean squared difference of neighbouring pixels of uint8 pictures (N, S, S, 3)."""
    x = x.double() / 255
    return float((x.diff(dim=1).square().mean() + x.diff(dim=2).square().mean()) / 2)


real, of_real = data.test[:n], random_features(data.test[:n])
rows = {}
for name, x in {**random, "real": data.train[:n]}.items():
    features = random_features(x)
    rows[name] = {
        "kernel distance": sample_quality.kernel_distance(features, of_real),
        "sharpness": sharpness(x) / sharpness(real),
        "recall": sample_quality.precision_recall(features, of_real).recall,
        "told from real": sample_quality.two_sample_accuracy(features, of_real, 0),
    }
scores = pd.DataFrame(rows).T
display(scores.round(4))
figures |= {"n": n, "sharp": scores["sharpness"]["VAE"], "sharp_gan": scores["sharpness"]["GAN"]}
figures |= {"nearest": scores["kernel distance"][[*models]].idxmin()}
figures |= {"recall": scores["recall"]["VAE"], "recall_gan": scores["recall"]["GAN"]}

# %% [markdown]
# ## Lines between two random latent points
#
# Two random codes and what lies between them. On the straight line the codes in the middle are shorter than
# codes that the models were trained with: in many dimensions nearly all draws of a normal distribution have
# about the same length. The great arc keeps that length. Look for two things: whether each picture on the
# way is a possible picture, and whether it changes evenly.

# %%
t = torch.linspace(0, 1, 9)
n_pairs = 32
ways, labels, rows = [], [], {}
for name, model in models.items():
    ends = noise(2 * n_pairs, model).split(n_pairs)
    for how, way in {"line": latents.lerp, "arc": latents.slerp}.items():
        codes = way(*ends, t)  # (9, pairs, D)
        x = model.decode(model.draw(codes.flatten(0, 1))).unflatten(0, codes.shape[:2])
        steps = (x[1:].double() - x[:-1].double()).div(255).square().mean((2, 3, 4)).sqrt()  # (8, pairs)
        ways.append(x[:, 0])
        labels.append(f"{name}\n{how}")
        rows[f"{name}, {how}"] = {
            "length of the code in the middle": (codes[4].norm(dim=1) / codes[0].norm(dim=1)).mean().item(),
            "sharpness in the middle": sharpness(x[3:6].flatten(0, 1)) / sharpness(x[[0, -1]].flatten(0, 1)),
            "largest step / mean step": (steps.amax(0) / steps.mean(0).clamp(min=1e-12)).mean().item(),
        }
columns = [f"t = {value:.3g}" for value in t.tolist()]
notebook.picture(
    pictures.grid(torch.cat(ways), 9, labels, columns), "Between two random codes, the first pair."
)

# %% [markdown]
# Means over all pairs. The length of the code and the sharpness in the middle are relative to the ends. The
# last column is 1 where the picture changes by the same amount at each step.

# %%
between = pd.DataFrame(rows).T
figures["pairs"] = n_pairs
display(between.round(2))
figures["line_length"] = between["length of the code in the middle"]["GAN, line"]
for name in ("VAE", "GAN"):
    figures[f"line_sharp_{name}"] = between["sharpness in the middle"][f"{name}, line"]
    figures[f"uneven_{name}"] = between["largest step / mean step"][f"{name}, line"]
notebook.video(notebook.media(gan, "sample/interpolation_video")[-1][1], "The GAN between two other codes.")

# %% [markdown]
# ## Conclusion

# %%
f = figures
rebuilt = "more" if f["mse_vae"] > f["mse"] else "no more"
closer = "fell" if f["end"] < f["first"] else "did not fall"
notebook.say(
    f"From {f['pictures']:,} training pictures of {f['size']} pixels, autoencoder and VAE learned in",
    f"{f['seen']:,} looks at a picture, the GAN in {f['seen_gan']:,}. The VAE's rebuilt test pictures have",
    f"{rebuilt} error than the autoencoder's: {f['mse_vae']:.4f} and {f['mse']:.4f}.",
)
notebook.say(
    f"The GAN's distance to validation pictures {closer} from {f['first']:.4f} at its first evaluation to",
    f"{f['end']:.4f} at its last. At the end its discriminator took {f['d_train']:.0%} of the training",
    f"pictures and {f['d_held_out']:.0%} of the validation pictures for real.",
)
sharper = "sharper" if f["sharp_gan"] > f["sharp"] else "no sharper"
covers = "more" if f["recall_gan"] > f["recall"] else "no more"
notebook.say(
    f"Of {f['n']:,} random pictures of each model, those of the {f['nearest']} are nearest to real ones in",
    f"these features. The GAN's are {sharper} than the VAE's: {f['sharp_gan']:.2f} and {f['sharp']:.2f}",
    f"times as sharp as real ones. The GAN covers {covers} of the test pictures: recall",
    f"{f['recall_gan']:.2f} against {f['recall']:.2f}.",
)
notebook.say(
    f"On straight lines between {f['pairs']} pairs of codes, the GAN's code in the middle has",
    f"{f['line_length']:.2f} times the length of its ends. The pictures there are {f['line_sharp_GAN']:.2f}",
    f"times as sharp as those at the ends with the GAN, and {f['line_sharp_VAE']:.2f} times with the VAE.",
    f"The largest of the eight steps is {f['uneven_GAN']:.2f} times their mean with the GAN, and",
    f"{f['uneven_VAE']:.2f} times with the VAE. Each model has one seed: others may differ.",
)

# %% [markdown]
# ## On your own pictures
#
# A folder with at least a few hundred pictures, of any size and format:
#
# ```sh
# python launch/local.py sweeps/gan_sets.yaml --set dataset=path/to/photos --name=gan_sets
# python launch/local.py sweeps/bvae_sets.yaml --set dataset=path/to/photos --name=bvae_sets
# ```
#
# Then run this notebook again. Where the processor has no hardware for bfloat16, add `--set precision=fp32`
# to both.
