"""Describe what is in a text before a model is trained on it, and what a trained model writes with every
strategy.

Run     python research/charlm_corpus.py --dataset=songs.csv
        python research/charlm_corpus.py --task=compare --checkpoint=runs/<run> --song="NAME"
Tasks   explore   the default: first rows, sizes, every artist, lengths, words and characters: tables in the
                  terminal and as CSV, pictures, results.json, in <out>/<name, or corpus_<data set>>/explore/
        compare   three songs by every strategy, with a model: research/tasks/charlm_corpus.py
Units   In a text without songs, lines that are not blank are counted. Lengths of songs are those of the
        cleaned lyrics, in characters (line breaks included) and words; those of lines are without line break.
pandas is imported where it is used.
"""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
import sys
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if not __package__:  # run as a script: import from this tree, which may be a snapshot of another
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data import text
from data.characters import whole, words_of
from data.terminal import file_name
from research.common.commandline import main
from research.common.flags import RunFlags, aside, require
from research.common.folder import RESULTS, write_bytes, write_json
from research.common.messages import UserError, console, escape, news
from research.common.wandb_client import connect, first_line, settings, texts
from research.common.wandb_mirror import send
from research.draw import charts, pictures
from research.parts.charlm_sampling import Decoding
from research.parts.text_flags import TextFlags, load_text

if TYPE_CHECKING:
    import pandas as pd

N_WORDS, N_CHARACTERS, N_ARTISTS, N_CLOUD = 20, 40, 100, 150  # most in a picture; the CSV files have all
NAMES = {" ": "space", "\n": "newline", "\t": "tab", "\r": "carriage return", "\u00a0": "no-break space"}
WORDS = (
    "Words are counted in lower case: runs of letters and digits, with the apostrophes within. Stop "
    "words are scikit-learn's ENGLISH_STOP_WORDS and their contractions."
)


@dataclass(frozen=True, kw_only=True)
class Config(TextFlags, Decoding):
    """Describe what is in a text, and compare what a trained model writes with every strategy."""

    takes_config_in_part = True  # --config may be the file of a model's run, which has many more flags

    task: Literal["explore", "compare"] = "explore"
    """explore: count what is in the text of --dataset; compare: write songs with the model of --checkpoint"""
    dataset: str = "pydoc"
    """pydoc (embedded), shakespeare, a text file, or a CSV of lyrics (artist, song, lyrics)"""
    data_dir: str = "data/store"
    """folder of the named data sets and of the cache of decoded data"""
    out: str = "runs"
    """folder that holds the run folders"""
    name: str | None = None
    """name of the folder in --out; default: corpus_<data set>; for compare, the run's own folder"""
    config: str | None = None
    """take from this config.json the flags that this command has; flags given on the command line win"""
    rows: int = aside(5, "explore")
    """explore: number of first songs or lines to show"""
    top: int = aside(3, "explore")
    """explore: number of most frequent words to list"""
    stop_words: bool | Literal["both"] = aside("both", "explore")
    """explore: count words with the stop words (True), without them (False), or both ways"""
    checkpoint: str | None = aside(None, "compare")
    """compare: a run folder, a checkpoint file or a W&B artifact"""
    weights: Literal["best", "last"] = aside("best", "compare")
    """compare: which weights of --checkpoint to use"""
    start: str | None = aside(None, "compare")
    """compare: what the first of the three songs begins with; default: a line that is in no song"""
    song: str | None = aside(None, "compare")
    """compare: name of a song, whose first line begins the second song that is written, or a line of your
    own; default: the first test song"""
    chars: int | None = aside(None, "compare")
    """compare: characters that follow each start; default: the mean length of a song, or 500 without songs"""
    samples: int = aside(1, "compare")
    """compare: number of texts that each strategy that draws writes for each start"""
    seed: int = 0
    """seed of all random draws"""
    device: str = aside("auto", "compare")
    """compare: auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps"""
    threads: int | None = aside(None, "compare")
    """compare: CPU threads of torch; default: one for each free core"""
    wandb: Literal["online", "offline", "disabled"] | None = None
    """W&B mode; default: the value of WANDB_MODE if it is set, else online if you are logged in, else
    offline"""
    project: str = "letters-and-latents"
    """W&B project"""
    entity: str | None = None
    """W&B entity (user or team); default: yours"""
    quiet: bool = False
    """print only warnings, errors and requested output; do not print progress and file names"""

    def __post_init__(self):
        for flags in (TextFlags, Decoding):
            flags.__post_init__(self)
        # refuses what is impossible in any command
        RunFlags(name=self.name, seed=self.seed, device=self.device, threads=self.threads)
        for name in ("rows", "top", "chars", "samples"):
            require(getattr(self, name) is None or getattr(self, name) >= 1, self, name, "at least 1")
        has_checkpoint = self.task == "explore" or bool(self.checkpoint)
        require(has_checkpoint, self, "task", "used with --checkpoint=RUN")


