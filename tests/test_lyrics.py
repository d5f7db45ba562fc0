"""A CSV of songs: columns, separators, and strictness; no song is joined with another, changed or lost."""

import csv
import gzip
import io
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from data import DataError, lyrics, prepare, tables, text
from data.text import PARTS, TextSplits, decode, load

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SONGS = [
    (f"Artist {i // 4}", f'Song "{i}", live', f'Oh, {"la " * (i % 7 + 1)}{i}\n\nYeah "{i}"')
    for i in range(40)
]
COLUMNS = ["artist", "song", "lyrics"]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def table(rows: list[tuple[str, ...]], header: str = "artist,song,lyrics") -> str:
    """The text of a CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([header.split(","), *rows])
    return out.getvalue()


def one_line(n: int) -> list[str]:
    """A CSV of songs of one line each, as lines without quotes."""
    words = ("moon", "river", "night", "you", "never", "again")
    rng = random.Random(0)
    return [f"Band {i % 9},Title {i},{' '.join(rng.choices(words, k=6))} {i}" for i in range(n)]


def read(path: Path, content: str | bytes, **flags) -> tuple[list[tuple[str, ...]], list[str]]:
    """The songs of a CSV as rows, and the report."""
    songs, report = lyrics.read(Path(write(path, content)), "it", **flags)
    return [tuple(row) for row in songs[COLUMNS].to_numpy()], report


def refused(dataset: object, data_dir: object = "nowhere", **flags) -> str:
    with pytest.raises(DataError) as e:
        load(str(dataset), str(data_dir), **flags)
    assert "\n" not in str(e.value)
    return str(e.value)


def refusal(path: Path, content: str | bytes, **flags) -> str:
    return refused(write(path, content), **flags).removeprefix(f"--dataset={path} ")


def sequences(splits: TextSplits, part: str) -> list[str]:
    whole, starts = decode(getattr(splits, part), splits.alphabet), getattr(splits, f"{part}_starts")
    return [whole[i:j] for i, j in zip(starts.tolist(), starts.tolist()[1:])]


# ---- songs and their parts -------------------------------------------------------------------------------


@pytest.mark.shared
def test_real_lyrics():
    if not (file := SHARED / "lyrics" / "lyrics.csv").is_file():
        pytest.skip("no ../shared/data/lyrics here")
    splits = load(str(file), "nowhere")
    assert (splits.name, splits.report, len(splits.alphabet)) == ("lyrics", [], 84)
    assert splits.content_hash == "f58dd1727d766383"
    assert splits.songs["part"].value_counts().to_dict() == {"train": 671, "test": 76, "val": 7}
    assert splits.songs["artist"].value_counts()["Robert Burns"] == 552
    total = sum(len(getattr(splits, part)) for part in PARTS)
    for part, share in zip(PARTS, (0.9 - text.MOST_VAL / total, text.MOST_VAL / total, 0.1)):
        rows = splits.songs[splits.songs["part"] == part]
        assert sequences(splits, part) == [f"{song}\f" for song in rows["lyrics"]]
        assert abs(len(getattr(splits, part)) / total - share) < 0.002


def test_songs_are_whole_shuffled_and_marked(tmp_path):
    file = write(tmp_path / "my songs.csv", table(SONGS))
    splits = load(file, "nowhere")
    assert (splits.name, splits.report) == ("my songs", [])
    assert list(splits.songs.columns) == ["artist", "song", "lyrics", "part"]
    assert [tuple(row) for row in splits.songs[["artist", "song", "lyrics"]].to_numpy()] == SONGS
    by_line = load(file, "nowhere", cut="lines")
    for part in PARTS:
        rows = splits.songs[splits.songs["part"] == part]
        assert len(rows) >= 2
        assert sequences(splits, part) == [f"{song}\f" for song in rows["lyrics"]]
        rows = by_line.songs[by_line.songs["part"] == part]
        lines = [f"{line}\n" for song in rows["lyrics"] for line in song.split("\n") if line]
        assert sequences(by_line, part) == lines
    assert "\f" not in by_line.alphabet
    assert len(set(splits.songs["artist"][splits.songs["part"] == "test"])) > 1  # not the last artist's
    again = load(write(tmp_path / "copy.csv", Path(file).read_bytes()), "nowhere")
    assert again.content_hash == splits.content_hash
    assert again.songs.equals(splits.songs)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.sampled_from('ab,"\n\r \t文'), max_size=40), min_size=3, max_size=40))
def test_no_song_is_lost_or_in_two_parts(tmp_path, monkeypatch, songs):
    monkeypatch.setattr(text, "MIN_CHARACTERS", 0)
    file = write(tmp_path / "a.csv", table([("A", str(i), song) for i, song in enumerate(songs)]))
    songs = [song.replace("\r\n", "\n").replace("\r", "\n") for song in songs]
    wanted = list(dict.fromkeys(song for song in songs if song.strip()))
    if len(wanted) < 3:
        refused(file)
        return
    splits = load(file, "nowhere")
    assert splits.songs["lyrics"].tolist() == wanted
    found = [song for part in PARTS for song in sequences(splits, part)]
    assert sorted(found) == sorted(f"{song}\f" for song in wanted)
    assert all(len(getattr(splits, part)) for part in PARTS)


NUMBERED = [(str(i), *song) for i, song in enumerate(SONGS)]
VARIANTS = {
    "other order": ("lyrics,artist,song", [(c, a, b) for a, b, c in SONGS]),
    "case and spaces": (" Artist,SONG ,Lyrics", SONGS),
    "with links": ("artist,song,link,text", [(a, b, "/x.html", c) for a, b, c in SONGS]),
    "row numbers": (",artist,song,lyrics", NUMBERED),
    "row numbers not in the header": ("artist,song,lyrics", NUMBERED),
    "both lyrics and text": ("text,artist,song,lyrics", [("?", *song) for song in SONGS]),
    "other columns": ("year,artist,lyrics,song,NA", [("1", a, c, b, "") for a, b, c in SONGS]),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_columns_of_lyrics(tmp_path, variant):
    header, rows = VARIANTS[variant]
    content = table(rows, header)
    told = ["columns: lyrics is 'text'"] if variant == "with links" else []
    windows = [rf"{content.count(chr(10)):,} carriage returns: line ends \r\n and \r are read as \n"]
    for name, end, report in (("a.csv", "\n", []), ("B.CSV", "\r\n", windows), ("c.csv", "\r", windows)):
        splits = load(write(tmp_path / name, content.replace("\n", end)), "nowhere")
        assert [tuple(row) for row in splits.songs[["artist", "song", "lyrics"]].to_numpy()] == SONGS
        assert splits.report == report + told


# ---- what is left out ------------------------------------------------------------------------------------


def test_rows_that_are_dropped_are_counted(tmp_path):
    rows = [
        *SONGS,
        ("A", "empty", ""),
        ("A", "blank", " \n"),
        ("None", "NA", "NA"),
        ("nan", "null", "nan"),
        SONGS[3],
        ("A", "яя", "яя я"),
        ("A", "ff", "a\fb"),
    ]
    content = table(rows)
    splits = load(write(tmp_path / "a.csv", content), "nowhere", scripts="latin")
    assert splits.report == [
        "4 of 47 rows dropped: they have no lyrics (2 empty, 1 'NA', 1 'nan'; lines 122, 123, 125, 126)",
        "1 form feeds (U+000C) removed: they mark where songs end",
        "--scripts=latin: 3 characters of 1 kinds removed: 'я' U+044F ×3",
        "1 songs dropped: cleaning left nothing of their lyrics",
        "1 songs dropped: their lyrics are copies, which could be in train and in test",
    ]
    assert len(splits.songs) == 41
    assert splits.songs["lyrics"].iloc[-1] == "ab"
    assert "я" not in splits.alphabet


def test_names_that_look_like_missing_values_stay(tmp_path):
    rows = [("None", "NA", "la 1"), ("NaN", "null", "la 2"), ("N/A", "", "na na")]
    assert read(tmp_path / "a.csv", table(rows)) == (rows, [])
    quoted = "artist,song,lyrics\nNA,nan,la\nA,B,NULL\nA,C,n/a\n,,\n"
    rows, report = read(tmp_path / "a.csv", quoted)
    assert rows == [("NA", "nan", "la")]
    assert report == ["3 of 4 rows dropped: they have no lyrics (1 'NULL', 1 'n/a', 1 empty; lines 3, 4, 5)"]


def test_a_header_inside_is_no_song(tmp_path):
    """As if files had been joined, with the byte order mark of the second in the middle."""
    body = one_line(6)
    lines = [
        "artist,song,lyrics",
        *body[:3],
        "Artist, song ,LYRICS",
        *body[3:],
        "\ufeffartist,song,lyrics",
        "",
    ]
    rows, report = read(tmp_path / "a.csv", "\n".join(lines))
    assert [",".join(row) for row in rows] == body
    assert report == ["2 rows left out: the header once more (lines 5, 9)"]


def test_blank_lines_are_passed_over(tmp_path):
    body = one_line(3)
    content = "\n \n".join(["", "artist,song,lyrics", *body, "", ""])
    assert [",".join(row) for row in read(tmp_path / "a.csv", content)[0]] == body


# ---- damaged rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", ['"{}', '{}"', '"{}"x'])
def test_a_quote_that_is_not_closed_joins_no_songs(tmp_path, second):
    """Rows 50 and 120 of 754 have a single quote, wherever it is. Once 684 songs were read, one of them of 70
    rows.
    """
    lines = one_line(754)
    for row, form in ((50, '"{}'), (120, second)):
        artist, song, verse = lines[row - 1].split(",")
        lines[row - 1] = f"{artist},{song},{form.format(verse)}"
    file = tmp_path / "songs.csv"
    message = refusal(file, "\n".join(["artist,song,lyrics", *lines]) + "\n")
    assert message.startswith("has damaged rows, so none is read (line 51: ")
    assert message.endswith(f"); {tables.RULE}")
    if second == '"{}':
        faults = (
            "line 51: a quote that is closed in line 121 and followed by text; "
            "line 121: a quote that is never"
        )
        assert faults in message
    if second == '{}"':  # which reads like a value in quotes that has 71 lines
        assert "a value in quotes holds what seems to be another row, “Band 5,Title 50," in message


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ('A,B,"6\'1""', "a quote that is never closed"),
        ('A,B,"6\'1"" tall"x', "a quote that is closed and followed by text"),
        ("A,B,6'1\" tall", "a quote without a second one"),
        ('A,B,"say "hi" to me"', "a quote that is closed and followed by text"),
        (r'A,B,"say \"hi\" to me"', r"followed by text, where \" seems to stand for a doubled quote"),
        ("A,B,oh, la, la", "5 values instead of 3"),
        ("A,B", "2 values instead of 3"),
        ("A", "1 value instead of 3"),
    ],
)
def test_a_damaged_row_is_told_with_its_line(tmp_path, row, fault):
    lines = ["artist,song,lyrics", *one_line(30)]
    lines[11:11] = ['Band 1,"Long, one","two\nlines"', row]
    message = refusal(tmp_path / "a.csv", "\n".join(lines))
    assert message.startswith("has damaged rows, so none is read (line 14: ")
    assert fault in message
    assert ";" not in message.partition("(")[2].partition(")")[0]  # and no row behind it is blamed


def test_the_first_damaged_rows_are_told(tmp_path):
    lines = ["artist,song,lyrics", *(f"{line}, oh" for line in one_line(30))]
    assert refusal(tmp_path / "a.csv", "\n".join(lines)) == (
        "has damaged rows, so none is read (line 2: 4 values instead of 3; line 3: 4 values instead of 3; "
        f"line 4: 4 values instead of 3 and more); {tables.RULE}"
    )
    message = refusal(tmp_path / "a.csv", 'artist,song,"lyrics\nA,B,la\n')
    assert message == "is not a CSV: its header, line 1, has a quote without a second one"


def test_verses_that_look_like_rows_are_verses(tmp_path):
    """Two commas in a verse; the artist is called as it begins."""
    rows = [("Love", "All", "Love, love, love\nLove, love, love"), ("Hey", "You", "Hey, you\nna,na,na\nHey")]
    assert read(tmp_path / "a.csv", table(rows))[0] == rows


def test_a_song_that_may_be_two_is_told(tmp_path):
    lines = ["A,B,la", 'C,D,"oh', 'E,F,na"', "G,H,hey", 'I,J,"oh', 'la,la,la"']
    rows, report = read(tmp_path / "a.csv", "\n".join(["artist,song,lyrics", *lines]))
    assert rows[1] == ("C", "D", "oh\nE,F,na")
    assert report == ["is a quote not closed in line 3? its song holds “E,F,na”, and 1 more"]


def test_a_song_may_be_long(tmp_path):
    rows = [("A", "B", 'la "la"\n' * 30_000), ("A", "C", "la")]
    limit = csv.field_size_limit()
    assert read(tmp_path / "a.csv", table(rows))[0] == rows
    assert csv.field_size_limit() == limit


CELLS = st.text(st.sampled_from('ab,;|"\n\t文\x0c\u2028 '), max_size=12)
DIALECTS = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from(",;\t|"),
        "lineterminator": st.sampled_from(["\n", "\r\n", "\r"]),
        "quoting": st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    }
)
TABLES = st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6)


def written(rows: list[tuple[str, ...]], dialect: dict) -> str:
    out = io.StringIO()
    if dialect.get("lineterminator") == "\r":  # for which csv may leave \n without quotes
        dialect = dialect | {"quoting": csv.QUOTE_ALL}
    csv.writer(out, **dialect).writerows([COLUMNS, *rows])
    return out.getvalue()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=TABLES, dialect=DIALECTS, packed=st.booleans())
def test_a_table_is_read_as_it_was_written(tmp_path, rows, dialect, packed):
    rows = [(artist, song, f"la {verse}") for artist, song, verse in rows]
    verses = [verse for row in rows for cell in row for verse in cell.split("\n")[1:]]
    assume(not any(verse.count(dialect["delimiter"]) == 2 for verse in verses))  # they may look like rows
    content = written(rows, dialect).encode()
    found, _ = read(tmp_path / "a.csv", gzip.compress(content, 1) if packed else content)
    assert found == rows


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=TABLES, dialect=DIALECTS, data=st.data())
def test_a_table_without_one_of_its_quotes_is_refused(tmp_path, rows, dialect, data):
    """It may still look like a table, with other songs in it."""
    content = written([(artist, song, f'"{verse}') for artist, song, verse in rows], dialect)
    places = [i for i, char in enumerate(content) if char == '"']
    at = data.draw(st.sampled_from(places))
    with pytest.raises(DataError) as e:
        read(tmp_path / "a.csv", content[:at] + content[at + 1 :])
    assert "\n" not in str(e.value)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(st.binary(max_size=60), st.text(st.sampled_from('a,"\n\r\t;é '), max_size=60)),
    headed=st.booleans(),
)
@example(b'\n,\n\na\n;,\r ,,aa\r\t\xc3\xa9", \t, """"\t\r, \r"\n', True)
def test_any_csv_is_read_or_refused_in_one_line(tmp_path, content, headed):
    content = content if isinstance(content, bytes) else content.encode()
    file = write(tmp_path / "a.csv", b"artist,song,lyrics\n" * headed + content)
    try:
        songs, _ = lyrics.read(Path(file), "it")
    except DataError as e:
        assert "\n" not in str(e)
        assert str(e).startswith("it")
    else:
        assert len(songs)
        assert songs["lyrics"].str.strip().all()


