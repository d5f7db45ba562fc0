"""Lines and sentences as tokens: what is removed, what is left out, and ids that turn back into text."""

import dataclasses
import errno
import io
import random
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import DataError, sentences, text_files
from data.sentences import BOS, EOS, PAD, SPECIAL, UNK, Vocabulary, join, load, split

PLAY = """\
First Citizen:
Speak, speak; I pray thee speak.
[Aside] We know't, good friend, right well.

Enter MENENIUS

MENENIUS:
What work's, my countrymen, in hand? where
go you with bats and clubs? Speak on.
[Exeunt]
(They fight)
"""
SNIPPETS = ["Juliet:\n", "Ay me. ", "She spéaks\n", "\r\n", "\n\n", "\r", "\u2028", "[x]", "文🎵\n", "Exit\n"]
SHAKESPEARE = Path(__file__).resolve().parents[2] / "shared/data"


def written(tmp_path, text: str, name: str = "play.txt") -> str:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def all_of(data) -> list[str]:
    return [
        data.vocabulary.write(part.ids(s))
        for part in (data.train, data.val, data.test)
        for s in range(len(part))
    ]


def test_names_directions_and_notes_go_and_are_counted(tmp_path):
    data = load(written(tmp_path, PLAY * 20), "x", level="char")
    lines = all_of(data)
    assert set(lines) == {
        "Speak, speak; I pray thee speak.",
        "We know't, good friend, right well.",
        "What work's, my countrymen, in hand? where",
        "go you with bats and clubs? Speak on.",
    }
    said = "\n".join(data.report)
    assert "40 names of speakers removed" in said
    assert "60 stage directions removed" in said and "20 notes in square brackets removed" in said
    assert data.speakers == ("", "First Citizen", "MENENIUS")
    who = [data.speakers[i] for i in data.train.speakers[:4]]
    assert who == ["First Citizen"] * 2 + ["MENENIUS"] * 2


def test_nothing_is_removed_unless_asked(tmp_path):
    data = load(written(tmp_path, PLAY * 20), "x", level="char", clean=False)
    assert {"First Citizen:", "Enter MENENIUS", "[Aside] We know't, good friend, right well."} <= set(
        all_of(data)
    )
    assert not any("removed" in line for line in data.report)


def test_sentences_run_over_lines(tmp_path):
    data = load(written(tmp_path, PLAY * 30), "x", level="word", unit="sentences", min_count=1)
    assert "What work's, my countrymen, in hand? where go you with bats and clubs?" in set(all_of(data))
    assert "Speak on." in set(all_of(data))


def test_sentences_keep_their_quotes_and_end_in_other_alphabets_too(tmp_path):
    text = 'He said "Go." Then he left! (Really?) Yes, and no. "Ho!" he cried.\n'
    text += "Мама мыла раму. Папа читал газету.\n\n"
    data = load(written(tmp_path, text * 30), "x", level="char", unit="sentences", min_length=2)
    assert all_of(data)[:7] == [
        'He said "Go."',
        "Then he left!",
        "(Really?)",
        "Yes, and no.",
        '"Ho!" he cried.',
        "Мама мыла раму.",
        "Папа читал газету.",
    ]
    assert data.train.positions.min() >= 0 and data.test.positions.max() <= 1


def test_a_text_may_spell_a_special_token(tmp_path):
    text = "".join(f"a line <eos> of day {i} <pad> was <bos> fine\n" for i in range(100))
    for level in sentences.LEVELS:
        data = load(written(tmp_path, text), "x", level=level, vocab_size=120, max_length=90)
        assert data.train.tokens.min() >= UNK
    folder = tmp_path / "ptb"
    folder.mkdir()
    for name in sentences.PTB.values():
        (folder / name).write_text("the dollar fell <eos>\n" * 5)
    data = load(str(folder), "x", level="word")
    assert data.vocabulary.write(data.train.ids(0)) == "the dollar fell <unk>"


