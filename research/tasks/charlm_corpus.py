"""Songs that a trained character model writes with every strategy: charlm_corpus --task=compare.

Run     python research/charlm_corpus.py --task=compare --checkpoint=runs/<run> --song="NAME"
How     It writes three songs (from --start, from the first line of --song, from nothing) with every strategy
        of research/parts/charlm_sampling.py. The page in <run>/compare/ shows them with figures and explains
        each strategy; the figures of every song are also in songs.csv.
Draws   Each song has its own random draws, which depend only on (seed, start, strategy, number of the
        sample): with another --song or more --samples, the other songs stay the same.
Flags   The model's flags come from the checkpoint. So do --dataset and --data_dir, unless they were given; a
        value equal to the flag's default counts as not given.
"""

import csv
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from data import text
from data.terminal import readable
from research import charlm as script
from research.charlm_corpus import Config
from research.common.flags import require
from research.common.folder import write_bytes
from research.common.messages import UserError, console, escape, news
from research.common.start import pick_device
from research.common.task import start_task
from research.draw.pages import literal, page, table
from research.parts import charlm_pages as pages
from research.parts.charlm_sampling import (
    DRAWN,
    EXPLAINED,
    STRATEGIES,
    Decoding,
    generate,
    statistics,
    writer,
)
from research.parts.text_flags import load_text
from research.tasks.charlm import draws, known, load_model, prompt_of

OPENING = "it's not a silly little moment"
FIGURES = (
    "distinct_n: number of different sequences of n words, divided by the number of all. repetition: share "
    "of the characters in spans of 20 that occur more than once. copied: characters in the longest span "
    "that also occurs in the training text. known_words: share of the words that occur in the training text."
)
DECODING = [field.name for field in fields(Decoding)]
OWN = ("start", "song", "chars", "samples")  # flags whose meaning is this task's own
# the other flags of this command that the character model's script has, too
SHARED = {f.name for f in fields(Config)} & {f.name for f in fields(script.Config)} - {*OWN}
TITLE_LIKE = 0.85  # a --song that is at least this similar to a title is taken for a misspelt title


def run(command: Config) -> dict[str, Any]:
    """Write songs by every strategy; returns the content of results.json. Raises UserError and DataError."""
    flags = {name: getattr(command, name) for name in SHARED}
    cfg = script.Config(**flags)  # the flags as the tasks of the character model have them
    device = pick_device(cfg.device)
    cfg, model, alphabet, file, run_config = load_model(cfg, device)
    splits = load_text(cfg)
    line, about = pick_line(command, splits)
    mean = 500 if splits.songs is None else round(splits.songs["lyrics"].str.len().mean())
    n_chars = command.chars or mean
    asked = {k: getattr(command, k) for k in OWN if getattr(command, k) != getattr(Config, k)}
    task = start_task(replace(cfg, chars=n_chars), file, run_config, **asked)
    training = text.decode(splits.train[: script.COPY_LIMIT], splits.alphabet)

    opening = OPENING if command.start is None else command.start
    first = known_start(command, "start", opening, cfg, alphabet)
    second = known_start(command, "song", line, cfg, alphabet)
    starts = list(dict.fromkeys([first, second, ""]))  # each once
    songs, pen = [], writer(model, cfg.cut, alphabet)
    every = [(start, strategy) for start in starts for strategy in STRATEGIES]
    for start, strategy in track(every, f"songs of {n_chars:,} characters", console=news, transient=True):
        how, n = replace(cfg, strategy=strategy), command.samples if strategy in DRAWN else 1
        prompt = prompt_of(start, alphabet, device).expand(n, -1)
        for i, row in enumerate(generate(pen, prompt, n_chars, how, draws(how, start, n)), 1):
            song = {"start": start, "strategy": strategy, "sample": i, "text": text.decode(row, alphabet)}
            songs.append(song | statistics(song["text"], training))

    used = ", ".join(f"{k} = {getattr(cfg, k):g}" for k in DECODING if k != "strategy")
    notes = [f"The second start is {about}.", FIGURES, f"Used: {used}."]
    notes += [f"{strategy}: {EXPLAINED[strategy]}" for strategy in STRATEGIES]
    title = f"{cfg.model} on {splits.name}: {n_chars:,} characters by every strategy"
    task.html("songs", lay_out(title, songs, notes, cfg.no_repeat))
    write_bytes(task.folder / "songs.csv", as_csv(songs, cfg.no_repeat).encode())
    news.print(escape(str(task.folder / "songs.csv")))
    results = {"model": cfg.model, "data": splits.name, "chars": n_chars, "song": about}
    for strategy in STRATEGIES:
        mine = [song for song in songs if song["strategy"] == strategy]
        results |= {f"{strategy}/{k}": sum(s[k] for s in mine) / len(mine) for k in statistics("", "")}
    results |= {"starts": starts, "songs": songs}
    task.numbers(results)
    task.finish()
    return results