# ---- columns and separators ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "report"),
    [
        ("Artist,Song,LYRICS", []),
        ("artist,title,Lyrics", ["columns: song is 'title'"]),
        ("ARTIST_NAME,SONG_NAME,LYRICS", ["columns: artist is 'ARTIST_NAME', song is 'SONG_NAME'"]),
        ("Artist Name,track_name,lyric", None),
        ("artist_name,song_name,LYRIC", None),
        ("Band,Song Title,text", ["columns: artist is 'Band', song is 'Song Title', lyrics is 'text'"]),
        ("singer,Track,Song-Lyrics", None),
    ],
)
def test_names_that_columns_have_elsewhere(tmp_path, header, report):
    rows, told = read(tmp_path / "a.csv", table(SONGS, header))
    assert rows == SONGS
    if report is None:
        names = header.split(",")
        report = [f"columns: artist is '{names[0]}', song is '{names[1]}', lyrics is '{names[2]}'"]
    assert told == report


def test_the_first_of_two_columns_that_would_do_is_taken(tmp_path):
    rows = [("1", *song, "?") for song in SONGS]
    found, report = read(tmp_path / "a.csv", table(rows, "title,artist,song,lyrics,text"))
    assert (found, report) == (SONGS, [])


def test_columns_are_named_by_flag(tmp_path):
    content = table([(c, a, b) for a, b, c in SONGS], "Wörter,Gruppe,Lied: Titel")
    message = refusal(tmp_path / "a.csv", content)
    assert message == (
        "lacks the column artist and song and lyrics; its columns are Wörter, Gruppe, Lied: Titel: say which "
        "is which with --columns=artist=NAME,song=NAME,lyrics=NAME; to read it as plain text, give it a name "
        "that ends with .txt"
    )
    flag = "artist=Gruppe,song=lied titel,lyrics=Wörter"
    rows, report = read(tmp_path / "a.csv", content, columns=flag)
    assert rows == SONGS
    assert report == ["columns: artist is 'Gruppe', song is 'Lied: Titel', lyrics is 'Wörter'"]
    # some of them; one that is there by its usual name too
    other = table([(a, b, c, "?") for a, b, c in SONGS], "artist,Name,Refrain,lyrics")
    assert read(tmp_path / "a.csv", other, columns="song=Name, lyrics=Refrain")[0] == SONGS
    assert refusal(tmp_path / "a.csv", other, columns="song=Nam") == (
        f"--columns=song=Nam: --dataset={tmp_path}/a.csv has no column 'Nam' (its columns are artist, Name, "
        "Refrain, lyrics); did you mean Name?"
    )
    for wrong in ("", "Name", "song=", "title=Name", "song=Name,song=lyrics"):
        message = refusal(tmp_path / "a.csv", other, columns=wrong)
        assert message.startswith(f"--columns={wrong}: must be like artist=NAME,song=NAME,lyrics=NAME")


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolon"), ("\t", "tab"), ("|", "bar")])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".CSV.gz"])
def test_the_separator_is_found(tmp_path, separator, name, ending):
    content = written(SONGS, {"delimiter": separator}).encode()
    file = write(tmp_path / f"my songs{ending}", gzip.compress(content) if ending.endswith("gz") else content)
    splits = load(file, "nowhere")
    assert splits.name == "my songs"
    assert [tuple(row) for row in splits.songs[COLUMNS].to_numpy()] == SONGS
    assert splits.report[-1] == f"values are separated by {name}s"
    plain = load(write(tmp_path / "b.csv", written(SONGS, {})), "nowhere")
    assert splits.content_hash == plain.content_hash


