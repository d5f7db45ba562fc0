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
# A variational autoencoder (VAE) squeezes a picture through a code of a few numbers, the latents, and
# rebuilds the picture from it. Here a code has two latents. So every picture is a point on a plane, every
# point of the plane can be decoded into a picture, and the whole latent space can be looked at. This
# notebook shows what the model draws while it learns, where each digit lies, what lies between two digits,
# and how real drawn digits look to a classifier. Nothing is trained here. The run was made by
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
    """Let a task of research/tasks/vae_mnist.py work on the run; returns its numbers and files by name."""
    asked = vae_mnist.Config(task=task, checkpoint=from_root(run.folder), **notebook.QUIET, **flags)
    with notebook.silently():
        results = tasks.run(asked)
    return results, {path.name: path for path in notebook.task(run, task).files}


# %% [markdown]
# ## The digits
#
# Grey pictures of 28×28 pixels, white on black. The model is trained on the training part, the best weights
# are chosen on the validation part, and all figures in the conclusion are of the test part.

# %%
parts = {name: getattr(data, name) for name in ("train", "val", "test")}
display(pd.DataFrame({"pictures": {name: len(part) for name, part in parts.items()}}))
notebook.picture(
    pictures.grid(data.train[:24, None].float() / 255, 12, scale=2), "The first training digits."
)

# %% [markdown]
# ## The model
#
# The encoder's layers get narrower down to the code, the decoder's widen from it in the reverse order. The
# encoder gives two numbers for each latent: the mean and the logarithm of the variance of a normal
# distribution. The code is drawn from that distribution, so that the decoder learns to cope with every
# point nearby, and near points come to mean similar pictures.

# %%
notebook.source(vae_mnist.mlp, vae_mnist.VAE)
notebook.layers(run)
figures["parameters"] = notebook.n_parameters(run)

# %% [markdown]
# ## The loss
#
# Two terms, both in nats. The reconstruction says how improbable the picture is to the decoder. KL says how
# far the code's distribution is from the standard normal one, the prior: it keeps the codes together around
# the origin, where random codes can be drawn later. With β = 1 their sum, with the sign reversed, is the
# ELBO (evidence lower bound): the log-probability that the model gives a picture is at least as high.

# %%
notebook.source(vae_mnist.bernoulli_nats, latents.kl_per_latent, vae_mnist.terms_of, vae_mnist.loss_fn)

# %% [markdown]
# ## Training
#
# The ELBO of the pictures that are trained on and of those that are not, against the epoch; higher is
# better.

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
# ## What is drawn every ten epochs
#
# The same random codes, decoded before the first epoch and after every tenth. What changes from picture
# to picture is the decoder alone.

# %%
per_epoch = max(row["step"] for row in run.rows) / n_epochs
logged = notebook.media(run, "sample/random")  # six by six digits, twice enlarged, 2 pixels between them


def first_digits(path, n=12, size=2 * vae_mnist.EDGE, gap=2):
    """The first n digits of such a picture, (n, 1, size, size) in [0, 1]."""
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
# The mean codes of test pictures, coloured by the digit they show. The model was never told which digit is
# which. The rings are 1, 2 and 3 standard deviations of the prior.

# %%
space, files = call("latent_space")
notebook.picture(files["codes.png"], "Codes of test digits by class.")

# %% [markdown]
# The centre of each class, and the class whose centre is nearest to it. Classes that lie close together are
# those that the code confuses.

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
# Each tile is the decoded code of its place on the plane. On the first map the tiles stand at quantiles of
# the prior, so that each is as probable as any other: this is what random codes look like. The second has
# equal steps and goes four standard deviations out, where hardly any code was seen in training.

# %%
notebook.picture(files["manifold.png"], "The plane at quantiles of the prior.")
notebook.picture(files["manifold_wide.png"], "The plane in equal steps, four standard deviations out.")

# %% [markdown]
# ## Between two digits
#
# Two random test digits of different classes. From t = 0 to t = 1 their pixels are mixed (first row), or
# their codes: along a straight line (second row) or along a great arc around the origin (third row). Mixed
# pixels show both digits at once, like a double exposure. Mixed codes pass through what lies between the
# two on the plane, and so through other digits.

