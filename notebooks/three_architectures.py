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
# # Three architectures: an LSTM, a TCN and a Transformer learn one chapter
#
# Authors: _your names here_

# %%
import sys

sys.path.insert(0, "..")  # the repository's root
from launch.results import notebook

sweep = notebook.runs_of("prose")
by_position = notebook.runs_of("prose_pos")

# %% [markdown]
# ## Introduction
#
# A character model reads a text and predicts, at every position, how probable each character is as the next
# one. An LSTM (long short-term memory), a TCN (temporal convolutional network) and a Transformer use the text
# before this position in three different ways. Here all three have learned the same short text, at several
# sizes and learning rates. This notebook compares how well they predict, shows what each had learned early,
# midway and late in training, and explains why they differ. At the end, a Transformer is trained without
# information about the positions of characters. Nothing is trained here. The runs were made by
#
# ```sh
# python launch/local.py sweeps/prose.yaml
# python launch/local.py sweeps/prose_pos.yaml
# ```
#
# and everything below is read from their folders.

# %%
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import display

from data import text
from launch.results.words import from_root
from research import charlm
from research.draw import charts
from research.parts import charlm_models, charlm_pages
from research.tasks.charlm import load_model

NAMES = {"lstm": "LSTM", "tcn": "TCN", "transformer": "Transformer"}
figures = {}  # what the conclusion is made from


def loaded(run):
    """The flags of a run, and its model with the weights that predicted the validation part best."""
    asked = charlm.Config(task="generate", checkpoint=from_root(run.folder), **notebook.QUIET)
    with notebook.silently():
        cfg, model, *_ = load_model(asked, torch.device("cpu"))
    return cfg, model


def last(run) -> dict:
    """The last value of each figure that a run has logged."""
    return {key: value for row in run.rows for key, value in row.items()}


def spread(values: pd.Series) -> str:
    """Mean and standard deviation over the seeds."""
    return f"{values.mean():.2f}" + (f" ± {values.std():.2f}" if len(values) > 1 else "")


def mean_line(runs: list, key: str, factor: float = 1.0) -> tuple[list, list]:
    """Steps, and the mean over runs of what they have logged under a key."""
    logged = [(row["step"], factor * row[key]) for run in runs for row in run.rows if key in row]
    means = pd.DataFrame(logged, columns=["step", "value"]).groupby("step")["value"].mean()
    return list(means.index), list(means)


# %% [markdown]
# ## The text
#
# Any text can be used. It is cut, in its own order, into a training set, a validation set and a test set. The
# models learn from the training set, the weights with the best prediction of the validation set are kept, and
# the test set is used only once, at the end.

# %%
flags = sweep.runs[0].flags
data = charlm.load_data(
    charlm.Config(**{name: flags[name] for name in charlm.DATA_FLAGS}, seq_len=flags["seq_len"])
)
alphabet = data.text.alphabet
parts = {name: text.decode(part.ids, alphabet) for name, part in data.parts.items()}
n_characters = {name: len(part) for name, part in parts.items()}
n_epochs = sweep.runs[0].rows[-1]["epoch"]
display(pd.DataFrame({"characters": n_characters}))
notebook.say(
    f"The runs have read `{Path(flags['dataset']).name}`: {sum(n_characters.values()):,} characters of",
    f"{len(alphabet)} kinds. A step shows a model {flags['batch_size']} windows of {flags['seq_len']}",
    f"characters, so in {flags['steps']:,} steps it passes over the training part {n_epochs:.1f} times.",
)
notebook.written(parts["train"][:600], "How it begins")
figures |= {"text": data.name, "characters": sum(n_characters.values()), "epochs": n_epochs}

# %% [markdown]
# ## Prediction by counting
#
# Before looking at the models: how well can the next character be predicted by counting alone? The first row
# of the table uses nothing, and the second only how often each character occurs. The next rows use what
# followed the last character, the last two characters and the last three characters in the training set. If a
# combination was counted only a few times, its row also uses the row above. Bits per character is the number
# of yes-or-no questions that are needed, on average, to find out the next character; lower is better. These
# figures are reference values for the models. Counting has a small advantage: a model starts each window
# without the text before it.


