"""Decodes text files, packed with gzip or not.

They are UTF-8, or what their byte order mark or --encoding says. No file is read by a guess: a likely
encoding is only suggested, in the message that refuses the file, together with a line as it would then read.
charset_normalizer is imported only for such a guess.
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from encodings.aliases import aliases
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from data import DataError
from data.names import closest, did_you_mean

if TYPE_CHECKING:
    from charset_normalizer import CharsetMatch

CHUNK = 1 << 18  # bytes read at a time: with more, the arrays made of them leave the cache of a processor
HEAD = 1 << 16  # bytes from which a file's kind is found
GZIP = b"\x1f\x8b"
MARKS = {  # in this order, because UTF-32's mark begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
UNPACK, SAVE = "unpack it first", "save what it holds as a text file or a CSV in UTF-8"
KINDS = {  # the first bytes of files that people often mistake for text
    b"PK\3\4": ("a zip archive, as .docx, .xlsx, .odt and .epub are", f"{UNPACK}, or {SAVE}"),
    b"%PDF-": ("a PDF", SAVE),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an Office file (.doc, .xls)", SAVE),
    b"{\\rtf": ("a rich text file (.rtf)", SAVE),
    b"SQLite format 3\0": ("a database (SQLite)", SAVE),
    b"\x93NUMPY": ("an array (.npy)", SAVE),
    b"\x89PNG\r\n": ("a picture (PNG)", "text is needed"),
    b"\xff\xd8\xff": ("a picture (JPEG)", "text is needed"),
    b"GIF87a": ("a picture (GIF)", "text is needed"),
    b"GIF89a": ("a picture (GIF)", "text is needed"),
    b"BZh": ("a bzip2 file", UNPACK),
    b"\xfd7zXZ\0": ("an xz file", UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd file", UNPACK),
    b"7z\xbc\xaf'\x1c": ("a 7z archive", UNPACK),
    b"Rar!\x1a\x07": ("a rar archive", UNPACK),
}
# bytes that are quotation marks, dashes, an ellipsis or a no-break space in every Windows code page
TYPOGRAPHIC = frozenset(b"\x82\x84\x85\x91\x92\x93\x94\x95\x96\x97\xa0")
# encodings that are tried for a guess, and by how much rarer ones must fit better
LATIN = {"cp1252": 0, "cp1250": 0.02, "cp1254": 0.02, "iso8859_2": 0.04, "mac_roman": 0.04, "cp1257": 0.08}
CYRILLIC = ("cp1251", "koi8_r", "cp866", "iso8859_5", "mac_cyrillic")
OTHERS = (*CYRILLIC, "cp1253", "cp1255", "cp1256", "gb18030", "big5", "cp932", "euc_jp", "cp949", "cp874")
MIXED = "utf-8+cp1252"  # UTF-8, with cp1252 for bytes that are not UTF-8
SAMPLE = 1 << 15  # bytes of lines that are not ASCII, from which an encoding is guessed
WORD = re.compile(rb"[A-Za-z\x80-\xff]{2,}")
BESIDE = 30  # characters that a message shows on each side of a wrong byte
LINE = 4000  # bytes that are read on each side of it


def read_chunks(path: Path, what: str, encoding: str | None = None) -> Iterator[str]:
    """Read a whole file piece by piece, unchanged. Raises DataError, whose message begins with `what` or a
    flag.
    """
    codec, _ = codec_of(path, what, encoding)
    decoder, end = _decoder(codec), 0
    wide = codecs.lookup(codec.partition("+")[0]).name.startswith(("utf-16", "utf-32"))
    for block in _blocks(path, what):
        if not wide and (nul := block.find(b"\0")) >= 0:
            raise DataError(f"{what} is binary, not text: it has a NUL byte at offset {end + nul:,}")
        held = len(decoder.getstate()[0])  # bytes of a character that began in the previous block
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as e:
            byte, offset = e.object[e.start], end - held + e.start
            raise DataError(_refusal(path, what, codec, byte, offset)) from None
        except UnicodeError as e:  # some codecs don't say where the error is
            raise DataError(f"--encoding={codec}: {what} can't be read in it: {e}") from None
        if wide and "\0" in text:
            raise DataError(f"{what} is binary, not text: read as {codec}, it has a NUL character")
        yield text
        end += len(block)


def read_whole(path: Path, what: str, encoding: str | None = None) -> tuple[str, list[str]]:
    """The text of a file, and a line for a report if it is not plain UTF-8."""
    return "".join(read_chunks(path, what, encoding)), codec_of(path, what, encoding)[1]


def codec_of(path: Path, what: str, encoding: str | None) -> tuple[str, list[str]]:
    """The codec with which `read_chunks` decodes a file, and a line for a report if that is not what one
    would expect. Raises DataError for an --encoding that does not exist, and for a file that is not text.
    """
    head = _head(path, what)
    kinds = (kind for begin, kind in KINDS.items() if head.startswith(begin))
    kind, advice = next(kinds, (None, None))
    if head[257:262] == b"ustar":
        kind, advice = "a tar archive", UNPACK
    if kind is not None:
        raise DataError(f"{what} is {kind}, not text: {advice}")
    if encoding is not None:
        _check(encoding)
        name = codecs.lookup(encoding.partition("+")[0]).name
        if name in MARKS.values() and not head.startswith(tuple(MARKS)):
            raise DataError(
                f"--encoding={encoding}: {what} has no byte order mark: say {name}-le or {name}-be"
            )
        return encoding, _doubt(head, encoding)
    for mark, codec in MARKS.items():
        if head.startswith(mark):
            return codec, [f"read as {codec}: it begins with its byte order mark"]
    for codec, low, high in (("utf-16-le", head[::2], head[1::2]), ("utf-16-be", head[1::2], head[::2])):
        if 0 in high and (text := _plain(head, codec)):
            if high.count(0) > len(high) // 2:  # each Latin letter has a zero byte
                return codec, [f"read as {codec}: every other byte is zero"]
            few_ascii = sum(32 <= byte < 127 or byte in b"\t\n\r" for byte in head) < 0.8 * len(head)
            if 0 not in low and few_ascii:
                line = printable(text.lstrip().partition("\n")[0][: 2 * BESIDE])
                raise DataError(
                    f"{what} is not UTF-8, it may be UTF-16 without its byte order mark: with "
                    f"--encoding={codec} its first line reads “{line}”"
                )
    return "utf-8", []


def printable(text: str) -> str:
    """A text for a message: characters that are invisible or would break the line are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


