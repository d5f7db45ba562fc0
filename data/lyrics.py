"""Reads people's CSVs of songs: columns in any order and with many names, line breaks within quotes.

pandas is imported where it is used.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from data import DataError, tables
from data.characters import Cleaning, unknown
from data.names import closest, did_you_mean
from data.text_files import printable, read_whole

if TYPE_CHECKING:
    import pandas

ENDINGS = (".csv", ".tsv")  # of a file's name
COLUMNS = {  # possible names, in lower case, without blanks and punctuation; the first that occurs is taken
    "artist": (
        *("artist", "artists", "artistname", "trackartist", "band", "bandname"),
        *("singer", "singername", "performer", "interpret"),
    ),
    "song": ("song", "songname", "songtitle", "title", "track", "trackname", "tracktitle", "sname"),
    "lyrics": ("lyrics", "lyric", "text", "songlyrics", "songtext", "lyricstext", "tracklyrics", "seq"),
}
NO_LYRICS = frozenset(  # what programs write for a missing value
    ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "Null", "null", "None", "none")
)


def read(
    path: Path, what: str, encoding: str | None = None, columns: str | None = None
) -> tuple[pandas.DataFrame, list[str]]:
    """Read the songs: a table with the columns artist, song and lyrics, and a row for each song that has
    lyrics; and a report.

    columns: 'artist=Band,song=Titel,lyrics=Text' gives the names of columns that are not in COLUMNS.
    Raises DataError, whose message begins with `what` or a flag.
    """
    import pandas as pd

    named = _named(columns) if columns is not None else {}
    text, report = read_whole(path, what, encoding)
    if text.startswith("\ufeff"):
        text = text[1:]
        report.append("a byte order mark (U+FEFF) at its start is left out")
    if not text.strip():
        raise DataError(f"{what} is empty")
    if n := text.count("\r"):
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        report.append(rf"{n:,} carriage returns: line ends \r\n and \r are read as \n")
    table = tables.read(text, what, lambda header: len(_places(header, named)) == len(COLUMNS))
    places = _places(table.header, named)
    if len(places) < len(COLUMNS):
        raise DataError(_lacking(table.header, places, what, columns, named))
    report += _about(table, places)
    report += _joined_rows(table, places, what)
    lacking = [(line, values[places["lyrics"]].strip()) for line, values in table.rows]
    lacking = [(line, value) for line, value in lacking if value in NO_LYRICS]
    if len(lacking) == len(table.rows):
        raise DataError(f"{what} has no usable songs: {len(table.rows):,} rows, none of them with lyrics")
    if lacking:
        kinds = Counter(repr(value) if value else "empty" for _, value in lacking)
        some = ", ".join(f"{n:,} {kind}" for kind, n in kinds.items())
        n = f"{len(lacking):,} of {len(table.rows):,} rows"
        report.append(f"{n} dropped: they have no lyrics ({some}; {_in_lines([at for at, _ in lacking])})")
    without = {line for line, _ in lacking}
    rows = [values for line, values in table.rows if line not in without]
    return pd.DataFrame({role: [values[i] for values in rows] for role, i in places.items()}), report


def clean(
    songs: pandas.DataFrame, what: str, cleaning: Cleaning, song_end: str, mark: str
) -> tuple[pandas.DataFrame, list[str]]:
    """The songs with cleaned lyrics, without the character song_end; and a report. Songs whose lyrics are
    then empty, or copies of others, are dropped.

    mark: the character that ends sequences; it stays, however rare it is.
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


def _named(columns: str) -> dict[str, str]:
    """The column names in --columns, by role (artist, song, lyrics). Raises DataError for any other form."""
    pairs = [part.partition("=")[::2] for part in columns.split(",")]
    named = {role.strip().lower(): name.strip() for role, name in pairs}
    if len(named) < len(pairs) or not set(named) <= set(COLUMNS) or not all(named.values()):
        raise DataError(
            f"--columns={columns}: must be like artist=NAME,song=NAME,lyrics=NAME, or some of these"
        )
    return named


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def _places(header: list[str], named: dict[str, str]) -> dict[str, int]:
    """The indices of the columns that are found, by role."""
    places, exact, plain = {}, [name.strip() for name in header], [_plain(name) for name in header]
    for role, known in COLUMNS.items():
        if role not in named:
            found = [plain.index(name) for name in known if name in plain]
        elif named[role] in exact:
            found = [exact.index(named[role])]
        else:
            found = [i for i, name in enumerate(plain) if name and name == _plain(named[role])]
        if found:
            places[role] = found[0]
    return places