# %%
def bits_by_counting(longest: int) -> list[float]:
    """Bits per validation character by counts behind 0, 1 … `longest` characters of the training part."""
    known, new = parts["train"], parts["val"]
    lengths = range(longest + 1)
    counts = [Counter(known[i : i + k + 1] for i in range(len(known) - k)) for k in lengths]
    bits = [0.0] * len(counts)
    for i in range(longest, len(new)):
        p = 1 / len(alphabet)
        for k in lengths:
            before = new[i - k : i]
            n = counts[k - 1][before] if k else len(known)
            p = (counts[k][before + new[i]] + p) / (n + 1)  # one count is shared as in the row above
            bits[k] -= math.log2(p)
    return [total / (len(new) - longest) for total in bits]


counted = dict(zip(("how often it occurs", "last character", "last two", "last three"), bits_by_counting(3)))
milestones = pd.DataFrame({"bits per character": {"nothing": math.log2(len(alphabet))} | counted})
display(milestones.rename_axis("what is looked at").round(2))
figures |= {"pairs": counted["last character"], "counting": min(counted.values())}

# %% [markdown]
# ## The LSTM: one character after the other
#
# An LSTM reads the window from left to right and keeps information in a state: a fixed number of values for
# each layer, however long the text is. At each character, gates decide which part of the state is forgotten,
# what is added to it, and what is given to the layer above. So the state can carry information over a long
# distance, but this information has to pass through every step between. Between layers there is no bypass
# (no residual connection): until every layer has learned to pass information on, nothing useful comes out at
# the top. The biases of the forget gates start at one, so that the state keeps information from the start of
# training.

# %%
sizes = sorted({run.flags["parameters"] for run in sweep.runs})
small, large = sizes[0], sizes[-1]
an_example = {
    name: next(r for r in sweep.runs if (r.flags["model"], r.flags["parameters"]) == (name, large))
    for name in NAMES
}
notebook.source(charlm_models.LSTM.__init__, charlm_models.LSTM.forward)
notebook.layers(an_example["lstm"])

# %% [markdown]
# ## The TCN: fixed positions before the character
#
# A TCN has no state. Each convolution uses the inputs at a few fixed positions: the current character, and
# the positions one dilation, two dilations and so on before it. It uses nothing that comes after. The
# dilation doubles from block to block, so that a few blocks reach far back. How far back each input lies is
# built into the network and need not be learned. Characters outside the receptive field cannot influence the
# prediction. Each block adds its output to its input, and this output is zero before training. So an
# untrained TCN already passes the last character to the output, and it can learn pairs of characters from
# the first step.

# %%
notebook.source(
    charlm_models.CausalConv.forward,
    charlm_models.ConvBlock.__init__,
    charlm_models.ConvBlock.forward,
    charlm_models.TCN.__init__,
)
notebook.layers(an_example["tcn"])
cfg, model = loaded(an_example["tcn"])
notebook.say(
    f"{cfg.n_layers} blocks of two convolutions of {cfg.kernel_size} places each see the last",
    f"{model.receptive_field} characters.",
)

# %% [markdown]
# ## The Transformer: attention to any position
#
# For every character, three vectors are computed: a query, a key and a value. The query of a character is
# compared with its own key and the keys of all characters before it in the window. The better a key matches
# the query, the more weight the value of that character has in an average. This average is added to the
# representation of the character. So information from any earlier character arrives in a single step, however
# far back the character is. But attention by itself does not know the position of a character. The model gets
# positions as rotary positions: queries and keys are rotated by an angle that grows with the position. Which
# characters to attend to must be learned from the text. As in the TCN, the blocks add zero before training,
# so pairs of characters can be learned from the first step.

# %%
notebook.source(
    charlm_models.rotate,
    charlm_models.AttentionBlock.__init__,
    charlm_models.AttentionBlock.forward,
    charlm_models.Transformer.__init__,
)
notebook.layers(an_example["transformer"])

# %% [markdown]
# ## The same number of parameters
#
# To compare architectures and not sizes, models of the three architectures get about the same number of
# parameters. The width of the layers is chosen to reach this number.

