"""Text: ids and one-hot rows, splits, cleaning, CSVs of lyrics, the cache of large files, prepare.py."""

import csv
import functools
import hashlib
import io
import random
import shutil
import string
import subprocess
import sys
import textwrap
import threading
import unicodedata
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data import DataError, characters, prepare, text, text_files
from data.text import PARTS, TextSplits, decode, encode, load, one_hot, unknown

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
# No surrogates, which UTF-8 lacks, and no NUL, by which a binary file is known
CHARACTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
TEXTS = st.text(CHARACTERS, max_size=200)
FEW = st.text(st.sampled_from("aA Σσ\n\r\t'é\u0301e\ufb01µ\u1100\u1161жЖ文"), max_size=300)
PROSE = "".join(f"Line {i}, says Zoë: all's well.\n" + "\n" * (i % 3 == 0) for i in range(60))
SONGS = [
    (f"Artist {i // 4}", f'Song "{i}", live', f'Oh, {"la " * (i % 7 + 1)}{i}\n\nYeah "{i}"')
    for i in range(40)
]


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def table(rows: list[tuple[str, ...]], header: str = "artist,song,lyrics") -> str:
    """The text of a CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([header.split(","), *rows])
    return out.getvalue()


def refused(dataset: object, data_dir: object = "nowhere", **flags) -> str:
    with pytest.raises(DataError) as e:
        load(str(dataset), str(data_dir), **flags)
    assert "\n" not in str(e.value)
    return str(e.value)


def sequences(splits: TextSplits, part: str) -> list[str]:
    whole, starts = decode(getattr(splits, part), splits.alphabet), getattr(splits, f"{part}_starts")
    return [whole[i:j] for i, j in zip(starts.tolist(), starts.tolist()[1:])]


def joined(splits: TextSplits) -> str:
    return "".join(decode(getattr(splits, part), splits.alphabet) for part in PARTS)


def same(a: TextSplits, b: TextSplits) -> bool:
    tensors = [name for part in PARTS for name in (part, f"{part}_starts")]
    return (a.content_hash, a.alphabet, a.report) == (b.content_hash, b.alphabet, b.report) and all(
        getattr(a, name).dtype == getattr(b, name).dtype and torch.equal(getattr(a, name), getattr(b, name))
        for name in tensors
    )


# ---- ids and one-hot rows ------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(sample=TEXTS, more=TEXTS)
def test_decoding_undoes_encoding(sample, more):
    alphabet = "".join(sorted(set(sample + more)))
    ids = encode(sample, alphabet)
    assert (ids.shape, ids.dtype) == ((len(sample),), torch.uint8 if len(alphabet) <= 256 else torch.int32)
    assert [alphabet[i] for i in ids] == list(sample)
    for form in (ids, ids.numpy(), ids.tolist(), ids.long()):
        assert decode(form, alphabet) == sample
    assert unknown(sample, alphabet) == []


def test_large_alphabets_have_wider_ids():
    alphabet = "".join(map(chr, range(1000, 1300)))
    assert encode(alphabet, alphabet).tolist() == list(range(300))
    assert encode(alphabet, alphabet).dtype == torch.int32
    assert encode(alphabet[:256], alphabet[:256]).dtype == torch.uint8


def test_unknown_characters_are_named():
    assert unknown("hello, wörld 🎵", "dehlorw ") == [",", "ö", "🎵"]
    with pytest.raises(DataError) as e:
        encode("a\tö", "ab")
    assert str(e.value) == r"'\t' U+0009, 'ö' U+00F6 not among the 2 characters known"
    with pytest.raises(DataError, match="and 5 more not among the 1 characters known"):
        one_hot("abcdefghijk", "k")
    assert unknown("a\udcff", "a") == ["\udcff"]  # what a shell gave and could not be decoded
    with pytest.raises(DataError, match="U\\+DCFF"):
        encode("a\udcff", "a")


@settings(max_examples=50, deadline=None)
@given(sample=TEXTS, seed=st.integers(0, 99))
def test_one_hot_rows_look_embeddings_up(sample, seed):
    alphabet = "".join(sorted(set(sample) | {"a", "b"}))
    rows = one_hot(sample, alphabet)
    assert (rows.shape, rows.dtype) == ((len(sample), len(alphabet)), np.uint8)
    assert (rows == np.eye(len(alphabet), dtype=np.uint8)[encode(sample, alphabet)]).all()
    assert (rows == np.array([text.char_to_one_hot(c, alphabet) for c in sample]).reshape(rows.shape)).all()
    weights = np.random.default_rng(seed).normal(size=(len(alphabet), 3)).astype(np.float32)
    assert (rows @ weights == weights[encode(sample, alphabet).numpy()]).all()


# ---- the texts -----------------------------------------------------------------------------------------


def test_pydoc_needs_nothing():
    splits = load("pydoc", "nowhere")
    assert (splits.name, splits.songs, splits.report) == ("pydoc", None, [])
    assert load("pydoc", "elsewhere").content_hash == splits.content_hash
    assert not Path("nowhere").exists()
    whole = joined(splits)
    assert 300_000 < len(whole) < 1_000_000
    assert 90 < len(splits.alphabet) < 130  # 103 and 104 in Python 3.11 to 3.13
    assert set(string.ascii_letters) < set(splits.alphabet)
    assert whole.startswith('The "assert" statement\n')
    assert whole.count(" the ") > 1000


def test_pydoc_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert refused("pydoc") == (
        "--dataset=pydoc: this Python has no pydoc_data; use shakespeare or a file of your own"
    )


@pytest.mark.shared
def test_tinyshakespeare_is_split_as_in_nanogpt(tmp_path):
    if not (file := SHARED / "tinyshakespeare" / "input.txt").is_file():
        pytest.skip("no ../shared/data/tinyshakespeare here")
    splits = load("shakespeare", str(SHARED))
    assert splits.content_hash == "a33a510329b761dc"
    # nanoGPT, data/shakespeare_char/prepare.py
    data = file.read_text()
    chars = sorted(set(data))
    stoi = {ch: i for i, ch in enumerate(chars)}
    train, val = data[: int(len(data) * 0.9)], data[int(len(data) * 0.9) :]
    assert (len(chars), len(train), len(val)) == (65, 1_003_854, 111_540)  # as nanoGPT's prepare.py states
    assert splits.alphabet == "".join(chars)
    assert splits.test.tolist() == [stoi[c] for c in val]
    assert torch.cat([splits.train, splits.val]).tolist() == [stoi[c] for c in train]
    assert len(splits.train) == int(len(data) * 0.9) - 10_000

    for place in text.PLACES:
        write(tmp_path / place, file.read_bytes())
        assert load("shakespeare", str(tmp_path)).content_hash == splits.content_hash
        (tmp_path / place).unlink()
    assert load(str(file), "nowhere").content_hash == splits.content_hash  # not of the name
    assert load(str(file), "nowhere").name == "input"


def test_a_missing_or_wrong_shakespeare_names_the_command(tmp_path):
    get = f"get it with `python data/prepare.py shakespeare --data_dir={tmp_path}`, or place by hand"
    end = f"{get} under {tmp_path}: {text.LAYOUTS['shakespeare']}"
    assert refused("shakespeare", tmp_path) == f"--dataset=shakespeare is not there: {end}"
    file = write(tmp_path / "input.txt", PROSE)
    message = refused("shakespeare", tmp_path)
    assert message.startswith(f"--dataset=shakespeare is damaged ({file}: sha256 ")
    assert message.endswith(f"but the official file has {text.SHAKESPEARE_SHA256}): {end}")


# ---- splits --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sample=st.text(CHARACTERS, min_size=3, max_size=300), times=st.integers(1, 9), lines=st.booleans())
@example(sample="a", times=1, lines=True)
@example(sample="\r\n\ufeff x\n \t\n", times=3, lines=True)
@example(sample="\u2028\u2003\n", times=9, lines=False)
def test_splits_partition_the_text(tmp_path, monkeypatch, sample, times, lines):
    monkeypatch.setattr(text, "MIN_CHARACTERS", 1)
    sample *= times
    filled = [f"{line}\n" for line in sample.split("\n") if line.strip()]
    file = write(tmp_path / "sample.txt", sample)
    if lines and len(filled) < 3:
        message = refused(file, cut="lines")
        assert message.startswith("--cut=lines: --dataset=")
        return
    splits = load(file, "nowhere", cut="lines" if lines else "stream")
    whole = "".join(filled) if lines else sample
    assert joined(splits) == whole
    assert splits.alphabet == "".join(sorted(set(whole)))
    parts = [sequences(splits, part) for part in PARTS]
    if lines:
        assert [line for part in parts for line in part] == filled
        assert all(parts)
        ends = np.cumsum([0, *map(len, filled)])
        for n, share in ((len(splits.train), 0.85), (len(splits.train) + len(splits.val), 0.9)):
            nearest = np.abs(ends - share * len(whole)).min()
            assert abs(n - share * len(whole)) == nearest or 1 in map(len, parts)
    else:
        assert [len(part) for part in parts] == [1, 1, 1]
        cuts = [0, int(len(whole) * 0.85), int(len(whole) * 0.9), len(whole)]
        assert parts == [[whole[i:j]] for i, j in pairwise(cuts)]


@pytest.mark.parametrize(("n", "n_val"), [(100_000, 5_000), (200_000, 10_000), (400_000, 10_000)])
@pytest.mark.parametrize("cut", ["stream", "lines"])
def test_val_does_not_grow_beyond_what_is_needed(tmp_path, cut, n, n_val):
    splits = load(write(tmp_path / "long.txt", "abcdefg hijk lmnopq\n" * (n // 20)), "nowhere", cut=cut)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [n - n // 10 - n_val, n_val, n // 10]


def test_the_content_hash_is_of_ids_alphabet_and_split(tmp_path):
    def hashed(name: str, content: str, **flags) -> str:
        return load(write(tmp_path / name, content), "nowhere", **flags).content_hash

    base = hashed("a.txt", PROSE)
    assert hashed("b/other.text", PROSE) == base
    assert hashed("a.txt", PROSE, normalize="NFC", scripts="latin", min_count=2) == base  # nothing to clean
    others = [
        hashed("a.txt", PROSE, cut="lines"),
        hashed("a.txt", PROSE, lower=True),
        hashed("a.txt", PROSE.replace("Z", "X")),  # the same ids of another alphabet
        hashed("a.txt", PROSE[:-1] + " "),
        hashed("a.txt", PROSE[1:]),
    ]
    assert len({base, *others}) == 6


# ---- cleaning ------------------------------------------------------------------------------------------


def test_a_text_is_left_as_it_is(tmp_path):
    content = b"\xef\xbb\xbf" + PROSE.replace("\n", "\r\n").encode()
    splits = load(write(tmp_path / "dos.txt", content), "nowhere")
    assert joined(splits).encode() == content
    assert splits.report == [
        "1 byte order marks (U+FEFF) are in the text and stay",
        r"80 carriage returns (\r) are in the text and stay",
    ]


def test_each_cleaning_step_tells_what_it_took(tmp_path):
    file = write(tmp_path / "a.txt", PROSE + "ﬁne Привет 文字 αβ ½ (42) «é»!\n")
    flags = {"normalize": "NFKD", "lower": True, "scripts": " Latin,greek", "min_count": 3, "cut": "lines"}
    splits = load(file, "nowhere", **flags)
    assert joined(splits).endswith("\nine    12 42 e\n")
    assert "\N{COMBINING DIAERESIS}" in splits.alphabet  # marks that go with any script stay
    forms, lower, scripts, rare, lines = splits.report
    assert forms.startswith("--normalize=NFKD: 63 characters of 4 kinds replaced: 'ë' U+00EB ×60, '½' U+00BD")
    assert lower.startswith("--lower: 121 characters of 3 kinds replaced: 'L' U+004C ×60, 'Z' U+005A ×60")
    assert scripts.startswith("--scripts= Latin,greek: 8 characters of 8 kinds removed: ")
    assert "'文' U+6587 ×1" in scripts
    assert rare.startswith("--min_count=3: 10 characters of 10 kinds removed: '!' U+0021 ×1, ")
    assert lines == "20 of 81 lines left out: they are blank"

    counts = {c: PROSE.count(c) for c in set(PROSE)}
    splits = load(write(tmp_path / "b.txt", PROSE), "nowhere", min_count=60)
    assert set(splits.alphabet) == {c for c, n in counts.items() if n >= 60}
    assert load(write(tmp_path / "b.txt", PROSE), "nowhere", lower=True, scripts="cyrillic,latin").report == [
        "--lower: 120 characters of 2 kinds replaced: 'L' U+004C ×60, 'Z' U+005A ×60",
        "--scripts=cyrillic,latin: nothing removed",
    ]


@pytest.mark.parametrize(
    ("scripts", "stay"),
    [
        ("latin", "aéſ1 ʼ\u0301!ªＡﬀ№…€"),
        ("greek", "αΩ\N{OHM SIGN}µ1 ʼ\u0301!№…€"),
        ("cjk,hiragana,katakana", "文々かカー1 ʼ\u0301!№…€"),
        ("devanagari", "नि1 ʼ\u0301!№…€"),
        ("old_italic", "𐌀1 ʼ\u0301!№…€"),
    ],
)
def test_scripts(scripts, stay):
    """Compatibility forms count as what they stand for; marks such as vowel signs go with their letters."""
    tried = "aéſαΩµ1 ʼ\u0301!ªＡﬀ№…€文々かカーनि𐌀Жא\N{OHM SIGN}"
    alphabet, _ = characters.Cleaning(scripts=scripts).survey([tried], "it", "")
    assert alphabet == "".join(sorted(set(stay) & set(tried)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sample=FEW,
    size=st.integers(1, 7),
    form=st.sampled_from((None, *text.FORMS)),
    lower=st.booleans(),
    lines=st.booleans(),
    min_count=st.integers(1, 3),
)
@example(sample="ΑΣ ΑΣ\nΑΣ'", size=1, form=None, lower=True, lines=False, min_count=1)
@example(sample="e\u0301 \u0301\n\u1100\u1161", size=3, form="NFC", lower=False, lines=False, min_count=1)
def test_pieces_make_no_difference(tmp_path, monkeypatch, sample, size, form, lower, lines, min_count):
    """A text that is read a few bytes at a time is cleaned like a whole one."""
    monkeypatch.setattr(text, "MIN_CHARACTERS", 0)
    monkeypatch.setattr(text_files, "CHUNK", size)
    cleaned = unicodedata.normalize(form, sample) if form else sample
    cleaned = cleaned.lower() if lower else cleaned
    whole = cleaned + "\n" * (lines and cleaned[-1:] not in ("\n", ""))
    keep = {c for c in whole if whole.count(c) >= min_count or (lines and c == "\n")}
    whole = "".join(c for c in whole if c in keep)
    if lines:
        whole = "".join(f"{line}\n" for line in whole.split("\n") if line.strip())
    file = write(tmp_path / "a.txt", sample)
    flags = {"normalize": form, "lower": lower, "min_count": min_count, "cut": "lines" if lines else "stream"}
    try:
        splits = load(file, "nowhere", **flags)
    except DataError:
        assert len(whole) == 0 or (lines and whole.count("\n") < 3)
    else:
        assert joined(splits) == whole
        assert splits.alphabet == "".join(sorted(set(whole)))


# ---- what is refused -----------------------------------------------------------------------------------


def test_what_is_no_text_is_refused(tmp_path):
    def refusal(name: str, content: str | bytes, **flags) -> str:
        file = write(tmp_path / name, content)
        return refused(file, **flags).removeprefix(f"--dataset={file} ")

    assert refusal("a.txt", "") == "is empty"
    assert refusal("a.txt", "x" * 999) == "is too short: 999 usable characters; at least 1,000 are needed"
    assert refusal("a.txt", PROSE, min_count=1000) == (
        f"--min_count=1000 removes every character of --dataset={tmp_path / 'a.txt'}: the most frequent, "
        "' ' U+0020, is there 300 times"
    )
    assert refusal("a.txt", PROSE, min_count=1000, cut="lines").startswith("--min_count=1000 removes every")
    assert refusal("a.txt", "  \n \n" * 500, cut="lines").startswith("--cut=lines: --dataset=")
    assert refusal("a.txt", "я" * 2000, scripts="latin").startswith("is too short: 0 usable characters")
    message = refusal("a.txt", "x" * 999 + "\nyz", cut="lines")
    assert message.endswith("has 2 filled lines; at least 3 are needed")
    assert refused(tmp_path).endswith("is a folder; expected: one text file, or a .csv of lyrics")
    assert refused("/dev/null").startswith("--dataset=/dev/null is a pipe or a device")


@pytest.mark.parametrize("at", range(9))
def test_the_offset_of_a_wrong_byte_is_told_across_chunks(tmp_path, monkeypatch, at):
    monkeypatch.setattr(text_files, "CHUNK", 4)
    content = "aé文🎵".encode()[:at].decode(errors="ignore").encode()
    message = refused(write(tmp_path / "a.txt", content + b"\xff" + b"more"))
    assert f"byte 0xff at offset {len(content)}, in line 1" in message


def test_a_name_that_is_unknown(tmp_path):
    assert refused("shakespear") == (
        "--dataset=shakespear is neither a named text (pydoc, shakespeare) nor an existing file; "
        "did you mean shakespeare?"
    )
    assert refused("PyDoc").endswith("did you mean pydoc?")
    file = write(tmp_path / "novel.txt", PROSE)
    assert refused(tmp_path / "novle.txt").endswith(f"did you mean {file}?")
    assert "did you mean" not in refused(tmp_path / "gone" / "qqqq")
    assert "neither" in refused("")
    assert text.holds(file)
    assert not text.holds(str(tmp_path))


def test_flags_that_are_impossible():
    assert refused("pydoc", cut="words") == "--cut=words: must be stream or lines"
    assert refused("pydoc", normalize="nfc") == "--normalize=nfc: must be one of NFC, NFD, NFKC, NFKD"
    assert refused("pydoc", min_count=0) == "--min_count=0: must be at least 1"
    message = refused("pydoc", scripts="latin,cirillic")
    assert message == "--scripts=latin,cirillic: no script is called 'cirillic'; did you mean cyrillic?"
    assert "known are latin, greek, " in refused("pydoc", scripts="latin,,qqq")


# ---- large files ---------------------------------------------------------------------------------------


@pytest.fixture
def small_is_large(monkeypatch):
    monkeypatch.setattr(text, "LARGE", 10)
    monkeypatch.setattr(text, "BLOCK", 100)
    monkeypatch.setattr(text_files, "CHUNK", 77)


@pytest.mark.parametrize("cut", text.CUTS)
@pytest.mark.parametrize("wide", [False, True])
def test_a_map_equals_what_is_in_memory(tmp_path, small_is_large, cut, wide):
    content = PROSE + " ".join(map(chr, range(0x4E00, 0x4E00 + 300 * wide))) + "\n ﬁ\n\u2003\nÉ"
    file, store = write(tmp_path / "a.txt", content), tmp_path / "store"
    flags = {"cut": cut, "normalize": "NFKC", "lower": True, "min_count": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = load(file, str(store), **flags)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(text, "LARGE", 1 << 20)
        inside = load(file, "nowhere", **flags)
    assert same(splits, inside)
    assert splits.train.dtype == (torch.int32 if wide else torch.uint8)
    files = sorted((store / "cache").iterdir())
    assert [p.suffix for p in files] == [".json", ".npy"]
    assert (np.load(files[1]) == np.concatenate([getattr(splits, part) for part in PARTS])).all()

    before = {p: p.stat().st_mtime_ns for p in files}
    splits.train[:] = 0  # stays private
    assert same(load(file, str(store), **flags), inside)
    assert {p: p.stat().st_mtime_ns for p in (store / "cache").iterdir()} == before
    # another name finds it, another content or flag does not
    other = write(tmp_path / "b.txt", content)
    assert same(load(other, str(store), **flags), inside)
    assert len(list((store / "cache").iterdir())) == 2
    load(write(tmp_path / "a.txt", content + "!"), str(store), **flags)
    load(other, str(store), **flags | {"lower": False})
    assert len(list((store / "cache").iterdir())) == 6


def reference(content: str, cut: str) -> tuple[str, str, dict[str, tuple[list[int], list[int]]]]:
    """Content hash, alphabet and parts (ids, starts) of a text, as plainly as they can be written down."""
    if cut == "lines":
        if not content.endswith("\n"):
            content += "\n"
        lines = [f"{line}\n" for line in content.split("\n")[:-1] if line.strip()]
        starts = [sum(map(len, lines[:i])) for i in range(len(lines) + 1)]
        n, length = len(lines), starts[-1]
        cuts = max(0.85 * length, 0.9 * length - text.MOST_VAL), 0.9 * length
        val, test = (min(range(n + 1), key=lambda i: abs(starts[i] - cut)) for cut in cuts)
        val = min(max(val, 1), n - 2)
        borders = [starts[i] for i in (0, val, min(max(test, val + 1), n - 1), n)]
        content = "".join(lines)
    else:
        n = len(content)
        starts, test = [0, n], int(0.9 * n)
        borders = [0, max(int(0.85 * n), test - text.MOST_VAL), test, n]
    alphabet = "".join(sorted(set(content)))
    ids = [alphabet.index(char) for char in content]
    sha, parts = hashlib.sha256(f"{text.PIPELINE}\n{alphabet}".encode()), {}
    for part, (begin, end) in zip(PARTS, pairwise(borders)):
        own = [begin, *(s for s in starts if begin < s < end), end]
        parts[part] = ids[begin:end], [s - begin for s in own]
        sha.update(f"\n{part} {end - begin} {len(own)}\n".encode())
        sha.update(np.array(ids[begin:end], np.uint8 if len(alphabet) <= 256 else "<i4").tobytes())
        sha.update(np.array(parts[part][1], "<i8").tobytes())
    return sha.hexdigest()[:16], alphabet, parts


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.lists(st.sampled_from(["a", "é", "文", "🎵", "e\u0301", "\r\n", "\n", "\r", " ", "\u2028"]))
    .map("".join)
    .flatmap(lambda s: st.text(CHARACTERS, max_size=60).map(lambda t: s + t)),
    wide=st.booleans(),
    cut=st.sampled_from(text.CUTS),
    chunk=st.integers(1, 9),
    block=st.integers(1, 9),
    most_val=st.sampled_from([3, 10_000]),
)
def test_a_text_that_is_streamed_is_the_same_text(
    tmp_path_factory, monkeypatch, content, wide, cut, chunk, block, most_val
):
    """Whatever lies at the borders of chunks and blocks: halves of characters, of marks, of line ends."""
    content += "".join(map(chr, range(0x4E00, 0x4E00 + 300 * wide)))
    for name, value in (("LARGE", 0), ("MIN_CHARACTERS", 3), ("BLOCK", block), ("MOST_VAL", most_val)):
        monkeypatch.setattr(text, name, value)
    monkeypatch.setattr(text_files, "CHUNK", chunk)
    place = tmp_path_factory.mktemp("streamed")
    file = write(place / "a.txt", content)
    enough = sum(bool(line.strip()) for line in content.split("\n")) if cut == "lines" else len(content)
    if enough < 3:
        refused(file, place, cut=cut)
        return
    try:
        content_hash, alphabet, parts = reference(content, cut)
        for _ in range(2):  # written, then read back
            splits = load(file, str(place), cut=cut)
            assert (splits.content_hash, splits.alphabet) == (content_hash, alphabet)
            for part, (ids, starts) in parts.items():
                assert getattr(splits, part).tolist() == ids
                assert getattr(splits, f"{part}_starts").tolist() == starts
        splits.release()
        assert joined(splits) == "".join(alphabet[i] for ids, _ in parts.values() for i in ids)
    finally:
        shutil.rmtree(place)


def test_a_large_text_takes_hardly_any_memory(tmp_path):
    """All but what two chunks take: neither the text nor the pages of its map are ever held as a whole."""
    code = """
        import sys, resource
        import torch
        from data import text
        from research import charlm

        def peak():
            unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

        files, store = sys.argv[1:3], sys.argv[3]
        peaks = []
        for file in files:  # the small one first: what it takes is taken for granted
            cfg = charlm.Config(dataset=file, data_dir=store, seq_len=8)
            data = charlm.load_data(cfg)
            part, rng = data.parts["train"], torch.Generator().manual_seed(0)
            for _ in range(2000):
                part.batch(12, rng)
            last = data.parts["test"]
            for first in range(0, last.n_rows(), 100_000):
                rows = torch.arange(first, min(first + 1024, last.n_rows()))
                last.rows(*last.pieces(rows), torch.device("cpu"))
            assert len(data.known) == min(len(data.text.train), charlm.COPY_LIMIT)
            peaks.append(peak())
        print(peaks[1] - peaks[0])
    """
    files = []
    for name, times in (("small", 1800), ("large", 36_000)):  # 3.5 MB and 70 MB
        with open(tmp_path / f"{name}.txt", "w", encoding="utf-8") as f:
            for _ in range(times):
                f.write(PROSE)
        files.append(str(tmp_path / f"{name}.txt"))
    assert Path(files[1]).stat().st_size > 68_000_000
    command = [sys.executable, "-c", textwrap.dedent(code), *files, str(tmp_path)]
    # its peak is not below that of the process that starts it, so another one lies between
    between = f"import subprocess, sys; sys.exit(subprocess.run({command!r}).returncode)"
    shown = subprocess.run([sys.executable, "-c", between], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert float(shown.stdout) < 120, shown.stdout


def test_a_damaged_cache_is_made_again(tmp_path, small_is_large):
    file, store = write(tmp_path / "a.txt", PROSE), tmp_path / "store"
    whole = load(file, str(store))
    (ids,) = (store / "cache").glob("*.npy")
    about, good = ids.with_suffix(".json"), ids.read_bytes()
    rng = random.Random(0)
    for path in (ids, about):
        content = path.read_bytes()
        damages = [
            None,
            b"",
            content[:-1],
            content[:50],
            bytes(len(content)),
            b"[]",
            b'{"alphabet": 3, "n": -1}',
        ]
        for _ in range(12):
            at = rng.randrange(len(content) if path == ids else content.index(b'"report"'))
            damages.append(content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :])
        for damage in damages:
            if damage is None:
                path.unlink()
            else:
                path.write_bytes(damage)
            assert same(load(file, str(store)), whole), damage
            assert ids.read_bytes() == good
    assert len(list((store / "cache").iterdir())) == 2


def test_large_files_that_are_refused(tmp_path, small_is_large, monkeypatch):
    file = write(tmp_path / "a.txt", "x" * 999)
    assert "is too short: 999 usable characters" in refused(file, tmp_path)
    write(tmp_path / "a.txt", PROSE.encode() + b"\xff")
    assert "one byte is wrong (byte 0xff at offset 1,930, in line 81)" in refused(file, tmp_path)
    write(tmp_path / "a.txt", PROSE)
    message = refused(file, write(tmp_path / "taken", ""))
    assert message.startswith(f"cannot write the text cache {tmp_path / 'taken' / 'cache'}")
    assert message.endswith("make room or choose another --data_dir")

    def growing(path, what, encoding):
        write(Path(path), PROSE + PROSE)
        yield from text_files.read_chunks(path, what, encoding)

    monkeypatch.setattr(text, "read_chunks", growing)
    assert refused(file, tmp_path).endswith("was changed while it was read; start again")
    monkeypatch.undo()
    assert list(tmp_path.glob("cache/*.json")) == []


# ---- prepare.py ----------------------------------------------------------------------------------------


@pytest.fixture
def mirror(monkeypatch) -> Iterator[list[bytes]]:
    """The last item of the list is served on loopback as tinyshakespeare; PROSE counts as
    the official file.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(served[-1])

        def log_message(self, *_):
            pass

    served = [PROSE.encode()]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(text, "SHAKESPEARE_URL", f"http://127.0.0.1:{server.server_port}/input.txt")
    monkeypatch.setattr(text, "SHAKESPEARE_SHA256", hashlib.sha256(served[0]).hexdigest())
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


