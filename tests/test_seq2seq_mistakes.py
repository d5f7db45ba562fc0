"""Kinds of mistakes by example, which one counts if several fit, carries, and maps of where mistakes are."""

import operator

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from data import arithmetic
from data.arithmetic import OPERATORS, Queries
from research.parts import seq2seq_mistakes
from research.parts.seq2seq_mistakes import (
    KINDS,
    Map,
    breakdown,
    carries,
    figures,
    kinds_of,
    map_picture,
    maps,
    names,
    percent,
    score,
    table,
    told,
)

ALPHABET = "0123456789+-* "
APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def queries_of(*texts: str, digits: int = 2, alphabet: str = ALPHABET) -> Queries:
    ops = "".join(op for op in OPERATORS if op in alphabet)
    a, op, b = zip(*(arithmetic.parse(text, ops, digits) for text in texts))
    a, b, op = (torch.tensor(v).numpy() for v in (a, b, [OPERATORS.index(o) for o in op]))
    answer = arithmetic.compute(a, b, op)
    src = arithmetic.write_queries(a, b, op, digits, alphabet)
    tgt = arithmetic.write_answers(answer, ops, digits, alphabet)
    return Queries(*map(torch.from_numpy, (a, b, op, answer, src, tgt)))


def ids_of(*texts: str, width: int = 4, alphabet: str = ALPHABET) -> torch.Tensor:
    return torch.tensor([arithmetic.encode(text.ljust(width), alphabet) for text in texts])


def kind(query: str, answer: str) -> str:
    (found,) = kinds_of(ids_of(answer), queries_of(query), ALPHABET).tolist()
    return "right" if found < 0 else [*KINDS][found]


# ---- kinds ---------------------------------------------------------------------------------------------

EXAMPLES = {
    "right": [("81+24", "105"), ("41-89", "-48"), ("5-5", "0"), ("99*99", "9801")],
    "no_number": [
        ("81+24", ""),
        ("81+24", "-"),
        ("81+24", "1 5"),
        ("81+24", "1-5"),
        ("81+24", "10+5"),
        ("81+24", " 105"),
        ("5-5", "-0"),
        ("41-89", "--48"),
        ("41-89", "-4 8"),
    ],
    "sign": [("41-89", "48"), ("89-41", "-48"), ("1+1", "-2")],
    "off_by_one": [("81+24", "104"), ("81+24", "106"), ("41-89", "-47"), ("41-89", "-49"), ("5-5", "-1")],
    "off_by_ten": [
        ("81+24", "115"),
        ("0+20", "10"),
        ("0+20", "30"),
        ("81+24", "205"),
        ("99*99", "8801"),
        ("41-89", "-58"),
        ("5-5", "-100"),
    ],
    "length": [("81+24", "15"), ("81+24", "1805"), ("41-89", "-8"), ("2*3", "66"), ("5-5", "23")],
    "leading_digit": [("81+24", "305"), ("24+24", "78"), ("41-89", "-98"), ("99*99", "1801"), ("2+3", "9")],
    "other": [("81+24", "123"), ("24+24", "63"), ("41-89", "-84"), ("41-89", "78"), ("2+3", "-9")],
}


def test_every_kind_has_an_example():
    assert set(EXAMPLES) == {"right", *KINDS}


@pytest.mark.parametrize(
    ("expected", "query", "answer"), [(name, *case) for name, cases in EXAMPLES.items() for case in cases]
)
def test_kinds(expected, query, answer):
    assert kind(query, answer) == expected


@pytest.mark.parametrize(
    ("first", "second", "query", "answer"),
    [
        ("no_number", "right", "24+24", "048"),  # the number that it should be, but for its leading zero
        ("no_number", "sign", "24+24", "-048"),
        ("no_number", "off_by_one", "24+24", "047"),
        ("sign", "off_by_ten", "2+3", "-5"),  # 10 less
        ("sign", "off_by_ten", "25+25", "-50"),  # 100 less
        ("off_by_one", "length", "99+1", "99"),
        ("off_by_one", "leading_digit", "2+3", "6"),
        ("off_by_one", "other", "5-5", "-1"),
        ("off_by_ten", "length", "81+24", "5"),
        ("off_by_ten", "length", "81+24", "95"),
        ("off_by_ten", "leading_digit", "24+24", "58"),
        ("off_by_ten", "other", "2-3", "9"),
        ("length", "leading_digit", "24+24", "248"),
    ],
)
def test_of_two_kinds_that_fit_the_first_counts(first, second, query, answer):
    """`second` is the kind that it would have without `first`."""
    assert kind(query, answer) == first
    assert [*KINDS].index(first) < [*KINDS, "right"].index(second)