# %%
sizes_of = {}
for run in sweep.runs:
    asked_for = f"{run.flags['parameters']:,} asked for"
    sizes_of.setdefault(asked_for, {})[NAMES[run.flags["model"]]] = f"{notebook.n_parameters(run):,}"
display(pd.DataFrame(sizes_of).rename_axis(columns="parameters"))

# %% [markdown]
# ## The loss
#
# All three have the same loss: the cross-entropy of the next character at every position of a window, in
# nats. Divided by ln 2 it gives bits per character. Dropout is used in training only, when `loss_fn` gets a
# random generator.

# %%
notebook.source(charlm.loss_fn, charlm.lr_at)

# %% [markdown]
# ## Sizes × learning rates
#
# The table has bits per character on the test set, with the weights that were best on the validation set:
# mean ± standard deviation over the seeds. Lower is better.

# %%
scores = pd.DataFrame(
    {
        "model": run.flags["model"],
        "parameters": run.flags["parameters"],
        "rate": run.flags["learning_rate"],
        "seed": run.flags["seed"],
        "val": run.status["headline"],
        "end": last(run)["val/bpc"],
        "test": last(run)["test/bpc"],
        "best step": min((row["val/bpc"], row["step"]) for row in run.rows if "val/bpc" in row)[1],
        "run": run,
    }
    for run in sweep.runs
)
table = scores.assign(architecture=scores["model"].map(NAMES), size=scores["parameters"].map("{:,}".format))
table = table.pivot_table("test", ["parameters", "size", "architecture"], "rate", spread)
display(table.droplevel("parameters").rename_axis(columns="learning rate"))
figures |= {"seeds": scores["seed"].nunique(), "small": small, "large": large}
notebook.say(f"Number of seeds: {figures['seeds']}.")

# %% [markdown]
# Muon and AdamW make updates whose size depends on the learning rate, however large or small the gradient is.
# So the learning rate limits how far the weights can move in the given number of steps. If it is too low,
# training ends before the weights arrive; if it is too high, the weights jump around their goal. How far they
# have to move depends on the architecture and its size, so each may have its own best learning rate. From
# here on, each architecture at each size is shown with the learning rate that was better on the validation
# set.

# %%
of_rates = scores.groupby(["model", "parameters", "rate"])[["val", "test"]].mean()
chosen = {key: group["val"].idxmin()[-1] for key, group in of_rates.groupby(["model", "parameters"])}
is_chosen = [chosen[m, n] == rate for m, n, rate in scores[["model", "parameters", "rate"]].values]
best = scores[is_chosen]


def runs_with(name: str, size: int) -> list:
    """The runs of an architecture and a size at the chosen learning rate, one a seed."""
    return list(best[(best["model"] == name) & (best["parameters"] == size)].sort_values("seed")["run"])


of_size = best.groupby(["model", "parameters"])["test"].mean()
for name in NAMES:
    figures[name] = spread(best[(best["model"] == name) & (best["parameters"] == large)]["test"])
    figures[f"{name}_rate"] = chosen[name, large]
    figures[f"{name}_gain"] = of_size[name, small] - of_size[name, large]
of_rate = of_rates["test"].groupby(["model", "parameters"])
apart = (of_rate.max() - of_rate.min())[:, large]
figures |= {"most_by_rate": NAMES[apart.idxmax()], "rate_span": apart.max()}
first, second = of_size[:, large].sort_values().index[:2]
by_seed = best[best["parameters"] == large].pivot(index="seed", columns="model", values="test")
figures |= {"first": NAMES[first], "second": NAMES[second]}
figures["n_ahead"] = int((by_seed[first] < by_seed[second]).sum())

# %% [markdown]
# ## Training
#
# The chart has bits per character on the validation set for the larger models, mean over the seeds. The flat
# lines are the results of counting above.

# %%
lines = {NAMES[name]: mean_line(runs_with(name, large), "val/bpc") for name in NAMES}
ends = [0, flags["steps"]]
for name, bits in list(counted.items())[1:]:
    lines[f"counting, {name}"] = (ends, [bits, bits])
notebook.picture(
    charts.curves(lines, "step", "bits per character"), f"Validation, models of about {large:,} parameters."
)

