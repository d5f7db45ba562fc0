"""Text files: encodings that are declared, requested or suggested, gzip, and files that are not text."""

import ast
import gzip
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import DataError, prepare, text, text_files
from data.text_files import read_chunks, read_whole

ENGLISH = "I don’t know — “why” said Zoë, it’s all… the same to me\n" * 40
RUSSIAN = "Выхожу один я на дорогу; сквозь туман кремнистый путь блестит.\nНочь тиха.\n" * 30
POLISH = "Zażółć gęślą jaźń, powiedział wąż do źrebięcia, a łódź płynęła dalej.\n" * 30
FRENCH = "L'été à la plage, déjà vu: où êtes-vous, mon cœur brisé? Ça va, garçon.\n" * 30
JAPANESE = "私は山へ行って、そこで友達に会いました。今日はとても良い天気です。\n" * 30
CHINESE = "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n我爱你中国，亲爱的母亲，我们一起唱歌。\n" * 20


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path: Path, encoding: str | None = None) -> str:
    with pytest.raises(DataError) as e:
        read_whole(path, "it", encoding)
    assert "\n" not in str(e.value)
    return str(e.value)


# ---- one wrong byte, another encoding --------------------------------------------------------------------


def test_a_few_wrong_bytes_are_named_and_nothing_is_converted(tmp_path):
    content = ENGLISH.encode().replace("don’t".encode(), b"don\x92t", 1)
    file = write(tmp_path / "a.txt", b"One line\n" + content)
    assert refused(file) == (
        "it is UTF-8, but one byte is wrong (byte 0x92 at offset 14, in line 2); with "
        "--encoding=utf-8+cp1252 that line reads “I don’t know — “why” said Zoë, it’s”"
    )
    whole, report = read_whole(file, "it", "utf-8+cp1252")
    assert (whole, report) == ("One line\n" + ENGLISH, [])  # and no other character was touched
    twice = write(tmp_path / "b.txt", content.replace(b"Zo\xc3\xab", b"Zo\xeb", 3))
    assert refused(twice).startswith(
        "it is UTF-8, but 4 bytes are wrong, the first (byte 0x92 at offset 5, in"
    )
    assert read_whole(twice, "it", "utf-8+cp1252")[0] == ENGLISH
    # what cp1252 lacks is not offered so
    message = refused(write(tmp_path / "c.txt", ENGLISH.encode() + b"\x81"))
    assert message.endswith("; say what it is with --encoding, as in --encoding=cp1252, or repair the file")
    message = refused(tmp_path / "c.txt", "utf-8+cp1252")
    assert message.startswith(
        f"it is not utf-8+cp1252 (byte 0x81 at offset {len(ENGLISH.encode()):,}, in line 41"
    )


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (FRENCH, "cp1252"),
        (ENGLISH, "cp1252"),
        (ENGLISH.replace("Zoë", "Zoe"), "cp1252"),
        (POLISH, "cp1250"),
        (JAPANESE, "cp932"),
        (JAPANESE, "euc-jp"),
        (CHINESE, "gb18030"),
    ],
)
def test_another_encoding_is_guessed_and_a_line_shown(tmp_path, content, encoding):
    file = write(tmp_path / "a.txt", content.encode(encoding))
    message = refused(file)
    assert message.startswith("it is not UTF-8 (byte 0x")
    assert f" and may be {encoding}; with --encoding={encoding} that line reads “" in message
    line = message.partition("reads “")[2].removesuffix("”")
    assert len(line) > 15 and line in content
    assert read_whole(file, "it", encoding) == (content, [])


def test_what_is_offered_reads_all_of_the_file(tmp_path):
    """A byte that the guessed encoding lacks rules it out, even after the part that was examined."""
    content = ("caf\u00e9\n" * 9000).encode("cp1252")
    assert "--encoding=cp1252 " in refused(write(tmp_path / "a.txt", content))
    assert "--encoding=cp1252 " not in refused(write(tmp_path / "a.txt", content + b"\x81\n"))


def test_the_line_is_counted_by_whatever_ends_lines(tmp_path):
    for end in ("\n", "\r\n", "\r"):
        file = write(tmp_path / "a.txt", f"one{end}two{end}caf".encode() + b"\xe9" + end.encode() + b"four")
        assert ", in line 3)" in refused(file)
        assert refused(file).endswith("reads “café”")