# ------------------------------------------------------------------------------------------------ counting


def is_stop_word(word: str) -> bool:
    """Whether scikit-learn lists the word, the word without its apostrophe, or the words of which it is a
    contraction.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # takes a second

    first = re.split("n't$|'", word)[0]  # don't: do; it's: it
    return not ENGLISH_STOP_WORDS.isdisjoint((word, first, word.replace("'", "")))


@dataclass(frozen=True)
class Corpus:
    """The counts of a text. Tables have the largest count first; equal counts are in the order of what is
    counted.
    """

    name: str
    unit: str  # song or line
    lengths: np.ndarray  # int64 (S, 2): characters and words of each song, or line that is not blank
    words: pd.DataFrame  # word, count, share, stop_word
    characters: pd.DataFrame  # character as `named`, count, share
    artists: pd.DataFrame  # artist, songs, share; empty without songs

    def top(self, n: int, cfg: Config) -> dict[str, pd.DataFrame]:
        """The n most frequent words, with and without stop words, as --stop_words asks for."""
        both = {True: self.words, False: self.words[~self.words["stop_word"]]}
        asked = {"with stop words": True, "without stop words": False}
        return {how: both[w].head(n) for how, w in asked.items() if cfg.stop_words in (w, "both")}


def count(splits: text.TextSplits) -> Corpus:
    """Count all parts of a text, piece by piece. Raises UserError where there is nothing to count."""
    songs, words, characters, lengths = splits.songs, Counter(), Counter(), array("q")
    for piece in pieces_of(splits):
        characters.update(piece)
        units = piece.split("\n") if songs is None else [piece]
        for unit in units:
            if unit.strip():
                found = words_of(unit)
                words.update(found)
                lengths.extend((len(unit), len(found)))
    word_table = _ranked(words, "word", "count")
    word_table["stop_word"] = np.array([is_stop_word(word) for word in word_table["word"]], bool)
    character_table = _ranked(Counter({named(c): n for c, n in characters.items()}), "character", "count")
    if not lengths:
        raise UserError(f"--dataset: {splits.name} contains only white space")
    artists = _ranked(Counter([] if songs is None else songs["artist"]), "artist", "songs")
    unit = "line" if songs is None else "song"
    return Corpus(splits.name, unit, np.array(lengths).reshape(-1, 2), word_table, character_table, artists)


def _ranked(counts: Counter[str], what: str, number: str) -> pd.DataFrame:
    import pandas as pd

    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    table = pd.DataFrame(rows, columns=[what, number])
    return table.assign(share=table[number] / max(1, counts.total()))


def pieces_of(splits: text.TextSplits) -> Iterator[str]:
    """The lyrics of each song, or all parts of the text, in pieces that end with a line."""
    if splits.songs is not None:
        yield from splits.songs["lyrics"]
    else:
        yield from whole(_decoded(splits), "\n", "")


def _decoded(splits: text.TextSplits) -> Iterator[str]:
    for part in text.PARTS:
        for ids in getattr(splits, part).split(text.BLOCK):
            yield text.decode(ids, splits.alphabet)
            splits.release()  # else all of a mapped text would stay in memory


@cache
def _font() -> tuple[str, frozenset[int]]:
    """The file of matplotlib's own font, and the code points that it can draw."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    path = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    return path, frozenset(FT2Font(path).get_charmap())


def drawable(given: str) -> str:
    """Text for a picture, of at most 60 characters; characters that the font lacks are shown by their code
    points.
    """
    shown = given if len(given) <= 60 else f"{given[:59]}…"
    return "".join(c if ord(c) in _font()[1] and c.isprintable() else f"U+{ord(c):04X}" for c in shown)


def named(char: str) -> str:
    """A character as it is; by its name if it is white space; by its code point if it cannot be seen
    alone.
    """
    return NAMES.get(char) or (f"U+{ord(char):04X}" if unicodedata.category(char)[0] in "CMZ" else char)