def test_kinds_of_many_at_once():
    cases = [(name, *case) for name, some in EXAMPLES.items() for case in some]
    expected, queries, answers = zip(*cases)
    found = kinds_of(ids_of(*answers), queries_of(*queries), ALPHABET).tolist()
    assert [[*KINDS][k] if k >= 0 else "right" for k in found] == [*expected]


def test_an_answer_is_right_where_its_number_is():
    """Every text of two characters for one query: only the one that spells the answer is right."""
    ids = torch.cartesian_prod(torch.arange(13), torch.arange(13))
    alphabet = "0123456789+- "
    some = queries_of(*["7-3"] * len(ids), digits=1, alphabet=alphabet)
    right = torch.where(kinds_of(ids, some, alphabet) < 0)[0]
    assert [arithmetic.decode(ids[row], alphabet) for row in right] == ["4"] and len(right) == 1


# ---- carries -------------------------------------------------------------------------------------------


def carries_by_hand(a: int, op: str, b: int) -> int:
    """As at school: digit by digit from the right."""
    if op == "*":
        return -1
    x, y = (a, b) if a > b else (b, a)
    count = over = 0
    for u, v in zip(reversed(f"{x:04d}"), reversed(f"{y:04d}")):
        column = int(u) + int(v) + over if op == "+" else int(u) - int(v) - over
        over = int(column > 9 or column < 0)
        count += over
    return count


def test_carries_of_all_queries_of_two_digits():
    splits = arithmetic.load("+-*", 2, 0.5)
    for queries in (splits.train, splits.val, splits.test):
        columns = zip(queries.a.tolist(), queries.op.tolist(), queries.b.tolist())
        assert carries(queries).tolist() == [carries_by_hand(a, OPERATORS[op], b) for a, op, b in columns]


def test_known_carries():
    cases = {
        "81+24": 1,
        "55+55": 2,
        "99+1": 2,
        "11+22": 0,
        "90+10": 1,
        "41-89": 0,
        "91-89": 1,
        "50-1": 1,
        "1-50": 1,
        "7*8": -1,
        "0+0": 0,
        "0-0": 0,
        "12-12": 0,
    }
    assert carries(queries_of(*cases)).tolist() == [*cases.values()]
    long = {"999+1": 3, "500-1": 2, "1-500": 2, "105+905": 2}
    assert carries(queries_of(*long, digits=3)).tolist() == [*long.values()]


# ---- figures -------------------------------------------------------------------------------------------


def guesses(part: Queries, alphabet: str, seed: int = 0) -> torch.Tensor:
    """The true answers, most of them spoilt by a random character, a sign, a step, a carry,
    or all of these.
    """
    rng = np.random.default_rng(seed)
    texts = []
    for answer in part.answer.tolist():
        spoil = rng.integers(0, 8)
        text = str(answer + (0, 0, 1, -1, 10, -100, 0, rng.integers(-99, 99))[spoil])
        if spoil == 6:
            text = str(-answer)
        if spoil == 1:
            place = rng.integers(0, part.tgt.shape[1])
            text = text.ljust(place)
            text = text[:place] + alphabet[rng.integers(0, len(alphabet))] + text[place + 1 :]
        text = text if "-" in alphabet else text.replace("-", "")
        texts.append(text[: part.tgt.shape[1]])
    return ids_of(*texts, width=part.tgt.shape[1], alphabet=alphabet)