def test_lines_of_songs_are_no_stage_directions(tmp_path):
    rows = "".join(
        f'Ann,Song {i},"Exit light {i}\nEnter night {i}\n[Chorus]\n(Off to the land {i})"\n'
        for i in range(40)
    )
    data = load(written(tmp_path, "artist,song,lyrics\n" + rows, "songs.csv"), "x", level="char")
    assert {"Exit light 0", "Enter night 0", "(Off to the land 0)"} <= set(all_of(data))
    assert "[Chorus]" not in set(all_of(data))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    level=st.sampled_from(sentences.LEVELS),
    unit=st.sampled_from(sentences.UNITS),
    chunk=st.integers(1, 9),
)
def test_a_text_that_is_streamed_has_the_same_sentences(tmp_path_factory, seed, level, unit, chunk):
    """Read a few bytes at a time, with its sentences in a file and its ids hashed a few at a time."""
    file, of = tmp_path_factory.mktemp("streamed") / "a.txt", random.Random(seed)
    file.write_bytes("".join(of.choices(SNIPPETS, k=of.randrange(100, 400))).encode())
    how = {"level": level, "unit": unit, "min_length": 1, "max_length": 300, "vocab_size": 120}
    outcomes = []
    for in_memory, size, block in ((1 << 20, 1 << 20, 1 << 20), (0, chunk, 7)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sentences, "IN_MEMORY", in_memory or 1)  # 0 would be: always in memory
            patch.setattr(sentences, "BLOCK", block)
            patch.setattr(text_files, "CHUNK", size)
            try:
                data = load(str(file), "x", **how)
            except DataError as e:
                outcomes.append(str(e))
            else:
                parts = [
                    (p.speakers.tolist(), p.positions.tolist()) for p in (data.train, data.val, data.test)
                ]
                outcomes.append((data.content_hash, data.speakers, data.report, all_of(data), parts))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(("n", "dtype"), [(100, "uint8"), (300, "int16"), (33_000, "int32")])
def test_ids_take_no_more_bytes_than_they_need(tmp_path, n, dtype):
    text = "".join(f"{chr(0x4E00 + i % n)} and {chr(0x10000 + i)}\n" for i in range(n))
    data = load(written(tmp_path, text), "x", level="char", min_length=1)
    assert data.train.tokens.dtype == dtype and data.train.ids(0).dtype == np.int32
    assert all_of(data)[: len(data.train)] == text.splitlines()[: len(data.train)]


def test_no_room_for_sentences_is_said_in_a_line(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sentences.tempfile, "SpooledTemporaryFile", lambda _: Full())
    place = sentences.tempfile.gettempdir()
    message = f"its sentences cannot be written to {place}: No space left on device"
    with pytest.raises(DataError, match=re.escape(message)):
        load("verses", "x")