def test_an_encoding_that_is_asked_for_is_checked(tmp_path):
    file = write(tmp_path / "a.txt", RUSSIAN)
    assert (
        refused(file, "cp12510")
        == "--encoding=cp12510: no encoding of text is called 'cp12510'; did you mean cp1251?"
    )
    assert refused(file, "base64").startswith("--encoding=base64: no encoding of text is called 'base64'")
    assert refused(file, "cp1251+cp1252") == "--encoding=cp1251+cp1252: only utf-8 can come before the +"
    assert refused(file, "ascii") == (
        "it is not ascii (byte 0xd0 at offset 0, in line 1), but it is UTF-8: leave --encoding out"
    )
    assert read_whole(file, "it", "UTF8") == (RUSSIAN, [])
    # mojibake is what was asked for, but it is told
    assert read_whole(file, "it", "cp1251".upper()) == (
        RUSSIAN.encode().decode("cp1251"),
        ["read as CP1251, as asked, though it seems to be UTF-8"],
    )
    message = refused(write(tmp_path / "b.txt", RUSSIAN.encode("cp1251") + b"\x98"), "cp1251")
    assert message.startswith("it is not cp1251 (byte 0x98 at offset ")


# ---- UTF-16, gzip and files of other kinds ----------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path, encoding):
    file = write(tmp_path / "a.txt", RUSSIAN.encode(encoding))
    assert read_whole(file, "it") == (RUSSIAN, [f"read as {encoding}: it begins with its byte order mark"])


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark(tmp_path, encoding):
    latin = write(tmp_path / "a.txt", FRENCH.encode(encoding))
    assert read_whole(latin, "it") == (FRENCH, [f"read as {encoding}: every other byte is zero"])
    other = write(tmp_path / "b.txt", RUSSIAN.encode(encoding))
    assert refused(other) == (
        "it is not UTF-8, it may be UTF-16 without its byte order mark: with "
        f"--encoding={encoding} its first line reads “{RUSSIAN[:60]}”"
    )
    assert read_whole(other, "it", encoding) == (RUSSIAN, [])
    assert refused(other, "utf-16") == (
        "--encoding=utf-16: it has no byte order mark: say utf-16-le or utf-16-be"
    )


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PK\3\4\0" + b"x" * 200, "a zip archive, as .docx, .xlsx, .odt and .epub are"),
        (b"%PDF-1.7\n" + b"x" * 200, "a PDF"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(200), "an Office file"),
        (b"{\\rtf1\\ansi", "a rich text file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "a picture (PNG)"),
        (b"BZh91AY", "a bzip2 file"),
        (b"\xfd7zXZ\0", "an xz file"),
        # the time would make the test's name another one in each process
        (gzip.compress(b"name".ljust(257, b"\0") + b"ustar" + bytes(250), mtime=0), "a tar archive"),
    ],
)
def test_what_is_no_text_is_called_by_its_name(tmp_path, content, kind):
    file = write(tmp_path / "a.csv", content)
    assert refused(file).startswith(f"it is {kind}")
    assert refused(file, "cp1252").startswith(f"it is {kind}")


def test_what_is_binary(tmp_path):
    assert (
        refused(write(tmp_path / "a", b"text" + b"\0"))
        == "it is binary, not text: it has a NUL byte at offset 4"
    )
    assert "is binary, not text" in refused(write(tmp_path / "a", bytes(2000)))
    assert "is binary, not text" in refused(write(tmp_path / "a", bytes(range(256)) * 9))
    nul = write(tmp_path / "a", "a\0b".encode("utf-16"))
    assert refused(nul) == "it is binary, not text: read as utf-16, it has a NUL character"


