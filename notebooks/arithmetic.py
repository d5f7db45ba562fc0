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
# # Arithmetic from examples: text, handwriting, and drawn answers
#
# Authors: _your names here_

# %%
import sys

sys.path.insert(0, "..")  # the repository's root
from launch.results import notebook

by_split = notebook.runs_of("seq2seq_split")
by_depth = notebook.runs_of("seq2seq_depth")
by_mode = notebook.runs_of("seq2seq_mode")

# %% [markdown]
# ## Introduction
#
# A model reads queries such as `81+24` character by character and learns to write their answers. It is not
# told what a number is. It is a sequence-to-sequence model: an encoder reads the query, and a decoder writes
# the answer. This notebook asks how many examples such a model needs, which answers are wrong and why, and
# whether more layers change this. Then characters become pictures: one model reads handwritten queries, and
# another one draws its answers. Nothing is trained here. The runs were made by
#
# ```sh
# python launch/local.py sweeps/seq2seq_split.yaml
# python launch/local.py sweeps/seq2seq_depth.yaml
# python launch/local.py sweeps/seq2seq_mode.yaml
# ```
#
# The first sweep varies the share of queries that the model learns from, and the second the number of layers.
# In the third, either the queries or the answers are pictures. Figures with a ± are mean ± standard deviation
# over the seeds. Where a single model is examined, it is the model of the first seed.

# %%
import pandas as pd
import torch
from IPython.display import display

from data import arithmetic
from launch.results.words import from_root
from research import seq2seq_arith
from research.common.messages import counted
from research.common.randomness import make_rng
from research.draw import charts, pictures
from research.parts import digit_classifier, seq2seq_mistakes, seq2seq_models
from research.tasks import seq2seq_arith as tasks

figures = {}  # what the conclusion is made from
KINDS = {f"test/mistakes_{kind}": kind.replace("_", " ") for kind in seq2seq_mistakes.KINDS}
SCORES = {"test/exact_match": "exact match", "test/char_accuracy": "per character"}


def last(run) -> dict:
    """The last value of each figure that a run has logged."""
    return {key: value for row in run.rows for key, value in row.items()}


def over_seeds(runs, flags, columns, how="mean", **options) -> pd.DataFrame:
    """Figures of runs, summarised over their seeds by `how`; a row for each setting of the flags."""
    rows = [{name: run.flags[name] for name in flags} | last(run) for run in runs]
    groups = pd.DataFrame(rows).groupby(flags)
    return pd.DataFrame({name: groups[key].agg(how, **options) for key, name in columns.items()})


def by_seed(runs, key: str, **flags) -> pd.Series:
    """A figure that the runs with these flags have logged, by seed; NaN where a run has not logged it."""
    wanted = [run for run in runs if all(run.flags[name] == value for name, value in flags.items())]
    return pd.Series({run.flags["seed"]: last(run).get(key) for run in wanted}, dtype=float)


def first_seeds(runs, *flags) -> dict:
    """Setting of the flags → its run with the lowest seed."""
    ordered = sorted(runs, key=lambda run: -run.flags["seed"])
    found = {tuple(run.flags[name] for name in flags): run for run in ordered}
    return {key[0] if len(key) == 1 else key: found[key] for key in sorted(found)}


def asked(run, task: str, **flags) -> seq2seq_arith.Config:
    """The flags of a task of research/tasks/seq2seq_arith.py that reads a run."""
    return seq2seq_arith.Config(task=task, checkpoint=from_root(run.folder), **notebook.QUIET, **flags)


def call(run, task: str, **flags):
    """Call a task on a run; returns its numbers and its files by name."""
    with notebook.silently():
        results = tasks.run(asked(run, task, **flags))
    return results, {path.name: path for path in notebook.task(run, task).files}


def opened(run, **flags) -> tasks.Opened:
    """A run's model with its best weights, and its data."""
    return tasks.opened(asked(run, "evaluate", **flags))


def answered(it: tasks.Opened):
    """Answers to all test queries, ids (N, A), and which of them are right, (N,)."""
    with notebook.silently():
        ids, _ = tasks.all_answers(it.cfg, it.model, it.data, it.device)
    return ids, (ids == it.data.splits.test.tgt).all(1)


by_fraction = first_seeds(by_split.runs, "train_fraction")
seeds = sorted({run.flags["seed"] for run in by_split.runs})

# %% [markdown]
# ## The queries
#
# The queries are all sums and all differences of two numbers. They are split by unordered pairs of numbers:
# `81+24`, `24+81`, `81-24` and `24-81` are always in the same set. Otherwise a model could answer a test
# query because it has learned the same sum in the other order. The smaller the training set is, the larger is
# the test set.

# %%
opened_of = {fraction: opened(run) for fraction, run in by_fraction.items()}
rows = {}
for fraction, it in opened_of.items():
    parts = it.data.splits
    rows[f"{fraction:.0%}"] = {"train": len(parts.train), "val": len(parts.val), "test": len(parts.test)}
