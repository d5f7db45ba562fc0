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
# Three kinds of models learn the same pictures. An autoencoder compresses each picture into a code of a few
# numbers and reconstructs the picture from the code. A variational autoencoder (VAE) does the same and also
# arranges its codes, so that random codes can be decoded into pictures. A generative adversarial network
# (GAN) reconstructs nothing: one network, the generator, makes pictures from random codes, and a second
# network, the discriminator, judges them. This notebook explains the three models, shows what each has
# learned, and compares the pictures that they make from random codes and from codes between two random
# codes. Nothing is trained here. The runs were made by
#
# ```sh
# python launch/local.py sweeps/gan_sets.yaml
# python launch/local.py sweeps/bvae_sets.yaml
# ```
#
# and everything below is read from their folders. The notebook shows one of the three sets of pictures of
# these sweeps; `docs/gan_faces.md` compares all three. Every model was trained with several seeds. Figures
# with a ± are mean ± standard deviation over the seeds. Pictures and curves are those of the first seed.

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from PIL import Image

from research import bvae_faces, gan_faces
from research.common.messages import counted
from research.draw import charts, pictures
from research.measure import latents, sample_quality
from research.parts.picture_features import random_features
from research.tasks import faces_compare

figures = {}  # what the conclusion is made from
device = torch.device("cpu")


def last(run) -> dict:
    """The last value of each figure that a run has logged."""
    return {key: value for row in run.rows for key, value in row.items()}


def with_flags(sweep, **flags) -> list:
    """The runs with these flags, one for each seed, in the order of the seeds."""
    wanted = [run for run in sweep.runs if all(run.flags[name] == value for name, value in flags.items())]
    return sorted(wanted, key=lambda run: run.flags["seed"])


dataset = gans.runs[-1].flags["dataset"]  # the set that is shown; name another one of the sweep here
of_seeds = {
    "autoencoder": with_flags(autoencoders, dataset=dataset, beta=0),
    "VAE": with_flags(autoencoders, dataset=dataset, beta=1),
    "GAN": with_flags(gans, dataset=dataset),
}
runs = {name: trained[0] for name, trained in of_seeds.items()}  # of the first seed
seeds = {name: ", ".join(str(run.flags["seed"]) for run in trained) for name, trained in of_seeds.items()}
display(pd.DataFrame({"seeds": seeds}))

# %% [markdown]
# ## The pictures
#
# The committed notebook shows 435 photos of faces from Caltech-101, category Faces_easy (Li, Andreeto,
# Ranzato and Perona, doi 10.22002/D1.20086, licence CC BY 4.0), cropped to squares of 64 pixels. If you show
# other photos, say here who made them. Duplicates are left out. The models learn from the training set. For
# autoencoder and VAE, the weights with the lowest error on the validation set are kept; for the GAN, those
# with the lowest kernel distance to the training set (explained below). Test figures are computed on the
# test set.

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
# picture. The decoder receives nothing but the code, so the code has to contain what the decoder needs to
# draw the picture. The loss of an autoencoder is only the difference between the picture and its
# reconstruction. Nothing in this loss says where the codes should lie, so a code that belongs to no picture
# may decode to anything.
#
# The encoder of a VAE gives each picture a normal distribution over codes, with a mean and a variance for
# each number of the code, and a code is drawn from this distribution. Therefore codes near each other have
# to decode to similar pictures. A second term of the loss, the KL divergence, pulls all these distributions
# towards one standard normal distribution, the prior, from which random codes can be drawn later. This has
# a price in detail. Detail that costs more KL than it saves in reconstruction error is not encoded, and
# where the decoder does not know a detail, it paints the mean of all possibilities, which is blurred. Both
# models are the same class. β, the weight of the second term, is 0 for the autoencoder and 1 for the VAE.

# %%
notebook.source(bvae_faces.VAE, bvae_faces.terms_of, latents.kl_per_latent)
notebook.layers(runs["VAE"])