def ranking(names: Iterable[str], sizes: Sequence[int], title: str, xlabel: str) -> np.ndarray:
    """A bar for each name, from above, with its size."""
    names = [drawable(name) for name in names]

    def draw(ax: Any) -> None:
        bars = ax.barh(range(len(sizes)), sizes, color=charts.COLORS[0])
        ax.bar_label(bars, [f"{size:,}" for size in sizes], padding=3, fontsize=8)
        ax.set_yticks(range(len(sizes)), names, fontsize=9)
        ax.set(ylim=(len(sizes) - 0.4, -0.6), xlabel=xlabel)
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.margins(x=0.12)  # for the number at the longest bar
        ax.grid(axis="x", alpha=0.25)

    beside = 0.5 + charts.LETTER * max(map(len, names))
    return charts.chart(5.6, 1.1 + 0.2 * len(sizes), title, draw, beside)


def cloud(words: pd.DataFrame, seed: int) -> np.ndarray | None:
    """A cloud of the words, sized by their count, (600, 1000, 3); None if the font can draw none of them."""
    from wordcloud import WordCloud

    path, glyphs = _font()
    sizes = {w: n for w, n in zip(words["word"], words["count"]) if glyphs.issuperset(map(ord, w))}
    if not sizes:
        return None
    made = WordCloud(path, 1000, 600, background_color="white", max_words=N_CLOUD, random_state=seed)
    made.color_func = lambda *_, random_state, **__: random_state.choice(charts.COLORS)
    return made.generate_from_frequencies(sizes).to_array()


def draw(corpus: Corpus, cfg: Config) -> dict[str, np.ndarray]:
    """All pictures of a text by their names; without those of words where it has none."""
    made, name, unit = {}, corpus.name, corpus.unit
    for how, some in corpus.top(max(N_WORDS, cfg.top), cfg).items():
        if len(some):
            title = f"Top {len(some)} words of {name}, {how}"
            made[f"words_{how.replace(' ', '_')}"] = ranking(some["word"], some["count"], title, "times")
    if (picture := cloud([*corpus.top(N_CLOUD, cfg).values()][-1], cfg.seed)) is not None:
        made["word_cloud"] = picture
    some = corpus.characters.head(N_CHARACTERS)
    title = f"Top {len(some)} of {len(corpus.characters)} characters of {name}"
    made["characters"] = ranking(some["character"], some["count"], title, "times")
    sides = []
    for n, per in zip(corpus.lengths.T, (f"characters per {unit}", f"words per {unit}")):
        n_bins = min(50, 1 + int(np.ptp(n)))  # none is narrower than 1
        sides.append(charts.histogram(n, f"Mean {n.mean():,.1f} {per}", per, n_bins))
    made["lengths"] = np.hstack(sides)
    if len(corpus.artists):
        some, n = corpus.artists.head(N_ARTISTS), len(corpus.artists)
        which = f", the first {N_ARTISTS} of {n:,}" if n > N_ARTISTS else ""
        title = f"Songs per artist of {name}{which}"
        made["artists"] = ranking(some["artist"], some["songs"], title, "songs")
    return made


# ------------------------------------------------------------------------------------------------ explore


def explore(cfg: Config) -> dict[str, Any]:
    """Count --dataset; returns what results.json says. Raises DataError where it is missing or unusable."""
    splits = load_text(cfg)
    for line in splits.report:
        console.print(escape(line))
    corpus = count(splits)
    numbers = sizes(splits, corpus, cfg)
    tell(splits, corpus, numbers, cfg)
    folder = Path(cfg.out) / (cfg.name or file_name(f"corpus_{corpus.name}")) / cfg.task
    files = [pictures.write_png(folder / f"{k}.png", array) for k, array in draw(corpus, cfg).items()]
    for name in ("words", "characters", "artists"):
        if len(table := getattr(corpus, name)):
            files.append(folder / f"{name}.csv")
            write_bytes(files[-1], table.to_csv(index=False).encode())
    top = {k: dict(zip(t["word"], t["count"].tolist())) for k, t in corpus.top(cfg.top, cfg).items()}
    artists = dict(zip(corpus.artists["artist"], corpus.artists["songs"].tolist()))
    results = {"task": cfg.task, "dataset": corpus.name, "data_hash": splits.content_hash, **numbers}
    results |= {"top_words": top, "words_are": WORDS, "artists": artists}
    results["files"] = sorted(path.name for path in files)
    files.append(folder / RESULTS)
    write_json(files[-1], results)
    news.print(escape("\n".join(map(str, files))))
    publish(cfg, folder, files, results)
    return results