# ---- bytes ---------------------------------------------------------------------------------------------


def is_packed(path: Path) -> bool:
    """Whether a file is gzipped, whatever its name is."""
    with open(path, "rb") as f:
        return f.read(len(GZIP)) == GZIP


def unpacked_name(path: Path) -> Path:
    """songs.csv for songs.csv.gz."""
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if is_packed(path) else open(path, "rb")


def _blocks(path: Path, what: str) -> Iterator[bytes]:
    """The content of a file in blocks, unpacked; the last block is empty. Raises DataError
    for a damaged .gz.
    """
    with _open(path) as f:
        block = b"-"
        while block:
            try:
                block = f.read(CHUNK)
            except (EOFError, zlib.error, gzip.BadGzipFile) as e:
                raise DataError(f"{what} is a damaged .gz file: {e}") from None
            yield block


def _head(path: Path, what: str) -> bytes:
    head = b""
    for block in _blocks(path, what):
        head += block
        if len(head) >= HEAD:
            break
    return head[:HEAD]


def _plain(head: bytes, codec: str) -> str:
    """The decoded beginning of a file if nearly all its characters are those of a text; else ''."""
    try:
        text = codecs.getincrementaldecoder(codec)().decode(head)
    except UnicodeDecodeError:
        return ""
    plain = sum(c.isprintable() or c.isspace() for c in text)
    return text if plain > 0.95 * len(text) and "\0" not in text else ""


# ---- encodings -----------------------------------------------------------------------------------------


def _of_text(name: str) -> bool:
    """Whether Python has this encoding, and it encodes text; base64, for example, encodes bytes."""
    try:
        codecs.lookup(name)
        bytes(4).decode(name)
    except (LookupError, ValueError, AssertionError):
        return False
    return True


def _check(encoding: str) -> None:
    """Raise DataError unless Python knows the encoding; 'utf-8+cp1252' is UTF-8 with cp1252
    for wrong bytes.
    """
    first, plus, rest = encoding.partition("+")
    for name in [first, rest] if plus else [first]:
        if not _of_text(name):
            known = filter(_of_text, {*aliases, *aliases.values()})
            near = closest(known, name.lower().replace("-", "_"))
            hint = did_you_mean(near and near.replace("_", "-"))
            raise DataError(f"--encoding={encoding}: no encoding of text is called {name!r}{hint}")
    if plus and codecs.lookup(first).name != "utf-8":
        raise DataError(f"--encoding={encoding}: only utf-8 can come before the +")


def _decoder(codec: str, errors: str = "strict") -> codecs.IncrementalDecoder:
    """The decoder of an encoding; that of 'utf-8+cp1252' reads each byte that is not UTF-8 as cp1252."""
    first, plus, rest = codec.partition("+")
    if not plus:
        return codecs.getincrementaldecoder(codec)(errors)

    def single(error: UnicodeDecodeError) -> tuple[str, int]:
        try:
            return error.object[error.start : error.end].decode(rest, errors), error.end
        except UnicodeDecodeError:
            raise error from None  # the first error, which knows where it is

    codecs.register_error(f"{rest} {errors}", single)
    return codecs.getincrementaldecoder(first)(f"{rest} {errors}")


def _doubt(head: bytes, encoding: str) -> list[str]:
    """A line for a report if --encoding is probably wrong, because the file looks like UTF-8, which does not
    happen by accident.
    """
    if codecs.lookup(encoding.partition("+")[0]).name.startswith("utf"):
        return []
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return []
    doubtful = sum(ord(c) > 127 for c in text) > 3
    return [f"read as {encoding}, as asked, though it seems to be UTF-8"] if doubtful else []


# ---- what is refused, and what is offered ----------------------------------------------------------------


