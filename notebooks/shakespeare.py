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
# # Shakespeare: sentences from a latent space, and a modern twist
#
# Authors: _your names here_

# %%
import sys

sys.path.insert(0, "..")  # the repository's root
from launch.results import notebook

sweep = notebook.runs_of("text_vae")
without_code = notebook.runs_of("text_vae_lm")

# %% [markdown]
# ## Introduction
#
# A variational autoencoder (VAE) of text reads a line, encodes it as a code of a few numbers, and
# reconstructs the line from the code. Random codes then give new lines, and codes between the codes of two
# lines give lines between these two. The difficulty is that a good decoder can predict a line without the
# code. Then the codes carry no information, which is called posterior collapse. This notebook compares
# remedies, shows lines of the model with one of them, and rewrites archaic lines in today's English. Nothing
# is trained here. The runs were made by
#
# ```sh
# python launch/local.py sweeps/text_vae.yaml
# python launch/local.py sweeps/text_vae_lm.yaml
# ```
#
# The second sweep is the same decoder without a code, a plain language model, with which the VAE is compared.

# %%
import pandas as pd
from IPython.display import display

from launch.results.words import from_root
from research import text_vae
from research.draw import charts
from research.parts import modern_english
from research.tasks import text_vae as tasks

figures = {}  # what the conclusion is made from


def setting(run) -> str:
    """What the remedy of a run is called."""
    free, anneal = run.flags["free_bits"], run.flags["anneal"]
    words = []
    if free > 0:
        words.append(f"{free:g} free bits")
    if anneal != "none":
        words.append(f"{anneal} weight of KL")
    return ", ".join(words) or "no remedy"


def last(run) -> dict:
    """The last value of each figure that a run has logged."""
    return {key: value for row in run.rows for key, value in row.items()}


# %% [markdown]
# ## The lines
#
# The text of a play contains more than the spoken lines. Names of speakers, stage directions and notes are
# left out, and so are very short and very long lines. The text is split in its own order, not at random.
# With a random split, neighbouring lines of a dialogue would be in the training set and in the test set.

# %%
flags = sweep.runs[0].flags
data = text_vae.load_data(text_vae.Config(**{name: flags[name] for name in text_vae.DATA_FLAGS}))
for line in data.report:
    print(line)
parts = {name: getattr(data, name) for name in ("train", "val", "test")}
display(pd.DataFrame({"lines": {name: len(part) for name, part in parts.items()}}))
notebook.written("\n".join(data.vocabulary.write(data.train.ids(i)) for i in range(8)), "The first lines")
figures |= {"lines": len(data.train), "characters": len(data.vocabulary.tokens)}

# %% [markdown]
# ## The model
#
# Two LSTMs (recurrent networks) read a line, one of them from its end. Their last states give the mean and
# the variance of the code. The decoder is a third LSTM. Its first state is computed from the code, and it
# gets the code again as an input at every character.

# %%
notebook.source(text_vae.TextVAE)
notebook.layers(sweep.runs[0])
figures["parameters"] = notebook.n_parameters(sweep.runs[0])

# %% [markdown]
# ## The loss, and two remedies
#
# The loss has two terms. The reconstruction term is the negative logarithm of the probability that the
# decoder gives to the line. The KL divergence grows with the information that the code carries about the
# line; its unit is the nat (1 nat is 1.44 bits). There are two remedies. With free bits, KL costs nothing up
# to a certain number of nats. With annealing, the weight of KL rises from 0, once (linear) or several times
# (cyclical), so that the decoder can learn to use the code before the code costs anything.

# %%
notebook.source(text_vae.loss_fn, text_vae.charged, text_vae.kl_weight)

# %% [markdown]
# ## Training
#
# The chart shows KL on validation lines during training, a curve for each remedy (first seed). It shows how
# much information the model puts into the code.

# %%
first_seed = min(run.flags["seed"] for run in sweep.runs)
of_first = [run for run in sweep.runs if run.flags["seed"] == first_seed]
lines = {
    setting(run): tuple(
        zip(*[(row["epoch"], row["val/kl_nats"]) for row in run.rows if "val/kl_nats" in row])
    )
    for run in of_first
}
notebook.picture(charts.curves(lines, "epoch", "KL, nats"), "Nats that the code spends, by remedy.")

# %% [markdown]
# ## What each remedy brings and costs
#
# The table has figures of the test set, mean ± standard deviation over the seeds. The log-likelihood of a
# line is estimated by importance sampling, in nats; higher is better. A latent is active if its mean varies
# from line to line. The last column is the share of characters that are reconstructed at the right position.

