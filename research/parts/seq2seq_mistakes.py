"""Which answers are wrong, and how: exact match in parts, kinds of mistakes, maps of them.

For research/seq2seq_arith.py and its tasks. Answers are compared as text, kinds of mistakes as numbers.
Shapes: N queries, A characters of an answer; ids as in data/arithmetic.py, never reversed.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data import arithmetic
from data.arithmetic import OPERATORS, Queries, values_of
from research.draw.charts import chart

# what each kind means is told by docs/METRICS.md; an answer is of the first that fits
KINDS = ("no_number", "sign", "off_by_one", "carry", "length", "leading_digit", "other")
NAMES = {"+": "add", "-": "subtract", "*": "multiply"}
CELLS = 100  # of a map along each side: with three digits a cell is ten operands


def carries(queries: Queries) -> Tensor:
    """Columns of each sum that carry, of each difference (smaller from larger) that borrow; int64 (N,).

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
    """For answers ids (N, A): −1 where right, else the place in KINDS; int64 (N,)."""
    given, is_number = values_of(ids, alphabet)
    true, off = queries.answer, (given - queries.answer).abs()
    digits, true_digits = (_n_digits(v) for v in (given, true))
    power = 10 ** (true_digits - 1)
    tens = 10 ** torch.arange(1, 1 + queries.tgt.shape[1], device=ids.device)
    tests = (
        ~is_number,
        given == -true,
        off == 1,
        (off[:, None] == tens).any(1),  # exactly one column has one too many or too few
        digits != true_digits,
        (given.abs() % power == true.abs() % power) & ((given < 0) == (true < 0)),
        torch.ones_like(is_number),
    )
    found = torch.stack(tests).int().argmax(0)  # the first that is true
    return torch.where((ids == queries.tgt).all(1), -1, found)


def _n_digits(values: Tensor) -> Tensor:
    tens = 10 ** torch.arange(1, 10, device=values.device)
    return 1 + (values.abs()[:, None] >= tens).sum(1)


def figures(ids: Tensor, queries: Queries, alphabet: str, part: str) -> dict[str, float]:
    """Exact match and characters right of answers ids (N, A); keys as in docs/METRICS.md."""
    right = ids == queries.tgt
    return {
        f"{part}/exact_match": right.all(1).double().mean().item(),
        f"{part}/char_accuracy": right.double().mean().item(),
    }


def breakdown(ids: Tensor, queries: Queries, alphabet: str, part: str) -> dict[str, float]:
    """Exact match by operator, by length of the answer, with and without a carry or borrow; the share of all
    queries that has each kind of mistake; keys as in docs/METRICS.md.
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
    """Query, answer, what the model says, and the kind of mistake, of some rows."""
    kinds, out = kinds_of(ids, queries, alphabet), []
    for row in rows:
        kind = int(kinds[row])
        out.append(
            {
                "query": f"{queries.a[row]}{OPERATORS[queries.op[row]]}{queries.b[row]}",
                "answer": arithmetic.decode(queries.tgt[row], alphabet),
                "model": arithmetic.decode(ids[row], alphabet),
                "mistake": "" if kind < 0 else KINDS[kind].replace("_", " "),
            }
        )
    return out


def maps(right: Tensor, queries: Queries, digits: int) -> dict[str, np.ndarray]:
    """Per operator the share of right answers, float64 (C, C), over a (rows) and b; NaN where no query is."""
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
        out[op] = (n_right / n).view(side, side).numpy()  # 0 / 0 is NaN
    return out


def map_picture(shares: dict[str, np.ndarray], digits: int, about: str) -> np.ndarray:
    """The maps side by side, uint8 (H, W, 3): dark where answers are wrong, grey where no query was asked."""

    def draw(ax, op: str) -> None:
        colours = {"vmin": 0, "vmax": 1, "cmap": "magma", "interpolation": "nearest"}
        place = {"origin": "lower", "extent": (0, 10**digits, 0, 10**digits)}
        image = ax.imshow(np.ma.masked_invalid(shares[op]), **colours, **place)
        ax.set_facecolor("#9fb4c0")
        ax.set(xlabel="b", ylabel="a")
        ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03, label="share right")

    signs = {"+": "+", "-": "−", "*": "×"}
    made = [chart(4.4, 3.9, f"a {signs[op]} b, {about}", lambda ax, op=op: draw(ax, op)) for op in shares]
    return np.concatenate(made, 1)
