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
# A model sees queries such as `81+24` with their answers, character by character, and nobody tells it what
# a number is. It is a sequence-to-sequence model: an encoder reads the query, a decoder writes the answer.
# This notebook asks how many examples such a model needs, which answers are wrong and why, and whether more
# layers change that. Then the characters become pictures: one model reads handwritten queries, another one
# draws its answers. Nothing is trained here. The runs were made by
#
# ```sh
# python launch/local.py sweeps/seq2seq_split.yaml
# python launch/local.py sweeps/seq2seq_depth.yaml
# python launch/local.py sweeps/seq2seq_mode.yaml
# ```
#
# The first sweep varies the share of queries that the model learns from, the second the number of layers,
# the third what is text and what is pictures.

# %%
import pandas as pd
import torch
from IPython.display import display

from data import arithmetic
from launch.results.words import from_root
from research import seq2seq_arith
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


def over_seeds(runs, flags, columns, how: str = "mean") -> pd.DataFrame:
    """Figures of runs, as mean (or std) over their seeds; a row for each setting of the flags."""
    rows = [{name: run.flags[name] for name in flags} | last(run) for run in runs]
    return pd.DataFrame(rows).groupby(flags)[[*columns]].agg(how).rename(columns=columns)


def first_seeds(runs, *flags) -> dict:
    """Setting of the flags → its run of the lowest seed."""
    ordered = sorted(runs, key=lambda run: -run.flags["seed"])
    found = {tuple(run.flags[name] for name in flags): run for run in ordered}
    return {key[0] if len(key) == 1 else key: found[key] for key in sorted(found)}


def asked(run, task: str, **flags) -> seq2seq_arith.Config:
    """The flags of a task of research/tasks/seq2seq_arith.py that reads a run."""
    return seq2seq_arith.Config(task=task, checkpoint=from_root(run.folder), **notebook.QUIET, **flags)


def call(run, task: str, **flags):
    """Let a task work on a run; returns its numbers and its files by name."""
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
n_seeds = len({run.flags["seed"] for run in by_split.runs})

# %% [markdown]
# ## The queries
#
# Every sum and every difference of two numbers. They are split by unordered pairs of numbers: `81+24`,
# `24+81`, `81-24` and `24-81` are always in the same part. Otherwise a model could answer a test query
# because it has learned the same sum in the other order. The smaller the training part is, the larger is
# the test part.

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
# A character is given to the model as a one-hot code: a row of zeros with a single one, at the place of the
# character in the alphabet. A query is then a table with a row for each character. The code says nothing
# about the size of a digit: 3 is as far from 4 as from 9, and the model has to find out their order.
#
# The decoder writes one character after the other. At each place it reads the character before, also
# one-hot, and before the first there is a row of zeros. In training these are the true characters (teacher
# forcing), when it answers they are its own.

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
# The shapes of all tensors on the way from a query to its answer, for four queries and the three kinds of
# models. B = 4 queries come first, then the characters: Q of a query, A of an answer. V is the size of the
# alphabet and H the number of hidden units, of which there are twice as many where the encoder reads in both
# directions. Only the decoder's first state has the layers before the queries: (layers, B, H).
# Pictures have 28×28 pixels. A model that draws chooses, for each character, one of K pictures.


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
# The encoder is an LSTM that reads the query. Its last state is all that the decoder, a second LSTM, gets:
# the whole query has to fit into it. A linear layer, the head, turns the decoder's output into a score for
# each character. The loss is the cross-entropy of the right character, in nats, as a mean over all
# characters of the answers. The second function also covers drawn answers, which are explained below.

# %%
notebook.source(seq2seq_models.LSTM, seq2seq_arith.loss_fn)
plain = by_fraction[max(by_fraction)]
notebook.layers(plain)
figures["parameters"] = notebook.n_parameters(plain)

# %% [markdown]
# ## Training
#
# First the share of validation queries that are answered completely right, for each share of queries that
# is learned from. Then the loss with the fewest queries: on those that are trained on, and on those that
# are not. Where the two lines part, the model learns its examples by heart.