# %% [markdown]
# ## How a GAN works
#
# The generator turns random codes into pictures. The discriminator sees real and generated pictures and
# learns to distinguish them. Each step updates both networks: the discriminator learns to distinguish
# better, and the generator learns to make pictures that the discriminator takes for real. No generated
# picture is compared with a particular real picture. So the loss does not reward the mean of several
# pictures, and nothing forces generated pictures to be blurred. There are three disadvantages. A GAN gives
# no code for a given picture. Neither loss says how good the pictures are: the two losses only show the
# balance between the networks. And the generator may produce only a few kinds of pictures that the
# discriminator accepts, which is called mode collapse.

# %%
notebook.source(gan_faces.Generator, gan_faces.Discriminator)
notebook.layers(runs["GAN"])

# %% [markdown]
# The losses of the two networks come next. In the relativistic form, the discriminator judges whether a real
# picture looks more real than a generated one. Two penalties, R1 and R2, keep the gradient of the
# discriminator small at real and at generated pictures.

# %%
notebook.source(gan_faces.discriminator_loss, gan_faces.generator_loss, gan_faces.penalties)

# %% [markdown]
# ## How they differ
#
# | | autoencoder | VAE | GAN |
# |---|---|---|---|
# | learns from | the reconstruction error | the reconstruction error and KL | the discriminator's judgement |
# | random pictures | from codes without a prior | yes, typically blurred | yes, typically sharp |
# | code of a given picture | yes | yes, with its uncertainty | no |
# | likelihood | no | a lower bound | no |
# | typical failure | implausible random pictures | codes that carry no information | mode collapse |
# | used for | compression, features | the same, with uncertainty | sharp pictures in one pass |
#
# The next table has three numbers of each model: its parameters, the number of its latents (the numbers of a
# code), and how many pictures it has seen in training, repetitions included (steps × batch size).

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
# The curves show the error of reconstructed validation pictures, the mean squared error (MSE) per pixel. If a
# curve rises again, the model is memorising its training pictures; the weights with the lowest error are
# kept. The table has the error of these weights on the test set.


# %%
def line(run, key: str) -> tuple:
    """Steps and values of a figure, without step 0."""
    return tuple(zip(*[(row["step"], row[key]) for row in run.rows if key in row and row["step"] > 0]))


def by_seed(name: str, key: str) -> pd.Series:
    """The last value of a figure that the runs of a model have logged, by seed."""
    return pd.Series({run.flags["seed"]: last(run)[key] for run in of_seeds[name]})


errors = {name: line(runs[name], "val/mse") for name in ("autoencoder", "VAE")}
notebook.picture(
    charts.curves(errors, "step", "MSE", logy=True), "Error of reconstructed validation pictures, first seed."
)
mse = {name: by_seed(name, "test/mse") for name in errors}
display(pd.DataFrame({"MSE on the test set": {name: notebook.spread(of, ".4f") for name, of in mse.items()}}))
figures |= {"mse": notebook.spread(mse["autoencoder"], ".4f"), "mse_vae": notebook.spread(mse["VAE"], ".4f")}
figures["n_mse_higher"], figures["n_mse"] = notebook.higher(mse["VAE"], mse["autoencoder"])

# %% [markdown]
# ## Training of the GAN
#
# How close are generated pictures to real ones? The kernel distance compares the features of the two sets of
# pictures. The features are the outputs of a network with random weights. For a perfect generator the
# expected distance is 0. The distance to validation pictures shows whether generated pictures are close to
# real pictures that the GAN was not trained on. The curves leave out step 0, before training.

