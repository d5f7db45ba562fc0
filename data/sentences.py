r"""Lines or sentences of a text as ids of characters, words or pieces of words, from which a text VAE learns.

`verses`, the default, needs no download: it mixes archaic lines of our own with lines of Python's manual.

    data = load("shakespeare", "data/store", level="word")
    data.train.ids(0)                            # int32 (T,)
    data.vocabulary.write(data.train.ids(0))     # 'Before we proceed any further, hear me speak.'
    data.report                                  # what was removed and left out, one line each

A folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt (Penn Treebank as T. Mikolov prepared it: one
sentence per line, words between spaces, `<unk>` for rare ones) keeps its own parts and words.

Sources Bowman et al. 2016 (arXiv:1511.06349) for text by sentences; Sennrich et al. 2016 (arXiv:1508.07909)
        for pieces of words, computed by the library `tokenizers`.
Shapes  S sentences, T tokens of a sentence, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from data import DataError, lyrics, text
from data.characters import whole
from data.files import reason
from data.old_lines import LINES
from data.terminal import readable
from data.text_files import read_whole, unpacked_name
from data.waiting import announced

PARTS = ("train", "val", "test")
PIPELINE = 1  # part of every content hash: raise it when cleaning, tokens or the split change
NAMED_SETS = ("verses", *text.NAMED_SETS)
LEVELS = ("char", "word", "bpe")
UNITS = ("lines", "sentences")
MAX_LENGTH = {"char": 60, "word": 20, "bpe": 30}  # tokens of a sentence, by default
MIN_LENGTH = {"char": 8, "word": 2, "bpe": 2}
SPECIAL = (
    "<pad>",
    "<bos>",
    "<eos>",
    "<unk>",
)  # ids 0 to 3: padding, begin, end, tokens that are not in the vocabulary
PAD, BOS, EOS, UNK = range(4)
MIN_SENTENCES = 60  # with fewer, val would have only two
PTB = {"train": "ptb.train.txt", "val": "ptb.valid.txt", "test": "ptb.test.txt"}
NOBODY = ""  # the speaker of lines that have none
BLOCK = 1 << 16  # tokens that are hashed at a time
IN_MEMORY = 16 << 20  # bytes of sentences, beyond which they lie in a temporary file
SPACE = "▁"  # represents the space before a piece of a word

# a word with its apostrophes and hyphens ('tis, know't, well-a-day), a number, or a punctuation mark
_WORD = re.compile(
    r"'(?:tis|twas|twere|twill|gainst|twixt)\b|[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+|[^\w\s]|_", re.I
)
_SPEAKER = re.compile(r"\w[\w'’ .&-]{0,40}:")
_STAGE = re.compile(r"\[.*\]|\(.*\)|(?:Enter|Exit|Exeunt|Re-enter|SCENE|ACT)\b.*")
_ASIDE = re.compile(r" *\[[^\]\n]*\]")
_MAYBE_END = re.compile(r"[.!?][\"'’”)]*(\s+)[\"'‘“(]*(\w)")
_NO_SPACE_BEFORE = frozenset(".,;:!?)]}%’")
_NO_SPACE_AFTER = frozenset("([{$")


# ---- vocabulary ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that a model knows. It turns sentences into ids, and ids into sentences.

    tokens: V of them, of which the first four are SPECIAL; pieces: for level bpe, what `tokenizers` needs, in
    JSON.
    """

    level: str
    tokens: tuple[str, ...]
    pieces: str | None = None
    spaced: bool = False  # whether words are separated by spaces only, as in PTB's files

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @cached_property
    def _bpe(self) -> Any:
        tokenizer = _tokenizers().Tokenizer.from_str(self.pieces)
        tokenizer.encode_special_tokens = True
        return tokenizer

    def split(self, sentence: str) -> list[str]:
        """Tokens of a sentence, whether the vocabulary has them or not."""
        if self.level == "bpe":
            return self._bpe.encode(sentence).tokens  # "<eos>" in a text counts as text
        return split(sentence, self.level, self.spaced)

    def read(self, sentence: str) -> np.ndarray:
        """Ids of a sentence, int32 (T,), with UNK for tokens that the vocabulary lacks."""
        ids = np.array([self._places.get(token, UNK) for token in self.split(sentence)], np.int32)
        return np.maximum(ids, UNK)  # a special token in the text itself must not end the sentence

    def write(self, ids: Iterable[int]) -> str:
        """The sentence of ids up to the first EOS; PAD and BOS are left out."""
        kept = []
        for i in map(int, ids):
            if i == EOS:
                break
            if i not in (PAD, BOS):
                kept.append(self.tokens[i])
        return join(kept, self.level)

    def pack(self) -> bytes:
        """The vocabulary as bytes, for a checkpoint."""
        return json.dumps([self.level, self.tokens, self.pieces, self.spaced]).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Vocabulary:
        """The vocabulary from which `pack` made these bytes. Raises ValueError for other bytes."""
        level, tokens, pieces, spaced = json.loads(packed)
        return cls(level, tuple(tokens), pieces, spaced)