# %%
lines = {}
for fraction, run in by_fraction.items():
    points = [(row["step"], row["val/exact_match"]) for row in run.rows if "val/exact_match" in row]
    lines[f"learned from {fraction:.0%}"] = tuple(zip(*points))
notebook.picture(charts.curves(lines, "step", "exact match"), "Validation queries answered right.")

fewest, most = min(by_fraction), max(by_fraction)
run, lines = by_fraction[fewest], {}
every = run.flags["eval_every"]
for name, key in {"training": "train/loss", "validation": "val/loss"}.items():
    logged = pd.DataFrame([(row["step"], row[key]) for row in run.rows if key in row], columns=["step", "y"])
    smooth = logged.groupby((logged["step"] / every).round() * every)["y"].mean()
    lines[name] = (list(smooth.index), list(smooth))
notebook.picture(
    charts.curves(lines, "step", "loss, nats per character", logy=True),
    f"Loss of the model that learned from {fewest:.0%} of the queries.",
)

# %% [markdown]
# ## How many examples are enough
#
# Test figures. **Exact match** is the share of answers in which every character is right. **Per character**
# is the share of right characters, blanks included. It is always at least as high, and it flatters: an
# answer of three characters with one wrong digit is a wrong answer, and still has two of three characters
# right.

# %%
scores = over_seeds(by_split.runs, ["train_fraction"], SCORES)
shown = scores.map("{:.4f}".format)
if n_seeds > 1:  # with their deviation
    deviations = over_seeds(by_split.runs, ["train_fraction"], SCORES, "std")
    shown += deviations.map(" ± {:.4f}".format)
shown.index = [f"{fraction:.0%}" for fraction in shown.index]
display(shown.rename_axis("learned from"))
lines = {name: (list(scores.index), list(scores[name])) for name in scores}
notebook.picture(
    charts.curves(lines, "share of the queries learned from", "share of test answers"),
    "Exact match and characters right, by what was learned from.",
)
exact = scores["exact match"]
figures |= {"seeds": n_seeds, "fewest": fewest, "most": most}
figures |= {"fewest_exact": exact[fewest], "fewest_char": scores["per character"][fewest]}
figures |= {"most_exact": exact[most], "most_char": scores["per character"][most]}

# %% [markdown]
# ## Which answers are wrong
#
# Each wrong answer is counted once, under the first kind that fits:

# %%
counted = dict(zip(KINDS.values(), seq2seq_mistakes.KINDS.values()))
with pd.option_context("display.max_colwidth", None):
    display(pd.DataFrame({"what it counts": counted}))
table = over_seeds(by_split.runs, ["train_fraction"], KINDS)
notebook.picture(
    charts.heatmap(
        100 * table, [f"{fraction:.0%}" for fraction in table.index], list(table), "% of all answers"
    ),
    "Mistakes of each kind in per cent of all test answers, by the share of queries learned from.",
)

# %% [markdown]
# Now one model in detail. It has to make enough mistakes to count them, and it should not merely guess. So
# it is the one that learned from the fewest queries and still has more than half of its answers right (if
# none has, the one with the most right answers). Some of its mistakes of each kind:

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
notebook.say(f"Learned from {chosen:.0%}: {wrong:,} of {len(right):,} test answers are wrong.")
figures |= {"chosen": chosen, "wrong": wrong, "tested": len(right)}
figures |= {"kind": [*KINDS.values()][counts.argmax()], "of_kind": int(counts.max())}

# %% [markdown]
# The same mistakes over both numbers, a map for each operator. Along a rising diagonal all differences are
# the same, along a falling one all sums are: a dark line there is an answer that is hard. At the left and
# the lower edge one of the numbers is small, in the corner between them both are.

# %%
_, files = call(run, "mistakes")
notebook.picture(files["map.png"], f"Which test queries are right, learned from {chosen:.0%}.")

