"""Turns characters into ids; before that, changes a text as flags say.

torch is imported where it is used. Shapes: T characters, V = len(alphabet).
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from data import DataError
from data.names import closest, did_you_mean

if TYPE_CHECKING:
    import torch

FORMS = ("NFC", "NFD", "NFKC", "NFKD")
SCRIPTS = (  # suggested in messages; any script that begins Unicode's name of a letter is allowed
    "latin",
    "greek",
    "cyrillic",
    "armenian",
    "georgian",
    "hebrew",
    "arabic",
    "ethiopic",
    "devanagari",
    "bengali",
    "tamil",
    "telugu",
    "thai",
    "khmer",
    "hangul",
    "hiragana",
    "katakana",
    "cjk",
)

PIECE = 1 << 20  # characters that are decoded at a time, since they take 16 times the memory of the text

# ---- characters and ids --------------------------------------------------------------------------------


def encode(text: str, alphabet: str) -> torch.Tensor:
    """The ids of a text's characters, (T,), uint8 or int32 as in TextSplits. Raises DataError for unknown
    ones.
    """
    import torch

    return torch.from_numpy(_checked_ids(text, alphabet).astype(dtype_of(alphabet)))


def decode(ids: torch.Tensor | np.ndarray | list[int], alphabet: str) -> str:
    """The text that ids (T,), on any device, stand for."""
    places, codes = np.asarray(ids.cpu() if hasattr(ids, "cpu") else ids), _codes(alphabet)
    pieces = (places[i : i + PIECE].astype(np.int64) for i in range(0, len(places), PIECE))
    return "".join(codes[some].tobytes().decode("utf-32-le", "surrogatepass") for some in pieces)


def unknown(text: str, alphabet: str) -> list[str]:
    """Those characters of a text that the alphabet lacks, each once, in code point order."""
    return sorted(set(text) - set(alphabet))


def char_to_one_hot(char: str, alphabet: str) -> np.ndarray:
    """The one-hot code of a character, uint8 (V,): 1 at its id and 0 elsewhere. DataError: it is unknown."""
    assert len(char) == 1, f"one character is wanted, not {len(char)}"
    return one_hot(char, alphabet)[0]


def one_hot(text: str, alphabet: str) -> np.ndarray:
    """The one-hot codes of the characters of a text, uint8 (T, V). Raises DataError for unknown ones."""
    ids = _checked_ids(text, alphabet)
    rows = np.zeros((len(ids), len(alphabet)), np.uint8)
    rows[np.arange(len(ids)), ids] = 1
    return rows


def shown(char: str) -> str:
    """A character for messages, where it might be invisible: 'é' U+00E9."""
    return f"{char!r} U+{ord(char):04X}"


def _checked_ids(text: str, alphabet: str) -> np.ndarray:
    ids = ids_of(text, alphabet)
    if (ids < 0).any():
        lacking = unknown(text, alphabet)
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise DataError(
            f"{', '.join(map(shown, lacking[:5]))}{more} not among the {len(alphabet)} characters known"
        )
    return ids


def ids_of(text: str, alphabet: str) -> np.ndarray:
    """The index in the alphabet of each character, int64 (T,); -1 for characters that it lacks."""
    codes = _codes(alphabet)
    table = np.full(int(codes.max(initial=0)) + 2, -1)
    table[codes] = np.arange(len(codes))
    return table[np.minimum(_codes(text), len(table) - 1)]


def _codes(text: str) -> np.ndarray:
    # surrogatepass: bytes that the command line could not decode are surrogates, and thus unknown
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def dtype_of(alphabet: str) -> str:
    """The dtype of ids: uint8 if it is large enough, else int32."""
    return "|u1" if len(alphabet) <= 256 else "<i4"


# ---- pieces ----------------------------------------------------------------------------------------------


def whole(chunks: Iterable[str], ends: str, last: str) -> Iterator[str]:
    """The text of `chunks` in pieces that each end with one of the characters `ends`. `last` is added to the
    last piece if it does not end so. Without `ends`, the chunks are returned as they are.
    """
    held: list[str] = []
    for chunk in chunks:
        end = max((chunk.rfind(char) for char in ends), default=len(chunk) - 1) + 1
        if end:
            yield "".join([*held, chunk[:end]])
            held = []
        held.append(chunk[end:])
    if rest := "".join(held):
        yield rest + last


# ---- cleaning ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cleaning:
    """The flags that change a text, in the order in which they act. Raises DataError for
    impossible values.
    """

    normalize: str | None = None  # a Unicode form, one of FORMS
    lower: bool = False  # whether to turn the text into lower case
    scripts: str | None = None  # 'latin,greek': letters of other scripts are removed; other characters stay
    min_count: int = 1  # characters rarer than this are removed

    def __post_init__(self) -> None:
        if self.normalize and self.normalize not in FORMS:
            raise DataError(f"--normalize={self.normalize}: must be one of {', '.join(FORMS)}")
        if self.min_count < 1:
            raise DataError(f"--min_count={self.min_count}: must be at least 1")
        if self.scripts:
            _letters_of(self.scripts)

    @property
    def steps(self) -> dict[str, Callable[[str], str]]:
        """Flag -> the function by which it rewrites a text, for flags that need characters in context."""
        steps: dict[str, Callable[[str], str]] = {}
        if self.normalize:
            steps[f"--normalize={self.normalize}"] = partial(unicodedata.normalize, self.normalize)
        if self.lower:
            steps["--lower"] = str.lower
        return steps

    def rewrite(self, text: str) -> str:
        """The text after those steps. The other flags remove characters, which the alphabet then lacks."""
        for step in self.steps.values():
            text = step(text)
        return text

    def survey(self, pieces: Iterable[str], what: str, mark: str) -> tuple[str, list[str]]:
        """Count the characters of a text that is not rewritten yet; returns the alphabet that remains, and a
        report.

        what: the text's name in messages. mark: the character that ends sequences, or ''; it always remains,
        however rare it is. Raises DataError if nothing remains.
        """
        steps, report = self.steps, []
        tallies = [np.zeros(sys.maxunicode + 1, np.int64) for _ in range(len(steps) + 1)]
        for text in pieces:
            _count(tallies[0], text)
            for step, tally in zip(steps.values(), tallies[1:]):
                text = step(text)
                _count(tally, text)
        if not tallies[0].any():
            raise DataError(f"{what} is empty")
        for flag, before, after in zip(steps, tallies, tallies[1:]):
            report.append(f"{flag}: {_in_words(np.maximum(before - after, 0), 'replaced')}")
        tally = tallies[-1]
        if self.scripts:
            gone, stays = np.zeros_like(tally), _letters_of(self.scripts)
            for code in np.flatnonzero(tally):
                gone[code] = 0 if stays(chr(code)) else tally[code]
            report.append(f"--scripts={self.scripts}: {_in_words(gone, 'removed')}")
            tally = tally - gone
        if self.min_count > 1:
            gone = np.where(tally < self.min_count, tally, 0)
            gone[[ord(c) for c in mark]] = 0
            report.append(f"--min_count={self.min_count}: {_in_words(gone, 'removed')}")
            if set(np.flatnonzero(tally - gone)) <= set(map(ord, mark)):
                raise DataError(
                    f"--min_count={self.min_count} removes every character of {what}: the most frequent, "
                    f"{shown(chr(tally.argmax()))}, is there {tally.max():,} times"
                )
            tally = tally - gone
        for char, name in (("\ufeff", "byte order marks (U+FEFF)"), ("\r", r"carriage returns (\r)")):
            if n := tally[ord(char)]:
                report.append(f"{n:,} {name} are in the text and stay")
        return "".join(chr(code) for code in np.flatnonzero(tally)), report


def _count(tally: np.ndarray, text: str) -> None:
    counts = np.bincount(_codes(text))
    tally[: len(counts)] += counts


def _in_words(gone: np.ndarray, verb: str) -> str:
    codes = np.flatnonzero(gone)
    codes = codes[np.argsort(-gone[codes], kind="stable")]
    if not len(codes):
        return f"nothing {verb}"
    most = [f"{shown(chr(code))} ×{gone[code]:,}" for code in codes[:10]]
    if len(codes) > 10:
        most.append("…")
    return f"{gone.sum():,} characters of {len(codes):,} kinds {verb}: {', '.join(most)}"


def _letters_of(scripts: str) -> Callable[[str], bool]:
    """A function that says whether a character stays: if it is not a letter (or a mark on one), or if it is a
    letter of these scripts.

    Unicode's names of letters begin with their script. Compatibility forms count as what they stand for: µ is
    Greek. Raises DataError for a script with which no letter's name begins.
    """
    names = [name.strip().upper().replace("_", " ") for name in scripts.split(",")]
    for name in names:
        begin = re.compile(rf"{re.escape(name)}\b")
        letters = (c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c)[0] == "L")
        if not name or not any(begin.match(unicodedata.name(c, "")) for c in letters):
            hint = did_you_mean(closest(SCRIPTS, name.lower()))
            hint = hint or f"; known are {', '.join(SCRIPTS)} and others"
            raise DataError(f"--scripts={scripts}: no script is called {name.lower()!r}{hint}")
    names += ["IDEOGRAPHIC"] if "CJK" in names else []
    names += ["MODIFIER LETTER", "COMBINING", "VARIATION SELECTOR"]  # these belong to no script
    begin = re.compile(rf"({'|'.join(map(re.escape, names))})\b")

    def stays(char: str) -> bool:
        if unicodedata.category(char)[0] not in "LM":
            return True
        forms = char, unicodedata.normalize("NFKC", char)[0]
        return any(begin.match(unicodedata.name(form, "")) for form in forms)

    return stays


# ---- words ---------------------------------------------------------------------------------------------

MARKS = "\u0300-\u036f\u064b-\u065f\u0900-\u0963\u0966-\u0e4f"  # accents and vowel signs, not part of \w
WORD = re.compile(rf"[^\W_](?:[^\W_]|[{MARKS}]|'(?=[^\W_]))*")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters and digits, which may have apostrophes inside."""
    return WORD.findall(text.lower().replace("\u2019", "'"))