display(pd.DataFrame(rows).T.rename_axis("learned from"))

parts = it.data.splits
examples = seq2seq_mistakes.table(parts.train.tgt, parts.train, parts.alphabet, range(8))
display(pd.DataFrame(examples)[["query", "answer"]].T)

# %% [markdown]
# ## One-hot codes and tensor shapes
#
# A character is given to the model as a one-hot code: a row of zeros with a single one at the position of the
# character in the alphabet. A query is then a table with a row for each character. A one-hot code contains
# nothing about the value of a digit: the codes of 3 and 4 are as different as those of 3 and 9. The model has
# to learn the order of the digits.
#
# The decoder writes one character after the other. At each position it reads the previous character, also as
# a one-hot code; at the first position it reads a row of zeros. In training, the previous character is the
# true one (teacher forcing). When the model answers a query, it is the one that the model has written.

# %%
it = opened_of[max(opened_of)]
test, alphabet = it.data.splits.test, it.data.splits.alphabet
names = [char.replace(" ", "␣") for char in alphabet]
batch = seq2seq_arith.batch_of(test.src[:4], test.tgt[:4], None, make_rng(0, 0, "eval"), it.cfg, alphabet)
read = it.model.features(batch.src)[0]
before = it.model.inputs(it.model.encode(batch.src), batch.tgt[:, :-1])[0].detach()
said = ["nothing", *[names[i] for i in batch.tgt[0, :-1]]]
notebook.source(seq2seq_models.one_hot)
notebook.picture(
    charts.heatmap(read, [names[i] for i in batch.src[0]], names, "What the encoder reads", ".0f"),
    f"The one-hot code of the query {arithmetic.decode(batch.src[0], alphabet)}, a row for each character.",
)
notebook.picture(
    charts.heatmap(before, said, names, "What the decoder reads", ".0f"),
    f"What the decoder reads while it writes {arithmetic.decode(batch.tgt[0], alphabet)}.",
)

# %% [markdown]
# The next table has the shapes of all tensors from a query to its answer, for four queries and three kinds of
# models. The first dimension is B = 4, the number of queries. The second dimension is the number of
# characters: Q in a query, A in an answer. V is the size of the alphabet, and H is the number of hidden units
# (twice as many where the encoder reads in both directions). Only the first state of the decoder has the
# layers before the queries: (layers, B, H). Pictures have 28×28 pixels. A model that draws chooses one of K
# pictures for each character.


# %%
@torch.no_grad()
def shapes(it: tasks.Opened) -> dict[str, tuple]:
    """The tensors of four test queries, from the query to the answer."""
    test, alphabet = it.data.splits.test, it.data.splits.alphabet
    glyph, rng = seq2seq_arith.drawers(it.data, it.device)["test"], make_rng(0, 0, "eval")
    batch = seq2seq_arith.batch_of(test.src[:4], test.tgt[:4], glyph, rng, it.cfg, alphabet)
    before = batch.tgt[:, :-1] if batch.drawn is None else None
    memory = it.model.encode(batch.src)
    tensors = {
        "query": batch.src,
        "what the encoder reads": it.model.features(batch.src),
        "what the encoder gives for each character": memory.outputs,
        "state in which the decoder begins": memory.state[0],
        "what the decoder reads": it.model.inputs(memory, before),
        "logits": it.model.decode(memory, before),
        "answer": batch.tgt if batch.drawn is None else batch.drawn,
    }
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


of_mode = first_seeds(by_mode.runs, "mode")
reads, draws = opened(of_mode["image_to_text"]), opened(of_mode["text_to_image"])
table = {"text → text": shapes(it), "image → text": shapes(reads), "text → image": shapes(draws)}
display(pd.DataFrame(table))

# %% [markdown]
# ## The model and the loss
#
# The encoder is an LSTM (long short-term memory, a recurrent network) that reads the query. The decoder, a
# second LSTM, receives only the last state of the encoder, so this state has to represent the whole query. A
# linear layer, the head, turns the decoder's output into a score for each character. The loss is the
# cross-entropy of the right character, in nats, as a mean over all characters of the answers. The second
# function below also computes the loss of drawn answers, which are explained further down.

# %%
notebook.source(seq2seq_models.LSTM, seq2seq_arith.loss_fn)
plain = by_fraction[max(by_fraction)]
notebook.layers(plain)
figures["parameters"] = notebook.n_parameters(plain)

# %% [markdown]
# ## Training
#
# The first chart shows the share of validation queries whose answer is completely right, for each share of
# queries that a model learned from. The second chart shows the loss of the model with the fewest queries, on
# its training queries and on the validation queries. If the training loss keeps falling and the validation
# loss does not, the model memorises its examples. Both charts show the first seed.

