"""Which answers are wrong, and how: exact match by subset, kinds of mistakes, maps of where they are.

For research/seq2seq_arith.py and its tasks. Whether an answer is right is decided from its text; the kind of
a mistake, from its number. Shapes: N queries, A characters of an answer; ids as in data/arithmetic.py, never
reversed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data import arithmetic
from data.arithmetic import OPERATORS, Queries, values_of
from research.draw.charts import chart

KINDS = {  # what each kind counts; a wrong answer belongs to the first kind that fits
    "no_number": "nothing, a minus or a blank within, a leading zero, an operator",
    "sign": "the right number with the wrong sign",
    "off_by_one": "1 more or less",
    "off_by_ten": "10, 100, 1,000 … more or less, whether or not there is a carry",
    "length": "none of these, and another number of digits",
    "leading_digit": "none of these, and only the first digit is wrong",
    "other": "anything else",
}
NAMES = {"+": "add", "-": "subtract", "*": "multiply"}
SIGNS = {"+": "+", "-": "−", "*": "×"}
NOT_ASKED = "#9fb4c0"
CELLS = 100  # cells along each side of a map, at most: with three digits a cell is ten operands wide


def carries(queries: Queries) -> Tensor:
    """How many columns of each sum carry, or of each difference (larger minus smaller) borrow; int64 (N,).

    −1 for products, which have no such columns.
    """
    x, y = torch.maximum(queries.a, queries.b), torch.minimum(queries.a, queries.b)
    count, over = torch.zeros_like(x), torch.zeros_like(x)
    adds = queries.op == OPERATORS.index("+")
    while x.any() or y.any():
        u, v = x % 10, y % 10
        over = torch.where(adds, u + v + over >= 10, u - v - over < 0).long()
        count += over
        x, y = x // 10, y // 10
    return torch.where(queries.op == OPERATORS.index("*"), -1, count)


def kinds_of(ids: Tensor, queries: Queries, alphabet: str) -> Tensor:
    """The kind of mistake of answers ids (N, A), as its index in KINDS, or −1 if right; int64 (N,)."""
    given, is_number = values_of(ids, alphabet)
    true, off = queries.answer, (given - queries.answer).abs()
    digits, true_digits = (_n_digits(v) for v in (given, true))
    power = 10 ** (true_digits - 1)
    tens = 10 ** torch.arange(1, 1 + queries.tgt.shape[1], device=ids.device)
    tests = (
        ~is_number,
        given == -true,
        off == 1,
        (off[:, None] == tens).any(1),
        digits != true_digits,
        (given.abs() % power == true.abs() % power) & ((given < 0) == (true < 0)),
        torch.ones_like(is_number),
    )
    found = torch.stack(tests).int().argmax(0)  # the first test that is true
    return torch.where((ids == queries.tgt).all(1), -1, found)


def _n_digits(values: Tensor) -> Tensor:
    tens = 10 ** torch.arange(1, 10, device=values.device)
    return 1 + (values.abs()[:, None] >= tens).sum(1)


def figures(ids: Tensor, queries: Queries, alphabet: str, part: str) -> dict[str, float]:
    """Exact match and share of right characters of answers ids (N, A); keys as in docs/METRICS.md."""
    right = ids == queries.tgt
    return {
        f"{part}/exact_match": right.all(1).double().mean().item(),
        f"{part}/char_accuracy": right.double().mean().item(),
    }


def breakdown(ids: Tensor, queries: Queries, alphabet: str, part: str) -> dict[str, float]:
    """Exact match of answers ids (N, A) by operator, by length of the answer, and with and without a carry or
    borrow; the share of each kind of mistake among all queries. Keys as in docs/METRICS.md.
    """
    right = (ids == queries.tgt).all(1)
    carried, length = carries(queries), (queries.tgt != alphabet.index(arithmetic.BLANK)).sum(1)
    groups = {f"exact_{NAMES[op]}": queries.op == OPERATORS.index(op) for op in OPERATORS if op in alphabet}
    groups |= {f"exact_length_{n}": length == n for n in range(1, 1 + ids.shape[1])}
    groups |= {"exact_carry": carried > 0, "exact_no_carry": carried == 0}
    metrics = {f"{part}/{name}": right[of].double().mean().item() for name, of in groups.items() if of.any()}
    kinds = kinds_of(ids, queries, alphabet)
    shares = torch.bincount(kinds + 1, minlength=len(KINDS) + 1)[1:].double() / len(ids)
    return metrics | {f"{part}/mistakes_{k}": v for k, v in zip(KINDS, shares.tolist(), strict=True)}


def table(ids: Tensor, queries: Queries, alphabet: str, rows: Sequence[int]) -> list[dict[str, str]]:
    """For each of these rows, the query, the answer, what the model says, and the kind of mistake."""
    kinds, named, out = kinds_of(ids, queries, alphabet), names(), []
    for row in rows:
        kind = int(kinds[row])
        out.append(
            {
                "query": f"{queries.a[row]}{OPERATORS[queries.op[row]]}{queries.b[row]}",
                "answer": arithmetic.decode(queries.tgt[row], alphabet),
                "model": arithmetic.decode(ids[row], alphabet),
                "mistake": "" if kind < 0 else named[kind],
            }
        )
    return out


def names() -> list[str]:
    """The names of KINDS as they are shown, without underscores."""
    return [kind.replace("_", " ") for kind in KINDS]


def percent(n: int, of: int) -> str:
    """A share in per cent, with enough decimals that it is not rounded to 0 or to 100."""
    share, decimals = 100 * n / of, 1
    while 0 < n < of and float(f"{share:.{decimals}f}") in (0, 100):
        decimals += 1
    return f"{share:.{decimals if 0 < n < of else 0}f} %"


def score(right: Tensor) -> str:
    """How many are right, from booleans (N,): '9,952 of 9,992 right (99.6 %)'."""
    n, of = int(right.sum()), len(right)
    return f"{n:,} of {of:,} right ({percent(n, of)})"


def told(row: dict[str, str]) -> str:
    """A row of `table` in one line: '83-25 = 60, not 58'."""
    said = f"{row['query']} = {row['model'] or '?'}"
    return said + (f", not {row['answer']}" if row["mistake"] else "")


@dataclass(frozen=True)
class Map:
    """Where one operator's queries are right. shares: share right in each cell, float64 (C, C) over a (rows)
    and b, NaN where there is no query; score: how many of all queries are right, in words.
    """

    shares: np.ndarray
    score: str


def maps(right: Tensor, queries: Queries, digits: int) -> dict[str, Map]:
    """The map of each operator that occurs. right: bool (N,); digits: the most digits that an operand has."""
    side = min(CELLS, 10**digits)
    cell = 10**digits // side
    out = {}
    for op in OPERATORS:
        of = queries.op == OPERATORS.index(op)
        if not of.any():
            continue
        place = (queries.a[of] // cell) * side + queries.b[of] // cell
        n, n_right = (
            torch.bincount(place, weights=w, minlength=side * side)
            for w in (torch.ones(len(place)).double(), right[of].double())
        )
        out[op] = Map((n_right / n).view(side, side).numpy(), score(right[of]))  # 0 / 0 is NaN
    return out


def map_picture(by_op: dict[str, Map], digits: int, about: str) -> np.ndarray:
    """The maps side by side, uint8 (H, W, 3): dark where answers are wrong, grey where no query was asked.

    about: the end of each title.
    """
    one_query = 10**digits <= CELLS  # each cell has one query, which is right or wrong

    def draw(ax, op: str) -> None:
        from matplotlib import colormaps
        from matplotlib.patches import Patch

        colours = {"vmin": 0, "vmax": 1, "cmap": "magma", "interpolation": "nearest"}
        place = {"origin": "lower", "extent": (0, 10**digits, 0, 10**digits)}
        image = ax.imshow(np.ma.masked_invalid(by_op[op].shares), **colours, **place)
        ax.set_facecolor(NOT_ASKED)
        ax.set(xlabel="b", ylabel="a")
        legend = {"not in the test part": NOT_ASKED}
        if one_query:
            legend = {"right": colormaps["magma"](1.0), "wrong": colormaps["magma"](0.0)} | legend
        else:
            ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03, label="share right")
        patches = [
            Patch(facecolor=colour, edgecolor="#666666", label=name) for name, colour in legend.items()
        ]
        ax.figure.legend(
            handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9
        )

    made = []
    for op, found in by_op.items():
        title = f"a {SIGNS[op]} b: {found.score}; {about}"
        made.append(chart(4.4, 4.4, title, lambda ax, op=op: draw(ax, op)))
    return np.concatenate(made, 1)