# %% [markdown]
# At which evaluation is the mean for the first time better than each result of counting?

# %%
passed = {}
for name in NAMES:
    steps, bits = lines[NAMES[name]]
    passed[NAMES[name]] = {
        what: next((f"step {step:,}" for step, b in zip(steps, bits) if b < goal), "never")
        for what, goal in counted.items()
    }
display(pd.DataFrame(passed).T.rename_axis(columns="better than counting with"))

# %% [markdown]
# ## Which model memorises its training set
#
# A model that has memorised its training set predicts it better than a text that it has not seen. The
# training loss that is logged does not measure this, because dropout makes the prediction worse in training,
# and because the weights change all the time. So the best weights are evaluated here on the whole training
# set again, without dropout. The gap is how many more bits a character of the validation set takes. The
# three sets are not equally difficult, so a gap should be compared with the gap of another model, not with
# zero.

# %%
gaps = []
for _, row in best.iterrows():
    cfg, model = loaded(row["run"])
    again = charlm.evaluate(model, data.parts["train"], "train", cfg, torch.device("cpu"))["train/bpc"]
    gaps.append({"training part": again, "gap": row["val"] - again})
best = best.assign(**pd.DataFrame(gaps, index=best.index))
best["rise until the end"] = best["end"] - best["val"]
shown = ["training part", "val", "gap", "test", "rise until the end", "best step"]
rounded = best.assign(architecture=best["model"].map(NAMES)).groupby(["parameters", "architecture"])
columns = {"val": "validation part", "test": "test part"}
overview = pd.DataFrame({name: rounded[name].agg(spread) for name in shown[:-1]}).rename(columns=columns)
overview["best step"] = rounded["best step"].mean().map("{:,.0f}".format)
overview.insert(0, "learning rate", rounded["rate"].first())
display(overview)

# %% [markdown]
# The next chart shows how the gap grows in training. Here the training loss is the one that was logged, as
# the mean of an epoch. Dropout makes this loss higher, so a line may start below zero. Where a line rises,
# the prediction of the training set improves more than that of other text: the model memorises.

# %%
lines = {}
for name in NAMES:
    runs = runs_with(name, large)
    steps, bits = mean_line(runs, "val/bpc")
    logged = "train/loss_epoch" if "train/loss_epoch" in last(runs[0]) else "train/loss"  # no whole epoch
    in_training = np.interp(steps, *mean_line(runs, logged, 1 / math.log(2)))
    lines[NAMES[name]] = (steps[1:], (bits - in_training)[1:])
notebook.picture(
    charts.curves(lines, "step", "validation less training, bits"), f"Models of about {large:,} parameters."
)
means = best[best["parameters"] == large].groupby("model")[["val", "gap"]].mean()
figures |= {"by_heart": NAMES[means["gap"].idxmax()], "gap": means["gap"].max()}
figures |= {"least_by_heart": NAMES[means["gap"].idxmin()], "least_gap": means["gap"].min()}
better = means.index[means["val"] < figures["counting"]]
figures["better"] = ", ".join(NAMES[name] for name in better) or "none"

# %% [markdown]
# ## Early, midway and late
#
# Below are the same passages of the validation set at three moments of the training: what the model reads,
# how the text really continues, and what the model writes. `greedy` always writes the most probable
# character. It soon repeats itself, because the same characters always lead to the same next character.
# `top_p` samples among the probable characters, so it shows what the model considers possible. ␣ marks a
# space at an end or beside another space, and ↵ marks the end of a line.

# %%
pages = {name: dict(notebook.media(runs_with(name, large)[0], "sample/continuations")) for name in NAMES}
steps = sorted(set.intersection(*map(set, pages.values())))
early, midway = (min(steps, key=lambda step: abs(step - steps[-1] / n)) for n in (32, 4))
moments = {"early": early, "midway": midway, "late": steps[-1]}


def read_page(path) -> tuple[list, list, dict]:
    """Prompts, truths and what was written, each on one line."""
    prompts, truths, written = charlm_pages.read_continuations(path.read_text("utf-8"))
    return [*one_line(prompts)], [*one_line(truths)], {k: [*one_line(v)] for k, v in written.items()}