# %%
lines = {}
for fraction, run in by_fraction.items():
    points = [(row["step"], row["val/exact_match"]) for row in run.rows if "val/exact_match" in row]
    lines[f"learned from {fraction:.0%}"] = tuple(zip(*points))
notebook.picture(
    charts.curves(lines, "step", "exact match"), "Validation queries answered right, first seed."
)

fewest, most = min(by_fraction), max(by_fraction)
run, lines = by_fraction[fewest], {}
every = run.flags["eval_every"]
for name, key in {"training": "train/loss", "validation": "val/loss"}.items():
    logged = pd.DataFrame([(row["step"], row[key]) for row in run.rows if key in row], columns=["step", "y"])
    smooth = logged.groupby((logged["step"] / every).round() * every)["y"].mean()
    lines[name] = (list(smooth.index), list(smooth))
notebook.picture(
    charts.curves(lines, "step", "loss, nats per character", logy=True),
    f"Loss of the model that learned from {fewest:.0%} of the queries, first seed.",
)

# %% [markdown]
# ## How many examples are enough
#
# The table and the chart show two figures of the test set. **Exact match** is the share of answers in which
# every character is right. **Per character** is the share of right characters, blanks included. The share of
# right characters is never lower than exact match, and it can give too good an impression: an answer of three
# characters with one wrong digit is a wrong answer, although two of its three characters are right.

# %%
scores = over_seeds(by_split.runs, ["train_fraction"], SCORES)
shown = over_seeds(by_split.runs, ["train_fraction"], SCORES, notebook.spread, form=".4f")
shown.index = [f"{fraction:.0%}" for fraction in shown.index]
display(shown.rename_axis("learned from"))
notebook.say(f"Mean ± standard deviation over {counted(len(seeds), 'seed')}.")
lines = {}
for key, name in SCORES.items():
    for seed in seeds:
        of_seed = sorted(
            (run.flags["train_fraction"], last(run)[key])
            for run in by_split.runs
            if run.flags["seed"] == seed
        )
        lines[f"{name}, seed {seed}"] = tuple(zip(*of_seed))
notebook.picture(
    charts.curves(lines, "share of the queries learned from", "share of test answers"),
    "Exact match and right characters by the share of queries learned from, a line for each seed.",
)
exact = scores["exact match"]
percent = over_seeds(by_split.runs, ["train_fraction"], SCORES, notebook.spread, form=".1%")
figures |= {"seeds": len(seeds), "fewest": fewest, "most": most}
figures |= {"fewest_exact": percent["exact match"][fewest], "fewest_char": percent["per character"][fewest]}
figures |= {"most_exact": percent["exact match"][most], "most_char": percent["per character"][most]}

# %% [markdown]
# ## Which answers are wrong
#
# Each wrong answer is counted once, as the first of these kinds that applies to it:

# %%
meanings = dict(zip(KINDS.values(), seq2seq_mistakes.KINDS.values()))
with pd.option_context("display.max_colwidth", None):
    display(pd.DataFrame({"what it counts": meanings}))
table = over_seeds(by_split.runs, ["train_fraction"], KINDS)
notebook.picture(
    charts.heatmap(
        100 * table, [f"{fraction:.0%}" for fraction in table.index], list(table), "% of all answers"
    ),
    "Mistakes of each kind in per cent of all test answers, by the share of queries learned from; means over"
    " the seeds.",
)

# %% [markdown]
# Now one model is examined in detail. It has to make enough mistakes to count them, but it should do more
# than guess. So it is a model that learned from the fewest queries with which more than half of the answers
# are still right (if there is none, the model with the most right answers). It is the model of the first
# seed. These are some of its mistakes of each kind:

# %%
able = exact[exact > 0.5].index
chosen = min(able) if len(able) else exact.idxmax()
run, it = by_fraction[chosen], opened_of[chosen]
test, alphabet = it.data.splits.test, it.data.splits.alphabet
ids, right = answered(it)
of_kind = seq2seq_mistakes.kinds_of(ids, test, alphabet)
some = [row for kind in range(len(KINDS)) for row in torch.where(of_kind == kind)[0][:3].tolist()]
found = seq2seq_mistakes.table(ids, test, alphabet, some)
if found:
    display(pd.DataFrame(found).groupby("mistake", sort=False).agg(", ".join))
wrong = int((~right).sum())
counts = torch.bincount(of_kind[~right], minlength=len(KINDS))
notebook.say(
    f"The model with seed {run.flags['seed']} that learned from {chosen:.0%} of the queries:",
    f"{wrong:,} of {len(right):,} test answers are wrong.",
)
figures |= {"chosen": chosen, "examined": run.flags["seed"], "wrong": wrong, "tested": len(right)}
figures |= {"kind": [*KINDS.values()][counts.argmax()], "of_kind": int(counts.max())}