# %% [markdown]
# ## Why these
#
# Five places to look for a reason:
#
# - **What was seen.** Most answers have two or three characters, few have one. What is rare in training is
#   learned worst. The first table has both numbers side by side.
# - **Where the digits stand.** In `7+24` the operator and the second number stand one place further left
#   than in `17+24`. Numbers of one digit are rare, too, so this other arrangement is seldom seen.
# - **The order of writing.** The answer is written from its first digit on, and the first digit depends on
#   all that follow: `45+54` is `99`, but `46+54` is `100`. So the whole sum has to be known before the first
#   character is written. People begin at the other end for this reason.
# - **Carries.** A carry or a borrow makes one digit of the answer depend on two columns.
# - **A query in one state.** All that the decoder knows of the query are the numbers in the encoder's last
#   state. If they hold the result as a quantity, close results have close states, and a small error gives
#   a neighbour of the right answer: a number that is off by one.

# %%
train = it.data.splits.train
blank = alphabet.index(arithmetic.BLANK)
n_chars, n_trained = ((part.tgt != blank).sum(1) for part in (test, train))
rows = []
for n in sorted(set(n_chars.tolist())):
    of = n_chars == n
    row = {"characters of the answer": n, "training queries": int((n_trained == n).sum())}
    rows.append(row | {"test queries": int(of.sum()), "right": right[of].double().mean().item()})
lengths = pd.DataFrame(rows).set_index("characters of the answer")
display(lengths.round(4))

carried = seq2seq_mistakes.carries(test)
groups = {seq2seq_mistakes.NAMES[op]: test.op == arithmetic.OPERATORS.index(op) for op in it.cfg.ops}
groups |= {"with a carry or borrow": carried > 0, "without": carried == 0}
groups = {name: right[of].double().mean().item() for name, of in groups.items()}
display(pd.DataFrame({"right": groups}).round(4))
share = {int(n): float(value) for n, value in lengths["right"].items()}
figures |= {"short": min(share), "short_right": share[min(share)]}
figures |= {"long": max(share), "long_right": share[max(share)]}
figures |= {"carry": groups["with a carry or borrow"], "no_carry": groups["without"]}

# %% [markdown]
# ## What more layers change
#
# Encoder and decoder may each have several LSTM layers, one on top of the other. A further layer gives each
# step of reading or writing one more step of computation, and makes training harder: the gradient has a
# longer way to go. These models learned from the same queries for the same number of steps. After the two
# scores: the exact match of some groups of queries, by operator, carry and length of the answer.

# %%
layers = ["hidden_dim", "encoder_layers", "decoder_layers"]
GROUPS = {"test/exact_add": "sums", "test/exact_subtract": "differences", "test/exact_carry": "with a carry"}
GROUPS |= {"test/exact_no_carry": "without"}
GROUPS |= {f"test/exact_length_{n}": f"length {n}" for n in share}
GROUPS = {key: name for key, name in GROUPS.items() if all(key in last(run) for run in by_depth.runs)}
table = over_seeds(by_depth.runs, layers, SCORES | GROUPS | KINDS)


def in_words(setting) -> str:
    """(128, 1, 2) → '1 + 2 layers, 128 units'."""
    hidden, encoder, decoder = setting
    return f"{encoder} + {decoder} layers, {hidden} units"


display(table[[*SCORES.values(), *GROUPS.values()]].round(4))
notebook.picture(
    charts.heatmap(100 * table[[*KINDS.values()]], [*map(in_words, table.index)], [*KINDS.values()]),
    "Mistakes of each kind in per cent of all test answers. 1 + 2 layers: one to read, two to write.",
)

# %% [markdown]
# Of all *wrong* answers, which share is of each kind? That tells whether layers change what goes wrong, or
# only how often. Where nearly all answers are right, the shares rest on few answers.

# %%
shares = table[[*KINDS.values()]].div(1 - table["exact match"], axis=0).fillna(0)
display(pd.DataFrame({in_words(setting): 100 * row for setting, row in shares.iterrows()}).T.round(1))