def one_line(texts):
    return (shown.replace("\n", "") for shown in texts)


for i in range(2):
    for moment, step in moments.items():
        prompts, truths, _ = read_page(pages["lstm"][step])
        block = [f"{'read':24}{prompts[i]}", f"{'goes on in truth':24}{truths[i]}", ""]
        for strategy in ("greedy", "top_p"):
            for name in NAMES:
                block.append(f"{NAMES[name]:14}{strategy:10}{read_page(pages[name][step])[2][strategy][i]}")
        notebook.written("\n".join(block), f"{moment}, step {step:,}")

# %% [markdown]
# What share of the sampled words at these moments occurs in the training set? These figures were logged
# during training (strategy `temperature`, which samples with the model's own probabilities). They come from
# few words, so they are rough.

# %%
words = {
    NAMES[name]: {
        moment: sum(row["sample/known_words"] for run in runs for row in run.rows if row["step"] == step)
        / len(runs)
        for moment, step in moments.items()
    }
    for name, runs in ((name, runs_with(name, large)) for name in NAMES)
}
words = pd.DataFrame(words).T
display(words.rename_axis(columns="known words").map("{:.0%}".format))
figures |= {"early_words": words["early"].mean(), "late_words": words["late"].mean()}

# %% [markdown]
# ### Why
#
# - **First**, a model learns which characters are frequent, because the biases of the head alone can
#   represent this. The most frequent character of an English text is the space. So at this stage greedy text
#   is a row of spaces, and sampled text is a mixture of letters and spaces.
# - **Next**, it learns what follows from the last one or two characters: *th*, *he*, common endings, the
#   length of words. In a TCN and a Transformer, the last character reaches the output by the bypass around
#   the blocks, and the first convolution or attention then adds the character before. An LSTM has no bypass.
#   Until its lower layers pass information on, the upper layers have nothing to learn from, and the more
#   layers there are, the longer this takes.
# - **Last** come words and the order of words. They depend on characters further back. The LSTM must have
#   kept these in its state, the TCN has them in its receptive field, and the Transformer must have learned to
#   attend to them. A short text repeats few long passages. So what a model learns about long passages of the
#   training set is of little use in other text, and much of it is memorised.
#
# The tables, not this list, show how far each of the three came in these runs.

# %% [markdown]
# ## How far back each of them looks
#
# This is an experiment with the trained models. The last characters of a validation window stay as they are.
# All characters before them are put into a random order, which is the same for each model. The window still
# has the same characters, but their order is lost. How much worse does the prediction of the next character
# become? A wrong order misleads a model that relies on the order, so on the left of the chart a good model
# may be worse than a poor one. Where a line is flat, the model does not use the order of characters further
# back. Only the character after each window is scored, so small ups and downs of a line are chance.