# %% [markdown]
# The next picture shows where the mistakes of this model are: both numbers of the query are the axes, and
# each operator has a map. All queries on a rising diagonal have the same difference, and all queries on a
# falling diagonal have the same sum, so a dark diagonal is an answer that is difficult. At the left and the
# lower edge one of the two numbers is small, and in the corner between these edges both are small.

# %%
_, files = call(run, "mistakes")
notebook.picture(
    files["map.png"], f"Which test queries are answered right, learned from {chosen:.0%} of the queries."
)

# %% [markdown]
# ## Why these answers are wrong
#
# There are five possible reasons:
#
# - **What was seen in training.** Most answers have two or three characters, few have one. Rare cases are
#   learned worst. The first table below has the number of training queries and the share of right answers.
# - **Where the digits are.** In `7+24`, the operator and the second number are one position further left than
#   in `17+24`. Numbers of one digit are rare, so the model rarely sees this arrangement.
# - **The order of writing.** The answer is written from its first digit to its last, but the first digit
#   depends on all digits that follow: `45+54` is `99`, but `46+54` is `100`. So the whole sum has to be known
#   before the first character is written.
# - **Carries.** With a carry or a borrow, one digit of the answer depends on two columns.
# - **The whole query in one state.** The decoder knows the query only from the encoder's last state. If this
#   state represents the result as a quantity, similar results have similar states, and a small error gives a
#   number that is off by one.
#
# Both tables have the share of right answers, mean ± standard deviation over the seeds.

# %%
train = it.data.splits.train
blank = alphabet.index(arithmetic.BLANK)
n_chars, n_trained = ((part.tgt != blank).sum(1) for part in (test, train))


def of_chosen(key: str) -> pd.Series:
    """A figure of the models that learned from this share of the queries, by seed."""
    return by_seed(by_split.runs, key, train_fraction=chosen)


lengths = sorted(set(n_chars.tolist()))
rows = []
for n in lengths:
    row = {"characters of the answer": n, "training queries": int((n_trained == n).sum())}
    row |= {"test queries": int((n_chars == n).sum())}
    rows.append(row | {"right": notebook.spread(of_chosen(f"test/exact_length_{n}"), ".4f")})
display(pd.DataFrame(rows).set_index("characters of the answer"))

groups = {seq2seq_mistakes.NAMES[op]: f"test/exact_{seq2seq_mistakes.NAMES[op]}" for op in it.cfg.ops}
groups |= {"with a carry or borrow": "test/exact_carry", "without": "test/exact_no_carry"}
groups = {name: of_chosen(key) for name, key in groups.items()}
display(pd.DataFrame({"right": {name: notebook.spread(of, ".4f") for name, of in groups.items()}}))
short, long = (of_chosen(f"test/exact_length_{n}") for n in (lengths[0], lengths[-1]))
carry, no_carry = groups["with a carry or borrow"], groups["without"]
figures |= {"short": lengths[0], "short_right": notebook.spread(short, ".1%")}
figures |= {"long": lengths[-1], "long_right": notebook.spread(long, ".1%")}
figures["n_long_higher"], figures["n_lengths"] = notebook.higher(long, short)
figures |= {"carry": notebook.spread(carry, ".1%"), "no_carry": notebook.spread(no_carry, ".1%")}
figures["n_carry_higher"], figures["n_carries"] = notebook.higher(carry, no_carry)

# %% [markdown]
# ## What more layers change
#
# Encoder and decoder may each have several LSTM layers, one on top of the other. With one more layer, each
# step of reading or writing has one more step of computation. This also makes training more difficult,
# because the gradient has to pass through more layers. These models learned from the same queries for the
# same number of steps. The table has the two scores, and then the exact match of some groups of queries: by
# operator, with and without a carry, and by the length of the answer.

# %%
layers = ["hidden_dim", "encoder_layers", "decoder_layers"]
GROUPS = {"test/exact_add": "sums", "test/exact_subtract": "differences", "test/exact_carry": "with a carry"}
GROUPS |= {"test/exact_no_carry": "without"}
GROUPS |= {f"test/exact_length_{n}": f"length {n}" for n in lengths}
GROUPS = {key: name for key, name in GROUPS.items() if all(key in last(run) for run in by_depth.runs)}
table = over_seeds(by_depth.runs, layers, SCORES | GROUPS | KINDS)


def in_words(setting) -> str:
    """(128, 1, 2) → '1 + 2 layers, 128 units'."""
    hidden, encoder, decoder = setting
    return f"{encoder} + {decoder} layers, {hidden} units"


display(over_seeds(by_depth.runs, layers, SCORES | GROUPS, notebook.spread, form=".4f"))
depth_seeds = len({run.flags["seed"] for run in by_depth.runs})
notebook.say(f"Each row is of {counted(depth_seeds, 'seed')}.")
notebook.picture(
    charts.heatmap(100 * table[[*KINDS.values()]], [*map(in_words, table.index)], [*KINDS.values()]),
    "Mistakes of each kind in per cent of all test answers. 1 + 2 layers: one in the encoder, two in the"
    " decoder.",
)

