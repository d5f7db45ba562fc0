"""Lets output work on every terminal: a character that the terminal's encoding lacks is replaced."""

import codecs
import io
import os
import sys
import unicodedata

PLAIN = {"−": "-", "–": "-", "×": "x", "·": ".", "±": "+-", "…": "...", "→": "->", "↔": "<->"}
PLAIN |= {"≤": "<=", "≥": ">=", "≈": "~", "²": "^2", "°": " deg", "β": "beta", "σ": "sigma"}
PLAIN |= {"“": '"', "”": '"', "‘": "'", "’": "'"}


def _replaced(error: UnicodeError) -> tuple[bytes, int]:
    """The replacement of characters that can't be written: a plain form, a letter without its accent, else
    '?'.

    Bytes of file names that are not text on this machine stay as they are, as with `ls`.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    written = []
    for c in error.object[error.start : error.end]:
        if "\udc80" <= c <= "\udcff":  # Python represents such a byte so
            written.append(bytes([ord(c) - 0xDC00]))
        elif c in PLAIN:
            written.append(PLAIN[c].encode("ascii"))
        else:
            written.append(unicodedata.normalize("NFD", c).encode("ascii", "ignore") or b"?")
    return b"".join(written), error.end


codecs.register_error("replaced", _replaced)


def readable(text: str) -> str:
    """`text` in a form that can be written as UTF-8: bytes that Python keeps as surrogates
    are read as UTF-8.
    """
    return text.encode(errors="replaced").decode(errors="replace")


def file_name(text: str) -> str:
    """`text` as a valid file name in this machine's locale."""
    encoding = sys.getfilesystemencoding()
    return text.encode(encoding, "replaced").decode(encoding)


def argument(text: str) -> bytes:
    """`text` as an argument for a program; in UTF-8 if the locale lacks one of its characters."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode(errors="replaced")


def replace_unwritable() -> None:
    """From now on, stdout and stderr of this process replace characters that they can't write."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a test or a notebook may have put something else there
            stream.reconfigure(errors="replaced")