@dataclass(frozen=True)
class _Tally:
    """What a file contains besides ASCII when it is read as UTF-8."""

    right: int  # number of characters
    wrong: int  # number of bytes that are not UTF-8
    kinds: bytes  # these bytes, each once
    sample: bytes  # the first lines that are not ASCII


def _tally(path: Path, what: str) -> _Tally:
    right, wrong, kinds, sample = 0, 0, set(), b""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # byte 0x92 becomes U+DC92
    for block in _blocks(path, what):
        text = decoder.decode(block, final=not block)
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        escaped = (codes >= 0xDC80) & (codes <= 0xDCFF)
        wrong += int(escaped.sum())
        right += int((codes > 127).sum()) - int(escaped.sum())
        kinds |= {int(code) - 0xDC00 for code in np.unique(codes[escaped])}
        if len(sample) < SAMPLE:
            sample += b"".join(line for line in block.splitlines(keepends=True) if not line.isascii())
    return _Tally(right, wrong, bytes(sorted(kinds)), sample[:SAMPLE])


def _place(path: Path, what: str, offset: int) -> tuple[int, bytes, bytes]:
    """The place of a byte: its line, counted from 1; the part of the line before it; and
    the part from it on.
    """
    done, newlines, returns, before, behind = 0, 0, 0, b"", b""
    for block in _blocks(path, what):
        cut = min(max(offset - done, 0), len(block))
        newlines, returns = newlines + block.count(b"\n", 0, cut), returns + block.count(b"\r", 0, cut)
        before = (before + block[:cut])[-LINE:]
        behind += block[cut : cut + LINE]
        done += len(block)
        if len(behind) >= LINE:
            break
    start = max(before.rfind(b"\n"), before.rfind(b"\r")) + 1
    return 1 + (newlines or returns), before[start:], behind.partition(b"\n")[0].partition(b"\r")[0]


def _refusal(path: Path, what: str, codec: str, byte: int, offset: int) -> str:
    """The message that a file cannot be read with `codec`, with an --encoding that works, if one is found."""
    line, before, behind = _place(path, what, offset)
    where = f"byte 0x{byte:02x} at offset {offset:,}, in line {line:,}"
    utf_8 = "+" not in codec and codecs.lookup(codec).name == "utf-8"
    refused = f"{what} is not {'UTF-8' if utf_8 else codec} ({where})"
    tally = _tally(path, what)
    if not tally.wrong:
        return f"{refused}, but it is UTF-8: leave --encoding out"
    if utf_8 and tally.right > tally.wrong:  # the wrong bytes usually come from Windows
        some = "one byte is wrong" if tally.wrong == 1 else f"{tally.wrong:,} bytes are wrong, the first"
        refused = f"{what} is UTF-8, but {some} ({where})"
        offer, guess = MIXED if _legible(tally.kinds) else None, ""
    else:
        guesses = (name for name in _guesses(tally) if name != codec)
        offer = next((name for name in guesses if _reads(path, what, name)), None)
        guess = f" and may be {offer}"
    if offer is None:
        return f"{refused}; say what it is with --encoding, as in --encoding=cp1252, or repair the file"
    read = _decoder(offer, "replace").decode(before)[-BESIDE:]
    read += _decoder(offer, "replace").decode(behind)[:BESIDE]
    return f"{refused}{guess}; with --encoding={offer} that line reads “{printable(read)}”"


def _legible(kinds: bytes) -> bool:
    """Whether all these bytes are printable characters in cp1252."""
    try:
        return all(c.isprintable() or c.isspace() for c in kinds.decode("cp1252"))
    except UnicodeDecodeError:
        return False


def _reads(path: Path, what: str, encoding: str) -> bool:
    """Whether the whole file can be read with this encoding."""
    decoder = _decoder(encoding)
    try:
        for block in _blocks(path, what):
            decoder.decode(block, final=not block)
    except UnicodeError:
        return False
    return True


def _guesses(tally: _Tally) -> list[str]:
    """Encodings that fit the lines that are not ASCII, the best first."""
    from charset_normalizer import from_bytes

    if TYPOGRAPHIC.issuperset(tally.kinds):
        return ["cp1252"]
    words = [word for word in WORD.findall(tally.sample) if not word.isascii()]
    n_high = sum(byte > 127 for word in words for byte in word)
    latin = n_high < 0.7 * sum(map(len, words))  # words in Latin letters have only a few accents
    tried = LATIN if latin else {name: i / 1000 for i, name in enumerate(OTHERS)}
    matches = list(from_bytes(tally.sample, threshold=0.5, cp_isolation=list(tried), enable_fallback=False))
    fits = [(match, name) for match in matches for name in match.could_be_from_charset if name in tried]

    def rank(fit: tuple[CharsetMatch, str]) -> tuple[bool, float]:
        match, name = fit
        in_pairs = match.multi_byte_usage > 0.3 and match.chaos < 0.05  # this does not happen by accident
        return not in_pairs, match.chaos - match.coherence / 4 + tried[name]

    return [name.replace("_", "-") for _, name in sorted(fits, key=rank)]
