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
# # Lyrics: an LSTM that writes songs, character by character
#
# Authors: _your names here_

# %%
import sys

sys.path.insert(0, "..")  # the repository's root
from launch.results import notebook

sweep = notebook.runs_of("lyrics")

# %% [markdown]
# ## Introduction
#
# A character model reads a text one character after the other and tells, at every place, how probable each
# character is as the next one. Trained on songs it can write: it draws a character, reads it, draws the
# next. This notebook looks at the songs first, then at the model and its training over a hundred epochs,
# and then compares seven ways to choose the next character. Nothing is trained here. The run was made by
#
# ```sh
# python launch/local.py sweeps/lyrics.yaml
# ```
#
# and everything below is read from its folder.

# %%
import dataclasses

import pandas as pd
import torch
from IPython.display import display

from data.text import SONG_END
from launch.results.words import from_root
from research import charlm, charlm_corpus
from research.draw import charts
from research.parts import charlm_models, charlm_sampling
from research.parts.charlm_pages import seen_by_lines
from research.parts.text_flags import load_text
from research.tasks import charlm_corpus as songs_by_strategy
from research.tasks.charlm import LyricsGenerator, load_model

run = sweep.runs[0]
checkpoint = from_root(run.folder)
cfg, model, *_ = load_model(
    charlm.Config(task="generate", checkpoint=checkpoint, **notebook.QUIET), torch.device("cpu")
)
figures = {}  # what the conclusion is made from

# %% [markdown]
# ## The songs
#
# A CSV with a row for each song. Its columns may have other names and stand in any order; `data/lyrics.py`
# finds them. The rows are shown as the model reads them, after cleaning.

# %%
splits = load_text(cfg)
corpus = charlm_corpus.count(splits)
songs = splits.songs.drop(columns="part")  # train, val or test: ours, not the file's
display(songs.head().assign(lyrics=songs["lyrics"].str.replace("\n", " / ").str[:60] + " …"))
notebook.say(f"The table has {songs.shape[0]:,} rows and {songs.shape[1]} columns.")

# %% [markdown]
# Every artist with the number of their songs:

# %%
with pd.option_context("display.max_rows", None):
    display(corpus.artists[["artist", "songs"]])

# %% [markdown]
# How long songs are. Words are runs of letters and digits in lower case, with the apostrophes within. The
# most frequent words of any English text are articles and pronouns, so the top words are counted a second
# time without these stop words (scikit-learn's list).

# %%
characters, words = corpus.lengths.mean(axis=0)
figures |= {"songs": len(corpus.lengths), "artists": len(corpus.artists)}
figures |= {"characters": characters, "words": words}
without = corpus.words[~corpus.words["stop_word"]]
notebook.say(f"There are {figures['songs']:,} songs by {figures['artists']:,} artists.")
notebook.say(f"A song has {characters:,.0f} characters and {words:,.0f} words on average.")
for how, table in (("all words", corpus.words), ("all but stop words", without)):
    top = ", ".join(f"*{word}* ({n:,} times)" for word, n in table[["word", "count"]].head(3).values)
    notebook.say(f"The three most frequent of {how} are {top}.")

# %%
notebook.picture(charlm_corpus.cloud(without, seed=0), "The most frequent words that are no stop words.")

# %% [markdown]
# ## What cleaning removed, and why
#
# Characters that occur fewer than ten times in the whole text are left out. A model can't learn from so few
# examples where they belong, yet each would be a class of its own in the loss, and a chance to be drawn
# when songs are written. Songs without lyrics and copies of songs are left out too: a copy could stand in
# the training part and in the test part, and the test figures would flatter the model.

# %%
before = load_text(dataclasses.replace(cfg, min_count=1))
n_before, n_after = (s.songs["lyrics"].str.len().sum() for s in (before, splits))
for line in splits.report or ["Nothing had to be removed."]:
    print(line)
figures |= {"kinds": len(splits.alphabet), "removed": n_before - n_after, "of_characters": n_before}
notebook.say(
    f"Of {n_before:,} characters of lyrics {n_before - n_after:,} were removed, and of",
    f"{len(before.alphabet)} kinds of characters {len(splits.alphabet)} are left. One of these marks where a",
    "song ends.",
)

# %% [markdown]
# ## The model
#
# A layer of LSTM cells. Each character becomes a vector (the embedding), the cells carry what was read so
# far in their state, and a linear layer (the head) turns the state into a score for every character. The
# forget gates begin at one, so that the state remembers from the start.

# %%
notebook.source(charlm_models.LSTM)
notebook.layers(run)
figures["parameters"] = notebook.n_parameters(run)

# %% [markdown]
# ## The loss
#
# The cross-entropy of the next character at every place of a window, in nats. A model that knows nothing
# has the logarithm of the number of characters. Divided by ln 2 it is bits per character, the figure that
# texts are compared by.

# %%
notebook.source(charlm.loss_fn)

# %% [markdown]
# ## Training
#
# The loss of the training windows is the mean over each epoch, a full pass over the training songs. The
# validation songs are never trained on. The weights that predict them best are kept and write the songs
# below.

# %%
epochs = [(row["epoch"], row["train/loss_epoch"]) for row in run.rows if "train/loss_epoch" in row]
validation = [(row["epoch"], row["val/loss"]) for row in run.rows if "val/loss" in row and row["step"] > 0]
lines = {"training, mean of an epoch": epochs, "validation": validation}
curve = charts.curves({name: tuple(zip(*line)) for name, line in lines.items()}, "epoch", "loss, nats")
notebook.picture(curve, f"Loss over {epochs[-1][0]:.0f} epochs of the songs.")

