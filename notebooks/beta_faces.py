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

sweep = notebook.runs_of("bvae_beta")

# %% [markdown]
# ## Introduction
#
# A β-VAE squeezes a picture of a face through a code of a few numbers, the latents, and charges β for every
# nat that the code tells. With β = 0 it is a plain autoencoder. A high β is said to buy order, a latent for
# each property of a face, and to cost sharpness. This notebook compares models that differ in β alone: how
# well they rebuild faces, what they draw from random codes, and what their latents mean. Nothing is trained
# here. The runs were made by
#
# ```sh
# python launch/local.py sweeps/bvae_beta.yaml
# ```
#
# and everything below is read from their folders.

# %%
import numpy as np
import pandas as pd
from IPython.display import display
from PIL import Image

from research import bvae_faces
from research.draw import charts, pictures
from research.measure import latents, mutual_information

figures = {}  # what the conclusion is made from


def last(run) -> dict:
    """The last value of each figure that a run has logged."""
    return {key: value for row in run.rows for key, value in row.items()}


runs = sorted(sweep.runs, key=lambda run: (run.flags["beta"], run.flags["seed"]))
of_first_seed = {}  # β → a run
for run in runs:
    of_first_seed.setdefault(run.flags["beta"], run)
betas = [f"β = {beta:g}" for beta in of_first_seed]

# %% [markdown]
# ## The faces
#
# Without other data the faces are rendered, from factors that are drawn at random: yaw, pitch, light, skin,
# hair, hat, glasses and others. So it is known what each picture shows, and it can be measured whether a
# latent tells it.

# %%
flags = runs[0].flags
data = bvae_faces.load_data(bvae_faces.Config(**{name: flags[name] for name in bvae_faces.DATA_FLAGS}))
notebook.picture(pictures.grid(data.train[:24], 12, scale=2), f"The first pictures of {data.name}.")
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
# Test figures, means over the seeds. Active units are latents whose mean differs from face to face. MIG,
# the mutual information gap, tells how much more of each factor the best latent tells than the next best
# one: 1 is a latent for each factor. It needs pictures whose factors are known.

# %%
notebook.source(mutual_information.mig)
columns = {"test/mse": "error (MSE)", "test/kl_nats": "KL, nats", "test/active_units": "active units"}
columns["test/mig"] = "MIG"
rows = [
    {"β": run.flags["beta"]} | {name: last(run).get(key) for key, name in columns.items()} for run in runs
]
means = pd.DataFrame(rows).astype(float).groupby("β").mean()
display(means.round({"error (MSE)": 4, "KL, nats": 2, "active units": 1, "MIG": 2}))
in_use = means[means["active units"] > 0].index
if means["MIG"].notna().any():
    chosen = means["MIG"].idxmax()
    figures["order"] = f"MIG is highest at β = {chosen:g}, {means['MIG'][chosen]:.2f}."
else:
    chosen = in_use[len(in_use) // 2] if len(in_use) else means.index[0]
    figures["order"] = "The factors of these pictures are not known, so MIG could not be measured."
mse, low, high = means["error (MSE)"], means.index[0], means.index[-1]
figures |= {"seeds": len({run.flags["seed"] for run in runs}), "low": low, "high": high}
figures |= {"low_mse": mse[low], "high_mse": mse[high], "chosen": chosen, "chosen_mse": mse[chosen]}
figures |= {"low_units": means["active units"][low], "high_units": means["active units"][high]}

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
# What is decoded from codes drawn from the prior. With β = 0 there is no prior; these codes are drawn from
# a normal distribution that was fitted to the codes of real faces. Two things can be compared: how much the
# pictures look like the faces above, and how much they vary.

# %%
boards("sample/random")

# %% [markdown]
# ## What the latents mean
#
# Of the model with the most order (where factors are not known, of a middle β): one latent is changed at a
# time, a row for each, the ones that tell most first. Below the way between two test faces, along a
# straight line between their codes.

# %%
run = of_first_seed[chosen]
notebook.picture(notebook.media(run, "latent/traversal")[-1][1], f"One latent at a time, β = {chosen:g}.")
notebook.picture(notebook.media(run, "sample/interpolation")[-1][1], f"Between two faces, β = {chosen:g}.")
notebook.video(notebook.media(run, "sample/interpolation_video")[-1][1], "The same as a video.")

# %% [markdown]
# ## Conclusion

# %%
f = figures
costs = "costs" if f["high_mse"] > f["low_mse"] else "does not cost"
silent = "no latent is" if f["high_units"] == 0 else f"{f['high_units']:.1f} latents are"
notebook.say(
    f"Models of {f['parameters']:,} parameters with {f['latents']} latents learned {f['pictures']:,} faces",
    f"of {f['size']} pixels; the number of seeds is {f['seeds']}. From β = {f['low']:g} to {f['high']:g} the",
    f"error goes from {f['low_mse']:.4f} to {f['high_mse']:.4f}: β {costs} sharpness.",
)
notebook.say(
    f"At β = {f['low']:g} {f['low_units']:.1f} latents are active, at β = {f['high']:g} {silent}.",
    f"{f['order']} Shown above is β = {f['chosen']:g}, whose error is {f['chosen_mse']:.4f}.",
)

# %% [markdown]
# ## On your own faces
#
# Any folder of pictures, of any size and format:
#
# ```sh
# python launch/local.py sweeps/bvae_beta.yaml --set dataset=path/to/photos --name=bvae_beta
# ```
#
# Then run this notebook again. Where you show photos, say whose they are.
