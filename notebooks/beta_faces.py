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
# # β and faces: advantages and disadvantages of a high β
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
# A β-VAE (a variational autoencoder with a weight β in its loss) encodes a picture of a face as a code of a
# few numbers, the latents, and decodes the code back into a picture. The loss is the reconstruction error
# plus β times the KL divergence. The KL divergence grows with the information that a code carries about its
# picture; its unit is the nat (1 nat is 1.44 bits). With β = 0 the model is a plain autoencoder. A high β is
# said to have an advantage, that each latent stands for one property of a face, and a disadvantage, that
# pictures are less sharp. This notebook compares models that differ in β alone: how well they reconstruct
# faces, what they make from random codes, what their latents mean, and whether a face can be turned left and
# right while everything else about it stays the same. Nothing is trained here. The runs were made by
#
# ```sh
# python launch/local.py sweeps/bvae.yaml
# ```
#
# and everything below is read from their folders. Each β was trained with several seeds. Figures with a ± are
# mean ± standard deviation over the seeds. Pictures and curves are those of the first seed.

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from PIL import Image

from launch.results.words import from_root
from research import bvae_faces
from research.common.messages import counted
from research.draw import charts, pictures
from research.measure import latents, mutual_information
from research.tasks import bvae_faces as tasks
from research.tasks import faces_compare

figures = {}  # what the conclusion is made from


def last(run) -> dict:
    """The last value of each figure that a run has logged."""
    return {key: value for row in run.rows for key, value in row.items()}


runs = sorted(sweep.runs, key=lambda run: (run.flags["beta"], run.flags["seed"]))
of_first_seed = {}  # β → its run with the smallest seed
for run in runs:
    of_first_seed.setdefault(run.flags["beta"], run)
betas = [f"β = {beta:g}" for beta in of_first_seed]


def call(run, task: str, **flags):
    """Call a task of research/tasks/bvae_faces.py on a run; returns its numbers and its files by name."""
    asked = bvae_faces.Config(task=task, checkpoint=from_root(run.folder), **notebook.QUIET, **flags)
    with notebook.silently():
        results = tasks.run(asked)
    return results, {path.name: path for path in notebook.task(run, task).files}


# %% [markdown]
# ## The faces
#
# By default the faces are rendered from factors that are drawn at random: yaw (left or right), pitch (up or
# down), light, skin, hair, hat, glasses and others. The factors of each picture are therefore known, and the
# information that a latent carries about each factor can be measured.

# %%
flags = runs[0].flags
data = bvae_faces.load_data(bvae_faces.Config(**{name: flags[name] for name in bvae_faces.DATA_FLAGS}))
notebook.picture(pictures.grid(data.train[:24], 12), f"The first pictures of {data.name}.")
figures |= {"pictures": len(data.train), "size": flags["image_size"]}

# %% [markdown]
# ## The model
#
# The encoder halves the width and the height of the picture several times. Its last layer gives two numbers
# for each latent: the mean and the logarithm of the variance of a normal distribution, from which the code
# is drawn. The decoder has the same stages in the reverse order.

# %%
notebook.source(bvae_faces.VAE)
notebook.layers(runs[0])
figures |= {"parameters": notebook.n_parameters(runs[0]), "latents": flags["latent_dim"]}

# %% [markdown]
# ## The loss
#
# The loss is the reconstruction error, summed over pixels, plus β times the KL divergence, summed over
# latents. Both are in nats.

# %%
notebook.source(bvae_faces.terms_of, latents.kl_per_latent, bvae_faces.loss_fn)

# %% [markdown]
# ## Training
#
# The curves show the error of reconstructed validation faces (MSE, the mean squared error per pixel) against
# the epoch.

# %%
lines = {}
for name, run in zip(betas, of_first_seed.values()):
    lines[name] = tuple(
        zip(*[(row["epoch"], row["val/mse"]) for row in run.rows if "val/mse" in row and row["step"] > 0])
    )
notebook.picture(
    charts.curves(lines, "epoch", "MSE", logy=True), "Error on validation faces by β, first seed."
)

# %% [markdown]
# ## Advantages and disadvantages of a high β
#
# The table has figures of the test set, mean ± standard deviation over the seeds.
#
# - **Error**: the mean squared error of reconstructed faces.
# - **KL**: the KL divergence, summed over latents. It is not part of the loss with β = 0.
# - **Active units**: the number of latents whose mean varies from face to face, with a variance above 0.01.
# - **MIG** (mutual information gap): for each factor, how much more information about it the best latent
#   carries than the second best, as a share of all information about the factor; the mean over the factors.
#   It is 1 if a single latent carries all information about each factor and no other latent carries any. It
#   can be measured only if the factors of the pictures are known.

