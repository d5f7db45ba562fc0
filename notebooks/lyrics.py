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
# A character model reads a text one character after the other and predicts, at every position, how probable
# each character is as the next one. If it was trained on songs, it can write songs: it samples a character,
# reads this character, and samples the next. This notebook first shows the songs, then the model and its
# training over a hundred epochs, and then compares seven ways to choose the next character. Nothing is
# trained here. The run was made by
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
# The data is a CSV with a row for each song. Its columns may have other names and any order; `data/lyrics.py`
# finds them. The rows are shown as the model reads them, after cleaning.

# %%
splits = load_text(cfg)
corpus = charlm_corpus.count(splits)
songs = splits.songs.drop(columns="part")  # train, val or test: ours, not the file's
display(songs.head().assign(lyrics=songs["lyrics"].str.replace("\n", " / ").str[:60] + " …"))
notebook.say(f"The table has {songs.shape[0]:,} rows and {songs.shape[1]} columns.")

# %% [markdown]
# The next table has every artist and the number of their songs.

# %%
with pd.option_context("display.max_rows", None):
    display(corpus.artists[["artist", "songs"]])

# %% [markdown]
# How long are the songs, and which words are the most frequent? A word is a sequence of letters and digits,
# including the apostrophes inside it, in lower case. The most frequent words of any English text are articles
# and pronouns. So the most frequent words are counted a second time without these stop words (scikit-learn's
# list).

# %%
characters, words = corpus.lengths.mean(axis=0)
figures |= {"songs": len(corpus.lengths), "artists": len(corpus.artists)}
figures |= {"characters": characters, "words": words}
without = corpus.words[~corpus.words["stop_word"]]
notebook.say(f"There are {figures['songs']:,} songs by {figures['artists']:,} artists.")
notebook.say(f"A song has {characters:,.0f} characters and {words:,.0f} words on average.")
for which, table in (("all words", corpus.words), ("all words that are not stop words", without)):
    top = ", ".join(f"*{word}* ({n:,} times)" for word, n in table[["word", "count"]].head(3).values)
    notebook.say(f"The three most frequent of {which} are {top}.")

# %%
notebook.picture(charlm_corpus.cloud(without, seed=0), "The most frequent words that are not stop words.")

# %% [markdown]
# ## What cleaning removed, and why
#
# Characters that occur fewer than ten times in the whole text are left out. From so few examples a model
# cannot learn where they belong. Yet each of them would be a class in the loss, and it could be sampled when
# songs are written. Songs without lyrics and copies of songs are also left out: a copy could be in the
# training set and in the test set, and the test figures would be too good.

# %%
before = load_text(dataclasses.replace(cfg, min_count=1))
n_before, n_after = (s.songs["lyrics"].str.len().sum() for s in (before, splits))
for line in splits.report or ["Nothing had to be removed."]:
    print(line)
figures |= {"kinds": len(splits.alphabet), "removed": n_before - n_after, "of_characters": n_before}
notebook.say(
    f"Of {n_before:,} characters of lyrics, {n_before - n_after:,} were removed. Of {len(before.alphabet)}",
    f"different characters, {len(splits.alphabet)} are left. One of these marks the end of a song.",
)

# %% [markdown]
# ## The model
#
# The model is an LSTM (long short-term memory). Each character becomes a vector (the embedding). The LSTM
# cells keep information about the text so far in their state, and a linear layer (the head) turns the state
# into a score for every character. The biases of the forget gates start at one, so that the state keeps
# information from the start of training.

# %%
notebook.source(charlm_models.LSTM)
notebook.layers(run)
figures["parameters"] = notebook.n_parameters(run)

# %% [markdown]
# ## The loss
#
# The loss is the cross-entropy of the next character at every position of a window, in nats. A model that
# gives each character the same probability has a loss of ln n, where n is the number of different
# characters. Divided by ln 2, the loss gives bits per character, the usual measure to compare models of
# text.

# %%
notebook.source(charlm.loss_fn)

# %% [markdown]
# ## Training
#
# The training loss is the mean over each epoch, a full pass over the training songs. The model is never
# trained on the validation songs. The weights that predict these songs best are kept, and they write the
# songs below.

# %%
epochs = [(row["epoch"], row["train/loss_epoch"]) for row in run.rows if "train/loss_epoch" in row]
validation = [(row["epoch"], row["val/loss"]) for row in run.rows if "val/loss" in row and row["step"] > 0]
lines = {"training, mean of an epoch": epochs, "validation": validation}
curve = charts.curves({name: tuple(zip(*line)) for name, line in lines.items()}, "epoch", "loss, nats")
notebook.picture(curve, f"Loss over {epochs[-1][0]:.0f} epochs.")