@pytest.mark.parametrize("ops", ["+", "+-", "+-*"])
def test_figures_and_breakdown_equal_a_recount(ops):
    splits = arithmetic.load(ops, 2, 0.9)
    test, alphabet = splits.test, splits.alphabet
    ids = guesses(test, alphabet)
    shares = figures(ids, test, alphabet, "test") | breakdown(ids, test, alphabet, "test")
    groups: dict[str, list[bool]] = {}
    characters = []
    for row, (a, op, b) in enumerate(zip(test.a.tolist(), test.op.tolist(), test.b.tolist())):
        op = OPERATORS[op]
        answer = str(APPLY[op](a, b))
        right = ids[row].tolist() == arithmetic.encode(answer.ljust(ids.shape[1]), alphabet)
        names = [f"length_{len(answer)}", {"+": "add", "-": "subtract", "*": "multiply"}[op], "match"]
        if op != "*":
            names.append("carry" if carries_by_hand(a, op, b) else "no_carry")
        for name in names:
            groups.setdefault(f"test/exact_{name}", []).append(right)
        characters += [i == j for i, j in zip(ids[row].tolist(), test.tgt[row].tolist())]
    expected = {name: sum(some) / len(some) for name, some in groups.items()}
    expected["test/char_accuracy"] = sum(characters) / len(characters)
    kinds = {name: value for name, value in shares.items() if name.startswith("test/mistakes_")}
    assert [*kinds] == [f"test/mistakes_{name}" for name in KINDS]
    assert {name: value for name, value in shares.items() if name not in kinds} == pytest.approx(expected)
    assert sum(kinds.values()) + shares["test/exact_match"] == pytest.approx(1)
    found = kinds_of(ids, test, alphabet).tolist()
    assert list(kinds.values()) == pytest.approx([found.count(k) / len(ids) for k in range(len(KINDS))])
    assert all(value > 0 for value in kinds.values()) or ops == "+"  # the guesses make all kinds of mistakes


def test_known_figures():
    some = queries_of("1+1", "9+1", "3-5", "5-3")
    shares = breakdown(ids_of("2", "11", "-2", "-2"), some, ALPHABET, "val")
    assert {k: v for k, v in shares.items() if v} == {
        "val/exact_add": 0.5,
        "val/exact_subtract": 0.5,
        "val/exact_length_1": 0.5,
        "val/exact_length_2": 0.5,
        "val/exact_no_carry": 2 / 3,
        "val/mistakes_sign": 0.25,
        "val/mistakes_off_by_one": 0.25,
    }
    assert shares["val/exact_carry"] == 0 and "val/exact_multiply" not in shares
    assert not {"val/exact_length_3", "val/exact_length_4"} & set(
        shares
    )  # no such answer: no figure, not NaN
    assert figures(ids_of("2", "11", "-2", "-2"), some, ALPHABET, "val") == {
        "val/exact_match": 0.5,
        "val/char_accuracy": 13 / 16,
    }


def test_all_right_and_all_wrong():
    test = arithmetic.load("+-", 1, 0.5).test
    alphabet = "0123456789+- "
    shares = breakdown(test.tgt, test, alphabet, "test")
    assert {v for k, v in shares.items() if "exact" in k} == {1} and {*shares.values()} == {0, 1}
    nothing = torch.full(test.tgt.shape, alphabet.index(" "))
    shares = breakdown(nothing, test, alphabet, "test")
    assert shares["test/mistakes_no_number"] == 1 and sum(shares.values()) == 1


# ---- what is shown -------------------------------------------------------------------------------------


def test_the_table():
    some = queries_of("81+24", "41-89", "7*8")
    rows = table(ids_of("105", "-47", "5"), some, ALPHABET, [2, 0, 1])
    assert rows == [
        {"query": "7*8", "answer": "56", "model": "5", "mistake": "length"},
        {"query": "81+24", "answer": "105", "model": "105", "mistake": ""},
        {"query": "41-89", "answer": "-48", "model": "-47", "mistake": "off by one"},
    ]
    assert [told(row) for row in rows] == ["7*8 = 5, not 56", "81+24 = 105", "41-89 = -47, not -48"]
    (ten,) = table(ids_of("10"), queries_of("0+20"), ALPHABET, [0])
    assert ten["mistake"] == "off by ten" in names()  # no column of it carries
    assert [name.replace(" ", "_") for name in names()] == [*KINDS]
    (empty,) = table(ids_of(""), queries_of("0+20"), ALPHABET, [0])
    assert told(empty) == "0+20 = ?, not 20"


