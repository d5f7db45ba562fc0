"""Output works on every terminal: a character that its encoding lacks is replaced, and never an error."""

import codecs
import io
import os
import sys
import unicodedata

PLAIN = {"−": "-", "–": "-", "×": "x", "·": ".", "±": "+-", "…": "...", "→": "->", "↔": "<->"}
PLAIN |= {"≤": "<=", "≥": ">=", "≈": "~", "²": "^2", "°": " deg", "β": "beta", "σ": "sigma"}
PLAIN |= {"“": '"', "”": '"', "‘": "'", "’": "'"}


def _replaced(error: UnicodeError) -> tuple[bytes, int]:
    """What stands for characters that can't be written: a plain word, a letter without its mark, else '?'.

    Bytes of file names that are no text on this machine stay as they are, as with `ls`.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    written = []
    for c in error.object[error.start : error.end]:
        if "\udc80" <= c <= "\udcff":  # how Python holds such a byte
            written.append(bytes([ord(c) - 0xDC00]))
        elif c in PLAIN:
            written.append(PLAIN[c].encode("ascii"))
        else:
            written.append(unicodedata.normalize("NFD", c).encode("ascii", "ignore") or b"?")
    return b"".join(written), error.end


codecs.register_error("replaced", _replaced)


def readable(text: str) -> str:
    """`text` as every UTF-8 file takes it: bytes that Python holds as half characters are read as UTF-8."""
    return text.encode(errors="replaced").decode(errors="replace")


def file_name(text: str) -> str:
    """`text` as a name that files can have in this machine's locale."""
    encoding = sys.getfilesystemencoding()
    return text.encode(encoding, "replaced").decode(encoding)


def argument(text: str) -> bytes:
    """`text` as an argument of a program; in UTF-8 where the locale has no such character."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode(errors="replaced")


def replace_unwritable() -> None:
    """From now on nothing printed by this process is refused by stdout or stderr for its characters."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a test or a notebook may have put something else there
            stream.reconfigure(errors="replaced")