def sizes(splits: text.TextSplits, corpus: Corpus, cfg: Config) -> dict[str, Any]:
    """The sizes of the text; for a table of songs also its shape and bytes, as pandas reports them (deep)."""
    numbers: dict[str, Any] = {}
    per = f"per_{corpus.unit}"
    if splits.songs is not None:
        table = splits.songs.drop(columns="part")  # which is ours, not the file's
        numbers = dict(zip(("table_rows", "table_columns"), table.shape), n_artists=len(corpus.artists))
        numbers["table_bytes_in_memory"] = int(table.memory_usage(deep=True).sum())
    if cfg.dataset != "pydoc":
        kept = text.place(Path(cfg.data_dir)) if cfg.dataset == "shakespeare" else None
        numbers["file_bytes"] = (kept or Path(cfg.dataset).expanduser()).stat().st_size
    numbers[f"{corpus.unit}s"] = len(corpus.lengths)
    for what, table, n in zip(("characters", "words"), (corpus.characters, corpus.words), corpus.lengths.T):
        numbers |= {what: int(table["count"].sum()), f"different_{what}": len(table)}
        numbers |= {f"mean_{what}_{per}": float(n.mean()), f"median_{what}_{per}": float(np.median(n))}
    return numbers


def tell(splits: text.TextSplits, corpus: Corpus, numbers: Mapping[str, Any], cfg: Config) -> None:
    """Print what was counted."""
    import pandas as pd

    if splits.songs is None:
        lines = [line for line in next(pieces_of(splits)).split("\n") if line.strip()]
        first = pd.DataFrame({"line": lines[: cfg.rows]})
    else:
        first = splits.songs.head(cfg.rows).drop(columns="part")
        first["lyrics"] = first["lyrics"].str.replace("\n", " / ").str[:60] + " …"
    show(f"First {corpus.unit}s of {corpus.name}", first)
    if len(corpus.artists):
        show("Every artist", corpus.artists)
    rows = [(name.removeprefix("n_").replace("_", " "), round(n, 1)) for name, n in numbers.items()]
    show("Sizes", pd.DataFrame(rows, columns=["of", "number"], dtype=object))
    for how, some in corpus.top(cfg.top, cfg).items():
        show(f"Top words, {how}", some.drop(columns="stop_word"))
    Console().print(f"{WORDS}\n")
    show("Top characters", corpus.characters.head(N_CHARACTERS))


def show(title: str, rows: pd.DataFrame) -> None:
    """Print a table on stdout. No cell is cut or broken, so lines may be longer than those of the
    terminal.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    if "share" in rows:
        rows = rows.assign(share=[f"{share:.2%}" for share in rows["share"]])
    for name in rows:
        table.add_column(name, justify="right" if name in ("count", "share", "songs", "number") else "left")
    for row in rows.itertuples(index=False):
        table.add_row(*(Text(cell if isinstance(cell, str) else f"{cell:,}") for cell in row))
    wanted = Console(width=10**6).measure(table).maximum
    Console(width=max(wanted, Console().width)).print(Text(title, "bold"), table)


def publish(cfg: Config, folder: Path, files: Sequence[Path], results: Mapping[str, Any]) -> None:
    """Log everything to W&B as a separate run. If W&B fails, the files are still there, and one line says
    so.
    """

    def init(wandb: Any, mode: str) -> Any:
        return wandb.init(
            dir=str(folder),
            mode=mode,
            project=cfg.project,
            entity=cfg.entity,
            id=secrets.token_hex(4),
            name=f"{cfg.task} {results['dataset']}",
            job_type=cfg.task,
            tags=["charlm", cfg.task],
            config=texts(asdict(cfg) | {"data_hash": results["data_hash"]}),
            settings=settings(mode),
        )

    try:
        if (wandb_run := connect(cfg, init)) is None:
            return
        numbers = {f"{cfg.task}/{k}": v for k, v in results.items() if isinstance(v, (int, float))}
        send(wandb_run, 0, numbers, {f"{cfg.task}/{p.stem}": p for p in files if p.suffix == ".png"})
        for path in (p for p in files if p.suffix != ".png"):
            copy = shutil.copy(path, wandb_run.dir)  # W&B would only link to the file itself
            wandb_run.save(copy, base_path=wandb_run.dir, policy="now")
        wandb_run.finish(exit_code=0)
        if wandb_run.offline:
            place = shlex.quote(str(Path(wandb_run.dir).parent))
            news.print(escape(f"offline; to bring it to W&B: wandb sync {place}"))
    except Exception as error:  # whatever W&B raises, the files are there
        rest = f"({first_line(error)}); {escape(str(folder))} holds everything"
        console.print(f"[yellow]W&B did not take this task[/] {rest}")


if __name__ == "__main__":
    main(Config, explore, tasks="research.tasks.charlm_corpus")