def split(sentence: str, level: str, spaced: bool = False) -> list[str]:
    """The characters of a sentence, or its words, numbers and punctuation: "Know'st thou?" → "Know'st",
    "thou", "?". spaced: words are separated by spaces only.
    """
    if level == "char":
        return list(sentence)
    return sentence.split() if spaced else _WORD.findall(sentence)


def join(tokens: Sequence[str], level: str) -> str:
    """The sentence made of these tokens. Words get spaces between them, but there is none before a full stop,
    for example.
    """
    if level == "char":
        return "".join("\N{REPLACEMENT CHARACTER}" if token == SPECIAL[UNK] else token for token in tokens)
    if level == "bpe":
        return "".join(tokens).replace(SPACE, " ").strip()
    made = ""
    for token in tokens:
        glued = not made or token in _NO_SPACE_BEFORE or made[-1] in _NO_SPACE_AFTER
        made += token if glued else f" {token}"
    return made


def _tokenizers() -> Any:
    """The library, set not to use threads, because in a sweep's trial, which is forked, it would warn and
    hang.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers

    return tokenizers


def _learned(
    sentences: Iterable[str], level: str, min_count: int, vocab_size: int, spaced: bool
) -> Vocabulary:
    """The vocabulary of training sentences: all characters or words that are frequent enough, or pieces of
    words.
    """
    if level == "bpe":
        lib = _tokenizers()
        bpe = lib.Tokenizer(lib.models.BPE(unk_token=SPECIAL[UNK]))
        bpe.pre_tokenizer = lib.pre_tokenizers.Metaspace(replacement=SPACE)
        trainer = lib.trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=list(SPECIAL), min_frequency=2, show_progress=False
        )
        bpe.train_from_iterator(sentences, trainer)
        known = bpe.get_vocab()
        return Vocabulary(level, tuple(sorted(known, key=known.get)), bpe.to_str())
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(sentence if level == "char" else split(sentence, level, spaced))
    kept = sorted(t for t, n in counts.items() if n >= min_count and t not in SPECIAL)
    return Vocabulary(level, (*SPECIAL, *kept), None, spaced)


# ---- sentences -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Sentences, one after the other: sentence s is tokens[starts[s] : starts[s + 1]],
    without BOS and EOS.
    """

    tokens: np.ndarray  # (N,), uint8, int16 or int32: the first that holds all ids
    starts: np.ndarray  # int64 (S + 1,)
    speakers: np.ndarray  # int32 (S,), indices in SentenceSplits.speakers
    positions: np.ndarray  # float32 (S,), the place of a sentence in the text, from 0 to 1

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each sentence, int64 (S,)."""
        return np.diff(self.starts)

    def ids(self, s: int) -> np.ndarray:
        """Ids of sentence s, int32 (T,)."""
        return self.tokens[self.starts[s] : self.starts[s + 1]].astype(np.int32)


@dataclass(frozen=True)
class SentenceSplits:
    """A text as sentences, in three parts by their place in it: val and test are its end."""

    name: str  # short, for titles
    content_hash: str  # 16 hex digits, from the vocabulary, the ids and the parts
    vocabulary: Vocabulary
    train: Part
    val: Part
    test: Part
    speakers: tuple[str, ...]  # the first is NOBODY
    report: list[str]  # what was removed and left out, how many words are unknown, how long sentences are


class _Found:
    """The sentences of a text in order, with their speakers and places, kept compactly.

    As Python's objects, the sentences of a large text would take ten times as much memory as the text.
    """

    def __init__(self, what: str, lower: bool, file: IO[bytes]):
        self.what, self.lower = what, lower
        self.file = file  # gets all sentences, one after the other, in UTF-8
        self.sizes = array("i")  # the bytes of each
        self.names = {NOBODY: 0}  # speaker -> id
        self.speakers = array("i")
        self.places, self.within = array("q"), array("d")  # line or number of a sentence, and lines after it

    def append(self, sentence: str, speaker: str, place: int, within: float = 0.0) -> None:
        """Add a sentence; place + within is where it begins, of the number of lines that `positions` gets."""
        coded = (sentence.lower() if self.lower else sentence).encode("utf-8", "surrogatepass")
        try:
            self.file.write(coded)
        except OSError as e:
            place = tempfile.gettempdir()
            raise DataError(f"{self.what}: its sentences cannot be written to {place}: {reason(e)}") from None
        self.sizes.append(len(coded))
        self.speakers.append(self.names.setdefault(speaker, len(self.names)))
        self.places.append(place)
        self.within.append(within)

    def __len__(self) -> int:
        return len(self.sizes)

    def texts(self, rows: range) -> Iterator[str]:
        """The sentences `rows`, which follow one another."""
        self.file.seek(sum(self.sizes[: rows.start]))
        for size in self.sizes[rows.start : rows.stop]:
            yield self.file.read(size).decode("utf-8", "surrogatepass")

    def positions(self, rows: range, n: int) -> np.ndarray:
        """The places of the sentences `rows` in a text of n lines, from 0 to 1, float64 (S,)."""
        places, within = (np.array(a[rows.start : rows.stop]) for a in (self.places, self.within))
        return places / max(1, n) + within / max(1, n)


@announced("reading --dataset={}")
def load(
    dataset: str,
    data_dir: str,
    *,
    level: str = "char",
    unit: str = "lines",
    clean: bool = True,
    lower: bool = False,
    min_count: int = 2,
    vocab_size: int = 2000,
    min_length: int | None = None,
    max_length: int | None = None,
    encoding: str | None = None,
    columns: str | None = None,
) -> SentenceSplits:
    """Load a named text, a file, a CSV of lyrics or a folder in PTB's form.

    unit: 'lines', or 'sentences', which may extend over several lines. clean: leave out names of speakers,
    stage directions and notes in square brackets. min_count (level word): words that are rarer in the
    training part become UNK; vocab_size (level bpe): the number of pieces. Sentences with fewer than
    min_length tokens or more than max_length are left out (None: a default for each level). Raises DataError
    if the text can't be used.
    """
    what = f"--dataset={dataset}"
    least, most = min_length or MIN_LENGTH[level], max_length or MAX_LENGTH[level]
    folder = Path(os.path.expanduser(dataset))
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
        found = _Found(what, lower, file)
        if dataset not in NAMED_SETS and folder.is_dir():
            for flag, value, only in (("columns", columns, None), ("unit", unit, "lines")):
                if value != only:
                    raise DataError(
                        f"--{flag}={value}: {what} is a folder with one sentence per line; omit it"
                    )
            name, parts, report = _ptb(found, folder, what, encoding)
            if level == "bpe":
                raise DataError(f"--level=bpe: {what} has words between spaces; take word or char")
            spaced = level == "word"
        else:
            name, n_lines, report = _read(found, dataset, data_dir, unit, clean, encoding, columns)
            parts, spaced = {part: (rows, n_lines) for part, rows in _split(len(found), what).items()}, False
        rare = min_count if level == "word" and not spaced else 1
        vocabulary = _learned(found.texts(parts["train"][0]), level, rare, vocab_size, spaced)
        if len(vocabulary) == len(SPECIAL):
            raise DataError(f"--min_count={min_count}: no word of {what} is that frequent")
        speakers = (NOBODY, *sorted(found.names.keys() - {NOBODY}))
        kept, counts = {}, Counter()
        for part, (rows, n_lines) in parts.items():
            kept[part] = _encoded(found, rows, n_lines, vocabulary, speakers, least, most, counts)
            if len(kept[part]) < 2:
                raise DataError(
                    f"{what}: {len(kept[part])} sentences of {least} to {most} tokens are left in {part}; "
                    "at least 2 are needed: see --min_length, --max_length and --level"
                )
    n = len(found)
    for why, words in (("short", f"fewer than {least}"), ("long", f"more than {most}")):
        if counts[why]:
            report.append(f"{counts[why]:,} of {n:,} {unit} left out: they have {words} tokens")
    report.append(_statistics(kept, vocabulary, unit))
    return SentenceSplits(
        name, _digest(vocabulary, kept), vocabulary, **kept, speakers=speakers, report=report
    )


def _read(
    found: _Found,
    dataset: str,
    data_dir: str,
    unit: str,
    clean: bool,
    encoding: str | None,
    columns: str | None,
) -> tuple[str, int, list[str]]:
    """Append the sentences of a text that is not a folder to `found`; returns its name, the number of lines
    that their places count, and a report.
    """
    what, report = f"--dataset={dataset}", []
    own = dataset not in NAMED_SETS
    is_table = own and unpacked_name(Path(dataset)).suffix.lower() in lyrics.ENDINGS
    if encoding is not None and not own:
        raise DataError(f"--encoding={encoding}: {dataset} has its own; the flag is for your own files")
    if columns is not None and not is_table:
        raise DataError(f"--columns={columns}: {what} has none; the flag is for a .csv or .tsv file")
    if dataset == "verses":  # the two kinds are mixed evenly, so that val and test have both
        pydoc = _lines(text.read_pieces("pydoc", data_dir)[0])
        manual = [sentence for sentence, *_ in _sentences(pydoc, unit, clean, Counter())]
        step = max(1, len(manual) // len(LINES))
        for i, sentence in enumerate(manual):
            found.append(sentence, NOBODY, len(found))
            if i % step == 0 and i // step < len(LINES):
                found.append(LINES[i // step], NOBODY, len(found))
        return dataset, len(found), report
    if is_table:
        path = Path(os.path.expanduser(dataset))
        if not path.is_file():
            raise DataError(f"{what}: no such file")
        try:
            songs, report = lyrics.read(path, what, encoding, columns)
        except OSError as e:
            raise DataError(f"{what} cannot be read: {reason(e)}") from None
        removed: Counter[str] = Counter()
        for row in songs.itertuples():
            for sentence, *_ in _sentences(row.lyrics.splitlines(), unit, clean, removed, play=False):
                found.append(sentence, row.artist, len(found))
        return readable(unpacked_name(path).stem), len(found), report + _about(removed)
    chunks, name, report = text.read_pieces(dataset, data_dir, encoding, NAMED_SETS)
    removed, n_lines = Counter(), 0

    def lines() -> Iterator[str]:
        nonlocal n_lines
        for line in _lines(chunks):
            n_lines += 1
            yield line

    for sentence in _sentences(lines(), unit, clean, removed):
        found.append(*sentence)
    return name, n_lines, report + _about(removed)


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    """The lines of a text that is read piece by piece, as str.splitlines cuts the whole."""
    for piece in whole(chunks, "\n", ""):
        yield from piece.splitlines()


def _about(removed: Counter) -> list[str]:
    """Lines of the report about what `_sentences` has removed."""
    named = {"speaker": "names of speakers", "stage": "stage directions", "aside": "notes in square brackets"}
    return [f"{removed[kind]:,} {words} removed" for kind, words in named.items() if removed[kind]]


def _sentences(
    lines: Iterable[str], unit: str, clean: bool, removed: Counter[str], play: bool = True
) -> Iterator[tuple[str, str, int, float]]:
    """Lines or sentences of a text in order, without blank ones: each with its speaker, the line at which
    their part begins, and how many lines later the sentence begins.

    removed: counts what is removed; play: whether the text may have speakers and stage directions (in a song,
    "Enter night" is a line like any other).
    """
    speaker, at, said, n_said = NOBODY, 0, [], 0  # said: with unit 'lines' each is yielded at once instead
    for i, line in enumerate(lines):
        bare = " ".join(line.split())
        speaks = clean and play and _SPEAKER.fullmatch(bare) and bare[0].isupper() and len(bare.split()) <= 4
        if speaks or not bare:
            yield from _ended(said, speaker, at)
            speaker, at, said, n_said = bare[:-1] if speaks else NOBODY, i, [], 0
            removed["speaker"] += bool(speaks)
        elif clean and play and _STAGE.fullmatch(bare):
            removed["stage"] += 1
        else:
            if clean:
                bare, n = _ASIDE.subn("", bare)
                removed["aside"] += n
            if unit == "sentences":
                said.append(bare)
            elif bare.strip():
                yield bare.strip(), speaker, at, float(n_said)
            n_said += 1
    yield from _ended(said, speaker, at)


def _ended(said: list[str], speaker: str, at: int) -> Iterator[tuple[str, str, int, float]]:
    """The sentences of the lines `said`, as `_sentences` yields them. A sentence ends at a mark that white
    space and an upper-case letter follow.
    """
    text, parts, begin = " ".join(said), [], 0
    for match in _MAYBE_END.finditer(text):
        if match[2].isupper():
            parts.append(text[begin : match.start(1)])
            begin = match.end(1)
    parts.append(text[begin:])
    for i, part in enumerate(parts):
        if part.strip():
            yield part.strip(), speaker, at, len(said) * i / len(parts)


def _ptb(
    found: _Found, folder: Path, what: str, encoding: str | None
) -> tuple[str, dict[str, tuple[range, int]], list[str]]:
    """Append the sentences of a folder with PTB's three files to `found`; returns its name, which sentences
    are those of each part, with the number of its lines, and a report.
    """
    parts, report = {}, []
    for part, file in PTB.items():
        path = folder / file
        if not path.is_file():
            raise DataError(
                f"{what} is a folder without {file}; expected: a text file, or {', '.join(PTB.values())}"
            )
        try:
            content, about = read_whole(path, f"{what}: {file}", encoding)
        except OSError as e:
            raise DataError(f"{what}: {file} cannot be read: {reason(e)}") from None
        first = len(found)
        for line in content.splitlines():
            if line.strip():
                found.append(line.strip(), NOBODY, len(found) - first)
        parts[part] = range(first, len(found)), len(found) - first
        report += about
    return readable(folder.name), parts, report


def _split(n: int, what: str) -> dict[str, range]:
    """The parts of n sentences: test is the last tenth, val the twentieth before it."""
    if n < MIN_SENTENCES:
        raise DataError(f"{what} is too short: {n} sentences; at least {MIN_SENTENCES} are needed")
    val, test = n - n // 10 - n // 20, n - n // 10
    return {"train": range(val), "val": range(val, test), "test": range(test, n)}


def _encoded(
    found: _Found,
    some: range,
    n_lines: int,
    vocabulary: Vocabulary,
    speakers: tuple[str, ...],
    least: int,
    most: int,
    counts: Counter,
) -> Part:
    """Sentences of `least` to `most` tokens as ids. counts: gets the numbers of sentences that are too short
    and too long.
    """
    dtype = next(np.dtype(t) for t in ("u1", "i2", "i4") if len(vocabulary) <= np.iinfo(t).max + 1)
    tokens, starts, kept = array(dtype.char), array("q", [0]), array("q")
    for i, sentence in enumerate(found.texts(some)):
        ids = vocabulary.read(sentence)
        if not least <= len(ids) <= most:
            counts["short" if len(ids) < least else "long"] += 1
            continue
        tokens.frombytes(ids.astype(dtype).tobytes())
        starts.append(len(tokens))
        kept.append(i)
    place = {speaker: i for i, speaker in enumerate(speakers)}
    ids_of = np.array([place[name] for name in found.names], np.int32)
    who = ids_of[np.array(found.speakers[some.start : some.stop])[kept]]
    where = found.positions(some, n_lines)[kept].astype(np.float32)
    made = np.frombuffer(tokens, dtype) if tokens else np.empty(0, dtype)
    return Part(made, np.array(starts), who, where)


def _statistics(parts: dict[str, Part], vocabulary: Vocabulary, unit: str) -> str:
    """A line of the report: how many sentences there are, how long they are, and the share
    of unknown tokens.
    """
    lengths = np.concatenate([part.lengths for part in parts.values()])
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
    share = {name: np.count_nonzero(part.tokens == UNK) / len(part.tokens) for name, part in parts.items()}
    unknown = ", ".join(f"{x:.2%} of {name}" for name, x in share.items())
    return (
        f"{len(lengths):,} {unit} ({sizes}), {lengths.mean():.1f} tokens each on average (median "
        f"{np.median(lengths):.0f}, at most {lengths.max()}); {len(vocabulary):,} different tokens "
        f"(--level={vocabulary.level}), unknown: {unknown}"
    )


def _digest(vocabulary: Vocabulary, parts: dict[str, Part]) -> str:
    sha = hashlib.sha256(f"{PIPELINE}\n".encode() + vocabulary.pack())
    for name, part in parts.items():
        sha.update(f"\n{name} {len(part)}\n".encode())
        for values, kind in ((part.tokens, "<i4"), (part.starts, "<i8"), (part.speakers, "<i4")):
            for i in range(0, len(values), BLOCK):
                sha.update(values[i : i + BLOCK].astype(kind))
    return sha.hexdigest()[:16]