def test_the_separator_that_a_first_line_tells(tmp_path):
    content = "sep=:\n" + written(SONGS, {"delimiter": ":"})
    rows, report = read(tmp_path / "a.csv", content)
    assert (rows, report[-1]) == (SONGS, "values are separated by ':'s")


def test_a_text_is_a_table_by_its_name_only(tmp_path):
    content = written(SONGS, {})
    assert load(write(tmp_path / "a.txt", content), "nowhere").songs is None
    assert load(write(tmp_path / "a.csv", content), "nowhere").songs is not None


# ---- encodings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "report"),
    [
        ("utf-8", []),
        ("utf-8-sig", ["a byte order mark (U+FEFF) at its start is left out"]),
        ("utf-16", ["read as utf-16: it begins with its byte order mark"]),
        ("utf-16-le", ["read as utf-16-le: every other byte is zero"]),
        ("utf-16-be", ["read as utf-16-be: every other byte is zero"]),
    ],
)
def test_encodings_that_a_file_tells(tmp_path, encoding, report):
    songs = [("é", "None", f"é文🎵 {verse}") for _, _, verse in SONGS]
    assert read(tmp_path / "a.csv", table(songs).encode(encoding)) == (songs, report)
    # asked for, too
    told = [] if encoding in ("utf-8-sig", "utf-16") else report[:0]
    assert read(tmp_path / "a.csv", table(songs).encode(encoding), encoding=encoding) == (songs, told)


