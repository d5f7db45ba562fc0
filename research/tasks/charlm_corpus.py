"""Songs that a trained character model writes by every strategy, side by side: charlm_corpus --task=compare.

Run     python research/charlm_corpus.py --task=compare --checkpoint=runs/<run> --song="NAME"
How     Three songs (from OPENING, from the first line of a song, from nothing) by every strategy of
        research/parts/charlm_sampling.py, with figures and what each does, in <run>/compare/.
Flags   The model's flags come from the checkpoint. So do --dataset and --data_dir, unless they were given; a
        value equal to the flag's default counts as not given.
"""

import html
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
from research.common.messages import UserError, console
from research.common.start import pick_device
from research.common.task import flags_of_run, start_task
from research.draw.pages import literal, page, table
from research.parts.charlm_sampling import EXPLAINED, STRATEGIES, Decoding, generate, statistics, writer
from research.parts.text_flags import load_text
from research.tasks.charlm import known, load_model, prompt_of

OPENING = "it's not a silly little moment"
FIGURES = (
    "distinct_n: different runs of n words, as a share of all. repetition: characters in spans of 20 "
    "that recur, as a share. copied: characters of the longest span in training text. known_words: "
    "share of words that are in it."
)
DECODING = [field.name for field in fields(Decoding)]
# of the command's flags those that a character model's script has too; its --chars may be None
SHARED = {field.name for field in fields(Config)} & {field.name for field in fields(script.Config)} - {
    "chars"
}


def run(command: Config) -> dict[str, Any]:
    """Write songs by every strategy; returns what results.json says. Raises UserError and DataError."""
    flags = {name: getattr(command, name) for name in SHARED}
    cfg = script.Config(**flags)  # a character model's flags, as its own tasks have them
    device = pick_device(cfg.device)
    model, alphabet, file, run_config = load_model(cfg, device)
    cfg = flags_of_run(cfg, run_config)
    splits = load_text(cfg)
    line, about = pick_song(command, splits)
    mean = 500 if splits.songs is None else round(splits.songs["lyrics"].str.len().mean())
    n_chars = command.chars or mean
    task = start_task(replace(cfg, chars=n_chars), file, run_config, song=command.song)
    training = text.decode(splits.train[: script.COPY_LIMIT], splits.alphabet)
    starts = [known(OPENING, cfg, alphabet, "the opening"), known(line, cfg, alphabet, about), ""]
    every = [(start, strategy) for start in starts for strategy in STRATEGIES]
    songs, pen = [], writer(model, cfg.cut, splits.alphabet)
    for start, strategy in track(every, f"songs of {n_chars:,} characters", console=console, transient=True):
        how, prompt = replace(cfg, strategy=strategy), prompt_of(start, alphabet, device)
        song = text.decode(generate(pen, prompt, n_chars, how, task.rng())[0], alphabet)
        songs.append({"start": start, "strategy": strategy, "text": song} | statistics(song, training))
    used = ", ".join(f"{k} = {getattr(cfg, k):g}" for k in DECODING if k != "strategy")
    notes = [f"The second start is the first line of {about}.", FIGURES, f"Used: {used}."]
    notes += [f"{strategy}: {EXPLAINED[strategy]}" for strategy in STRATEGIES]
    title = f"{cfg.model} on {splits.name}: {n_chars:,} characters by every strategy"
    task.html("songs", lay_out(title, songs, notes))
    results = {"model": cfg.model, "data": splits.name, "chars": n_chars, "song": about}
    for strategy in STRATEGIES:
        mine = [song for song in songs if song["strategy"] == strategy]
        results |= {f"{strategy}/{k}": sum(s[k] for s in mine) / len(mine) for k in statistics("", "")}
    results |= {"starts": starts, "songs": songs}
    task.numbers(results)
    task.finish()
    return results


def pick_song(cfg: Config, splits: text.TextSplits) -> tuple[str, str]:
    """The first line of --song, and which it is; without songs, of the test part. Raises UserError."""
    songs = splits.songs
    if songs is None:
        require(cfg.song is None, cfg, "song", f"None: {splits.name} has no songs")
        lyrics, about = text.decode(splits.test, splits.alphabet), f"the test part of {splits.name}"
        lyrics = lyrics.partition("\n")[2] or lyrics  # its first line may have begun in the part before
    else:
        names, wanted = songs["song"].str.strip().str.lower(), readable(cfg.song or "").strip().lower()
        chosen = songs[songs["part"] == "test" if cfg.song is None else names == wanted]
        if chosen.empty:
            near = [*get_close_matches(wanted, names, n=5, cutoff=0.5), *(n for n in names if wanted in n)]
            titles = ", ".join(dict.fromkeys(songs["song"][names == name].iloc[0] for name in near[:5]))
            hint = f"; near are {titles}" if titles else ""
            raise UserError(f"--song={cfg.song}: no song of {splits.name}{hint}")
        song = chosen.iloc[0]
        lyrics, about = song["lyrics"], f"{song['song']!r} by {song['artist']}, of the {song['part']} part"
    return lyrics.strip().partition("\n")[0].strip(), about


def lay_out(title: str, songs: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """Print songs, each with its figures, and notes; returns a page of the same."""
    figures, rows = list(statistics("", "")), []
    printed = Table("strategy", "text", title=Text(title), box=SIMPLE_HEAD, show_lines=True, pad_edge=False)
    for song in songs:
        values, whole_text = [f"{song[name]:.3g}" for name in figures], song["start"] + song["text"]
        left = [song["strategy"], *(f"{name:<11} {value:>5}" for name, value in zip(figures, values))]
        printed.add_row(Text("\n".join(left)), Text(whole_text))
        start = literal(song["start"] or "(nothing)", "given")
        rows.append([start, song["strategy"], literal(whole_text), *values])
    Console().print(printed)
    body = table(rows, ["start", "strategy", "text", *figures])
    for note in notes:
        Console().print(Text(f"{note}\n"))
        body += f"<p>{html.escape(note)}</p>"
    return page(title, body)