# ------------------------------------------------------------------------------------------------ starts


def known_start(command: Config, flag: str, given: str, cfg: script.Config, alphabet: str) -> str:
    """The characters of a start that the model knows. UserError: the user gave it by `flag`, and there are
    none.
    """
    asked = getattr(command, flag) is not None
    start = known(given, cfg, alphabet, f"--{flag}" if asked else f"the start {given!r}")
    require(
        bool(start or not given or not asked), command, flag, "made of characters that the model has seen"
    )
    return start


def pick_line(cfg: Config, splits: text.TextSplits) -> tuple[str, str]:
    """A line to begin with, and what it is, in words.

    With --song it is the first line of that song, or --song itself if there is no such song. Without, it is
    the first line of the first song of the test part, or of the test part itself if the text has no songs.
    Raises UserError if --song looks like a misspelt title.
    """
    require(cfg.song is None or bool(cfg.song.strip()), cfg, "song", "the name of a song, or a line")
    songs = splits.songs
    if songs is None and cfg.song is None:
        lyrics = text.decode(splits.test, splits.alphabet)
        lyrics = lyrics.partition("\n")[2] or lyrics  # the first line may have begun in the part before
        return first_line(lyrics), f"the first line of the test part of {splits.name}"
    if songs is None:
        return cfg.song, "the line of --song"
    names, wanted = songs["song"].str.strip().str.lower(), readable(cfg.song or "").strip().lower()
    chosen = songs[songs["part"] == "test" if cfg.song is None else names == wanted]
    if len(chosen):
        song = chosen.iloc[0]
        about = f"{song['song']!r} by {song['artist']}, of the {song['part']} part"
        return first_line(song["lyrics"]), f"the first line of {about}"

    def titles(found: Sequence[str]) -> str:
        return ", ".join(dict.fromkeys(songs["song"][names == name].iloc[0] for name in found[:5]))

    if slip := get_close_matches(wanted, names, n=5, cutoff=TITLE_LIKE):
        raise UserError(
            f"--song={cfg.song}: no song of {splits.name}; similar titles are {titles(slip)}; "
            "for a line of your own use --start"
        )
    near = [*get_close_matches(wanted, names, n=5, cutoff=0.5), *(n for n in names if wanted in n)]
    hint = f" (titles like it: {titles(near)})" if near else ""
    console.print(
        escape(f"--song={cfg.song}: no song of {splits.name}, so it is read as a line of your own{hint}")
    )
    return cfg.song, "the line of --song"


def first_line(lyrics: str) -> str:
    """The first line that is sung. An editor's notes, which are whole lines in brackets, are skipped."""
    sung = re.sub(r"\A(\s*(\[[^\]]*\]|\([^)]*\)|\{[^}]*\})[^\w\n]*(\n|\Z))+", "", lyrics).strip()
    return (sung or lyrics.strip()).partition("\n")[0].strip()


# ------------------------------------------------------------------------------------------------ showing


def as_csv(songs: Sequence[Mapping[str, Any]], no_repeat: int) -> str:
    """A CSV with a row for each song: which song it is, and its figures."""
    written = io.StringIO()
    names = ["start", "strategy", "no_repeat", "sample", *statistics("", "")]
    rows = csv.DictWriter(written, names, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    rows.writerows(
        {k: round(v, 6) if isinstance(v, float) else v for k, v in song.items()} | {"no_repeat": no_repeat}
        for song in songs
    )
    return written.getvalue()


def lay_out(title: str, songs: Sequence[Mapping[str, Any]], notes: Sequence[str], no_repeat: int) -> str:
    """Print songs, each with its figures, and notes; returns a page with the same content."""
    figures, rows = list(statistics("", "")), []
    printed = Table("strategy", "text", title=Text(title), box=SIMPLE_HEAD, show_lines=True, pad_edge=False)
    several = any(song["sample"] > 1 for song in songs)
    for song in songs:
        values, whole_text = [f"{song[name]:.3g}" for name in figures], song["start"] + song["text"]
        said = pages.loops(song, no_repeat)
        which = f"{song['strategy']} {song['sample']}" if several else song["strategy"]
        left = [which, *(f"{name:<11} {value:>5}" for name, value in zip(figures, values))]
        shown = Text(pages.seen_by_lines(whole_text))
        printed.add_row(Text("\n".join(left)), shown.append(f"\n({said})" if said else "", "yellow"))
        start = literal(song["start"] or "(nothing)", "given")
        rows.append([start, which, pages.written_text(whole_text, song, no_repeat), *values])
    Console().print(printed)
    body = table(rows, ["start", "strategy", "text", *figures])
    for note in notes:
        Console().print(Text(f"{note}\n"))
        body += f"<p>{html.escape(note)}</p>"
    return page(title, body)