# %%
way, files = call("interpolate")
notebook.picture(files["strip.png"], f"From a {way['from']} to a {way['to']}: pixels, straight, arc.")
notebook.picture(files["path.png"], "The two ways on the plane.")
notebook.video(files["way.mp4"], f"The same as a video, from the {way['from']} to the {way['to']} and back.")
steps = {name: way[f"rmse_between_frames_{name}"] for name in ("pixels", "linear", "spherical")}
jump = {name: max(step) / (sum(step) / len(step)) for name, step in steps.items()}
figures |= {"from": way["from"], "to": way["to"], "code_distance": way["code_distance"]}
figures |= {"jump_pixels": jump["pixels"], "jump_codes": jump["linear"]}

# %% [markdown]
# ## Inception Score and Fréchet distance
#
# Both scores look at pictures through a classifier. Inception, the usual one, knows photos and not digits,
# so a small network that was trained on these digits stands in its place.
#
# - The **Inception Score** is high when the classifier is sure of each picture and all classes occur
#   equally often; with ten classes it is at most 10.
# - The **Fréchet distance** compares mean and covariance of the classifier's features between drawn and
#   real pictures; 0 is the best.
#
# A score means little alone. Beside it stands that of as many real pictures: real test pictures for the
# Inception Score, real training pictures against real test pictures for the Fréchet distance.

# %%
notebook.source(digit_classifier.inception_score, digit_classifier.frechet)
scores, files = call("evaluate", iw_samples=20)
table = {
    "Inception Score": [scores["inception_score"], scores["inception_score_of_real"]],
    "Fréchet distance": [scores["frechet"], scores["frechet_of_real"]],
}
display(pd.DataFrame(table, index=["drawn", "real"]).T.round(2))
notebook.picture(files["scored.png"], "The first hundred of the drawn digits that were scored.")
names = {"inception_score": "score", "inception_score_of_real": "real_score", "frechet": "frechet"}
names |= {"frechet_of_real": "real_frechet", "n_scored": "n_scored", "classifier_accuracy": "accuracy"}
figures |= {short: scores[name] for name, short in names.items()}

# %% [markdown]
# ## Conclusion

# %%
f = figures
rose = "rose" if f["best_elbo"] > f["first_elbo"] else "did not rise"
smooth = "larger" if f["jump_codes"] > f["jump_pixels"] else "no larger"
short_of = "short of" if f["score"] < f["real_score"] else "no less than"
notebook.say(
    f"A VAE with two latents and {f['parameters']:,} parameters was trained for {f['epochs']:.0f} epochs.",
    f"Its ELBO on validation digits {rose} from {f['first_elbo']:.1f} nats after the first epoch to",
    f"{f['best_elbo']:.1f} at best; on test digits it is {f['test_elbo']:.1f}.",
)
notebook.say(
    f"The two numbers of a code tell the digit in {f['knn']:.1%} of test pictures, by the ten nearest",
    f"training codes. The classes whose centres are closest are {f['closest']}, {f['distance']:.2f} apart.",
)
notebook.say(
    f"On the way from a {f['from']} to a {f['to']}, whose codes are {f['code_distance']:.2f} apart, the",
    f"largest change between two frames is {f['jump_codes']:.1f} times the mean change where codes are",
    f"mixed, {smooth} than where pixels are ({f['jump_pixels']:.1f} times).",
)
notebook.say(
    f"{f['n_scored']:,} digits from random codes have an Inception Score of {f['score']:.2f}, {short_of}",
    f"the {f['real_score']:.2f} of real ones, and a Fréchet distance of {f['frechet']:.2f}, where real",
    f"pictures have {f['real_frechet']:.2f} among themselves. The classifier behind both is right on",
    f"{f['accuracy']:.1%} of test digits.",
)

# %% [markdown]
# ## On your own pictures
#
# Any grey pictures of 28×28 pixels with classes do: four files like MNIST's in a folder, or a CSV with a
# row of pixels for each picture (data/README.md). The embedded digits of scikit-learn need no download and
# take half a minute:
#
# ```sh
# python launch/local.py sweeps/digits_50.yaml --set dataset=path/to/folder --name=digits_50
# ```
#
# `sample_every` is ten epochs of MNIST in steps, and `eval_every` is one; give those of yours, `--set
# sample_every=90 --set eval_every=9` for `--set dataset=digits`. Then run this notebook again.