@pytest.mark.parametrize(
    ("encoding", "word"),
    [("cp1252", "“C’est déjà l’été”, mon cœur, 5 €"), ("cp1251", "Привет, мир, и снова")],
)
def test_no_encoding_is_taken_unasked(tmp_path, encoding, word):
    songs = [("é" if encoding == "cp1252" else "Ё", "None", f"{word} {verse}") for _, _, verse in SONGS]
    content = table(songs).encode(encoding)
    message = refusal(tmp_path / "a.csv", content)
    assert message.startswith("is not UTF-8 (byte 0x") and " at offset 26, in line 2)" in message
    assert f"with --encoding={encoding} that line reads “" in message
    assert read(tmp_path / "a.csv", content, encoding=encoding) == (songs, [])


def test_one_wrong_byte_changes_no_other_character(tmp_path):
    songs = [("Zoë", "Ça va", f"été … {verse}") for _, _, verse in SONGS]
    content = table(songs).encode().replace("été …".encode(), "été …".encode() + b"\x92", 1)
    message = refusal(tmp_path / "a.csv", content)
    assert message.startswith("is UTF-8, but one byte is wrong (byte 0x92 at offset 51, in line 2); with ")
    rows, _ = read(tmp_path / "a.csv", content, encoding="utf-8+cp1252")
    assert rows == [(a, b, c.replace("…", "…’", 1) if i == 0 else c) for i, (a, b, c) in enumerate(songs)]


