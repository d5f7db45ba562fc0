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
# # β and faces: what a β-VAE gains and loses
#
# Authors: _your names here_

# %%
import sys

sys.path.insert(0, "..")  # the repository's root
from launch.results import notebook

sweep = notebook.runs_of("bvae")

# %% [markdown]
# ## Introduction
#
# A β-VAE squeezes a picture of a face through a code of a few numbers, the latents, and charges β for every
# nat that the code tells. With β = 0 it is a plain autoencoder. A high β is said to buy order, a latent for
# each property of a face, and to cost sharpness. This notebook compares models that differ in β alone: how
# well they rebuild faces, what they draw from random codes, what their latents mean, and whether a face can
# be turned left and right and stay itself. Nothing is trained here. The runs were made by
#
# ```sh
# python launch/local.py sweeps/bvae.yaml
# ```
#
# and everything below is read from their folders.

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from PIL import Image

from launch.results.words import from_root
from research import bvae_faces
from research.draw import charts, pictures
from research.measure import latents, mutual_information
from research.tasks import bvae_faces as tasks
from research.tasks import faces_compare

figures = {}  # what the conclusion is made from


def last(run) -> dict:
    """The last value of each figure that a run has logged."""
    return {key: value for row in run.rows for key, value in row.items()}


runs = sorted(sweep.runs, key=lambda run: (run.flags["beta"], run.flags["seed"]))
of_first_seed = {}  # β → a run
for run in runs:
    of_first_seed.setdefault(run.flags["beta"], run)
betas = [f"β = {beta:g}" for beta in of_first_seed]


def call(run, task: str, **flags):
    """Let a task of research/tasks/bvae_faces.py work on a run; returns its numbers and files by name."""
    asked = bvae_faces.Config(task=task, checkpoint=from_root(run.folder), **notebook.QUIET, **flags)
    with notebook.silently():
        results = tasks.run(asked)
    return results, {path.name: path for path in notebook.task(run, task).files}


# %% [markdown]
# ## The faces
#
# Without other data the faces are rendered, from factors that are drawn at random: yaw, pitch, light, skin,
# hair, hat, glasses and others. So it is known what each picture shows, and it can be measured whether a
# latent tells it.

# %%
flags = runs[0].flags
data = bvae_faces.load_data(bvae_faces.Config(**{name: flags[name] for name in bvae_faces.DATA_FLAGS}))
notebook.picture(pictures.grid(data.train[:24], 12), f"The first pictures of {data.name}.")
figures |= {"pictures": len(data.train), "size": flags["image_size"]}

# %% [markdown]
# ## The model
#
# The encoder halves the picture again and again and ends in two numbers for each latent, the mean and the
# logarithm of the variance of a normal distribution from which the code is drawn. The decoder goes the same
# way back.

# %%
notebook.source(bvae_faces.VAE)
notebook.layers(runs[0])
figures |= {"parameters": notebook.n_parameters(runs[0]), "latents": flags["latent_dim"]}

# %% [markdown]
# ## The loss
#
# The reconstruction, summed over pixels, and β times KL, what the code tells, summed over latents; both in
# nats.

# %%
notebook.source(bvae_faces.terms_of, latents.kl_per_latent, bvae_faces.loss_fn)

# %% [markdown]
# ## Training
#
# The error of rebuilt validation faces, mean squared over pixels, against the epoch.

# %%
lines = {}
for name, run in zip(betas, of_first_seed.values()):
    lines[name] = tuple(
        zip(*[(row["epoch"], row["val/mse"]) for row in run.rows if "val/mse" in row and row["step"] > 0])
    )
notebook.picture(charts.curves(lines, "epoch", "MSE", logy=True), "Error on validation faces by β.")

# %% [markdown]
# ## What β costs and buys
#
# Test figures, means over the seeds. Active units are latents whose mean varies from face to face, with a
# variance above 0.01. MIG, the mutual information gap, tells how much more of each factor the best latent
# tells than the next best one: 1 is a latent for each factor. It needs pictures whose factors are known.