# %%
gan = runs["GAN"]
distances = {
    part: line(gan, key)
    for part, key in {"training": "train/kernel_distance", "validation": "val/kernel_distance"}.items()
}
notebook.picture(
    charts.curves(distances, "step", "kernel distance", logy=True), "Distance to real pictures, first seed."
)
steps, values = distances["validation"]
figures |= {"first_step": steps[0], "first": values[0], "last_step": steps[-1], "end": values[-1]}
distance = by_seed("GAN", "test/kernel_distance")
notebook.say(
    "Kernel distance to test pictures, with the best weights of each run:",
    f"{notebook.spread(distance, '.4f')} ({counted(len(distance), 'seed')}).",
)
figures |= {"distance": notebook.spread(distance, ".4f"), "n_distance": len(distance)}

# %% [markdown]
# The next curves show what share of pictures the discriminator judges correctly: real pictures that it was
# trained on, real pictures that it has never seen, and generated pictures. If it judges the first kind
# correctly and the second kind not, it has memorised its training pictures.

# %%
seen_by_d = {
    "training pictures taken for real": line(gan, "val/d_train_real"),
    "validation pictures taken for real": line(gan, "val/d_held_out_real"),
    "generated pictures taken for generated": line(gan, "val/d_generated"),
}
notebook.picture(
    charts.curves(seen_by_d, "step", "share"), "What the discriminator judges correctly, first seed."
)
figures |= {"d_train": seen_by_d["training pictures taken for real"][1][-1]}
figures |= {"d_held_out": seen_by_d["validation pictures taken for real"][1][-1]}

# %% [markdown]
# Below are pictures from the same random codes at three steps; the third step is the end of the training.
# The last picture pairs generated pictures with the training pictures that are nearest to them. If the GAN
# had copied its training pictures, both pictures of a pair would show the same face.

