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
# # Latent space: every handwritten digit on one plane
#
# Authors: _your names here_

# %%
import sys

sys.path.insert(0, "..")  # the repository's root
from launch.results import notebook

sweep = notebook.runs_of("digits_50")

# %% [markdown]
# ## Introduction
#
# A variational autoencoder (VAE) encodes a picture as a code of a few numbers, the latents, and reconstructs
# the picture from the code. Here a code has two latents. So every picture is a point on a plane, every point
# of the plane can be decoded into a picture, and the whole latent space can be shown. This notebook shows
# what the model generates while it learns, where the codes of each digit lie, what lies between two digits,
# and how real generated digits look to a classifier. Nothing is trained here. The run was made by
#
# ```sh
# python launch/local.py sweeps/digits_50.yaml
# ```
#
# and everything below is read from its folder.

# %%
import numpy as np
import pandas as pd
from IPython.display import display
from PIL import Image

from launch.results.words import from_root
from research import vae_mnist
from research.draw import charts, pictures
from research.measure import latents
from research.parts import digit_classifier
from research.tasks import vae_mnist as tasks

run = sweep.runs[0]
kept = {name: run.flags[name] for name in ("dataset", "data_dir", "transpose")}
data = vae_mnist.load_data(vae_mnist.Config(**kept))
figures = {}  # what the conclusion is made from


def call(task: str, **flags):
    """Call a task of research/tasks/vae_mnist.py on the run; returns its numbers and its files by name."""
    asked = vae_mnist.Config(task=task, checkpoint=from_root(run.folder), **notebook.QUIET, **flags)
    with notebook.silently():
        results = tasks.run(asked)
    return results, {path.name: path for path in notebook.task(run, task).files}


# %% [markdown]
# ## The digits
#
# The digits are grey pictures of 28×28 pixels, white on black. The model is trained on the training set, and
# the best weights are chosen on the validation set. Figures in the conclusion are of the test set unless it
# says otherwise.

# %%
parts = {name: getattr(data, name) for name in ("train", "val", "test")}
display(pd.DataFrame({"pictures": {name: len(part) for name, part in parts.items()}}))
notebook.picture(
    pictures.grid(data.train[:24, None].float() / 255, 12, scale=2), "The first training digits."
)

# %% [markdown]
# ## The model
#
# The layers of the encoder get narrower towards the code, and those of the decoder get wider again in the
# reverse order. The encoder gives two numbers for each latent: the mean and the logarithm of the variance of
# a normal distribution. The code is drawn from that distribution. So the decoder learns to decode every
# point near the mean, and points near each other come to decode to similar pictures.

# %%
notebook.source(vae_mnist.mlp, vae_mnist.VAE)
notebook.layers(run)
figures["parameters"] = notebook.n_parameters(run)

# %% [markdown]
# ## The loss
#
# The loss has two terms, both in nats (1 nat is 1.44 bits). The reconstruction term is the negative
# logarithm of the probability that the decoder gives to the picture. The KL divergence measures how far the
# distribution of the code is from the standard normal distribution, the prior. It keeps the codes together
# around the origin, where random codes can be drawn later. With β = 1, the negative of their sum is the ELBO
# (evidence lower bound): the logarithm of the probability that the model gives to a picture is at least as
# high as the ELBO.

# %%
notebook.source(vae_mnist.bernoulli_nats, latents.kl_per_latent, vae_mnist.terms_of, vae_mnist.loss_fn)

# %% [markdown]
# ## Training
#
# The chart shows the ELBO of training and of validation pictures against the epoch. Higher is better.

# %%
shown = {}
for name, key in {"training, mean of an epoch": "train/elbo_nats", "validation": "val/elbo_nats"}.items():
    logged = pd.DataFrame([(row["epoch"], row[key]) for row in run.rows if key in row and row["step"] > 0])
    means = logged.groupby(np.ceil(logged[0]))[1].mean()
    shown[name] = (list(means.index), list(means))
n_epochs = run.rows[-1]["epoch"]
notebook.picture(charts.curves(shown, "epoch", "ELBO, nats"), f"ELBO over {n_epochs:.0f} epochs.")

