r"""Text for character models: Python's own manual, tinyshakespeare, any text file or a CSV of song lyrics.

`pydoc`, the default, is the English of Python's help pages; it needs no download. A text is changed only if a
flag says so, and `report` says what was changed.

    splits = load("pydoc", "data/store")
    splits.train, splits.alphabet                       # uint8 (408543,), '\n !"#$%&…'
    decode(splits.train[:40], splits.alphabet)          # 'The "assert" statement\n*****************'

torch and pandas are imported where they are used: reading and counting need neither.
Shapes: N characters, V = len(alphabet), S sequences, T characters of a given text.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data import DataError, lyrics
from data.characters import (
    FORMS,
    Cleaning,
    char_to_one_hot,
    decode,
    dtype_of,
    encode,
    ids_of,
    one_hot,
    unknown,
    whole,
)
from data.files import reason, write_whole
from data.names import closest, did_you_mean, missing
from data.terminal import readable
from data.text_files import codec_of, is_packed, read_chunks, unpacked_name
from data.waiting import announced

if TYPE_CHECKING:
    import pandas
    import torch

__all__ = [
    "CUTS",
    "FORMS",
    "NAMED_SETS",
    "SONG_END",
    "Cleaning",
    "TextSplits",
    "char_to_one_hot",
    "decode",
    "encode",
    "holds",
    "load",
    "load_arrays",
    "one_hot",
    "read",
    "read_pieces",
    "unknown",
]

PARTS = ("train", "val", "test")
PIPELINE = 1  # part of every content hash: raise it when encoding or the split changes
NAMED_SETS = ("pydoc", "shakespeare")
CUTS = ("stream", "lines")
SONG_END = "\f"  # a character of its own, so that a model learns where songs end
MIN_CHARACTERS = 1000  # with fewer, val would be a single line
# characters of val, at most: enough to choose by, and more is better used for training
MOST_VAL = 10_000
LARGE = 16 << 20  # bytes; a larger file is never in memory as a whole: its ids are mapped from the cache
BLOCK = 4 << 20  # ids of a map that are read at a time
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
PLACES = ("shakespeare/input.txt", "tinyshakespeare/input.txt", "input.txt")  # under --data_dir
LAYOUTS = {"shakespeare": f"{PLACES[0]} (sha256 {SHAKESPEARE_SHA256})"}
Parts = dict[str, tuple[np.ndarray, np.ndarray]]  # part -> ids (N,), starts (S+1,)


@dataclass(frozen=True)
class TextSplits:
    """A text in its three parts, as ids of characters. If these are mapped, writing to them does not change
    the file.
    """

    name: str  # short, for titles ('pydoc', 'lyrics')
    content_hash: str  # 16 hex digits, from the text after cleaning, its cut, and its split
    alphabet: str  # all characters, in code point order; a character's id is its index
    train: torch.Tensor  # uint8 (N,), int32 where V > 256; CPU
    val: torch.Tensor
    test: torch.Tensor
    train_starts: torch.Tensor  # int64 (S+1,): sequence s is train[starts[s] : starts[s+1]]
    val_starts: torch.Tensor
    test_starts: torch.Tensor
    songs: pandas.DataFrame | None  # artist, song, lyrics as cleaned, part; in the order of the file
    report: list[str]  # encoding, rows left out, what cleaning removed; a line each
    mapping: mmap.mmap | None = None  # of the file that the parts of a large text are mapped from

    def release(self) -> None:
        """Give the memory of a mapped text back to the system; what is wanted again is read again.

        Otherwise all that was ever read of it counts as memory of this process. It discards what was written
        to the ids. Without a map it does nothing.
        """
        _release(self.mapping)


def load(
    dataset: str,
    data_dir: str,
    *,
    cut: str = "stream",
    normalize: str | None = None,
    min_count: int = 1,
    scripts: str | None = None,
    lower: bool = False,
    encoding: str | None = None,
    columns: str | None = None,
) -> TextSplits:
    """Load a named text, a file or a CSV of songs. For `normalize`, `min_count`, `scripts` and `lower` see
    Cleaning.

    cut: with 'stream' each part of a file is one sequence, and each song of a CSV is one, which ends with
    SONG_END; with 'lines' each line that is not blank is one, with its newline. encoding: that of the file
    (None: UTF-8, or what its byte order mark says). columns: for a CSV, as in lyrics.read. Raises DataError
    if the text can't be used.
    """
    import torch

    cleaning = Cleaning(normalize, lower, scripts, min_count)
    name, content_hash, alphabet, parts, songs, report = load_arrays(
        dataset, data_dir, cut, cleaning, encoding, columns
    )
    tensors = {part: torch.from_numpy(ids) for part, (ids, _) in parts.items()}
    tensors |= {f"{part}_starts": torch.from_numpy(starts) for part, (_, starts) in parts.items()}
    mapping = _mapping(parts["train"][0])
    return TextSplits(name, content_hash, alphabet, **tensors, songs=songs, report=report, mapping=mapping)


@announced("reading --dataset={}")
def load_arrays(
    dataset: str,
    data_dir: str | Path,
    cut: str = "stream",
    cleaning: Cleaning | None = None,
    encoding: str | None = None,
    columns: str | None = None,
) -> tuple[str, str, str, Parts, pandas.DataFrame | None, list[str]]:
    """Like `load`, without torch. Returns name, content hash, alphabet, parts, songs, report."""
    if cut not in CUTS:
        raise DataError(f"--cut={cut}: must be {' or '.join(CUTS)}")
    cleaning = cleaning or Cleaning()
    path, what, songs = _find(dataset, Path(data_dir)), f"--dataset={dataset}", None
    own = path is not None and dataset not in NAMED_SETS
    bare = unpacked_name(path) if own else Path(dataset)
    name = readable(bare.stem) if own else dataset
    is_table = own and bare.suffix.lower() in lyrics.ENDINGS
    if encoding is not None and not own:
        raise DataError(f"--encoding={encoding}: {dataset} has its own; the flag is for your own files")
    if columns is not None and not is_table:
        raise DataError(f"--columns={columns}: {what} has none; the flag is for a .csv or .tsv file")
    try:
        if is_table:
            alphabet, parts, songs, report = _songs(path, what, cut, cleaning, encoding, columns)
        elif path and path.stat().st_size > (LARGE // 4 if is_packed(path) else LARGE):
            return name, *_mapped(path, what, cut, cleaning, encoding, Path(data_dir) / "cache")
        else:
            chunks = list(read_chunks(path, what, encoding) if path else _pydoc())
            alphabet, encoded, report = _encoding(lambda: chunks, what, cut, cleaning)
            report = (codec_of(path, what, encoding)[1] if path else []) + report
            parts = _split(np.concatenate(list(encoded())), alphabet, what, cut)
    except OSError as e:
        raise DataError(f"{what} cannot be read: {reason(e)}") from None
    return name, _digest(alphabet, parts), alphabet, parts, songs, report


def read(
    dataset: str, data_dir: str | Path, encoding: str | None = None, named: Sequence[str] = NAMED_SETS
) -> tuple[str, str, list[str]]:
    """The whole of a named text or of a text file, unchanged; its name; a report. Raises DataError like
    `load`.

    named: the named sets that the message suggests.
    """
    chunks, name, report = read_pieces(dataset, data_dir, encoding, named)
    return "".join(chunks), name, report


def read_pieces(
    dataset: str, data_dir: str | Path, encoding: str | None = None, named: Sequence[str] = NAMED_SETS
) -> tuple[Iterator[str], str, list[str]]:
    """Like `read`, but the text piece by piece; what is wrong with it may be raised only by one of these."""
    path, what = _find(dataset, Path(data_dir), named), f"--dataset={dataset}"
    if path is None:
        return _pydoc(), dataset, []

    def chunks() -> Iterator[str]:
        try:
            yield from read_chunks(path, what, encoding)
        except OSError as e:
            raise DataError(f"{what} cannot be read: {reason(e)}") from None

    try:
        report = codec_of(path, what, encoding)[1]
    except OSError as e:
        raise DataError(f"{what} cannot be read: {reason(e)}") from None
    own = dataset not in NAMED_SETS
    return chunks(), readable(unpacked_name(path).stem) if own else dataset, report


def holds(dataset: str) -> bool:
    """Whether `load` can load this: one of its names, or a file."""
    return dataset in NAMED_SETS or os.path.isfile(os.path.expanduser(dataset))


# ---- where texts come from -----------------------------------------------------------------------------


def place(data_dir: Path) -> Path | None:
    """The file that `load` uses as tinyshakespeare, without a check whether it is the
    official one; or None.
    """
    return next((data_dir / file for file in PLACES if (data_dir / file).is_file()), None)


def check_shakespeare(path: Path) -> None:
    """Raise DataError, which names the file, unless it is the official one."""
    if (found := _sha256(path)) != SHAKESPEARE_SHA256:
        raise DataError(f"{path}: sha256 {found}, but the official file has {SHAKESPEARE_SHA256}")


def _find(dataset: str, data_dir: Path, named: Sequence[str] = NAMED_SETS) -> Path | None:
    """The file to read; None for pydoc. Raises DataError if there is no such file."""
    if dataset == "pydoc":
        return None
    if dataset == "shakespeare":
        if (path := place(data_dir)) is None:
            raise missing(dataset, data_dir, LAYOUTS[dataset])
        try:
            check_shakespeare(path)
        except (OSError, DataError) as e:
            raise missing(dataset, data_dir, LAYOUTS[dataset], f"is damaged ({e})") from None
        return path
    file = os.path.expanduser(dataset)
    if os.path.isfile(file):
        return Path(file)
    if os.path.isdir(file):
        raise DataError(f"--dataset={dataset} is a folder; expected: one text file, or a .csv of lyrics")
    if os.path.exists(file):
        raise DataError(f"--dataset={dataset} is a pipe or a device; expected: a file: it is read twice")
    parent, known = os.path.dirname(file), list(named)
    if os.path.isdir(parent or "."):  # a mistyped path: look among its neighbours too
        known += [os.path.join(parent, name) for name in os.listdir(parent or ".")]
    hint = did_you_mean(closest(known, file, file.lower()))
    raise DataError(
        f"--dataset={dataset} is neither a named text ({', '.join(named)}) nor an existing file{hint}"
    )


def _pydoc() -> Iterator[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some systems' packages of Python lack it
        raise DataError(
            "--dataset=pydoc: this Python has no pydoc_data; use shakespeare or a file of your own"
        ) from None
    yield "\n".join(topics[name].strip("\n") + "\n" for name in sorted(topics))


def _sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


# ---- one text ------------------------------------------------------------------------------------------


def _encoding(
    chunks: Callable[[], Iterable[str]], what: str, cut: str, cleaning: Cleaning
) -> tuple[str, Callable[[], Iterator[np.ndarray]], list[str]]:
    """The alphabet of a text, a function that yields its ids piece by piece, and a report.

    chunks: yields the text each time that it is called. The result does not depend on where the chunks end.
    """
    # Neither Unicode forms nor the lower case of a letter (Σ at a word's end) depend on text past a space
    ends = "\n" if cut == "lines" else "\n " if cleaning.steps else ""
    mark = "\n" if cut == "lines" else ""

    def encoded() -> Iterator[np.ndarray]:
        blank = np.array([char.isspace() for char in alphabet])
        for text in whole(chunks(), ends, mark):
            ids = ids_of(cleaning.rewrite(text), alphabet)
            ids = ids[ids >= 0]
            if cut == "lines":
                ids = _filled_lines(ids, alphabet.index("\n"), blank)
            yield ids.astype(dtype_of(alphabet))

    alphabet, report = cleaning.survey(whole(chunks(), ends, mark), what, mark)
    if cut == "lines":
        n_lines = sum(text.count("\n") for text in whole(chunks(), ends, mark))
        used = sum(np.bincount(ids, minlength=len(alphabet)) for ids in encoded())
        if not used.any():
            raise DataError(f"--cut=lines: {what} has only blank lines")
        if n_blank := n_lines - used[alphabet.index("\n")]:
            report.append(f"{n_blank:,} of {n_lines:,} lines left out: they are blank")
        alphabet = "".join(char for char, n in zip(alphabet, used) if n)  # some may be only in blank lines
    return alphabet, encoded, report


def _filled_lines(ids: np.ndarray, newline: int, blank: np.ndarray) -> np.ndarray:
    """The ids (T,) without lines that are only white space. ids end with a newline; blank (V,) says which ids
    are white space.
    """
    ends = np.flatnonzero(ids == newline) + 1
    starts = np.concatenate(([0], ends[:-1]))
    filled = np.logical_or.reduceat(~blank[ids], starts)
    return ids[np.repeat(filled, ends - starts)]


# ---- the split -----------------------------------------------------------------------------------------


def _split(ids: np.ndarray, alphabet: str, what: str, cut: str) -> Parts:
    """Test is the last 10 %, val at most the 5 % before it, train the rest; with cut 'lines', lines stay
    whole.
    """
    _check_length(len(ids), what)
    if cut == "stream":
        n = len(ids)
        test = int(n * 0.9)  # as nanoGPT's val
        return _parts(ids, np.array([0, n]), [0, max(int(n * 0.85), test - MOST_VAL), test, n])
    starts = _starts(ids, alphabet.index("\n"))
    if len(starts) <= len(PARTS):
        raise DataError(f"--cut=lines: {what} has {len(starts) - 1} filled lines; at least 3 are needed")
    return _parts(ids, starts, starts[_borders(starts)])


def _check_length(n: int, what: str) -> None:
    if n < MIN_CHARACTERS:
        raise DataError(
            f"{what} is too short: {n:,} usable characters; at least {MIN_CHARACTERS:,} are needed"
        )


def _starts(ids: np.ndarray, mark: int) -> np.ndarray:
    """Int64 (S+1,): the beginnings of S sequences, each of which ends with `mark`, and the
    end of the last.
    """
    ends = [i + np.flatnonzero(block == mark) + 1 for i, block in _blocks(ids)]
    return np.concatenate([[0], *ends])


def _borders(starts: np.ndarray) -> list[int]:
    """The first sequence of train, of val and of test, and S, for S sequences: as close as possible to the
    places where `_split` cuts.
    """
    n, length = len(starts) - 1, starts[-1]
    cuts = max(0.85 * length, 0.9 * length - MOST_VAL), 0.9 * length
    val, test = (_nearest(starts, cut) for cut in cuts)
    val = min(max(val, 1), n - 2)  # no part is empty
    return [0, val, min(max(test, val + 1), n - 1), n]


def _nearest(starts: np.ndarray, cut: float) -> int:
    """The index of the number that is nearest to `cut`, the first of equals. starts are sorted."""
    above = int(np.searchsorted(starts, cut))
    i, j = max(above - 1, 0), min(above, len(starts) - 1)
    nearest = starts[i] if abs(starts[i] - cut) <= abs(starts[j] - cut) else starts[j]
    return int(np.searchsorted(starts, nearest))


def _parts(ids: np.ndarray, starts: np.ndarray, borders: Iterable[int]) -> Parts:
    parts = {}
    for part, (begin, end) in zip(PARTS, pairwise(borders)):
        within = starts[np.searchsorted(starts, begin, "right") : np.searchsorted(starts, end)]
        own = np.concatenate(([begin], within, [end]))
        own -= begin
        parts[part] = ids[begin:end], own
    return parts


def _digest(alphabet: str, parts: Parts) -> str:
    sha = hashlib.sha256(f"{PIPELINE}\n{alphabet}".encode())
    for part, (ids, starts) in parts.items():
        sha.update(f"\n{part} {len(ids)} {len(starts)}\n".encode())
        for _, block in _blocks(ids):
            sha.update(block)
        sha.update(starts.astype("<i8", copy=False))
    return sha.hexdigest()[:16]


# ---- songs ---------------------------------------------------------------------------------------------


def _songs(
    path: Path, what: str, cut: str, cleaning: Cleaning, encoding: str | None, columns: str | None
) -> tuple[str, Parts, pandas.DataFrame, list[str]]:
    """Alphabet, parts, table and report of a CSV. Songs go to random parts, but always to the same."""
    mark = SONG_END if cut == "stream" else "\n"
    songs, report = lyrics.read(path, what, encoding, columns)
    songs, cleaned = lyrics.clean(songs, what, cleaning, SONG_END, mark)
    if len(songs) < len(PARTS):
        raise DataError(f"{what} has {len(songs)} usable songs; at least {len(PARTS)} are needed")
    texts = [_marked(text, cut) for text in songs["lyrics"]]
    lengths = np.array([len(text) for text in texts])
    # Shuffled, because files are sorted by artist; by RandomState, because numpy never changes its stream
    shuffled = np.random.RandomState(0).permutation(len(texts))
    borders = _borders(np.cumsum([0, *lengths[shuffled]]))
    rows_of = {part: np.sort(shuffled[i:j]) for part, (i, j) in zip(PARTS, pairwise(borders))}
    for part, rows in rows_of.items():
        songs.loc[rows, "part"] = part
    whole = "".join(texts[i] for rows in rows_of.values() for i in rows)
    _check_length(len(whole), what)
    alphabet = "".join(sorted(set(whole)))  # some characters may be only in dropped songs
    ids = ids_of(whole, alphabet).astype(dtype_of(alphabet))
    ends = np.cumsum([0, *(lengths[rows].sum() for rows in rows_of.values())])
    return alphabet, _parts(ids, _starts(ids, alphabet.index(mark)), ends), songs, report + cleaned


def _marked(text: str, cut: str) -> str:
    """A song as one sequence or as its lines, each with the mark at its end."""
    if cut == "stream":
        return text + SONG_END
    return "".join(f"{line}\n" for line in text.split("\n") if line.strip())


# ---- the cache of large texts --------------------------------------------------------------------------


def _mapped(
    path: Path, what: str, cut: str, cleaning: Cleaning, encoding: str | None, cache: Path
) -> tuple[str, str, Parts, None, list[str]]:
    """Like load_arrays, without the name. The ids of a large file are written to `cache` once, and mapped."""
    before = path.stat().st_mtime_ns
    request = PIPELINE, unicodedata.unidata_version, _sha256(path), cut, *astuple(cleaning)
    request += (encoding,) if encoding else ()
    file = cache / f"text_{hashlib.sha256(repr(request).encode()).hexdigest()[:16]}.npy"
    if (found := _open_cache(file, what, cut)) is None:
        alphabet, encoded, report = _encoding(lambda: read_chunks(path, what, encoding), what, cut, cleaning)
        report = codec_of(path, what, encoding)[1] + report

        def write(f: io.BufferedWriter) -> None:
            f.write(_header(0, alphabet))
            start = f.tell()
            for ids in encoded():
                f.write(ids)
            n = (f.tell() - start) // np.dtype(dtype_of(alphabet)).itemsize
            f.seek(0)
            if path.stat().st_mtime_ns != before:
                raise DataError(f"{what} was changed while it was read; start again")
            f.write(_header(n, alphabet))  # numpy pads it, so its length does not depend on N
            assert f.tell() == start, f"the header is {f.tell()} bytes long, not {start}"

        try:
            write_whole(file, write)
            ids = np.load(file, mmap_mode="r")
            content_hash = _digest(alphabet, _split(ids, alphabet, what, cut))
            about = {"content_hash": content_hash, "alphabet": alphabet, "n": len(ids), "report": report}
            write_whole(file.with_suffix(".json"), lambda f: f.write(json.dumps(about).encode()))
        except OSError as e:
            raise DataError(
                f"cannot write the text cache {file}: {reason(e)}; make room or choose another --data_dir"
            ) from None
        found = _open_cache(file, what, cut)
    if found is None:
        raise DataError(f"the text cache {file} does not read back as it was written: is the disk in order?")
    return found


def _open_cache(file: Path, what: str, cut: str) -> tuple[str, str, Parts, None, list[str]] | None:
    """What is in the cache; None if it is missing or damaged, which the content hash reveals."""
    try:
        about = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        alphabet, n = about["alphabet"], about["n"]
        head = _header(n, alphabet)
        with open(file, "rb") as f:
            if f.read(len(head)) != head:
                return None
        ids = np.memmap(file, dtype_of(alphabet), mode="c", offset=len(head), shape=(n,))
        parts = _split(ids, alphabet, what, cut)
        if _digest(alphabet, parts) != about["content_hash"]:
            return None
        return about["content_hash"], alphabet, parts, None, about["report"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _blocks(ids: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """All ids in blocks, each with the index of its first; of a map no more than a block stays in memory."""
    for i in range(0, len(ids), BLOCK):
        yield i, ids[i : i + BLOCK]
        _release(_mapping(ids))


def _mapping(ids: np.ndarray) -> mmap.mmap | None:
    """The map that the ids lie in; None if they are in memory."""
    return getattr(ids, "_mmap", None)


def _release(mapping: mmap.mmap | None) -> None:
    if mapping is not None and hasattr(mapping, "madvise"):  # which Windows lacks
        mapping.madvise(mmap.MADV_DONTNEED)


def _header(n: int, alphabet: str) -> bytes:
    head = io.BytesIO()
    about = {"descr": dtype_of(alphabet), "fortran_order": False, "shape": (n,)}
    np.lib.format.write_array_header_1_0(head, about)
    return head.getvalue()