# %%
notebook.source(mutual_information.mig)
columns = {"test/mse": "error (MSE)", "test/kl_nats": "KL, nats", "test/active_units": "active units"}
columns["test/mig"] = "MIG"
rows = [
    {"β": run.flags["beta"]} | {name: last(run).get(key) for key, name in columns.items()} for run in runs
]
means = pd.DataFrame(rows).astype(float).groupby("β").mean()
display(means.round({"error (MSE)": 4, "KL, nats": 2, "active units": 1, "MIG": 2}))
if means["MIG"].notna().any():
    best = means["MIG"].idxmax()
    figures["order"] = f"MIG is highest at β = {best:g}, {means['MIG'][best]:.2f}."
else:
    figures["order"] = "The factors of these pictures are not known, so MIG could not be measured."
mse, low, high = means["error (MSE)"], means.index[0], means.index[-1]
figures |= {"seeds": len({run.flags["seed"] for run in runs}), "low": low, "high": high}
figures |= {"low_mse": mse[low], "high_mse": mse[high]}

# %% [markdown]
# ## Rebuilt faces
#
# Validation faces x and what each model makes of their codes, x̂, at the end of training.


# %%
def boards(key: str) -> None:
    """The last picture that each β has logged under a key, of the first seed."""
    for name, run in zip(betas, of_first_seed.values()):
        notebook.picture(np.asarray(Image.open(notebook.media(run, key)[-1][1]).convert("RGB")), name)


boards("sample/reconstructions")

# %% [markdown]
# ## Faces from random codes
#
# Sixteen faces of each β, decoded from random codes. A β-VAE draws its codes from the prior, the standard
# normal distribution towards which its codes were trained. With β = 0 nothing pulls codes there, so these
# codes are drawn from a normal distribution with the mean and covariance of the codes of real faces.

# %%
cfg = bvae_faces.Config(task="random_generation", checkpoint=from_root(runs[0].folder), **notebook.QUIET)
rows = {}
for name, run in zip(betas, of_first_seed.values()):
    loaded = faces_compare.load(cfg, from_root(run.folder), torch.device("cpu"))
    model = faces_compare.described(loaded.network, loaded.flags, data, torch.device("cpu"))
    noise = torch.randn(500, model.latent_dim, generator=torch.Generator().manual_seed(0))
    made = model.decode(model.draw(noise))
    notebook.picture(pictures.grid(made[:16], 8), name)
    rows[name] = {"variety": made.double().std(0).mean().item()}
    rows[name]["sharpness"] = (made.double().diff(dim=1).square().mean() ** 0.5).item()

# %% [markdown]
# How they differ, in two figures, each relative to 500 real faces: how much the pictures vary (the standard
# deviation of a pixel over the pictures) and how sharp they are (the difference of neighbouring pixels).
# Two things pull in opposite directions. With a low β each latent holds detail, but a random code may
# combine what no face combines. With a high β few latents are left, which tell only what changes many
# pixels, and the decoder paints the mean of all faces that share these properties: whole, smooth faces.

# %%
real = data.test[:500].double()
of_real = [real.std(0).mean().item(), (real.diff(dim=1).square().mean() ** 0.5).item()]
random = pd.DataFrame(rows).T / of_real
display(random.round(2))
figures |= {"low_sharp": random["sharpness"].iloc[0], "high_sharp": random["sharpness"].iloc[-1]}
figures |= {"low_vary": random["variety"].iloc[0], "high_vary": random["variety"].iloc[-1]}

# %% [markdown]
# ## Which latent does what
#
# For each β one face whose latents are changed one at a time, a row for each, the ones that tell most
# first. Look for rows in which one thing changes, and for rows in which several things change together.