last = {key: value for row in run.rows for key, value in row.items()}
best_epoch, best = min(validation, key=lambda point: point[1])
figures |= {"n_epochs": epochs[-1][0], "first_loss": epochs[0][1], "last_loss": epochs[-1][1]}
figures |= {"best_epoch": best_epoch, "best_loss": best, "end_loss": validation[-1][1]}
figures["test_bpc"] = last["test/bpc"]

# %% [markdown]
# ## Seven ways to choose the next character
#
# The model only gives probabilities. A sampling strategy decides which character is written. Each strategy
# continues the same three starts: a line that is in no song, the first line of a test song, and an empty
# text. Four figures describe how a strategy writes:
#
# - **known words**: the share of words that are in the training songs. It falls if words are misspelled.
# - **repetition**: the share of characters that are in spans of 20 characters that occur again. It rises if
#   the text repeats itself.
# - **distinct words**: the number of different words as a share of all words.
# - **copied**: the length, in characters, of the longest span that is also in the training songs. It rises if
#   training songs are copied.

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
# A song should not repeat itself endlessly, and its words should be real words. So among the strategies with
# hardly any repetition (below 0.01), the one with the highest share of known words is chosen. If all
# strategies repeat themselves, the one with the lowest repetition is chosen.

# %%
free = means[means["repetition"] < 0.01]
chosen = free["known_words"].idxmax() if len(free) else means["repetition"].idxmin()
figures |= {"chosen": chosen, "known": means["known_words"][chosen]}
figures["n_texts"] = int((written["strategy"] == chosen).sum())
figures |= {"repeated": means["repetition"][chosen], "fair": means["known_words"]["temperature"]}
figures["loops"] = ", ".join(means.index[means["repetition"] > 0.5]) or "none"
notebook.say(f"The chosen strategy is **{chosen}**. How it works: {charlm_sampling.EXPLAINED[chosen]}")

# %% [markdown]
# Below are its three songs, each with its start and 400 characters. ⏹ marks where the model ended a song and
# began another, and ␣ marks a space at the end of a line.


# %%
def show_songs(strategy: str) -> None:
    for _, song in written[written["strategy"] == strategy].iterrows():
        seen = seen_by_lines(song["start"] + song["text"]).replace(SONG_END, "\n⏹\n")
        notebook.written(seen, f"{strategy}, from {song['start'] or 'an empty text'}")


show_songs(chosen)

# %% [markdown]
# ## The strategies that are not chosen
#
# Each of the other strategies continues the same three starts. A text explains how the strategy works, and
# its figures are compared with those of the chosen strategy.

# %%
for strategy in means.index.drop(chosen):
    mine, other = means.loc[strategy], means.loc[chosen]
    notebook.say(f"### {strategy}\n\n{charlm_sampling.EXPLAINED[strategy]}")
    notebook.say(
        f"In brackets are the figures of {chosen}. Known words: {mine['known_words']:.3f}",
        f"({other['known_words']:.3f}), repetition: {mine['repetition']:.3f} ({other['repetition']:.3f}),",
        f"distinct words: {mine['distinct_1']:.2f} ({other['distinct_1']:.2f}).",
    )
    show_songs(strategy)

# %% [markdown]
# ## A generator of lyrics
#
# `LyricsGenerator(starting_string, char_count)` returns the starting string, followed by exactly `char_count`
# characters. Without `checkpoint` it uses the newest finished run on a CSV of songs.

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
    f"{f['words']:,.0f} words on average. {f['removed']:,} of {f['of_characters']:,} characters were",
    f"removed, and {f['kinds']} different characters are left.",
)
notebook.say(
    f"The LSTM has {f['parameters']:,} parameters. Over {f['n_epochs']:.0f} epochs its training loss {trend}",
    f"from {f['first_loss']:.2f} to {f['last_loss']:.2f} nats. The loss on validation songs was lowest after",
    f"epoch {f['best_epoch']:.0f}, {f['best_loss']:.3f} nats, {after} until the end ({f['end_loss']:.3f}).",
    f"The weights of that epoch need {f['test_bpc']:.2f} bits per character on test songs. This is one run,",
    "with one seed.",
)
notebook.say(
    f"The chosen strategy is {f['chosen']}: {f['known']:.1%} of the words in its {f['n_texts']} texts are",
    f"known, {against} than the {f['fair']:.1%} in as many texts that were sampled with the model's own",
    f"probabilities (temperature 1). {f['repeated']:.1%} of its characters are in spans that occur again.",
    f"Strategies with more than half of their characters in such spans: {f['loops']}.",
)

# %% [markdown]
# ## On your own songs
#
# You can use any CSV with columns for the artist, the song and the lyrics. Put it at `data/store/songs.csv`,
# or give its path:
#
# ```sh
# python launch/local.py sweeps/lyrics.yaml --set dataset=path/to/songs.csv --name=lyrics
# ```
#
# Then run this notebook again. If the file has another encoding, or columns with names that are not
# recognised, a message names the flag that helps (`--set encoding=cp1252`, `--set columns=song=Titel`).