# %%
def windows_of(cfg) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of the validation part, of which only the character behind the window is scored."""
    begin = torch.arange(0, n_characters["val"] - cfg.seq_len - 1, max(1, cfg.seq_len // 8))
    tokens, targets = data.parts["val"].rows(begin, torch.full_like(begin, cfg.seq_len), torch.device("cpu"))
    targets[:, :-1] = charlm.IGNORED
    return tokens, targets


def shuffled(tokens: torch.Tensor, kept: int) -> torch.Tensor:
    """All but the `kept` last characters of each window in a random order."""
    n = tokens.shape[1] - kept
    order = torch.rand(len(tokens), n, generator=torch.Generator().manual_seed(0)).argsort(1)
    return torch.cat((tokens[:, :n].gather(1, order), tokens[:, n:]), 1)


@torch.no_grad()
def bits_behind(run) -> dict[int, float]:
    """Bits that the character behind a window takes, by how many characters before it stay in order."""
    cfg, model = loaded(run)
    tokens, targets = windows_of(cfg)
    kept = [2**i for i in range(cfg.seq_len.bit_length()) if 2**i < cfg.seq_len] + [cfg.seq_len]
    losses = {n: charlm.loss_fn(model, (shuffled(tokens, n), targets), None, cfg)[0] for n in kept}
    return {n: loss.item() / math.log(2) for n, loss in losses.items()}


in_order = {
    NAMES[name]: pd.DataFrame([bits_behind(run) for run in runs_with(name, large)]).mean() for name in NAMES
}
notebook.picture(
    charts.curves(
        {name: (list(bits.index), list(bits)) for name, bits in in_order.items()},
        "characters that stay in order",
        "bits per character",
        logx=True,
    ),
    "Validation windows of which only the last characters stay in order; on the right, all of them do.",
)
display(pd.DataFrame(in_order).T.round(2).rename_axis(columns="stay in order"))

# %% [markdown]
# ## What missing positions do
#
# The same Transformer was trained with three kinds of positions: without positions (`none`), with a learned
# vector for each position, which is added to the vector of the character (`learned`), and with rotary
# positions (`rope`). The table has bits per character, mean ± standard deviation over the seeds.

# %%
kinds = [kind for kind in ("none", "learned", "rope") if kind in {r.flags["pos"] for r in by_position.runs}]
of_kind = {kind: [run for run in by_position.runs if run.flags["pos"] == kind] for kind in kinds}
shown = {
    kind: {
        "validation": spread(pd.Series([run.status["headline"] for run in runs])),
        "test": spread(pd.Series([last(run)["test/bpc"] for run in runs])),
    }
    for kind, runs in of_kind.items()
}
display(pd.DataFrame(shown).T.rename_axis("positions"))
notebook.picture(
    charts.curves(
        {kind: mean_line(runs, "val/bpc") for kind, runs in of_kind.items()}, "step", "bits per character"
    ),
    "Validation by kind of positions, mean over the seeds.",
)
of_seed = pd.DataFrame(
    {kind: {run.flags["seed"]: last(run)["test/bpc"] for run in runs} for kind, runs in of_kind.items()}
)
for kind in kinds:
    figures[f"{kind}_bpc"] = of_seed[kind].mean()
figures |= {"none_behind": int((of_seed["none"] > of_seed["rope"]).sum()), "seeds_pos": len(of_seed)}

# %% [markdown]
# Attention is a weighted average over a set, and a set has no order: *the* and *eth* are the same three
# characters. So without positions, the output of the first block at the last character is exactly the same,
# whatever the order of the characters before it. The blocks above get some information about the order,
# because each character attends only to itself and the characters before it. After the first block, each
# position represents a different set of characters, and these sets grow from left to right. The order can be
# derived from this, but the model has to learn it from small differences.
#
# The trained models show this. All characters of a window except the last one are shuffled. The table has the
# change of each block's output at the last character, relative to the size of this output.


# %%
@torch.no_grad()
def changes(run) -> list[float]:
    """By how much the output of each block at the last character changes when those before are shuffled."""
    cfg, model = loaded(run)
    tokens, _ = windows_of(cfg)
    outputs = []
    hooks = [
        block.register_forward_hook(lambda _block, _read, out: outputs.append(out[:, -1]))
        for block in model.blocks
    ]
    model(tokens)
    model(shuffled(tokens, 1))
    for hook in hooks:
        hook.remove()
    n = len(model.blocks)
    return [
        ((outputs[n + i] - outputs[i]).norm(dim=1) / outputs[i].norm(dim=1)).mean().item() for i in range(n)
    ]


shares = {kind: pd.DataFrame([changes(run) for run in runs]).mean() for kind, runs in of_kind.items()}
inside = pd.DataFrame(shares).T.rename(columns=lambda i: f"block {i + 1}").rename_axis("positions")
display(inside.map("{:.1%}".format))
figures |= {"first_block": inside["block 1"]["none"], "first_block_rope": inside["block 1"]["rope"]}

# %% [markdown]
# How does this affect the prediction? The same experiment as above is repeated for each kind of positions. On
# the left only the last character stays in its place, and on the right all characters do. The difference
# between left and right is how many bits the model gains from the order of characters.

# %%
order = {kind: pd.DataFrame([bits_behind(run) for run in runs]) for kind, runs in of_kind.items()}
notebook.picture(
    charts.curves(
        {kind: (list(bits.columns), list(bits.mean())) for kind, bits in order.items()},
        "characters that stay in order",
        "bits per character",
        logx=True,
    ),
    "What order is worth to a Transformer, by kind of positions, mean over the seeds.",
)
worth = {kind: bits.iloc[:, 0] - bits.iloc[:, -1] for kind, bits in order.items()}
display(
    pd.DataFrame({"gained by order, bits": {kind: spread(bits) for kind, bits in worth.items()}}).rename_axis(
        "positions"
    )
)
figures |= {"order_none": worth["none"].mean(), "order_rope": worth["rope"].mean()}

# %% [markdown]
# These are texts that the three write at the end of the training, after the same prompt.

# %%
for strategy in ("greedy", "top_p"):
    block = []
    for kind, runs in of_kind.items():
        prompts, truths, written = read_page(notebook.media(runs[0], "sample/continuations")[-1][1])
        block = block or [f"{'read':18}{prompts[0]}", f"{'goes on in truth':18}{truths[0]}", ""]
        block.append(f"{kind:18}{written[strategy][0]}")
    notebook.written("\n".join(block), strategy)

# %% [markdown]
# ## Conclusion

# %%
f = figures
ahead = f"with {f['n_ahead']} of {f['seeds']} seeds it is ahead of the {f['second']}"
decided = "" if f["n_ahead"] == f["seeds"] >= 3 else ", too few to call it better"
rose = "rose" if f["late_words"] > f["early_words"] else "did not rise"
notebook.say(
    f"The text `{f['text']}` has {f['characters']:,} characters; models of about {f['large']:,} parameters",
    f"passed over its training part {f['epochs']:.1f} times. On the test part the LSTM takes {f['lstm']}",
    f"bits per character, the TCN {f['tcn']} and the Transformer {f['transformer']}, each at the better of",
    f"its learning rates ({f['lstm_rate']:g}, {f['tcn_rate']:g} and {f['transformer_rate']:g}).",
    f"The {f['first']} takes the fewest: {ahead}{decided}.",
)
notebook.say(
    f"Parameters: from {f['small']:,} to {f['large']:,} the LSTM gains {f['lstm_gain']:.2f} bits, the TCN",
    f"{f['tcn_gain']:.2f} and the Transformer {f['transformer_gain']:.2f}. The learning rate matters most to",
    f"the {f['most_by_rate']}: between its rates lie {f['rate_span']:.2f} bits.",
)
notebook.say(
    f"Counting pairs takes {f['pairs']:.2f} bits on the validation part, and the best of counting",
    f"{f['counting']:.2f}. Models that are better than that: {f['better']}. The gap between training and",
    f"validation part is widest for the {f['by_heart']}, {f['gap']:.2f} bits, and narrowest for the",
    f"{f['least_by_heart']}, {f['least_gap']:.2f}.",
)
notebook.say(
    f"The share of drawn words that are known {rose}: early it was {f['early_words']:.0%}, late",
    f"{f['late_words']:.0%}, mean of the three.",
)
notebook.say(
    f"A Transformer without positions takes {f['none_bpc']:.2f} bits, with learned positions",
    f"{f['learned_bpc']:.2f} and with rotary ones {f['rope_bpc']:.2f}. With {f['none_behind']} of",
    f"{f['seeds_pos']} seeds it is worse without positions than with rotary ones. When earlier characters",
    f"are shuffled, the output of its first block changes by {f['first_block']:.1%}, and by",
    f"{f['first_block_rope']:.1%} with rotary positions. The order of characters is worth",
    f"{f['order_none']:.2f} bits to it, and {f['order_rope']:.2f} with rotary positions.",
)

# %% [markdown]
# ## On your own text
#
# You can use any text file, such as a chapter of a book whose author died more than seventy years ago. Run
# both sweeps on it, under the names that this notebook reads:
#
# ```sh
# python launch/local.py sweeps/prose.yaml --set dataset=path/to/any.txt --name=prose
# python launch/local.py sweeps/prose_pos.yaml --set dataset=path/to/any.txt --name=prose_pos
# ```
#
# Then run this notebook again. With one seed, `--set 'seed=[0]'`, the runs take half of the time. Other sizes
# and learning rates are set in the same way: `--set 'parameters=[100000, 400000]'`.