# %% [markdown]
# With the most units: the model with the fewest layers and the one with the most, query by query. Mistakes
# that are a matter of chance would fall on other queries in another model. Mistakes that lie in the queries
# would fall on the same ones.

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
    notebook.picture(files["map.png"], f"Which test queries are right: {in_words(setting)}.")
both = int((failed[few] & failed[many]).sum())
notebook.say(
    f"{in_words(few)}: {int(failed[few].sum()):,} of {len(failed[few]):,} wrong.",
    f"{in_words(many)}: {int(failed[many].sum()):,} wrong, and {both:,} of them are wrong with both.",
)
commonest = shares.loc[few].idxmax()
figures |= {"few": in_words(few), "many": in_words(many), "commonest": commonest}
figures |= {"few_exact": table["exact match"][few], "many_exact": table["exact match"][many]}
figures |= {"few_share": shares[commonest][few], "many_share": shares[commonest][many]}
figures |= {"many_wrong": int(failed[many].sum()), "both_wrong": both}
figures["few_rate"] = failed[few].double().mean().item()
figures["depth_seeds"] = len({run.flags["seed"] for run in by_depth.runs})
figures |= {"best_depth": in_words(table["exact match"].idxmax()), "best_exact": table["exact match"].max()}

# %% [markdown]
# ## Handwriting: the models with pictures
#
# In the mode `image_to_text` every character of a query is a picture: a handwritten digit or a drawn
# operator. Training queries are written with training pictures, test queries with test pictures. A small
# convolutional network in front of the encoder turns each picture into numbers. It is never told which
# digit a picture shows; it learns to tell them apart because the answers depend on them.

# %%
notebook.source(seq2seq_models.picture_encoder)
notebook.layers(of_mode["image_to_text"])
notebook.picture(
    notebook.media(of_mode["image_to_text"], "sample/pictures")[-1][1],
    "Handwritten validation queries, and what the model answers.",
)

# %% [markdown]
# In the mode `text_to_image` the query is text and the answer is drawn. The model has a stock of pictures,
# which it learns. For each character of the answer it gives a probability to each picture of the stock, and
# it draws the most probable one. The loss is the negative logarithm of the probability of the true
# handwriting, under the mixture of all pictures of the stock.