last = {key: value for row in run.rows for key, value in row.items()}
figures |= {"epochs": n_epochs, "first_elbo": shown["validation"][1][0]}
figures |= {"best_elbo": run.status["headline"], "test_elbo": last["test/elbo_nats"]}

# %% [markdown]
# ## What is generated every ten epochs
#
# The same random codes are decoded before the first epoch and after every tenth epoch. Only the decoder
# changes from row to row.

# %%
per_epoch = max(row["step"] for row in run.rows) / n_epochs
logged = notebook.media(run, "sample/random")  # six by six digits, twice enlarged, 2 pixels between them


def first_digits(path, n=12, size=2 * vae_mnist.EDGE, gap=2):
    """The first n digits of such a logged picture, (n, 1, size, size) in [0, 1]."""
    board = np.asarray(Image.open(path).convert("L"), dtype=np.float32)[-6 * (size + gap) :] / 255
    corners = [((size + gap) * (i // 6), gap + (size + gap) * (i % 6)) for i in range(n)]
    return np.stack([board[None, y : y + size, x : x + size] for y, x in corners])


tiles = np.concatenate([first_digits(path) for _, path in logged])
after = [f"epoch {step / per_epoch:.0f}" for step, _ in logged]
notebook.picture(
    pictures.grid(tiles, 12, after), "Digits from the same twelve codes, a row every ten epochs."
)

# %% [markdown]
# ## Where each class lies
#
# Each point is the mean of the code of a test picture, and its colour is the digit that the picture shows.
# The model was trained without these classes. The rings are 1, 2 and 3 standard deviations of the prior.

# %%
space, files = call("latent_space")
notebook.picture(files["codes.png"], "Codes of test digits by class.")

# %% [markdown]
# The table has the centre of each class, and the class whose centre is nearest to it. Classes with close
# centres are the most difficult to distinguish by the code.

# %%
centres = pd.DataFrame(space["centres"], index=["z₀", "z₁"]).T
apart = np.linalg.norm(centres.to_numpy()[:, None] - centres.to_numpy(), axis=2)
np.fill_diagonal(apart, np.inf)
nearest = centres.index[apart.argmin(axis=1)]
display(centres.assign(nearest=nearest, distance=apart.min(axis=1)).round(2))
i, j = np.unravel_index(apart.argmin(), apart.shape)
figures |= {"closest": f"{centres.index[i]} and {centres.index[j]}", "distance": apart.min()}
figures["knn"] = last["test/knn_accuracy"]

# %% [markdown]
# ## The plane, decoded, on two scales
#
# Each tile is the picture decoded from its position on the plane. On the first map, the positions are
# quantiles of the prior, so all tiles are equally probable: this is what random codes decode to. On the
# second map, the positions have equal distances and reach four standard deviations from the origin, where
# training hardly had any codes.

# %%
notebook.picture(files["manifold.png"], "The plane at quantiles of the prior.")
notebook.picture(
    files["manifold_wide.png"], "The plane in equal steps, up to four standard deviations from the origin."
)

# %% [markdown]
# ## Between two digits
#
# Below are two random test digits of different classes and what lies between them, from t = 0 to t = 1. In
# the first row their pixels are mixed. In the other rows their codes are mixed, along a straight line
# (second row) or along a great arc around the origin (third row). Mixed pixels show both digits at once,
# like a double exposure. Mixed codes pass through the points between the two codes on the plane, and may
# decode to other digits on the way.

# %%
way, files = call("interpolate")
notebook.picture(
    files["strip.png"], f"From a {way['from']} to a {way['to']}: pixels, straight line, great arc."
)
notebook.picture(files["path.png"], "The straight line and the great arc on the plane.")
notebook.video(files["way.mp4"], f"The same as a video, from the {way['from']} to the {way['to']} and back.")
steps = {name: way[f"rmse_between_frames_{name}"] for name in ("pixels", "linear", "spherical")}
jump = {name: max(step) / (sum(step) / len(step)) for name, step in steps.items()}
figures |= {"from": way["from"], "to": way["to"], "code_distance": way["code_distance"]}
figures |= {"jump_pixels": jump["pixels"], "jump_codes": jump["linear"]}

# %% [markdown]
# ## Inception Score and Fréchet distance
#
# Both scores are computed from a classifier. They are usually computed with the network Inception, which was
# trained on photos and not on digits. So here a small network that was trained on these digits is used.
#
# - The **Inception Score** is high if the classifier is certain about each picture and all classes occur
#   equally often. With ten classes it is at most 10.
# - The **Fréchet distance** compares the mean and the covariance of the classifier's features of generated
#   pictures with those of real pictures. 0 is the best value.
#
# A score alone means little. Beside it is the score of the same number of real pictures: real test pictures
# for the Inception Score, and real training pictures compared with real test pictures for the Fréchet
# distance.

# %%
notebook.source(digit_classifier.inception_score, digit_classifier.frechet)
scores, files = call("evaluate", iw_samples=20)
table = {
    "Inception Score": [scores["inception_score"], scores["inception_score_of_real"]],
    "Fréchet distance": [scores["frechet"], scores["frechet_of_real"]],
}
display(pd.DataFrame(table, index=["generated", "real"]).T.round(2))
notebook.picture(files["scored.png"], "The first hundred of the generated digits that were scored.")
names = {"inception_score": "score", "inception_score_of_real": "real_score", "frechet": "frechet"}
names |= {"frechet_of_real": "real_frechet", "n_scored": "n_scored", "classifier_accuracy": "accuracy"}
figures |= {short: scores[name] for name, short in names.items()}

# %% [markdown]
# ## Conclusion

# %%
f = figures
rose = "rose" if f["best_elbo"] > f["first_elbo"] else "did not rise"
smooth = "larger" if f["jump_codes"] > f["jump_pixels"] else "no larger"
below = "below" if f["score"] < f["real_score"] else "not below"
notebook.say(
    f"A VAE with two latents and {f['parameters']:,} parameters was trained for {f['epochs']:.0f} epochs.",
    f"Its ELBO on validation digits {rose} from {f['first_elbo']:.1f} nats after the first epoch to",
    f"{f['best_elbo']:.1f} at best; on test digits it is {f['test_elbo']:.1f}.",
)
notebook.say(
    f"From the two numbers of a code, the digit is predicted correctly for {f['knn']:.1%} of the test",
    f"pictures (by the ten nearest training codes). The classes with the closest centres are {f['closest']},",
    f"with a distance of {f['distance']:.2f}.",
)
notebook.say(
    f"From a {f['from']} to a {f['to']}, with codes {f['code_distance']:.2f} apart, the largest change",
    f"between two frames is {f['jump_codes']:.1f} times the mean change if codes are mixed along a straight",
    f"line. This is {smooth} than if pixels are mixed ({f['jump_pixels']:.1f} times).",
)
notebook.say(
    f"{f['n_scored']:,} digits from random codes have an Inception Score of {f['score']:.2f}, {below}",
    f"the {f['real_score']:.2f} of real digits. Their Fréchet distance to real digits is {f['frechet']:.2f};",
    f"between real digits it is {f['real_frechet']:.2f}. The classifier that both scores use classifies",
    f"{f['accuracy']:.1%} of the test digits correctly.",
)
notebook.say("All of these figures are of a single run, with one seed.")

# %% [markdown]
# ## On your own pictures
#
# You can use any grey pictures of 28×28 pixels with classes: four files like MNIST's in a folder, or a CSV
# with a row of pixels for each picture (see data/README.md). The digits of scikit-learn (`--set
# dataset=digits`) need no download and take half a minute:
#
# ```sh
# python launch/local.py sweeps/digits_50.yaml --set dataset=path/to/folder --name=digits_50
# ```
#
# In the sweep, `sample_every` is ten epochs of MNIST in steps, and `eval_every` is one epoch. Set both to the
# values of your data. For `--set dataset=digits`, add
# `--set sample_every=90 --set eval_every=9`. Then run this notebook again.