# %% [markdown]
# What share of the *wrong* answers is of each kind, in per cent? This shows whether more layers change the
# kinds of mistakes or only their number. If nearly all answers are right, the shares are computed from few
# answers.

# %%
shares = table[[*KINDS.values()]].div(1 - table["exact match"], axis=0).fillna(0)
display(pd.DataFrame({in_words(setting): 100 * row for setting, row in shares.iterrows()}).T.round(1))

# %% [markdown]
# Among the models with the most units, the one with the fewest layers and the one with the most are compared
# query by query (first seed). If mistakes were random, two models would make them on different queries. If
# they were due to the queries, both models would make them on the same queries.

# %%
of_depth = first_seeds(by_depth.runs, *layers)
widest = max(setting[0] for setting in of_depth)
of_depth = {setting: run for setting, run in of_depth.items() if setting[0] == widest}
few, many = min(of_depth, key=sum), max(of_depth, key=sum)
failed = {}
for setting in (few, many):
    it = opened(of_depth[setting])
    failed[setting] = ~answered(it)[1]
    _, files = call(of_depth[setting], "mistakes")
    notebook.picture(files["map.png"], f"Which test queries are answered right: {in_words(setting)}.")
both = int((failed[few] & failed[many]).sum())
notebook.say(
    f"{in_words(few)}: {int(failed[few].sum()):,} of {len(failed[few]):,} answers are wrong.",
    f"{in_words(many)}: {int(failed[many].sum()):,} are wrong. Both models answer {both:,} queries wrong.",
)
commonest = shares.loc[few].idxmax()
figures |= {"few": in_words(few), "many": in_words(many), "commonest": commonest}
of_few, of_many = (
    by_seed(by_depth.runs, "test/exact_match", **dict(zip(layers, setting))) for setting in (few, many)
)
figures |= {"few_exact": notebook.spread(of_few, ".1%"), "many_exact": notebook.spread(of_many, ".1%")}
figures["n_many_higher"], figures["depth_seeds"] = notebook.higher(of_many, of_few)
figures |= {"few_share": shares[commonest][few], "many_share": shares[commonest][many]}
figures |= {"many_wrong": int(failed[many].sum()), "both_wrong": both}
figures["few_rate"] = failed[few].double().mean().item()
best = table["exact match"].idxmax()
best_exact = by_seed(by_depth.runs, "test/exact_match", **dict(zip(layers, best)))
figures |= {"best_depth": in_words(best), "best_exact": notebook.spread(best_exact, ".1%")}

# %% [markdown]
# ## Handwriting: the models with pictures
#
# In the mode `image_to_text`, every character of a query is a picture: a handwritten digit or a drawn
# operator. Training queries are written with training pictures, and test queries with test pictures. A small
# convolutional network in front of the encoder turns each picture into a vector. This network is never told
# which digit a picture shows. It learns to distinguish digits because the answers depend on them.

# %%
notebook.source(seq2seq_models.picture_encoder)
notebook.layers(of_mode["image_to_text"])
notebook.picture(
    notebook.media(of_mode["image_to_text"], "sample/pictures")[-1][1],
    "Handwritten validation queries and the model's answers.",
)

# %% [markdown]
# In the mode `text_to_image`, the query is text and the answer is drawn. The model has a fixed number of
# pictures, which it learns. For each character of the answer, it gives a probability to each of these
# pictures, and it draws the most probable one. The loss is the negative logarithm of the probability of the
# true handwriting under the mixture of all these pictures.