def _lacking(
    header: list[str], places: dict[str, int], what: str, columns: str | None, named: dict[str, str]
) -> str:
    """The message about a file in which one of the columns is missing."""
    those = ", ".join(printable(name.strip()[:40]) for name in header[:8])
    those += ", …" if len(header) > 8 else ""
    lacking = [role for role in COLUMNS if role not in places]
    if wrong := [named[role] for role in lacking if role in named]:
        hint = did_you_mean(closest([name.strip() for name in header], wrong[0]))
        return f"--columns={columns}: {what} has no column {wrong[0]!r} (its columns are {those}){hint}"
    return (
        f"{what} lacks the column {' and '.join(lacking)}; its columns are {those}: say which is which with "
        f"--columns={','.join(f'{role}=NAME' for role in lacking)}; to read it as plain text, give it a "
        "name that ends with .txt"
    )


def _about(table: tables.Table, places: dict[str, int]) -> list[str]:
    """Lines of the report that say how the table was understood, if that is not obvious."""
    report = []
    if table.separator != ",":
        report.append(f"values are separated by {tables.name_of(table.separator)}s")
    others = {role: table.header[i].strip() for role, i in places.items()}
    others = {role: name for role, name in others.items() if name.lower() != role}
    if others:
        report.append(f"columns: {', '.join(f'{role} is {printable(n)!r}' for role, n in others.items())}")
    if table.repeated:
        n = "1 row" if len(table.repeated) == 1 else f"{len(table.repeated):,} rows"
        report.append(f"{n} left out: the header once more ({_in_lines(table.repeated)})")
    return report


def _in_lines(lines: list[int]) -> str:
    some = ", ".join(f"{line:,}" for line in lines[:5]) + (", …" if len(lines) > 5 else "")
    return f"line {some}" if len(lines) == 1 else f"lines {some}"


def _joined_rows(table: tables.Table, places: dict[str, int], what: str) -> list[str]:
    """A line of the report about values that may contain another row. This happens if a quote is not doubled:
    with a quote in a later row it looks like a value in quotes. Unlike rows, verses have a blank after their
    commas. Raises DataError if it is certain: the row has a known artist, or there are several rows.
    """
    artists, doubtful = {values[places["artist"]].strip() for _, values in table.rows}, []

    def artist_of(verse: str) -> str:
        """The artist in a verse that looks like a row of songs; else ''."""
        parts = verse.split(table.separator)
        if len(parts) == len(table.header) + 1 and parts[0].isdigit():  # the row's number
            parts = parts[1:]
        like_a_row = len(parts) == len(table.header) and not any(part[:1] == " " for part in parts)
        return (
            parts[places["artist"]].strip() if like_a_row and all(parts[i] for i in places.values()) else ""
        )

    for line, values in table.rows:
        for value in values:
            if table.separator not in value or "\n" not in value:
                continue
            verses = value.split("\n")[1:]
            found = [(artist, verse) for verse in verses if (artist := artist_of(verse))]
            known = [verse for artist, verse in found if artist in artists]
            if known or len(found) == len(verses) > 1:
                raise DataError(
                    f"{what} has damaged rows, so none is read (line {line:,}: a value in quotes holds what "
                    f"seems to be another row, “{printable((known or verses)[0][:50])}”); {tables.RULE}"
                )
            doubtful += [(line, verse) for _, verse in found if len(verses) == 1]
    if not doubtful:
        return []
    line, verse = doubtful[0]
    more = f", and {len(doubtful) - 1:,} more" if len(doubtful) > 1 else ""
    return [f"is a quote not closed in line {line:,}? its song holds “{printable(verse[:50])}”{more}"]