# %%
notebook.source(mutual_information.mig)
columns = {"test/mse": "error (MSE)", "test/kl_nats": "KL, nats", "test/active_units": "active units"}
columns["test/mig"] = "MIG"
rows = {
    (run.flags["beta"], run.flags["seed"]): {name: last(run).get(key) for key, name in columns.items()}
    for run in runs
}
scores = pd.DataFrame(rows).T.astype(float)  # (β, seed) × figure
form = {"error (MSE)": ".4f", "KL, nats": ".2f", "active units": ".1f", "MIG": ".2f"}
table = {key: scores[key].groupby(level=0).agg(notebook.spread, form=form[key]) for key in form}
table = pd.DataFrame(table).rename_axis("β").set_axis([f"{beta:g}" for beta in of_first_seed])
table.insert(0, "seeds", scores.groupby(level=0).size().to_numpy())
display(table.rename_axis("β"))
low, high = min(of_first_seed), max(of_first_seed)
figures |= {"low": low, "high": high}
figures |= {"low_mse": table["error (MSE)"][f"{low:g}"], "high_mse": table["error (MSE)"][f"{high:g}"]}
of = scores["error (MSE)"]  # by (β, seed)
figures["n_mse_higher"], figures["n_seeds"] = notebook.higher(of[high], of[low])
if scores["MIG"].notna().any():
    mig = scores["MIG"].unstack(0).dropna()  # seed × β
    best = mig.mean().idxmax()
    figures["order"] = (
        f"The mean of MIG over the seeds is highest at β = {best:g}: {table['MIG'][f'{best:g}']}."
        f" MIG is higher there than at each other β with {int((mig.idxmax(axis=1) == best).sum())} of"
        f" {counted(len(mig), 'seed')}."
    )
else:
    figures["order"] = "The factors of these pictures are not known, so MIG could not be measured."

# %% [markdown]
# ## Reconstructed faces
#
# Validation faces x and their reconstructions x̂ at the end of training, for each β (first seed).


# %%
def boards(key: str) -> None:
    """Show the last picture that each β has logged under a key, with the first seed."""
    for name, run in zip(betas, of_first_seed.values()):
        notebook.picture(np.asarray(Image.open(notebook.media(run, key)[-1][1]).convert("RGB")), name)


boards("sample/reconstructions")

# %% [markdown]
# ## Faces from random codes
#
# Below are sixteen faces for each β, decoded from random codes (first seed). For a β-VAE the codes are drawn
# from the prior, the standard normal distribution: the KL term has pulled the codes of faces towards it in
# training. With β = 0 nothing pulls the codes there. So these codes are drawn from a normal distribution
# with the mean and the covariance of the codes of real faces.

# %%
cfg = bvae_faces.Config(task="random_generation", checkpoint=from_root(runs[0].folder), **notebook.QUIET)
rows = {}
for run in runs:
    loaded = faces_compare.load(cfg, from_root(run.folder), torch.device("cpu"))
    model = faces_compare.described(loaded.network, loaded.flags, data, torch.device("cpu"))
    noise = torch.randn(500, model.latent_dim, generator=torch.Generator().manual_seed(0))
    made = model.decode(model.draw(noise))
    beta = run.flags["beta"]
    if run is of_first_seed[beta]:
        notebook.picture(pictures.grid(made[:16], 8), f"β = {beta:g}")
    rows[beta, run.flags["seed"]] = {
        "variety": made.double().std(0).mean().item(),
        "sharpness": (made.double().diff(dim=1).square().mean() ** 0.5).item(),
    }

# %% [markdown]
# ### How and why they differ
#
# *How* they differ is measured by two figures of 500 random faces, each relative to as many real faces (or
# all test faces, if there are fewer): the variety, which is the standard deviation of a pixel over the
# pictures, and the sharpness, which is the difference of neighbouring pixels. A value of 1 is as for real
# faces.
#
# *Why* they differ follows from the loss:
#
# - **With β = 0** the loss contains only the reconstruction error. Information in the code costs nothing, so
#   the model uses its latents for as much detail as it can. But nothing in the loss says where the codes
#   should lie. A random code may therefore be unlike the code of any face. The decoder was not trained on
#   such codes, and it may combine features that no face combines.
# - **With a high β** each nat of KL costs β. Information in the code lowers the loss only if it reduces the
#   reconstruction error by more than this. The reconstruction error is a sum over pixels, so information
#   about what changes many pixels, such as the background, is worth its cost, and information about fine
#   detail is not. Fewer latents are used, and detail is not encoded. The decoder cannot know the detail of a
#   face that is not in its code. Its expected error is lowest if it paints the mean of all faces that could
#   have this code, and a mean of faces is smooth: the pictures are blurred, and they differ less from each
#   other. In return, the codes of faces lie close to the prior. A random code then resembles the codes of
#   real faces, and it decodes to a whole face.

# %%
real = data.test[:500].double()
of_real = [real.std(0).mean().item(), (real.diff(dim=1).square().mean() ** 0.5).item()]
random = pd.DataFrame(rows).T / of_real  # (β, seed) × figure
table = {key: random[key].groupby(level=0).agg(notebook.spread) for key in random}
display(pd.DataFrame(table).set_axis(betas))
for key in random:
    figures |= {f"low_{key}": table[key][low], f"high_{key}": table[key][high]}
    figures[f"n_{key}_higher"], figures["n_random"] = notebook.higher(random[key][low], random[key][high])