# %%
notebook.source(seq2seq_models.Seq2Seq.nats_of)
drawn_pages = notebook.media(of_mode["text_to_image"], "sample/pictures")
for step, path in (drawn_pages[0], drawn_pages[len(drawn_pages) // 2], drawn_pages[-1]):
    notebook.picture(path, f"Drawn answers to validation queries after {step:,} steps, and what is read.")

# %% [markdown]
# ## What a classifier reads in drawn answers
#
# Whether a drawn answer is right has to be judged by somebody. Here it is a classifier that was trained on
# real pictures alone and is not changed any more. Its own accuracy on real test pictures says how far it
# can be trusted. Below is the whole stock of pictures, each row labelled with what the classifier reads.
#
# A picture of the stock is trained to be likely for many handwritings at once. The best such picture is
# their mean: smooth, with soft edges where handwritings differ. Such typical shapes are easy to read. What
# they lack is variety: the same few pictures are drawn again and again.

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
accuracy = over_seeds(by_mode.runs, ["mode"], SCORES)
figures |= {"stock": len(stock), "reader": reader.accuracy}
figures |= {"drawn_exact": accuracy["exact match"]["text_to_image"]}
figures |= {"drawn_char": accuracy["per character"]["text_to_image"]}
wrongly = torch.where(~drawn_right)[0][:8]
notebook.say(
    f"The classifier reads {reader.accuracy:.1%} of real test pictures right, and in the drawn answers",
    f"{figures['drawn_char']:.2%} of all characters are read as the right ones.",
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
# A comparison is fair only if nothing else differs. So first the flags that differ between three models:
# the plain text model that learned from the same share of queries (or the nearest), and the two models with
# pictures.

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
unlike = table.index[table["text → image"] != table["image → text"]]
notebook.say(
    f"Flags in which text → image and image → text differ, beside the mode: {', '.join(unlike) or 'none'}.",
    f"Flags in which text → text differs from them: {len(table)}. What it does better or worse may be due to",
    "any of these. So text → image is the fairer partner: it reads the same queries as text.",
    "It is no perfect partner, since its answers are drawn. But where it is nearly always right, the",
    "arithmetic is no trouble for such a model, and what image → text loses, it loses in reading.",
)

# %%
rows = {}
for name, run in compared.items():
    same = [r for r in (*by_split.runs, *by_mode.runs) if r.flags["mode"] == run.flags["mode"]]
    same = [r for r in same if r.flags["train_fraction"] == run.flags["train_fraction"]]
    rows[name] = pd.DataFrame([last(r) for r in same])[[*SCORES, *KINDS]].mean().rename(SCORES | KINDS)
display(pd.DataFrame(rows).T[[*SCORES.values()]].round(4))
table = pd.DataFrame(rows).T[[*KINDS.values()]]
notebook.picture(
    charts.heatmap(100 * table, list(table.index), list(table)),
    "Mistakes of each kind in per cent of all test answers.",
)
of_reading = rows["image → text"]
figures |= {"read_exact": of_reading["exact match"], "read_char": of_reading["per character"]}
figures |= {"plain_exact": rows["text → text"]["exact match"], "unlike": ", ".join(["mode", *unlike])}

# %% [markdown]
# A text model always answers the same query in the same way. A model that reads handwriting may answer it
# differently when it is written by another hand. This separates two sources of mistakes. If the arithmetic
# is wrong, the answer stays wrong in any handwriting. If a digit is misread, the same query in another
# handwriting is mostly answered right. So all test queries are written a second time with other pictures.

# %%
handwritings = [opened(of_mode["image_to_text"], seed=reads.cfg.seed + i) for i in range(2)]
read_ids, once = answered(handwritings[0])
again = answered(handwritings[1])[1]
n_wrong, cured = int((~once).sum()), int((~once & again).sum())
both = int((~once & ~again).sum())
notebook.say(
    f"In the first handwriting {n_wrong:,} of {len(once):,} answers are wrong. {cured:,} of these queries",
    f"are answered right in the second handwriting, {both:,} are wrong in both.",
)
figures |= {"read_wrong": n_wrong, "cured": cured}

# %% [markdown]
# The classifier reads the same pictures, too, character by character. A query is read right if all its
# characters are. This is what a pair of a classifier and a pocket calculator would get right. And the more
# digits a query has, the more there is to misread: the second table counts right answers by the number of
# digits.


# %%
def classified(it: tasks.Opened) -> torch.Tensor:
    """Which handwritten test queries the classifier reads without a mistake, (N,)."""
    test, read = it.data.splits.test, []
    glyph = seq2seq_arith.drawers(it.data, it.device)["test"]
    for batch in seq2seq_arith.batches(test, glyph, it.cfg, it.data.splits.alphabet, it.device):
        x = batch.src.mul(255).round().byte().cpu()
        read.append(digit_classifier.classify(reader.model, x.flatten(0, 1)).view(x.shape[:2]))
    return (torch.cat(read) == test.src).all(1)


legible = classified(handwritings[0])
by_classifier = ["reads all characters right" if yes else "misreads a character" for yes in legible]
by_model = ["answers right" if yes else "answers wrongly" for yes in once]
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
# Handwriting that was answered wrongly. Ask yourself which digit you would have misread.

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
        "Handwritten test queries that were answered wrongly.",
    )

# %% [markdown]
# ## A query of your own
#
# Change the query. The plain model says how sure it is of each character, the next one reads the query from
# handwriting (where it has attention, the last picture shows where it looked for each character of its
# answer), and the last one draws. A query of the training part is no test of what was understood, so the
# part is shown, too.


# %%
def part_of(query: str, it: tasks.Opened) -> str:
    """The part that a query is in."""
    a, _, b = arithmetic.parse(query, it.cfg.ops, it.digits)
    parts = {name: getattr(it.data.splits, name) for name in arithmetic.PARTS}
    return next(name for name, part in parts.items() if ((part.a == a) & (part.b == b)).any())


query = "81+24"
rows = []
for fraction, run in by_fraction.items():
    found, _ = call(run, "ask", query=query)
    sure = ", ".join(f"{p:.2f}" for p in found["probability"])
    row = {"learned from": f"{fraction:.0%}", "part": part_of(query, opened_of[fraction])}
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
    f"A plain LSTM of {f['parameters']:,} parameters that learned from {f['most']:.0%} of all queries",
    f"answers {f['most_exact']:.1%} of the test queries right ({f['most_char']:.1%} of the characters). With",
    f"{f['fewest']:.0%} of the queries it is {f['fewest_exact']:.1%} ({f['fewest_char']:.1%}). The number of",
    f"seeds is {f['seeds']}.",
)
shorter = "less often than" if f["short_right"] < f["long_right"] else "at least as often as"
carries = "less often than" if f["carry"] < f["no_carry"] else "at least as often as"
notebook.say(
    f"The model that learned from {f['chosen']:.0%} was looked at closely: {f['wrong']:,} of its",
    f"{f['tested']:,} test answers are wrong. The most frequent kind of mistake is “{f['kind']}”",
    f"({f['of_kind']:,} answers). Answers with the fewest characters, {f['short']}, are right {shorter}",
    f"those with the most, {f['long']}: {f['short_right']:.1%} and {f['long_right']:.1%}. Queries with a",
    f"carry or borrow are right {carries} those without: {f['carry']:.1%} and {f['no_carry']:.1%}.",
)
deeper = "more" if f["many_exact"] > f["few_exact"] else "not more"
overlap = f["both_wrong"] / max(1, f["many_wrong"])
chance = "more" if overlap > f["few_rate"] else "no more"
notebook.say(
    f"More layers, with {f['depth_seeds']} as the number of seeds: the model with {f['many']} has",
    f"{f['many_exact']:.1%} of the answers right, {deeper} than the one with {f['few']}",
    f"({f['few_exact']:.1%}). The best is {f['best_depth']}, with {f['best_exact']:.1%}. The share of",
    f"“{f['commonest']}” among the wrong answers goes from {f['few_share']:.0%} to {f['many_share']:.0%}.",
    f"Of the {f['many_wrong']:,} queries that the deeper model gets wrong, {f['both_wrong']:,} are wrong",
    f"with the fewest layers, too: {overlap:.1%}, {chance} than the {f['few_rate']:.1%} of all queries.",
)
costs = "fewer" if f["read_exact"] < f["drawn_exact"] else "not fewer"
notebook.say(
    f"Of handwritten queries {f['read_exact']:.1%} are answered right ({f['read_char']:.1%} of the",
    f"characters), {costs} than the {f['drawn_exact']:.1%} of the model that reads text and draws its",
    f"answers. These two differ in: {f['unlike']}. The plain text model has {f['plain_exact']:.1%}, but it",
    f"differs in more. Of the {f['read_wrong']:,} queries that were answered wrongly in one handwriting",
    f"{f['cured']:,} were answered right in another. The classifier reads {f['legible']:.1%} of the",
    "handwritten queries without a mistake.",
)
typical = "more" if f["drawn_char"] > f["reader"] else "not more"
notebook.say(
    f"Drawn answers are made of a stock of {f['stock']} pictures. The classifier finds the right character",
    f"{f['drawn_char']:.2%} of the time, {typical} than in real pictures, of which it reads",
    f"{f['reader']:.1%} right.",
)

# %% [markdown]
# ## On your own
#
# Other operators, and your own pictures of the ten digits (a folder or a CSV, data/README.md):
#
# ```sh
# python launch/local.py sweeps/seq2seq_split.yaml --set 'ops=+-*' --name=seq2seq_split
# python launch/local.py sweeps/seq2seq_mode.yaml --set dataset=path/to/folder --name=seq2seq_mode
# ```
#
# Then run this notebook again.