# %%
notebook.source(seq2seq_models.Seq2Seq.nats_of)
drawn_pages = notebook.media(of_mode["text_to_image"], "sample/pictures")
for step, path in (drawn_pages[0], drawn_pages[len(drawn_pages) // 2], drawn_pages[-1]):
    notebook.picture(
        path, f"Drawn answers to validation queries after {step:,} steps, and what the classifier reads."
    )

# %% [markdown]
# ## What a classifier reads in drawn answers
#
# To decide whether a drawn answer is right, something has to read it. Here a classifier reads it. The
# classifier was trained only on real pictures and is not trained any further. Its accuracy on real test
# pictures shows how reliable it is. Below are all pictures that the model can draw. Each row is labelled
# with what the classifier reads in its pictures.
#
# The loss makes each of these pictures likely for many handwritings at once. The best such picture is the
# mean of these handwritings: it is smooth, and its edges are soft where handwritings differ. Such typical
# shapes are easy to read. But they have little variety: the same few pictures are drawn again and again.

# %%
reader = seq2seq_arith.reader_of(draws.cfg, draws.data)
alphabet = draws.data.splits.alphabet
stock = draws.model.pictures.detach().unflatten(1, (seq2seq_models.EDGE, seq2seq_models.EDGE))
labels = reader.read(stock[None])[0]
order = labels.argsort(stable=True)
names = [alphabet[i].replace(" ", "␣") for i in labels[order]]
in_rows = [" ".join(names[i : i + 8]) for i in range(0, len(names), 8)]
notebook.picture(
    pictures.grid(torch.sigmoid(stock[order])[:, None], 8, in_rows, scale=2),
    "The pictures that the model can draw, sorted by what the classifier reads (␣ is a blank).",
)
drawn_ids, drawn_right = answered(draws)
of_drawn = {name: by_seed(by_mode.runs, key, mode="text_to_image") for key, name in SCORES.items()}
figures |= {"stock": len(stock), "reader": reader.accuracy}
figures |= {"drawn_exact": notebook.spread(of_drawn["exact match"], ".1%")}
figures |= {"drawn_char": notebook.spread(of_drawn["per character"], ".2%")}
as_reader = dict.fromkeys(of_drawn["per character"].keys(), reader.accuracy)
figures["n_typical"], figures["drawn_seeds"] = notebook.higher(of_drawn["per character"], as_reader)
wrongly = torch.where(~drawn_right)[0][:8]
notebook.say(
    f"The classifier reads {reader.accuracy:.1%} of real test pictures correctly. In the drawn answers it",
    f"reads the right character in {figures['drawn_char']} of all cases. With the first seed,",
    f"{int((~drawn_right).sum()):,} of {len(drawn_right):,} drawn answers are wrong.",
)
if len(wrongly):
    glyph = seq2seq_arith.drawers(draws.data, draws.device)["test"]
    test = draws.data.splits.test
    place = (draws.model, test, drawn_ids, wrongly, glyph, draws.cfg, alphabet, draws.device)
    rows = seq2seq_mistakes.table(drawn_ids, test, alphabet, wrongly.tolist())
    labels = [seq2seq_mistakes.told(row) for row in rows]
    notebook.picture(
        pictures.grid(seq2seq_arith.pictures_of(*place), 1, labels), "Drawn answers that are wrong."
    )

# %% [markdown]
# ## Image → text against text → text
#
# A comparison is fair only if the models differ in nothing else. So the table first lists the flags in which
# three models differ: text → text, which is the plain text model that learned from the same share of queries
# (or the nearest), and the two models with pictures, text → image and image → text. The flags `mode` and
# `dataset` (the pictures of characters) are left out of the table.

# %%
nearest = min(by_fraction, key=lambda fraction: abs(fraction - reads.cfg.train_fraction))
compared = {"text → text": by_fraction[nearest], "text → image": of_mode["text_to_image"]}
compared["image → text"] = of_mode["image_to_text"]
names = sorted(reads.run_config["flags"].keys() & of_mode["image_to_text"].result_flags - {"dataset", "mode"})
table = pd.DataFrame(
    {kind: [str(run.flags.get(name)) for name in names] for kind, run in compared.items()}, names
)
table = table[table.nunique(axis=1) > 1]
display(table)


def differ(first: str, second: str) -> str:
    """The flags in which two of the models differ, beside `mode` and `dataset`."""
    unlike = [name for name in table.index if table[first][name] != table[second][name]]
    return f"{counted(len(unlike), 'flag')} ({', '.join(unlike)})" if unlike else "no flag"


figures |= {"unlike": differ("text → image", "image → text"), "nearest": nearest}
figures["unlike_plain"] = differ("text → text", "image → text")
notebook.say(
    f"Apart from the mode, text → image differs from image → text in {figures['unlike']}. The plain model,",
    f"text → text, differs from image → text in {figures['unlike_plain']} and from text → image in",
    f"{differ('text → text', 'text → image')}. Each of these flags may be a reason why the plain model is",
    "better or worse. So image → text is compared with text → image: this model reads the same queries as",
    "text. The comparison is not perfect, because the answers of text → image are drawn. But if it",
    "answers nearly all queries right, such a model can do the arithmetic, and reading is the likely cause",
    "of what image → text loses.",
)

# %%
rows = {}
for name, run in compared.items():
    same = [r for r in (*by_split.runs, *by_mode.runs) if r.flags["mode"] == run.flags["mode"]]
    same = [r for r in same if r.flags["train_fraction"] == run.flags["train_fraction"]]
    rows[name] = pd.DataFrame({r.flags["seed"]: last(r) for r in same}).T[[*SCORES, *KINDS]]  # by seed
    rows[name] = rows[name].rename(columns=SCORES | KINDS).astype(float)
shown = {name: {key: notebook.spread(of[key], ".4f") for key in SCORES.values()} for name, of in rows.items()}
display(pd.DataFrame(shown).T.assign(seeds={name: len(of) for name, of in rows.items()}))
table = pd.DataFrame({name: of.mean() for name, of in rows.items()}).T[[*KINDS.values()]]
notebook.picture(
    charts.heatmap(100 * table, list(table.index), list(table)),
    "Mistakes of each kind in per cent of all test answers, means over the seeds.",
)
of_reading = rows["image → text"]
figures |= {"read_exact": notebook.spread(of_reading["exact match"], ".1%")}
figures |= {"read_char": notebook.spread(of_reading["per character"], ".1%")}
figures["n_read_lower"], figures["mode_seeds"] = notebook.higher(
    of_drawn["exact match"], of_reading["exact match"]
)
figures |= {"plain_exact": notebook.spread(rows["text → text"]["exact match"], ".1%")}

# %% [markdown]
# A model that reads text always gives the same answer to the same query. A model that reads handwriting may
# give another answer when the query is written by another hand. This separates two sources of mistakes. If
# the arithmetic is wrong, the answer stays wrong in any handwriting. If a digit is misread, the same query in
# another handwriting is usually answered right. So all test queries are written a second time with other
# pictures (model of the first seed).

# %%
handwritings = [opened(of_mode["image_to_text"], seed=reads.cfg.seed + i) for i in range(2)]
read_ids, once = answered(handwritings[0])
again = answered(handwritings[1])[1]
n_wrong, cured = int((~once).sum()), int((~once & again).sum())
both = int((~once & ~again).sum())
notebook.say(
    f"In the first handwriting, {n_wrong:,} of {len(once):,} answers are wrong. {cured:,} of these queries",
    f"are answered right in the second handwriting, and {both:,} are answered wrong in both.",
)
figures |= {"read_wrong": n_wrong, "cured": cured}

# %% [markdown]
# The classifier reads the same pictures, too, character by character. It reads a query correctly if it reads
# all its characters correctly. A classifier together with a pocket calculator would answer these queries
# right. In addition, a query with more digits gives more opportunities to misread one. The second table
# therefore shows the share of right answers by the number of digits. All models in it are those of the first
# seed.


# %%
def classified(it: tasks.Opened) -> torch.Tensor:
    """Which handwritten test queries the classifier reads without a mistake, booleans (N,)."""
    test, read = it.data.splits.test, []
    glyph = seq2seq_arith.drawers(it.data, it.device)["test"]
    for batch in seq2seq_arith.batches(test, glyph, it.cfg, it.data.splits.alphabet, it.device):
        x = batch.src.mul(255).round().byte().cpu()
        read.append(digit_classifier.classify(reader.model, x.flatten(0, 1)).view(x.shape[:2]))
    return (torch.cat(read) == test.src).all(1)


legible = classified(handwritings[0])
by_classifier = ["reads all characters correctly" if yes else "misreads a character" for yes in legible]
by_model = ["answers right" if yes else "answers wrong" for yes in once]
display(pd.crosstab(pd.Series(by_classifier, name="classifier"), pd.Series(by_model, name="model")))
by_digits = {}
for name, it, is_right in (
    ("text → text", opened_of[nearest], answered(opened_of[nearest])[1]),
    ("text → image", draws, drawn_right),
    ("image → text", reads, once),
):
    test = it.data.splits.test
    n_digits = [len(f"{a}{b}") for a, b in zip(test.a.tolist(), test.b.tolist())]
    by_digits[name] = pd.Series(is_right.double().numpy()).groupby(n_digits).mean()
display(pd.DataFrame(by_digits).rename_axis("digits of the query").round(4))
figures["legible"] = legible.double().mean()

# %% [markdown]
# These are handwritten queries that were answered wrong. Which digit would you have misread?

# %%
few_wrong = torch.where(~once)[0][:12]
if len(few_wrong):
    it = handwritings[0]
    test, glyph = it.data.splits.test, seq2seq_arith.drawers(it.data, it.device)["test"]
    place = (it.model, test, read_ids, few_wrong, glyph, it.cfg, it.data.splits.alphabet, it.device)
    rows = seq2seq_mistakes.table(read_ids, test, it.data.splits.alphabet, few_wrong.tolist())
    labels = [seq2seq_mistakes.told(row) for row in rows]
    notebook.picture(
        pictures.grid(seq2seq_arith.pictures_of(*place), 1, labels),
        "Handwritten test queries that were answered wrong.",
    )

# %% [markdown]
# ## A query of your own
#
# Change `query` below. The table has the answers of the plain models and the probability that they give to
# each character. Then the image → text model reads the query from handwriting (if the model has attention, a
# picture shows which characters it attends to while it writes each character of its answer), and the text →
# image model draws the answer. If a query is in the training set, a right answer does not show that the
# model has learned to calculate. So the table also shows in which set the query is. All models are those of
# the first seed.


# %%
def part_of(query: str, it: tasks.Opened) -> str:
    """The set that a query is in: train, val or test."""
    a, _, b = arithmetic.parse(query, it.cfg.ops, it.digits)
    parts = {name: getattr(it.data.splits, name) for name in arithmetic.PARTS}
    return next(name for name, part in parts.items() if ((part.a == a) & (part.b == b)).any())


query = "81+24"
rows = []
for fraction, run in by_fraction.items():
    found, _ = call(run, "ask", query=query)
    sure = ", ".join(f"{p:.2f}" for p in found["probability"])
    row = {"learned from": f"{fraction:.0%}", "set": part_of(query, opened_of[fraction])}
    row |= {"answer": found["answer"], "right": found["right"]}
    rows.append(row | {"probability of each character": sure})
display(pd.DataFrame(rows).set_index("learned from"))
for mode in ("image_to_text", "text_to_image"):
    _, files = call(of_mode[mode], "ask", query=query)
    for what in ("query", "attention", "answer"):
        if f"{what}.png" in files:
            notebook.picture(files[f"{what}.png"], f"{query}, {mode.replace('_', ' ')}: the {what}.")

# %% [markdown]
# ## Conclusion

# %%
f = figures
notebook.say(
    f"Figures with a ± are mean ± standard deviation over the seeds. A plain LSTM of {f['parameters']:,}",
    f"parameters that learned from {f['most']:.0%} of all queries answers {f['most_exact']} of the test",
    f"queries right ({f['most_char']} of the characters). If it learned from {f['fewest']:.0%}, it answers",
    f"{f['fewest_exact']} right ({f['fewest_char']} of the characters). Both are over",
    f"{counted(f['seeds'], 'seed')}.",
)
notebook.say(
    f"For the models that learned from {f['chosen']:.0%}: answers with the fewest characters, {f['short']},",
    f"are right in {f['short_right']} of the cases and those with the most characters, {f['long']}, in",
    f"{f['long_right']}, which is higher with {f['n_long_higher']} of {counted(f['n_lengths'], 'seed')}.",
    f"Queries with a carry or borrow are answered right in {f['carry']} of the cases and those without in",
    f"{f['no_carry']}; the share is higher with a carry or borrow with {f['n_carry_higher']} of",
    f"{counted(f['n_carries'], 'seed')}. The model with seed {f['examined']} was examined in detail:",
    f"{f['wrong']:,} of its {f['tested']:,} test answers are wrong, and its most frequent kind of mistake is",
    f"“{f['kind']}” ({f['of_kind']:,} answers).",
)
overlap = f["both_wrong"] / max(1, f["many_wrong"])
notebook.say(
    f"More layers: the model with {f['many']} answers {f['many_exact']} right and the one with {f['few']}",
    f"{f['few_exact']}; the model with more layers is better with {f['n_many_higher']} of",
    f"{counted(f['depth_seeds'], 'seed')}. The best setting with {counted(f['depth_seeds'], 'seed')} is",
    f"{f['best_depth']}, with {f['best_exact']}. “{f['commonest']}” is {f['few_share']:.0%} of the wrong",
    f"answers with {f['few']} and {f['many_share']:.0%} with {f['many']}. With the first seed, the model",
    f"with {f['few']} answers {f['few_rate']:.1%} of all test queries wrong. Of the {f['many_wrong']:,}",
    f"queries that the model with {f['many']} answers wrong, the model with {f['few']} also answers",
    f"{f['both_wrong']:,} wrong, which is {overlap:.1%}.",
)
notebook.say(
    f"Handwriting: the image → text model answers {f['read_exact']} of the handwritten queries right",
    f"({f['read_char']} of the characters). The text → image model, which reads text and draws its answers,",
    f"answers {f['drawn_exact']} right, which is higher with {f['n_read_lower']} of",
    f"{counted(f['mode_seeds'], 'seed')}. Apart from the mode, these two models differ in {f['unlike']}.",
    f"The plain text → text model, which learned from {f['nearest']:.0%} of the queries, answers",
    f"{f['plain_exact']} right, but apart from the mode it differs from the image → text model in",
    f"{f['unlike_plain']}. With the first",
    f"seed, {f['read_wrong']:,} queries were answered wrong in one handwriting, and {f['cured']:,} of these",
    f"were answered right in another handwriting. The classifier reads {f['legible']:.1%} of the handwritten",
    "queries without a mistake.",
)
notebook.say(
    f"Drawn answers consist of {f['stock']} different pictures. The classifier reads the right character in",
    f"{f['drawn_char']} of the cases in drawn answers and in {f['reader']:.1%} of the cases in real",
    f"pictures; the share is higher in drawn answers with {f['n_typical']} of",
    f"{counted(f['drawn_seeds'], 'seed')}.",
)

# %% [markdown]
# ## On your own
#
# You can use other operators, and your own pictures of the ten digits (a folder or a CSV, see
# data/README.md):
#
# ```sh
# python launch/local.py sweeps/seq2seq_split.yaml --set 'ops=+-*' --name=seq2seq_split
# python launch/local.py sweeps/seq2seq_mode.yaml --set dataset=path/to/folder --name=seq2seq_mode
# ```
#
# Then run this notebook again.