# ---- what else is refused --------------------------------------------------------------------------------


def test_lyrics_that_are_refused(tmp_path):
    def message(content: str | bytes, **flags) -> str:
        return refusal(tmp_path / "a.csv", content, **flags)

    good = table(SONGS)
    assert message("") == "is empty"
    assert message("\n \n") == "is empty"
    assert message(table(SONGS, "name,song,words\nsung")) == (
        "lacks the column artist and lyrics; its columns are name, song, words\\nsung: say which is which "
        "with --columns=artist=NAME,lyrics=NAME; to read it as plain text, give it a name that ends with .txt"
    )
    assert message("artist,song,lyrics\n") == "has no usable songs: 0 rows, none of them with lyrics"
    assert (
        message("artist,song,lyrics\na,b,\nc,d,\n") == "has no usable songs: 2 rows, none of them with lyrics"
    )
    assert message("artist,song,lyrics\na,b,lalala\n") == "has 1 usable songs; at least 3 are needed"
    assert message(table(SONGS[:3])).startswith("is too short: ")
    assert message(b"\x89PNG\r\n\x1a\n\0\0" + bytes(range(256))).startswith("is a picture (PNG), not text")
    assert message(bytes(2000)).startswith("is binary, not text")
    assert "lacks the column artist and song" in message(table([("1", "2")], "a:b,lyrics"))
    assert "lacks the column song" in message("artist,words,lyrics\nA,B\n")  # before it is told of its rows
    assert "lacks the column artist and song and lyrics" in message("sep=;\n")
    assert "--min_count=9999 removes every character" in message(good, min_count=9999)


def test_row_numbers_that_stop_are_refused(tmp_path):
    rows = [(str(i), *song) for i, song in enumerate(SONGS)]
    rows[5] = ("x", *SONGS[5])
    assert "no number at its start, as other rows have" in refusal(tmp_path / "a.csv", table(rows))


def test_prepare_takes_the_names_of_columns(tmp_path, capsys):
    file = write(tmp_path / "a.tsv", written(SONGS, {"delimiter": "\t"}).replace("lyrics", "Words", 1))
    assert prepare.main([file, f"--data_dir={tmp_path}", "--columns=lyrics=Words"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "  values are separated by tabs" in out
    assert "  columns: lyrics is 'Words'" in out
    assert out[-1] == f"train with --dataset={file} --data_dir={tmp_path} --columns=lyrics=Words"
    assert prepare.main(["gone.tsv.gz"]) == 2
    assert capsys.readouterr().err.startswith("--dataset=gone.tsv.gz is neither a named text")