def test_prepare_fetches_shakespeare(tmp_path, mirror, capsys):
    store = tmp_path / "store"
    args = ["shakespeare", f"--data_dir={store}"]
    mirror.append(b"<html>log in to this network</html>")
    assert prepare.main(args) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith(f"shakespeare could not be fetched from {text.SHAKESPEARE_URL}: ")
    assert "but the official file has" in message
    assert message.rstrip().endswith(f"By hand, place in {store} {text.LAYOUTS['shakespeare']}")
    assert list(store.iterdir()) == []

    mirror.append(PROSE.encode())
    write(store / "input.txt", "another text of that name")
    assert prepare.main(args) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"shakespeare: {store}/shakespeare/input.txt fetched, 0.00 MB"
    assert out[1] == "shakespeare: 1,870 characters (1,589 train, 94 val, 187 test)"
    assert out[-1] == f"train with --dataset=shakespeare --data_dir={store}"
    assert sorted(p.name for p in store.iterdir()) == ["input.txt", "shakespeare"]
    mirror.append(b"not asked for again")
    assert prepare.main(args) == 0
    assert f"the file is there, {store}/shakespeare/input.txt" in capsys.readouterr().out


def test_prepare_on_texts(tmp_path, capsys, small_is_large):
    assert prepare.main(["pydoc"]) == 0
    out = capsys.readouterr().out
    assert f"content hash {load('pydoc', 'nowhere').content_hash}; no cache is needed" in out
    file = write(tmp_path / "novel.txt", PROSE.replace("\n", "\r\n"))
    assert prepare.main([file, f"--data_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "novel: 1,950 characters (1,657 train, 98 val, 195 test)"
    assert out[1] == f"alphabet of 29: {load(file, str(tmp_path)).alphabet!r}"
    assert out[2] == r"  80 carriage returns (\r) are in the text and stay"
    content_hash = load(file, str(tmp_path)).content_hash
    assert out[3].startswith(f"content hash {content_hash}; ids mapped from {tmp_path}/cache/text_")
    songs = write(tmp_path / "songs.csv", table([*SONGS, SONGS[0]]))
    assert prepare.main([songs]) == 0
    out = capsys.readouterr().out
    assert "40 songs of 10 artists (" in out
    assert "  1 songs dropped: their lyrics are copies" in out


def test_prepare_refuses_what_does_not_fit(tmp_path, capsys):
    file, folder = write(tmp_path / "a.txt", PROSE), tmp_path / "full"
    write(folder / "x", "")
    write(tmp_path / "blank.txt", " \n\r\n")
    write(tmp_path / "latin.txt", b"\xff")
    for args, message in (
        (
            ["pidoc"],
            "--dataset=pidoc is neither a named text (pydoc, shakespeare) nor an existing file; did you",
        ),
        (["gone.csv"], "--dataset=gone.csv is neither a named text"),
        (["pydoc", "--image_size=64"], "--image_size=64: pydoc is text, not images"),
        ([file, "--contact_sheet=a.png"], f"--contact_sheet=a.png: {file} is text, not images"),
        (["pydoc", file], f"FILE={file}: only onehot takes it, as in `onehot FILE`"),
        (["pydoc", "--onehot_dir=x"], "--onehot_dir=x: only onehot takes it"),
        (["onehot"], "onehot needs the FILE whose lines are to be written: `onehot FILE`"),
        (["onehot", "gone"], "FILE=gone cannot be read: No such file or directory"),
        (["onehot", str(tmp_path)], f"FILE={tmp_path} cannot be read: Is a directory"),
        (["onehot", f"{tmp_path}/blank.txt"], f"FILE={tmp_path}/blank.txt has only blank lines"),
        (
            ["onehot", f"{tmp_path}/latin.txt"],
            f"FILE={tmp_path}/latin.txt is not UTF-8 (byte 0xff",
        ),
        (
            ["onehot", file, f"--onehot_dir={folder}"],
            f"--onehot_dir={folder} is not empty: name",
        ),
        (["onehot", file, f"--onehot_dir={file}"], f"--onehot_dir={file} cannot be written: File exists"),
    ):
        assert prepare.main(args) == 2, args
        err = capsys.readouterr().err
        assert (err.count("\n"), err[: len(message)]) == (1, message)
    assert [p.name for p in folder.iterdir()] == ["x"]


def test_one_hot_arrays_are_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = "To be\n\n  \nor not to be,\r\nété 🎵"
    assert prepare.main(["onehot", write(tmp_path / "in" / "lines.txt", content)]) == 0
    out = capsys.readouterr().out.splitlines()
    alphabet = np.load("lines_onehot/alphabet.npy")
    assert (alphabet.shape, alphabet.dtype) == ((11,), np.dtype("<U1"))
    assert "".join(alphabet) == " ,Tbenorté🎵"
    assert out == [
        f"lines_onehot: alphabet.npy, 11 characters: {''.join(alphabet)!r}",
        "lines_onehot: 3 samples, uint8 (T, 11), T from 5 to 13",
    ]
    names = sorted(p.name for p in Path("lines_onehot").iterdir())
    assert names == ["alphabet.npy", "sample_0000.npy", "sample_0001.npy", "sample_0002.npy"]
    for name, line in zip(names[1:], ["To be", "or not to be,", "été 🎵"]):
        rows = np.load(Path("lines_onehot", name))
        assert (rows.shape, rows.dtype) == ((len(line), 11), np.uint8)
        assert (rows.sum(axis=1) == 1).all()
        assert "".join(alphabet[rows.argmax(axis=1)]) == line
        assert (rows == one_hot(line, "".join(alphabet))).all()
    (tmp_path / "empty").mkdir()
    assert prepare.main(["onehot", "in/lines.txt", "--onehot_dir=empty"]) == 0