def test_gzip_is_unpacked_whatever_the_name(tmp_path, monkeypatch):
    for name in ("a.txt.gz", "a.txt"):
        file = write(tmp_path / name, gzip.compress(RUSSIAN.encode("koi8-r")))
        assert read_whole(file, "it", "koi8-r") == (RUSSIAN, [])
        assert "--encoding=koi8-r that line reads" in refused(file)
    packed = gzip.compress(RUSSIAN.encode())
    assert refused(write(tmp_path / "b.gz", packed[:-20])).startswith("it is a damaged .gz file: ")
    broken = bytearray(packed)
    broken[len(packed) // 2] ^= 255
    assert refused(write(tmp_path / "b.gz", bytes(broken))).startswith("it is a damaged .gz file: ")
    # as a data set: its name, and what is mapped from the cache
    file = write(tmp_path / "poem.txt.gz", packed)
    whole = text.load(str(file), str(tmp_path))
    assert whole.name == "poem"
    monkeypatch.setattr(text, "LARGE", 4)
    mapped = text.load(str(file), str(tmp_path))
    assert mapped.content_hash == whole.content_hash
    assert len(list(tmp_path.glob("cache/*.npy"))) == 1


def test_the_cache_of_a_large_text_is_of_its_encoding(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "LARGE", 10)
    file = write(tmp_path / "a.txt", RUSSIAN.encode("cp1251"))
    right = text.load(str(file), str(tmp_path), encoding="cp1251")
    other = text.load(str(file), str(tmp_path), encoding="koi8-r")
    assert right.content_hash != other.content_hash
    assert text.load(str(file), str(tmp_path), encoding="cp1251").content_hash == right.content_hash
    assert (
        right.content_hash == text.load(str(write(tmp_path / "b.txt", RUSSIAN)), str(tmp_path)).content_hash
    )
    wide = write(tmp_path / "c.txt", RUSSIAN.encode("utf-16"))
    for _ in "12":  # also when the cache is read
        assert text.load(str(wide), str(tmp_path)).report == [
            "read as utf-16: it begins with its byte order mark"
        ]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.text(st.sampled_from("aé文🎵ж\n\r "), max_size=60),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32-be", "gb18030", "utf-8+cp1252"]),
    size=st.integers(1, 7),
    packed=st.booleans(),
)
def test_pieces_make_no_difference(tmp_path, content, encoding, size, packed):
    coded = content.encode(encoding.partition("+")[0])
    file = write(tmp_path / "a", gzip.compress(coded, mtime=0) if packed else coded)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "CHUNK", size)
        assert read_whole(file, "it", encoding)[0] == content


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=80),
    encoding=st.sampled_from([None, "cp1252", "utf-16", "cp932", "utf-8+cp1252"]),
)
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, content, encoding):
    file = write(tmp_path / "a", content)
    try:
        whole, _ = read_whole(file, "it", encoding)
    except DataError as e:
        assert "\n" not in str(e) and str(e).isprintable()
    else:
        assert encoding or whole.encode() == content or content[:1] in b"\xff\xfe\0" or b"\0" in content


def test_a_large_refused_file_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "CHUNK", 1 << 16)
    refused(write(tmp_path / "small.txt", (RUSSIAN * 20).encode("cp1251")))  # imports
    file = write(tmp_path / "a.txt", (RUSSIAN * 600).encode("cp1251"))
    size = file.stat().st_size
    tracemalloc.start()
    refused(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 1_200_000 and peak < size


# ---- flags -----------------------------------------------------------------------------------------------


def test_flags_that_cannot_act_are_refused(tmp_path):
    file = str(write(tmp_path / "a.txt", ENGLISH))
    for dataset, flags, message in (
        (
            "pydoc",
            {"encoding": "cp1251"},
            "--encoding=cp1251: pydoc has its own; the flag is for your own files",
        ),
        (
            file,
            {"columns": "song=x"},
            f"--columns=song=x: --dataset={file} has none; the flag is for a .csv or .tsv",
        ),
        ("pydoc", {"columns": "song=x"}, "--columns=song=x: --dataset=pydoc has none"),
    ):
        with pytest.raises(DataError) as e:
            text.load(dataset, str(tmp_path), **flags)
        assert str(e.value).startswith(message)


def test_prepare_takes_an_encoding(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = str(write(tmp_path / "my poem.txt", RUSSIAN.encode("cp1251")))
    assert prepare.main([file]) == 2
    assert "--encoding=cp1251 that line reads “Выхожу один я на дорогу" in capsys.readouterr().err
    assert prepare.main([file, "--encoding=cp1251", "--data_dir=s"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"train with '--dataset={file}' --data_dir=s --encoding=cp1251"
    assert prepare.main(["onehot", file]) == 2
    assert capsys.readouterr().err.startswith(
        f"FILE={file} is not UTF-8 (byte 0xc2 at offset 0, in line 1) and"
    )
    assert prepare.main(["onehot", file, "--encoding=cp1251"]) == 0
    assert "60 samples" in capsys.readouterr().out
    for args, message in (
        (["digits", "--encoding=cp1251"], "--encoding=cp1251: digits is images, not text\n"),
        (
            ["onehot", file, "--columns=song=x"],
            "--columns=song=x: onehot writes the lines of a text, not of a CSV\n",
        ),
    ):
        assert prepare.main(args) == 2
        assert capsys.readouterr().err == message


@pytest.mark.parametrize("name", ["text", "text_files", "tables", "lyrics", "characters", "files", "prepare"])
def test_no_file_is_read_in_the_encoding_of_the_locale(name):
    """That would differ from machine to machine."""
    source = Path(text.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        function = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if function in ("read_text", "write_text", "open", "fdopen", "reader"):
            words = ast.unparse(call)
            binary = re.search(r"""open\(.*['"][rwx+]*b[rwx+]*['"]|gzip\.open\(path\)|csv\.reader""", words)
            assert binary or "encoding=" in words, words


def test_chunks_are_of_the_file_as_it_is(tmp_path):
    """Line ends and a byte order mark are kept."""
    content = "\ufeffone\r\ntwo\r"
    assert "".join(read_chunks(write(tmp_path / "a", content), "it")) == content