last = {key: value for row in run.rows for key, value in row.items()}
best_epoch, best = min(validation, key=lambda point: point[1])
figures |= {"n_epochs": epochs[-1][0], "first_loss": epochs[0][1], "last_loss": epochs[-1][1]}
figures |= {"best_epoch": best_epoch, "best_loss": best, "end_loss": validation[-1][1]}
figures["test_bpc"] = last["test/bpc"]

# %% [markdown]
# ## Seven ways to choose the next character
#
# The model gives probabilities; which character is written is a choice of its own. Each strategy continues
# the same three starts: a line that is in no song, the first line of a test song, and nothing. Four figures
# tell how a strategy writes:
#
# - **known words**: share of the words that are in the training songs. It falls when the strategy
#   misspells.
# - **repetition**: share of the characters in spans of 20 that recur. It rises when the strategy goes round
#   in a circle.
# - **distinct words**: different words as a share of all.
# - **copied**: characters of the longest span that stands in the training songs. It rises when they are
#   recited.

# %%
asked = charlm_corpus.Config(task="compare", checkpoint=checkpoint, chars=400, **notebook.QUIET)
with notebook.silently():
    written = pd.DataFrame(songs_by_strategy.run(asked)["songs"])
columns = {"known_words": "known words", "repetition": "repetition", "distinct_1": "distinct words"}
columns["copied"] = "copied"
means = written.groupby("strategy", sort=False)[[*columns]].mean()
display(means.rename(columns=columns).round(3))

# %% [markdown]
# ## The strategy that is chosen
#
# A song should not go round in a circle, and its words should be words. So of the strategies with hardly
# any repetition (below 0.01) the one whose words are known most often is chosen. Where all of them repeat
# themselves, the one that does so least is.

# %%
free = means[means["repetition"] < 0.01]
chosen = free["known_words"].idxmax() if len(free) else means["repetition"].idxmin()
figures |= {"chosen": chosen, "known": means["known_words"][chosen]}
figures |= {"repeated": means["repetition"][chosen], "fair": means["known_words"]["temperature"]}
figures["loops"] = ", ".join(means.index[means["repetition"] > 0.5]) or "none"
notebook.say(f"Chosen is **{chosen}**. How it works: {charlm_sampling.EXPLAINED[chosen]}")

# %% [markdown]
# Its three songs, the start and 400 characters each. ⏹ stands where the model ended a song and began
# another, ␣ for a space at the end of a line.


# %%
def show_songs(strategy: str) -> None:
    for _, song in written[written["strategy"] == strategy].iterrows():
        seen = seen_by_lines(song["start"] + song["text"]).replace(SONG_END, "\n⏹\n")
        notebook.written(seen, f"{strategy}, from {song['start'] or 'nothing'}")


show_songs(chosen)

# %% [markdown]
# ## Those that are not chosen
#
# The same three starts by the others, with what each does and the figures by which it differs from the
# chosen one.

# %%
for strategy in means.index.drop(chosen):
    mine, other = means.loc[strategy], means.loc[chosen]
    notebook.say(f"### {strategy}\n\n{charlm_sampling.EXPLAINED[strategy]}")
    notebook.say(
        f"Known words {mine['known_words']:.3f} against {other['known_words']:.3f} of {chosen},",
        f"repetition {mine['repetition']:.3f} against {other['repetition']:.3f},",
        f"distinct words {mine['distinct_1']:.2f} against {other['distinct_1']:.2f}.",
    )
    show_songs(strategy)

# %% [markdown]
# ## A generator of lyrics
#
# `LyricsGenerator(starting_string, char_count)` returns the start and exactly so many characters behind it.
# Without `checkpoint` it takes the newest finished run on a CSV of songs.

# %%
print(LyricsGenerator("I walk", 300, checkpoint=checkpoint, strategy=chosen))

# %% [markdown]
# ## Conclusion

# %%
f = figures
trend = "fell" if f["last_loss"] < f["first_loss"] else "did not fall"
after = "and rose" if f["end_loss"] > f["best_loss"] else "and did not rise"
against = "more" if f["known"] > f["fair"] else "no more"
notebook.say(
    f"The {f['songs']:,} songs by {f['artists']:,} artists have {f['characters']:,.0f} characters and",
    f"{f['words']:,.0f} words on average; {f['removed']:,} of {f['of_characters']:,} characters were",
    f"removed, which left {f['kinds']} kinds.",
)
notebook.say(
    f"The LSTM has {f['parameters']:,} parameters. Over {f['n_epochs']:.0f} epochs its training loss {trend}",
    f"from {f['first_loss']:.2f} to {f['last_loss']:.2f} nats. On validation songs the loss was lowest after",
    f"epoch {f['best_epoch']:.0f}, {f['best_loss']:.3f} nats, {after} until the end ({f['end_loss']:.3f}).",
    f"The weights of that epoch need {f['test_bpc']:.2f} bits per character on test songs.",
)
notebook.say(
    f"Chosen to write was {f['chosen']}: {f['known']:.1%} of its words are known, which is {against} than",
    f"the {f['fair']:.1%} of fair samples (temperature 1), and {f['repeated']:.1%} of its characters stand",
    f"in spans that recur. Strategies of whose characters more than half do: {f['loops']}.",
)

# %% [markdown]
# ## On your own songs
#
# Any CSV with a column for the artist, the song and the lyrics does. Lay it as `data/store/songs.csv`, or
# name it:
#
# ```sh
# python launch/local.py sweeps/lyrics.yaml --set dataset=path/to/songs.csv --name=lyrics
# ```
#
# Then run this notebook again. A file in another encoding, or with columns of other names, is refused with
# the flag that helps (`--set encoding=cp1252`, `--set columns=song=Titel`).