# %%
made = notebook.media(gan, "sample/random")
for step, path in (made[len(made) // 3], made[2 * len(made) // 3], made[-1]):
    notebook.picture(path, f"The GAN at step {step:,}.")
notebook.picture(
    notebook.media(gan, "sample/nearest")[-1][1], "Generated pictures and the nearest training pictures."
)

# %% [markdown]
# ## Reconstructed pictures
#
# Validation pictures and their reconstructions at the end of the training, first seed. The GAN has no
# encoder and cannot reconstruct a picture.

# %%
for name in ("autoencoder", "VAE"):
    path = notebook.media(runs[name], "sample/reconstructions")[-1][1]
    notebook.picture(np.asarray(Image.open(path).convert("RGB")), name)

# %% [markdown]
# ## Random pictures
#
# The first row shows real test pictures, the others what each model makes from random codes. The codes of VAE
# and GAN are drawn from the normal distribution with which the models were trained. The autoencoder was
# trained with no such distribution. Its codes are drawn from a normal distribution with the mean and the
# covariance of the codes of training pictures.

# %%
cfg = gan_faces.Config(task="compare", checkpoint=str(gan.folder), **notebook.QUIET)


def model_of(run) -> faces_compare.Model:
    """The model of a run with its best weights."""
    loaded = faces_compare.load(cfg, str(run.folder), device)
    return faces_compare.described(loaded.network, loaded.flags, data, device)


def noise(n: int, model: faces_compare.Model) -> torch.Tensor:
    """Codes (n, D), standard normal, the same at every call."""
    return torch.randn(n, model.latent_dim, generator=torch.Generator().manual_seed(0))


n = min(500, len(data.test), len(data.train))
models, random = {}, {}
for name, trained in of_seeds.items():
    for run in trained:
        model = model_of(run)
        models.setdefault(name, model)  # the first seed's is shown
        random[name, run.flags["seed"]] = model.decode(model.draw(noise(n, model)))
first_of_each = [random[name, run.flags["seed"]][:12] for name, run in runs.items()]
shown = torch.cat([data.test[:12], *first_of_each])
names = ["real", *models]
notebook.picture(
    pictures.grid(shown, len(data.test[:12]), names), "Real and random pictures of the first seed."
)

# %% [markdown]
# Four figures compare random pictures with test pictures. The last row has the same figures for training
# pictures in the place of generated pictures.
#
# - **Kernel distance**: as above; lower is better. It is an estimate and may be slightly below 0.
# - **Sharpness**: how much neighbouring pixels differ, relative to test pictures. 1 means as sharp as test
#   pictures, and a lower value means blurred.
# - **Recall**: the share of test pictures that have generated pictures near them. It is low if the model does
#   not generate some kinds of pictures.
# - **Classifier accuracy**: how often a classifier correctly distinguishes generated from real pictures. 0.5
#   is chance, so lower is better.
#
# Two warnings. First, a few dozen test pictures decide little, and each figure also depends on the random
# codes: the kernel distance that the GAN's own run logged above has other codes, so it is another number.
# Second, the ranking depends on the features. Here they come from a network with random weights, which
# responds to colours, edges and texture. [docs/gan_faces.md](../docs/gan_faces.md) compares the three also in
# the features of a network that reads faces, and there the GAN is the last of the three on photos.

# %%
notebook.source(sample_quality.kernel_distance, sample_quality.precision_recall)


def sharpness(x: torch.Tensor) -> float:
    """Mean squared difference of neighbouring pixels of uint8 pictures (N, S, S, 3)."""
    x = x.double() / 255
    return float((x.diff(dim=1).square().mean() + x.diff(dim=2).square().mean()) / 2)


real, of_real = data.test[:n], random_features(data.test[:n])


def scores_of(x: torch.Tensor) -> dict[str, float]:
    """How close pictures are to the test pictures."""
    features = random_features(x)
    return {
        "kernel distance": sample_quality.kernel_distance(features, of_real),
        "sharpness": sharpness(x) / sharpness(real),
        "recall": sample_quality.precision_recall(features, of_real).recall,
        "classifier accuracy": sample_quality.two_sample_accuracy(features, of_real, 0),
    }


scores = pd.DataFrame({key: scores_of(x) for key, x in random.items()}).T  # (model, seed) × figure
form = {"kernel distance": ".4f", "sharpness": ".2f", "recall": ".2f", "classifier accuracy": ".2f"}
table = {name: {key: notebook.spread(scores.loc[name][key], form[key]) for key in form} for name in models}
table["real"] = {key: f"{value:{form[key]}}" for key, value in scores_of(data.train[:n]).items()}
display(pd.DataFrame(table).T)

ranked = scores["kernel distance"].groupby(level=0).mean().sort_values()
nearest, following = ranked.index[:2]
figures |= {"n": n, "nearest": nearest, "following": following, "behind": ranked.iloc[1] - ranked.iloc[0]}
figures |= {"nearest_distance": table[nearest]["kernel distance"]}
figures |= {"following_distance": table[following]["kernel distance"]}
of = scores["kernel distance"]
figures["n_nearer"], figures["n_compared"] = notebook.higher(of[following], of[nearest])
for key in ("sharpness", "recall"):
    figures |= {f"{key}_{name}": table[name][key] for name in ("GAN", "VAE")}
    figures[f"n_{key}"], figures["n_both"] = notebook.higher(scores[key]["GAN"], scores[key]["VAE"])

# %% [markdown]
# ## Lines between two random latent points
#
# Each row shows the pictures decoded from two random codes and from codes between them, with the model of
# the first seed. Nearly all samples of a normal distribution in many dimensions have about the same length.
# A code in the middle of a straight line is shorter than that, so the models have hardly been trained on
# such codes. A great arc (spherical interpolation) keeps the length. Check two things: whether each picture
# between the ends looks plausible, and whether the picture changes evenly.

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
    pictures.grid(torch.cat(ways), 9, labels, columns), "Pictures between two random codes, the first pair."
)

# %% [markdown]
# The table has means over all pairs of codes. The length of the code and the sharpness in the middle are
# relative to the two ends. The last column would be 1 if the picture changed by the same amount at each step.

# %%
between = pd.DataFrame(rows).T
figures["pairs"] = n_pairs
display(between.round(2))
figures["line_length"] = between["length of the code in the middle"]["GAN, line"]
for name in ("VAE", "GAN"):
    figures[f"line_sharp_{name}"] = between["sharpness in the middle"][f"{name}, line"]
    figures[f"uneven_{name}"] = between["largest step / mean step"][f"{name}, line"]
notebook.video(
    notebook.media(gan, "sample/interpolation_video")[-1][1], "The GAN between two other random codes."
)

# %% [markdown]
# ## Conclusion

# %%
f = figures
notebook.say(
    f"The models learned from {f['pictures']:,} training pictures of {f['size']}×{f['size']} pixels.",
    f"Repetitions included, autoencoder and VAE saw {f['seen']:,} pictures and the GAN {f['seen_gan']:,}.",
    f"The error (MSE) of reconstructed test pictures is {f['mse_vae']} for the VAE and {f['mse']} for the",
    f"autoencoder; the VAE's is higher with {f['n_mse_higher']} of {counted(f['n_mse'], 'seed')}.",
)
closer = "fell" if f["end"] < f["first"] else "did not fall"
notebook.say(
    f"With its best weights, the GAN's kernel distance to test pictures is {f['distance']}",
    f"({counted(f['n_distance'], 'seed')}). The first seed in detail: the distance to validation pictures",
    f"{closer} from {f['first']:.4f} at step {f['first_step']:,} to {f['end']:.4f} at step",
    f"{f['last_step']:,}. At the end the discriminator took {f['d_train']:.0%} of the training pictures and",
    f"{f['d_held_out']:.0%} of the validation pictures for real.",
)
notebook.say(
    f"With each seed, {f['n']:,} random pictures of each model were compared with test pictures. Over",
    f"{counted(f['n_compared'], 'seed')} and {f['n']:,} test pictures, in the features of a network with",
    f"random weights, the {f['nearest']} has the lowest mean kernel distance, {f['nearest_distance']}; the",
    f"next model, the {f['following']}, is {f['behind']:.4f} behind with {f['following_distance']}, and the",
    f"{f['nearest']} has the lower one with {f['n_nearer']} of {counted(f['n_compared'], 'seed')}.",
)
notebook.say(
    f"The GAN's random pictures are {f['sharpness_GAN']} times as sharp as test pictures, the VAE's",
    f"{f['sharpness_VAE']} times; the GAN's are sharper with {f['n_sharpness']} of",
    f"{counted(f['n_both'], 'seed')}. Recall is {f['recall_GAN']} for the GAN and {f['recall_VAE']} for the",
    f"VAE; the GAN's is higher with {f['n_recall']} of {counted(f['n_both'], 'seed')}.",
)
notebook.say(
    f"The lines between {f['pairs']} pairs of random codes are those of the first seed only. On straight",
    f"lines, the code in the middle has {f['line_length']:.2f} times the length of the codes at the ends",
    f"(GAN). The pictures in the middle are {f['line_sharp_GAN']:.2f} times as sharp as those at the ends",
    f"with the GAN, and {f['line_sharp_VAE']:.2f} times with the VAE. The largest of the eight steps is",
    f"{f['uneven_GAN']:.2f} times the mean step with the GAN, and {f['uneven_VAE']:.2f} times with the VAE.",
    "With one seed of each model, these figures do not show that the two models differ.",
)

# %% [markdown]
# ## On your own pictures
#
# Use a folder with at least a few hundred pictures, of any size and format:
#
# ```sh
# python launch/local.py sweeps/gan_sets.yaml --set dataset=path/to/photos --name=gan_sets
# python launch/local.py sweeps/bvae_sets.yaml --set dataset=path/to/photos --name=bvae_sets
# ```
#
# Then run this notebook again. If your processor has no hardware for bfloat16, add `--set precision=fp32` to
# both commands.
