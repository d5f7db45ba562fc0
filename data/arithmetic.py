"""Arithmetic as text: every query of two integers and its answer, '81+24' and '105'.

    splits = load("+-", digits=2, train_fraction=0.5)
    splits.train.src, splits.train.tgt                  # uint8 (9510, 5), (9510, 3): ids of characters
    decode(splits.train.src[0], splits.alphabet)        # '81+24'

The split is by unordered pairs of operands: all queries of a and b, in either order and with every operator,
are in the same part. So no test query can be answered only because a+b was learned and b+a is asked.
torch is imported where it is used.
Shapes: N queries, Q = 2 · digits + 1 characters of a query, A characters of an answer, V = len(alphabet).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data import DataError

if TYPE_CHECKING:
    import torch

PARTS = ("train", "val", "test")
PIPELINE = 1  # part of every content hash: raise it when the text or the split changes
OPERATORS = "+-*"
BLANK = " "
TYPED = {  # other characters that people type or paste for an operator
    "+": "\uff0b\ufe62\u2795",
    "-": "\u2212\u2010\u2011\u2012\u2013\u2014\u2015\ufe63\uff0d\u2796",  # the minus sign, dashes, wide ones
    "*": "\u00d7\u2217\u22c5\u00b7\uff0a\u2715\u2716",
}
MOST_DIGITS = 3  # with 4 there are 100 million ordered pairs, too many to enumerate
MOST_VAL = 1000  # pairs of operands in val, at most: enough to choose by


@dataclass(frozen=True)
class Queries:
    """Queries and their answers: as numbers, int64 (N,), and as ids of characters, uint8,
    padded with blanks.
    """

    a: torch.Tensor
    b: torch.Tensor
    op: torch.Tensor  # index in `OPERATORS`
    answer: torch.Tensor
    src: torch.Tensor  # (N, Q)
    tgt: torch.Tensor  # (N, A)

    def __len__(self) -> int:
        return len(self.a)


@dataclass(frozen=True)
class ArithmeticSplits:
    """All queries in three parts, each in random order."""

    name: str  # short, for titles ('2-digit +-')
    content_hash: str  # 16 hex digits, from the queries of each part
    alphabet: str  # digits, operators, blank; a character's id is its index
    train: Queries
    val: Queries
    test: Queries


def load(ops: str, digits: int, train_fraction: float, columns: bool = False) -> ArithmeticSplits:
    """All queries a∘b with a, b of at most `digits` digits and ∘ in `ops`; the parts are always the same.

    train_fraction: share of the unordered pairs {a, b} in train and val together; val is a 20th of these, at
    least one pair and at most MOST_VAL. columns: as in `write_queries`. Raises DataError for other operators,
    too many digits, or an empty part.
    """
    import torch

    alphabet, parts = load_arrays(ops, digits, train_fraction)
    sha = hashlib.sha256(f"{PIPELINE}\n{alphabet}".encode())
    queries = {}
    for part, (a, b, op) in parts.items():
        answer = compute(a, b, op)
        src = write_queries(a, b, op, digits, alphabet, columns)
        tgt = write_answers(answer, ops, digits, alphabet)
        sha.update(f"\n{part} {len(a)}\n".encode() + src.tobytes() + tgt.tobytes())
        queries[part] = Queries(*map(torch.from_numpy, (a, b, op, answer, src, tgt)))
    return ArithmeticSplits(f"{digits}-digit {ops}", sha.hexdigest()[:16], alphabet, **queries)


def load_arrays(
    ops: str, digits: int, train_fraction: float
) -> tuple[str, dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Like `load`, without torch. Returns the alphabet, and part → (a, b, operator), each int64 (N,)."""
    if not ops or len(set(ops)) < len(ops) or set(ops) - set(OPERATORS):
        raise DataError(f"--ops={ops}: must be some of {OPERATORS}, each once")
    if not 1 <= digits <= MOST_DIGITS:
        raise DataError(f"--digits={digits}: must be from 1 to {MOST_DIGITS}")
    if not 0 < train_fraction < 1:
        raise DataError(f"--train_fraction={train_fraction}: must lie between 0 and 1")
    first, second = np.triu_indices(10**digits)  # every pair once, the smaller before the larger
    # RandomState, because numpy promises never to change its stream
    shuffled = np.random.RandomState(0).permutation(len(first))
    n_train = round(train_fraction * len(first))
    n_val = min(max(1, n_train // 20), MOST_VAL)
    if n_train <= n_val or n_train == len(first):
        raise DataError(
            f"--train_fraction={train_fraction}: it leaves a part without any of the {len(first):,} pairs"
        )
    cuts = np.split(shuffled, [n_train - n_val, n_train])
    codes = np.array([OPERATORS.index(op) for op in sorted(ops, key=OPERATORS.index)])
    parts = {}
    for part, pairs in zip(PARTS, cuts, strict=True):
        x, y = first[pairs], second[pairs]
        other = x != y
        a, b = np.concatenate((x, y[other])), np.concatenate((y, x[other]))
        op = np.tile(codes, len(a))
        a, b = np.repeat(a, len(codes)), np.repeat(b, len(codes))
        order = np.random.RandomState(1).permutation(len(a))
        parts[part] = a[order], b[order], op[order]
    return alphabet_of(ops), parts


def alphabet_of(ops: str) -> str:
    """The alphabet of queries and answers with these operators: digits, operators, blank."""
    return "0123456789" + "".join(op for op in OPERATORS if op in ops) + BLANK


def compute(a: np.ndarray, b: np.ndarray, op: np.ndarray) -> np.ndarray:
    """The answers (N,) of a∘b, where op (N,) is the operator's index in OPERATORS."""
    return np.choose(op, (a + b, a - b, a * b))


# ---- as text -------------------------------------------------------------------------------------------


def query_width(digits: int) -> int:
    """The number of characters of the longest query, Q."""
    return 2 * digits + 1


def answer_width(ops: str, digits: int) -> int:
    """The number of characters of the longest answer, A: with two digits 198 or -99, with products 9801."""
    return max(2 * digits if op == "*" else digits + 1 for op in ops)


def write_queries(
    a: np.ndarray, b: np.ndarray, op: np.ndarray, digits: int, alphabet: str, columns: bool = False
) -> np.ndarray:
    """Ids (N, Q) of 'a∘b', followed by blanks: '1+24 '. columns: blanks come before each operand instead,
    ' 1+24', so that the operator and every power of ten always have the same place.
    """
    out = np.full((len(a), query_width(digits)), alphabet.index(BLANK), np.uint8)
    powers = 10 ** np.arange(1, digits)
    if columns:  # as many blanks as a number has fewer digits than `digits`
        blanks_a, blanks_b = ((v[:, None] < powers).sum(1) for v in (a, b))
    else:
        blanks_a = blanks_b = np.zeros(len(a), np.int64)
    end = _write(out, a, blanks_a)
    code = np.array([max(alphabet.find(char), 0) for char in OPERATORS], np.uint8)
    out[np.arange(len(a)), end] = code[op]
    _write(out, b, end + 1 + blanks_b)
    return out


def write_answers(answer: np.ndarray, ops: str, digits: int, alphabet: str) -> np.ndarray:
    """Ids (N, A) of numbers, with '-' before negative ones, followed by blanks."""
    out = np.full((len(answer), answer_width(ops, digits)), alphabet.index(BLANK), np.uint8)
    negative = answer < 0
    if negative.any():
        out[negative, 0] = alphabet.index("-")
    _write(out, np.abs(answer), negative.astype(np.int64))
    return out


def _write(out: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Write numbers ≥ 0 (N,) into the rows of `out` (N, T) from column `at` (N,) on; returns the columns
    after them, (N,).
    """
    tens = 10 ** np.arange(1, out.shape[1] + 1)
    n = 1 + (values[:, None] >= tens).sum(1)  # digits of each
    rows = np.arange(len(out))
    for k in range(n.max(initial=0)):
        has = k < n
        out[rows[has], at[has] + k] = values[has] // 10 ** (n[has] - 1 - k) % 10  # a digit's id is itself
    return at + n


def encode(text: str, alphabet: str) -> list[int]:
    """Ids of the characters of `text`. Raises DataError, which names a character that the alphabet lacks."""
    for char in text:
        if char not in alphabet:
            raise DataError(f"{char!r} is not in {alphabet!r}")
    return [alphabet.index(char) for char in text]


def decode(ids: torch.Tensor, alphabet: str) -> str:
    """The text of ids (T,), without trailing blanks."""
    return "".join(alphabet[i] for i in ids.tolist()).rstrip(BLANK)


def reverse(ids: torch.Tensor, alphabet: str) -> torch.Tensor:
    """ids (N, A) with the characters of each row in reverse order; trailing blanks stay at the end.

    '105' ↔ '501', '-48' ↔ '84-'; reversing twice changes nothing. Blanks between other characters are
    reversed with them. A row that begins with a blank is not an answer, and stays as it is.
    """
    return ids.gather(1, reversed_places(ids, alphabet))


def reversed_places(ids: torch.Tensor, alphabet: str) -> torch.Tensor:
    """The places, int64 (N, A), from which `reverse` takes each character."""
    import torch

    place = torch.arange(ids.shape[1], device=ids.device)
    filled = ids != alphabet.index(BLANK)
    n = torch.where(filled, place + 1, 0).amax(1, keepdim=True)  # length without trailing blanks
    n = torch.where(filled[:, :1], n, 0)
    return torch.where(place < n, n - 1 - place, place)


def values_of(ids: torch.Tensor, alphabet: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers, int64 (N,), that the rows of ids (N, A) spell, and which rows spell one, bool (N,).

    A number is an optional '-', then digits without a leading zero (0 itself is a number, -0 is not), then
    blanks.
    """
    import torch

    minus = alphabet.find("-")
    n = ((ids != alphabet.index(BLANK)) * torch.arange(1, ids.shape[1] + 1, device=ids.device)).amax(1)
    negative = (ids[:, 0] == minus) & (minus >= 0)
    first = negative.long()
    value, valid = torch.zeros_like(n), n > first  # at least one digit
    for t in range(ids.shape[1]):
        here = (t >= first) & (t < n)
        valid &= ~here | (ids[:, t] < 10)
        value = torch.where(here, 10 * value + ids[:, t].clamp(max=9), value)
    leading = ids.gather(1, first[:, None])[:, 0] == 0
    valid &= ~leading | ((n == 1) & ~negative)
    return torch.where(negative, -value, value), valid


def parse(query: str, ops: str, digits: int) -> tuple[int, str, int]:
    """The operands and the operator of a query; the operator may be any character of TYPED. Raises DataError,
    which says what is allowed.
    """
    plain = query.translate({ord(char): op for op, chars in TYPED.items() for char in chars})
    found = re.fullmatch(rf"(\d{{1,{digits}}})([{re.escape(ops)}])(\d{{1,{digits}}})", plain, re.ASCII)
    if found is None:
        most = "1 digit" if digits == 1 else f"{digits} digits"
        raise DataError(
            f"{query!r} is not a query: it must be two numbers of at most {most} "
            f"with one of {' '.join(ops)} between them, as in '{'9' * digits}{ops[0]}1'"
        )
    return int(found[1]), found[2], int(found[3])
