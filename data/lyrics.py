"""A CSV of songs, as people have them: columns in any order, quoted line breaks, several encodings.

pandas is imported where it is used.
"""

from __future__ import annotations

import codecs
import io
from pathlib import Path
from typing import TYPE_CHECKING

from data import DataError
from data.characters import Cleaning, unknown

if TYPE_CHECKING:
    import pandas

COLUMNS = ("artist", "song", "lyrics")


def read(path: Path, what: str) -> tuple[pandas.DataFrame, list[str]]:
    """Read the songs: str columns artist, song, lyrics, one row a song that has lyrics; and a report.

    Raises DataError, which begins with `what`.
    """
    import pandas as pd

    text, report = _decode(path.read_bytes(), what)
    if not text.strip():
        raise DataError(f"{what} is empty")
    if n := text.count("\r"):
        # pandas' own reading of a lone \r before a space may never end and fill all memory (its issue 51141)
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        report.append(rf"{n:,} carriage returns: line ends \r\n and \r are read as \n")
    try:  # no default NaN: None and NA may be the name of a song
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, low_memory=False)
    except (pd.errors.ParserError, ValueError) as e:
        why = str(e).strip().splitlines()[-1].removeprefix("Error tokenizing data. C error: ")
        raise DataError(
            f"{what}: broken quoting or a row of another length: {why}; text with commas, quotes or line "
            'breaks stands in double quotes, with each quote in it doubled ("")'
        ) from None
    names = [str(name).strip().lower() for name in table.columns]
    chosen = ["text" if name == "lyrics" and name not in names else name for name in COLUMNS]
    if lacking := [name for name, column in zip(COLUMNS, chosen) if column not in names]:
        found = ", ".join(ascii(str(name)[:40])[1:-1] for name in table.columns[:8])
        raise DataError(
            f"{what} lacks the column {' and '.join(lacking)}; needed are {', '.join(COLUMNS)} (or text in "
            f"place of lyrics), its columns are {found}; to read it as plain text, let its name end with .txt"
        )
    # pandas takes the first values for row names where rows have one more than the header: right for numbers
    # that a program wrote, but with a comma in all lyrics it would shift every column
    if not isinstance(table.index, pd.RangeIndex) and not _numbered(table.index):
        raise DataError(
            f"{what}: its rows have more values than the header has names; text with commas stands in quotes"
        )
    songs = pd.DataFrame({name: table.iloc[:, names.index(c)].fillna("") for name, c in zip(COLUMNS, chosen)})
    usable = songs["lyrics"].str.strip() != ""
    if not usable.any():
        raise DataError(f"{what} has no usable songs: {len(songs):,} rows, none of them with lyrics")
    if n := len(songs) - int(usable.sum()):
        report.append(f"{n:,} of {len(songs):,} rows dropped: they have no lyrics")
    return songs[usable].reset_index(drop=True), report


def clean(
    songs: pandas.DataFrame, what: str, cleaning: Cleaning, song_end: str, mark: str
) -> tuple[pandas.DataFrame, list[str]]:
    """Lyrics as cleaned and without song_end; what has then no lyrics of its own is dropped. With a report.

    `mark`, which ends sequences, stays however rare it is.
    """
    texts, report = [text.replace(song_end, "") for text in songs["lyrics"]], []
    if n := sum(map(len, songs["lyrics"])) - sum(map(len, texts)):
        report.append(f"{n:,} form feeds (U+000C) removed: they mark where songs end")
    alphabet, survey = cleaning.survey(texts, what, mark)
    texts = [cleaning.rewrite(text) for text in texts]
    removed = dict.fromkeys(map(ord, unknown("".join(texts), alphabet)))
    songs = songs.assign(lyrics=[text.translate(removed) for text in texts])
    filled = songs[songs["lyrics"].str.strip() != ""]
    single = filled.drop_duplicates("lyrics").reset_index(drop=True)
    report += survey
    if n := len(songs) - len(filled):
        report.append(f"{n:,} songs dropped: cleaning left nothing of their lyrics")
    if n := len(filled) - len(single):
        report.append(f"{n:,} songs dropped: their lyrics are copies, which could be in train and in test")
    return single, report


def _numbered(index: pandas.Index) -> bool:
    return index.nlevels == 1 and all(str(value).strip().isdigit() for value in index)


def _decode(content: bytes, what: str) -> tuple[str, list[str]]:
    """The text of a file in whichever encoding fits first, and a line on which one, if it is not UTF-8."""
    try:
        text, report = _unicode(content)
    except UnicodeDecodeError as e:
        why = f"not UTF-8 (byte 0x{content[e.start]:02x} at offset {e.start:,})"
        for encoding in ("cp1252", "latin-1"):  # the first lacks five bytes, the second none
            try:
                text, report = content.decode(encoding), [f"read as {encoding}, since it is {why}"]
                break
            except UnicodeDecodeError:
                continue
    if "\0" in text:
        raise DataError(f"{what} is binary, not a CSV: it has NUL bytes")
    return text, report


def _unicode(content: bytes) -> tuple[str, list[str]]:
    if content.startswith(codecs.BOM_UTF8):
        return content.decode("utf-8-sig"), ["read as utf-8-sig: UTF-8 that begins with a byte order mark"]
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16"), ["read as utf-16: it begins with its byte order mark"]
    for encoding, zeros in (("utf-16-le", content[1::2]), ("utf-16-be", content[::2])):
        if len(content) % 2 == 0 and zeros.count(0) > len(zeros) // 2:  # Latin letters have a zero byte each
            return content.decode(encoding), [f"read as {encoding}: every other byte is zero"]
    return content.decode(), []