def test_maps_of_known_queries():
    found = maps(torch.tensor([True, False, False]), queries_of("81+24", "24+81", "0-99"), 2)
    assert [*found] == ["+", "-"] and all(m.shares.shape == (100, 100) for m in found.values())
    sums, differences = (m.shares for m in found.values())
    assert sums[81, 24] == 1 and sums[24, 81] == 0 and differences[0, 99] == 0
    assert np.isnan(sums).sum() == 9998 and np.isnan(differences).sum() == 9999


def test_each_map_tells_its_own_score():
    right = torch.tensor([True, False, True, True])
    found = maps(right, queries_of("81+24", "24+81", "0+20", "0-99"), 2)
    assert {op: m.score for op, m in found.items()} == {
        "+": "2 of 3 right (66.7 %)",
        "-": "1 of 1 right (100 %)",
    }


def test_no_share_is_rounded_to_none_or_all():
    assert [percent(*n) for n in ((0, 7), (7, 7), (1, 3), (1999, 2000))] == [
        "0 %",
        "100 %",
        "33.3 %",
        "99.95 %",
    ]
    assert percent(1_899_959, 1_900_000) == "99.998 %" and percent(1, 1_900_000) == "0.0001 %"
    assert score(torch.tensor([True] * 1999 + [False])) == "1,999 of 2,000 right (99.95 %)"


def test_maps_of_one_and_of_three_digits():
    (found,) = maps(torch.tensor([True]), queries_of("3*7", digits=1), 1).values()
    assert found.shares.shape == (10, 10) and found.shares[3, 7] == 1
    cell = queries_of("120+457", "129+450", "123+455", "130+457", digits=3)  # three in one cell of 10 × 10
    (found,) = maps(torch.tensor([True, False, True, False]), cell, 3).values()
    assert found.shares.shape == (100, 100) and found.shares[12, 45] == pytest.approx(2 / 3)
    assert found.shares[13, 45] == 0 and np.isnan(found.shares).sum() == 9998


def test_the_picture_of_maps():
    test = arithmetic.load("+-", 1, 0.5).test
    right, wrong = (
        {op: Map(m.shares, "") for op, m in maps(torch.full((len(test),), value), test, 1).items()}
        for value in (True, False)
    )
    bright, dark = (map_picture(shares, 1, "about").astype(int) for shares in (right, wrong))
    assert bright.shape == dark.shape and bright.shape[2] == 3 and bright.shape[1] > 1.8 * bright.shape[0]
    changed = (bright != dark).any(2)  # the cells that were asked, and no others
    assert (bright[changed].mean() > 200) and (dark[changed].mean() < 40)
    for picture in (bright, dark):
        assert (picture == (0x9F, 0xB4, 0xC0)).all(2).sum() > 0.2 * changed.sum()  # grey: not asked
    half = changed.shape[1] // 2
    assert changed[:, :half].sum() == pytest.approx(changed[:, half:].sum(), rel=0.02) and changed.any()


@pytest.mark.parametrize("digits", [1, 3])
def test_the_picture_says_what_its_colours_are_and_whose_its_figures(monkeypatch, digits):
    seen = {}

    def chart(width, height, title, draw):
        ax = Figure().add_subplot()
        draw(ax)
        words = [text.get_text() for text in ax.figure.legends[0].get_texts()]
        seen[title] = words, [bar.get_ylabel() for bar in ax.figure.axes[1:]]
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(seq2seq_mistakes, "chart", chart)
    some = queries_of("1+2", "2+1", "1-2", digits=digits)
    map_picture(maps(torch.tensor([True, False, True]), some, digits), digits, "a model")
    told = {
        1: (["right", "wrong", "not in the test part"], []),
        3: (["not in the test part"], ["share right"]),
    }
    assert seen == {
        "a + b: 1 of 2 right (50.0 %); a model": told[digits],
        "a − b: 1 of 1 right (100 %); a model": told[digits],
    }


def test_rows_of_the_picture_are_a_from_the_bottom():
    """a points upwards, b to the right: what is right for a = 9, b = 0 is bright at the upper left."""
    shares = np.zeros((10, 10))
    plain = map_picture({"+": Map(shares, "")}, 1, "about").astype(int)
    shares[9, 0] = 1
    y, x = np.nonzero((map_picture({"+": Map(shares, "")}, 1, "about").astype(int) != plain).any(2))
    assert y.max() < plain.shape[0] / 3 and x.max() < plain.shape[1] / 3 and len(y) > 100