def test_a_text_takes_little_more_memory_than_its_ids(tmp_path):
    """As strings its sentences took eleven times as much memory as the text has bytes."""
    file = written(tmp_path, "".join(f"This is line number {i} of a long text.\n" for i in range(20_000)))
    load(file, "x")  # imports
    tracemalloc.start()
    data = load(file, "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data.train) == 17_000
    assert peak < 5 * Path(file).stat().st_size


def test_val_and_test_are_the_end_of_the_text(tmp_path):
    text = "".join(f"line number {i} of the text\n" for i in range(200))
    data = load(written(tmp_path, text), "x", level="char")
    assert [len(part) for part in (data.train, data.val, data.test)] == [170, 10, 20]
    assert all_of(data) == text.splitlines()
    assert (np.diff(np.concatenate([p.positions for p in (data.train, data.val, data.test)])) > 0).all()


def test_rare_words_are_unknown_and_of_the_training_part_alone(tmp_path):
    text = "the cat sat\n" * 100 + "the dog sat\n" + "the cow sat\n" * 19
    data = load(written(tmp_path, text), "x", level="word")
    assert data.vocabulary.tokens == (*SPECIAL, "cat", "sat", "the")
    assert data.vocabulary.read("the cow sat").tolist() == [6, UNK, 5]
    assert data.vocabulary.write([BOS, 6, UNK, 5, EOS, 4, PAD]) == "the <unk> sat"
    assert "unknown:" in data.report[-1] and "33.33% of test" in data.report[-1]
    once = load(written(tmp_path, text), "x", level="word", min_count=1)
    assert "dog" in once.vocabulary.tokens and once.content_hash != data.content_hash


def test_too_short_and_too_long_are_left_out_and_counted(tmp_path):
    text = ("one two three\n" * 8 + "one\n" + "one two three four five\n") * 10
    data = load(written(tmp_path, text), "x", level="word", max_length=4, min_count=1)
    said = "\n".join(data.report)
    assert "10 of 100 lines left out: they have fewer than 2 tokens" in said
    assert "10 of 100 lines left out: they have more than 4 tokens" in said
    assert set(all_of(data)) == {"one two three"}


WORDS = st.lists(
    st.sampled_from(["Know'st", "thou", "'tis", "well-a-day", "42", ",", ".", "?", "(", ")", "!"]), min_size=1
)


@given(WORDS)
@settings(deadline=None)
def test_words_come_back(words):
    text = join(words, "word")
    assert split(text, "word") == words
    assert "  " not in text and " ," not in text and not text.startswith(" ")


@given(st.text(alphabet="abc xyz'", min_size=1))
@settings(deadline=None)
def test_characters_come_back(text):
    vocabulary = Vocabulary("char", (*SPECIAL, *sorted(set("abc xyz'"))))
    assert vocabulary.write(vocabulary.read(text)) == text
    assert (
        UNK not in vocabulary.read(text)
        and vocabulary.write(vocabulary.read("Q")) == "\N{REPLACEMENT CHARACTER}"
    )


def test_pieces_of_words_come_back(tmp_path):
    text = "".join(f"the weather of day {i} was fine, wasn't it?\n" for i in range(100))
    data = load(written(tmp_path, text), "x", level="bpe", vocab_size=120, max_length=60)
    assert all_of(data)[:3] == text.splitlines()[:3]
    assert 60 < len(data.vocabulary) <= 120 and data.vocabulary.tokens[:4] == SPECIAL
    again = load(written(tmp_path, text), "x", level="bpe", vocab_size=120, max_length=60)
    assert again.content_hash == data.content_hash


@pytest.mark.parametrize("level", sentences.LEVELS)
def test_a_vocabulary_lies_in_a_checkpoint(tmp_path, level):
    data = load(written(tmp_path, PLAY * 20), "x", level=level, vocab_size=100, max_length=60)
    again = Vocabulary.unpack(data.vocabulary.pack())
    assert again == data.vocabulary
    line = "Speak, speak; I pray thee speak."
    assert again.read(line).tolist() == data.vocabulary.read(line).tolist()
    with pytest.raises(ValueError):
        Vocabulary.unpack(b"nothing")


def test_ptb_keeps_its_parts_and_its_words(tmp_path):
    folder = tmp_path / "ptb"
    folder.mkdir()
    (folder / "ptb.train.txt").write_text(" the <unk> sat on n mats \n the u.s. dollar fell \n" * 30)
    (folder / "ptb.valid.txt").write_text(" the dollar sat \n a <unk> fell \n")
    (folder / "ptb.test.txt").write_text(" the mats fell \n the u.s. sat on \n")
    data = load(str(folder), "x", level="word")
    assert [len(p) for p in (data.train, data.val, data.test)] == [60, 2, 2]
    assert "u.s." in data.vocabulary.tokens and data.vocabulary.tokens.count("<unk>") == 1
    assert data.val.ids(1).tolist()[:2] == [UNK, UNK], "a is not among the training words"
    assert data.vocabulary.write(data.test.ids(1)) == "the u.s. sat on"
    for flags, said in (
        ({"unit": "sentences"}, "--unit=sentences"),
        ({"columns": "song=x"}, "--columns=song=x"),
    ):
        with pytest.raises(DataError, match=f"{said}: .*a folder with one sentence per line"):
            load(str(folder), "x", level="word", **flags)
    (folder / "ptb.test.txt").unlink()
    with pytest.raises(DataError, match=r"is a folder without ptb.test.txt; expected"):
        load(str(folder), "x", level="word")


def test_songs_are_lines_with_their_artist(tmp_path):
    rows = "".join(f'Ann,Song {i},"a line of song {i}\nand another one {i}"\n' for i in range(40))
    data = load(written(tmp_path, "artist,song,lyrics\n" + rows, "songs.csv"), "x", level="char")
    assert data.speakers == ("", "Ann") and len(all_of(data)) == 80


def test_the_embedded_set_has_both_kinds_of_english():
    words = load("verses", "x", level="word").vocabulary
    assert {"thou", "thy", "the", "function"} <= set(words.tokens)
    chars = load("verses", "x", level="char")
    for part in (chars.train, chars.val, chars.test):
        own = {chars.vocabulary.write(part.ids(s)) for s in range(len(part))}
        assert own & set(sentences.LINES) and own - set(sentences.LINES)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"dataset": "nope"}, "--dataset=nope is neither a named text (verses, pydoc, shakespeare)"),
        ({"dataset": "verses", "encoding": "cp1252"}, "--encoding=cp1252: verses has its own"),
        ({"dataset": "verses", "columns": "song=x"}, "--columns=song=x: --dataset=verses has none"),
        (
            {"dataset": "verses", "min_length": 500, "max_length": 500},
            "sentences of 500 to 500 tokens are left in",
        ),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(tmp_path, flags, said):
    with pytest.raises(DataError) as error:
        load(**{"data_dir": str(tmp_path)} | flags)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_short_text_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"is too short: 5 sentences; at least 60 are needed"):
        load(written(tmp_path, "a line of text\n" * 5), "x")


@pytest.mark.shared
@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="needs ../shared/data")
def test_tinyshakespeare():
    data = load("shakespeare", str(SHAKESPEARE), level="char")
    assert [len(p) for p in (data.train, data.val, data.test)] == [21_558, 1_267, 2_531]
    assert all_of(data)[0] == "Before we proceed any further, hear me speak."
    assert dataclasses.asdict(data.vocabulary)["level"] == "char" and len(data.vocabulary) == 67