# %%
columns = {"test/iw_nats": "log-likelihood", "test/kl_nats": "KL", "test/active_units": "active latents"}
columns["test/exact_tokens"] = "rebuilt in place"
rows = [
    {"remedy": setting(run)} | {name: last(run)[key] for key, name in columns.items()} for run in sweep.runs
]
means = pd.DataFrame(rows).groupby("remedy", sort=False).mean()
alone = pd.Series([last(run)["test/iw_nats"] for run in without_code.runs]).mean()
display(means.round({"log-likelihood": 1, "KL": 2, "active latents": 1, "rebuilt in place": 3}))
notebook.say(f"The language model without a code has a log-likelihood of {alone:.1f}.")

used = means["rebuilt in place"].idxmax()
run = next(run for run in of_first if setting(run) == used)
figures |= {"least": means["KL"].idxmin(), "least_kl": means["KL"].min(), "used": used}
figures |= {"kl": means["KL"][used], "rebuilt": means["rebuilt in place"][used]}
figures |= {"nats": means["log-likelihood"][used], "alone": alone}

# %% [markdown]
# ## Lines from random codes
#
# The lines below are from the model with the remedy that has the highest mean share of right characters
# (first seed). It writes from random codes with three strategies. *greedy* always takes the most probable
# character, so lines differ only because their codes differ. *temperature* samples with the model's own
# probabilities. *top_p* samples among the most probable characters, which together have a probability of
# 0.9.


# %%
def call(task: str, **flags) -> dict:
    """Let a task of research/tasks/text_vae.py work on the run; returns its numbers."""
    asked = text_vae.Config(task=task, checkpoint=from_root(run.folder), **notebook.QUIET, **flags)
    with notebook.silently():
        return tasks.run(asked)


for strategy in ("greedy", "temperature", "top_p"):
    made = call("generate", samples=10, strategy=strategy)["sentences"]
    notebook.written("\n".join(made), f"{used}, {strategy}")
    if strategy == "greedy":
        figures["different"] = len(set(made)) / len(made)

# %% [markdown]
# ## Between two lines
#
# The codes of two test lines are taken, and codes on the straight line between them, from t = 0 to t = 1 in
# eight steps. Each is decoded with the strategy *greedy*.

# %%
way = call("interpolate")
notebook.written("\n".join(way["linear"]), f"From “{way['from']}” to “{way['to']}”")
figures["stations"] = len(dict.fromkeys(way["linear"]))

# %% [markdown]
# ## The modern twist
#
# Rules rewrite a line in today's English: they replace words (thou → you) and forms (goeth → goes). They
# change only what they know, so an invented verb stays as it is. The first column has lines as they were
# written from random codes, and the second column has the same lines rewritten. Only lines that changed are
# shown.

# %%
notebook.source(modern_english.modernise)
twisted = call("generate", samples=200, strategy="top_p", twist="modern")
pairs = pd.DataFrame({"written": twisted["sentences"], "in today's English": twisted["twisted"]})
changed = pairs[pairs["written"] != pairs["in today's English"]]
with pd.option_context("display.max_colwidth", None):
    display(changed.head(12))
figures |= {"samples": len(pairs), "changed": len(changed)}
figures |= {"archaic_before": twisted["archaic_before"], "archaic_after": twisted["archaic_after"]}

# %% [markdown]
# ## Conclusion

# %%
f = figures
collapsed = "has collapsed" if f["least_kl"] < text_vae.COLLAPSED_NATS else "has not collapsed"
below = "below" if f["nats"] < f["alone"] else "above"
notebook.say(
    f"The models have {f['parameters']:,} parameters and learned {f['lines']:,} lines, written with",
    f"{f['characters']} different tokens. With {f['least']} the code tells least, {f['least_kl']:.2f} nats:",
    f"it {collapsed}.",
)
notebook.say(
    f"Most characters are rebuilt in their place with {f['used']}: {f['rebuilt']:.1%}, from a code of",
    f"{f['kl']:.2f} nats. The log-likelihood of a line is {f['nats']:.1f} nats then,",
    f"{abs(f['nats'] / f['alone'] - 1):.1%} {below} the language model's {f['alone']:.1f}.",
)
notebook.say(
    f"Of lines written greedily from random codes {f['different']:.0%} differ from one another, and the way",
    f"between two test lines has {f['stations']} different lines.",
)
notebook.say(
    f"The twist changed {f['changed']} of {f['samples']} lines. Before it {f['archaic_before']:.1%} had a",
    f"form that the rules call archaic, after it {f['archaic_after']:.1%}.",
)

# %% [markdown]
# ## On your own text
#
# You can use any text file, or a CSV of songs:
#
# ```sh
# python launch/local.py sweeps/text_vae.yaml --set dataset=path/to/any.txt --name=text_vae
# python launch/local.py sweeps/text_vae_lm.yaml --set dataset=path/to/any.txt --name=text_vae_lm
# ```
#
# Then run this notebook again.