# %% [markdown]
# ## Which latent does what
#
# For each β (first seed), one face is decoded again and again while one of its latents is changed. Each row
# changes one latent. The first rows are those of the latents that carry the most information. Find rows in
# which one property of the face changes, and rows in which several properties change together.


# %%
def smaller(path) -> np.ndarray:
    """A picture at four fifths of its size, to keep the notebook's file small."""
    picture = Image.open(path).convert("RGB")
    return np.asarray(picture.resize((picture.width * 4 // 5, picture.height * 4 // 5)))


analyses, maps = {}, {}
for name, run in zip(betas, of_first_seed.values()):
    notebook.picture(
        smaller(notebook.media(run, "latent/traversal")[-1][1]), f"One latent at a time, {name}."
    )
    analyses[name], files = call(run, "latent_analysis", index=0)
    maps[name] = files.get("factors.png")

# %% [markdown]
# If the factors of the faces are known, the information that each latent carries about each factor can be
# measured. The table names, for each factor, the latent that carries the most information about it, and how
# much this is as a share of all information about the factor. A latent with a KL below 0.05 nats is called
# silent and is not counted, because the noise that is added to a code is large compared with the variation
# of its mean. A plain autoencoder (β = 0) has no KL, so none of its latents is called silent. The map shows
# all latents of the β with the highest MIG (first seed). A column with a single bright cell is a factor that
# has a latent of its own. If the factors are not known, the table has only the number of silent latents.

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
    notebook.picture(maps[name], f"Information of each latent about each factor, {name}, first seed.")

# %% [markdown]
# ## A face turned left and right
#
# Moving a code along a certain direction in the latent space turns its face. If the yaw of each face is
# known, this direction is how codes change with yaw, and the row below the turned face shows faces that are
# truly rendered at these angles. For photos, it is the direction in which mirroring a picture moves its
# code. The same test face is turned with each β (first seed).

# %%
turns = {}
for name, run in zip(betas, of_first_seed.values()):
    turns[name], files = call(run, "rotate", index=0)
    notebook.picture(smaller(files["strip.png"]), f"Turned left and right, {name}.")

# %% [markdown]
# Does only the yaw change? For rendered faces, a reader network that was trained to read the factors of a
# face is applied to a hundred turned faces. The table shows by how many degrees heads really turn, and by
# how much all other factors change, as a share of their range. Beside it is the reader's own error, measured
# on truly rendered faces. For photos there is the mirror test: a face is moved to the opposite side, and the
# table shows what share of the difference to its mirror image disappears, over all pixels and in the fine
# detail of the eyes, nose and mouth.

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
            f"{name}: asked to turn by 120°, heads turn by {of['yaw_span_degrees']:.0f}° on average, and all"
            f" other factors change by {of['others_change_mean']:.1%} of their range (the reader's own error"
            f" is {of['others_change_rendered_mean']:.1%})."
        )
    else:
        sentences.append(
            f"{name}: {of.get('mirror_share', np.nan):.0%} of the difference to the mirror image disappears,"
            f" and {of.get('mirror_share_detail', np.nan):.0%} of the difference in fine detail."
        )
figures["turns"] = " ".join(sentences)

# %% [markdown]
# ## Conclusion

# %%
f = figures
notebook.say(
    f"Models of {f['parameters']:,} parameters with {f['latents']} latents learned from {f['pictures']:,}",
    f"faces of {f['size']} pixels. The error (MSE) of reconstructed test faces is {f['low_mse']} at",
    f"β = {f['low']:g} and {f['high_mse']} at β = {f['high']:g}. With {f['n_mse_higher']} of",
    f"{counted(f['n_seeds'], 'seed')} the error is higher at β = {f['high']:g} than at β = {f['low']:g}.",
)
notebook.say(f"{f['order']} Silent latents with the first seed: {f['silent']}.")
notebook.say(
    f"The variety of random faces, relative to real faces, is {f['low_variety']} at β = {f['low']:g} and",
    f"{f['high_variety']} at β = {f['high']:g}: it is higher at β = {f['low']:g} with",
    f"{f['n_variety_higher']} of {counted(f['n_random'], 'seed')}. Their sharpness is {f['low_sharpness']}",
    f"and {f['high_sharpness']}: it is higher at β = {f['low']:g} with {f['n_sharpness_higher']} of",
    f"{counted(f['n_random'], 'seed')}.",
)
notebook.say(f"Faces turned left and right, with the first seed. {f['turns']}")

# %% [markdown]
# ## On your own faces
#
# Use any folder of pictures, of any size and format:
#
# ```sh
# python launch/local.py sweeps/bvae.yaml --set dataset=path/to/photos --name=bvae
# ```
#
# Then run this notebook again. If you show photos, say who made them.