# %%
analyses, maps = {}, {}
for name, run in zip(betas, of_first_seed.values()):
    picture = Image.open(notebook.media(run, "latent/traversal")[-1][1]).convert("RGB")
    picture = picture.resize((picture.width * 4 // 5, picture.height * 4 // 5))  # to keep the notebook small
    notebook.picture(np.asarray(picture), f"One latent at a time, {name}.")
    analyses[name], files = call(run, "latent_analysis", index=0)
    maps[name] = files.get("factors.png")

# %% [markdown]
# Where the factors of the faces are known, it can be measured which latent tells which: for each factor the
# latent that tells most of it, and what share. A latent that tells less than 0.05 nats is silent and not
# counted: the noise that is added to a code drowns it, even if its mean varies. The map shows all latents of
# the β with the highest MIG: a column with one bright cell is a factor with a latent of its own. Without
# known factors there is only the number of silent latents.

# %%
best, silent = {}, {}
for name, found in analyses.items():
    silent[name] = len(found["silent_latents"])
    if "mi_share" in found:
        quiet = np.isin(found["latents_sorted"], found["silent_latents"])
        share = np.where(quiet[:, None], 0, np.nan_to_num(found["mi_share"]))  # latents × factors
        at = share.argmax(0)
        best[name] = {
            factor: f"z{int(found['latents_sorted'][i])}: {share[i, k]:.0%}" if share[i, k] > 0 else "–"
            for k, (factor, i) in enumerate(zip(found["factors"], at))
        }
display(pd.DataFrame(best) if best else pd.DataFrame({"silent latents": silent}))
figures["silent"] = ", ".join(f"{n} at {name}" for name, n in silent.items())
if best:
    name = max(analyses, key=lambda name: analyses[name]["mig"])
    notebook.picture(maps[name], f"Which latent tells which factor, {name}.")

# %% [markdown]
# ## A face turned left and right
#
# A direction in the space of codes turns faces. Where the yaw of each face is known, the direction is how
# codes change with yaw, and the row below shows faces that are truly rendered at those angles. For photos
# it is the direction in which mirroring a picture moves its code. The same test face is turned with each β.

# %%
turns = {}
for name, run in zip(betas, of_first_seed.values()):
    turns[name], files = call(run, "rotate", index=0)
    notebook.picture(files["strip.png"], f"Turned left and right, {name}.")

# %% [markdown]
# Does it stay itself? On rendered faces a network that was trained to read the factors of a face reads a
# hundred turned ones: how far the head really turns, and how much everything that should stay the same
# changes, as a share of its range (the reader's own error on truly rendered faces stands beside it). On
# photos the mirror test tells: which share of the difference to the mirror image disappears when a face
# is moved to the other side, over all pixels and in the fine detail of the eyes, nose and mouth.

# %%
columns = {"yaw_span_degrees": "turned by, degrees", "others_change_mean": "others change"}
columns |= (
    {"others_change_rendered_mean": "reader's error"} if "others_change_mean" in turns[betas[0]] else {}
)
columns |= {"mirror_share": "mirrored, all", "mirror_share_detail": "mirrored, detail"}
table = pd.DataFrame(turns).T.reindex(columns=[*columns]).astype(float).dropna(axis=1, how="all")
display(table.rename(columns=columns).round(3))
sentences = []
for name, of in table.to_dict("index").items():
    if "others_change_mean" in of:
        sentences.append(
            f"{name}: asked to turn by 120°, a head turns by {of['yaw_span_degrees']:.0f}°, and everything"
            f" else changes by {of['others_change_mean']:.1%} of its range"
            f" ({of['others_change_rendered_mean']:.1%} is the reader's own error)."
        )
    else:
        sentences.append(
            f"{name}: of the difference to the mirror image {of.get('mirror_share', np.nan):.0%} is gone, and"
            f" of its fine detail {of.get('mirror_share_detail', np.nan):.0%}."
        )
figures["turns"] = " ".join(sentences)

# %% [markdown]
# ## Conclusion

# %%
f = figures
costs = "costs" if f["high_mse"] > f["low_mse"] else "does not cost"
notebook.say(
    f"Models of {f['parameters']:,} parameters with {f['latents']} latents learned {f['pictures']:,} faces",
    f"of {f['size']} pixels; the number of seeds is {f['seeds']}. From β = {f['low']:g} to {f['high']:g} the",
    f"error goes from {f['low_mse']:.4f} to {f['high_mse']:.4f}: β {costs} sharpness.",
)
notebook.say(f"Silent latents: {f['silent']}. {f['order']}")
varied = "less" if f["high_vary"] < f["low_vary"] else "no less"
notebook.say(
    f"Random faces vary {varied} at the highest β: {f['high_vary']:.2f} times as much as real ones, against",
    f"{f['low_vary']:.2f} at the lowest. Their sharpness is {f['high_sharp']:.2f} and {f['low_sharp']:.2f}",
    "times that of real ones.",
)
notebook.say(f"Turned left and right: {f['turns']}")

# %% [markdown]
# ## On your own faces
#
# Any folder of pictures, of any size and format:
#
# ```sh
# python launch/local.py sweeps/bvae.yaml --set dataset=path/to/photos --name=bvae
# ```
#
# Then run this notebook again. Where you show photos, say whose they are.
