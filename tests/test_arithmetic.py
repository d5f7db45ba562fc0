"""Arithmetic as text: every query once, parts that share no pair, text and numbers that agree."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import DataError
from data.arithmetic import (
    BLANK,
    MOST_VAL,
    OPERATORS,
    PARTS,
    answer_width,
    compute,
    decode,
    encode,
    load,
    load_arrays,
    parse,
    query_width,
    reverse,
    values_of,
    write_answers,
    write_queries,
)

ALPHABET = "0123456789+- "
SIGN = {op: i for i, op in enumerate(OPERATORS)}


def ids_of(*texts: str, width: int, alphabet: str = ALPHABET) -> torch.Tensor:
    return torch.tensor([encode(text.ljust(width), alphabet) for text in texts], dtype=torch.uint8)


def texts_of(ids: torch.Tensor, alphabet: str = ALPHABET) -> list[str]:
    """The text of ids with their trailing blanks, unlike `decode`."""
    return ["".join(alphabet[i] for i in row) for row in ids.tolist()]


# ---- as text -------------------------------------------------------------------------------------------


def test_known_queries_and_answers():
    cases = [("81+24", "105"), ("41-89", "-48"), ("7+0", "7  "), ("0-0", "0  "), ("9-10", "-1 ")]
    cases += [("99+99", "198"), ("10-0", "10 "), ("0-99", "-99"), ("0+10", "10 ")]
    a, op, b = zip(*(parse(query, "+-", 2) for query, _ in cases))
    a, op, b = (torch.tensor(v).numpy() for v in (a, [SIGN[o] for o in op], b))
    src = torch.from_numpy(write_queries(a, b, op, 2, ALPHABET))
    tgt = torch.from_numpy(write_answers(compute(a, b, op), "+-", 2, ALPHABET))
    assert texts_of(src) == [query.ljust(5) for query, _ in cases]
    assert texts_of(tgt) == [answer for _, answer in cases]
    assert src.dtype == tgt.dtype == torch.uint8
    assert encode("81+24", ALPHABET) == [8, 1, 10, 2, 4] and encode("-4 8 ", ALPHABET) == [11, 4, 12, 8, 12]
    assert decode(torch.tensor([11, 4, 12, 8, 12]), ALPHABET) == "-4 8" and decode(tgt[2], ALPHABET) == "7"


def test_columns_of_known_queries():
    cases = [("81+24", "81+24"), ("7+0", " 7+ 0"), ("4-89", " 4-89"), ("10-9", "10- 9"), ("0+10", " 0+10")]
    a, op, b = zip(*(parse(query, "+-", 2) for query, _ in cases))
    a, op, b = (torch.tensor(v).numpy() for v in (a, [SIGN[o] for o in op], b))
    assert texts_of(torch.from_numpy(write_queries(a, b, op, 2, ALPHABET, columns=True))) == [
        t for _, t in cases
    ]


@pytest.mark.parametrize("digits", [1, 2])
def test_columns_change_where_queries_stand_and_nothing_else(digits):
    plain, columns = (load("+-*", digits, 0.3, columns=c) for c in (False, True))
    for part in PARTS:
        one, two = getattr(plain, part), getattr(columns, part)
        assert torch.equal(one.tgt, two.tgt) and torch.equal(one.a, two.a) and torch.equal(one.b, two.b)
        queries = [f"{a:>{digits}}{OPERATORS[op]}{b:>{digits}}" for a, op, b in zip(two.a, two.op, two.b)]
        assert texts_of(two.src, columns.alphabet) == queries
    assert (plain.content_hash == columns.content_hash) == (digits == 1)  # one digit has nothing to align


def test_widths_are_those_of_the_longest():
    assert [query_width(n) for n in (1, 2, 3)] == [3, 5, 7]
    for ops in ("+", "-", "*", "+-", "+-*"):
        for digits in (1, 2, 3):
            most = 10**digits - 1
            answers = {"+": most + most, "-": -most, "*": most * most}
            assert answer_width(ops, digits) == max(len(str(answers[op])) for op in ops)


def test_a_character_that_is_not_in_the_alphabet():
    with pytest.raises(DataError, match=re.escape("'*' is not in '0123456789+- '")):
        encode("1*2", ALPHABET)


@pytest.mark.parametrize(("ops", "digits"), [("+-*", 1), ("+-*", 2), ("-", 2), ("*+", 1)])
def test_the_text_is_what_python_says(ops, digits):
    splits = load(ops, digits, 0.5)
    for part in PARTS:
        queries = getattr(splits, part)
        columns = zip(
            queries.src,
            queries.tgt,
            queries.a.tolist(),
            queries.op.tolist(),
            queries.b.tolist(),
            queries.answer.tolist(),
            strict=True,
        )
        for src, tgt, a, op, b, answer in columns:
            query = decode(src, splits.alphabet)
            assert query == f"{a}{OPERATORS[op]}{b}"  # no blank before or within
            assert decode(tgt, splits.alphabet) == str(eval(query)) == str(answer)
        value, fine = values_of(queries.tgt, splits.alphabet)
        assert fine.all() and torch.equal(value, queries.answer)


def test_reversed_known_values():
    cases = {"105": "501", "-48": "84-", "7  ": "7  ", "12 ": "21 ", "1 2": "2 1", "   ": "   ", "10 ": "01 "}
    assert texts_of(reverse(ids_of(*cases, width=3), ALPHABET)) == list(cases.values())


@given(st.data(), st.integers(1, 7), st.sampled_from([ALPHABET, "0123456789* "]))
@settings(max_examples=150, deadline=None)
def test_reversed_twice_is_as_it_was(data, width, alphabet):
    """This must hold for whatever a model writes: if two answers became the same, a wrong one could count as
    right.
    """
    row = st.lists(st.integers(0, len(alphabet) - 1), min_size=width, max_size=width)
    ids = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=5)))
    once = reverse(ids, alphabet)
    assert torch.equal(reverse(once, alphabet), ids)
    for before, after in zip(texts_of(ids, alphabet), texts_of(once, alphabet)):
        if not before.startswith(BLANK):  # as every answer
            assert after == before.rstrip()[::-1].ljust(width)


@pytest.mark.parametrize("ops", ["+", "+-", "*", "+-*"])
def test_what_is_a_number_of_all_texts(ops):
    """Compared with a regular expression, for every text of three characters."""
    alphabet = "0123456789" + ops + BLANK
    ids = torch.cartesian_prod(*3 * [torch.arange(len(alphabet), dtype=torch.uint8)])
    value, fine = values_of(ids, alphabet)
    for text, found, is_one in zip(texts_of(ids, alphabet), value.tolist(), fine.tolist()):
        number = re.fullmatch(r"(0|-?[1-9][0-9]*) *", text)
        assert is_one == bool(number), text
        assert not number or found == int(number[1]), text


def test_numbers_that_are_known():
    cases = {"105": 105, "-48": -48, "0": 0, "-9": -9, "9999": 9999, "-100": -100}
    value, fine = values_of(ids_of(*cases, width=4).long(), ALPHABET)
    assert fine.all() and value.tolist() == list(cases.values())
    no = ["-0", "05", "00", "-07", "1 5", " 15", "-", "", "--5", "5-", "1+1", "+1", "- 5", "-5 1"]
    assert not values_of(ids_of(*no, width=4), ALPHABET)[1].any()


# ---- queries that are typed ----------------------------------------------------------------------------


def test_parse():
    assert parse("81+24", "+-", 2) == (81, "+", 24) and parse("41-89", "+-", 2) == (41, "-", 89)
    assert parse("007*1", "*", 3) == (7, "*", 1) and parse("0-0", "-", 1) == (0, "-", 0)


@pytest.mark.parametrize(
    ("query", "op"),
    [
        ("81−24", "-"),  # U+2212, the minus sign
        ("81–24", "-"),
        ("81—24", "-"),
        ("81‐24", "-"),
        ("81－24", "-"),
        ("81＋24", "+"),
        ("81×24", "*"),
        ("81·24", "*"),
    ],
    ids=ascii,
)
def test_operators_as_they_are_typed_elsewhere_are_read(query, op):
    assert parse(query, "+-*", 2) == (81, op, 24)
    with pytest.raises(DataError, match="is not a query: it must be two numbers"):  # where the model lacks it
        parse(query, "+-*".replace(op, ""), 2)


@pytest.mark.parametrize(
    "query",
    [
        "81*24",
        "123+1",
        "1+123",
        "1+",
        "+1",
        "1 + 2",
        "",
        "-1+2",
        "1+-2",
        "1+2\n",
        "٣+١",
        "²+1",
        "−1+2",
        "81±24",
        "81−−24",
        "８１+24",
        "1+2+3",
        "12",
    ],
)
def test_what_is_no_query_is_refused_in_one_line(query):
    with pytest.raises(DataError) as refusal:
        parse(query, "+-", 2)
    message = str(refusal.value)
    assert message.startswith(
        f"{query!r} is not a query: it must be two numbers of at most 2 digits with one of + - "
    )
    assert message.endswith("'99+1'") and "\n" not in message
    with pytest.raises(DataError, match=r"at most 1 digit with one of \* between them, as in '9\*1'"):
        parse(query, "*", 1)


# ---- parts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ops", "digits", "fraction"),
    [("+", 1, 0.5), ("-+", 1, 0.9), ("+-", 2, 0.05), ("*", 2, 0.5), ("+-*", 2, 0.99), ("*", 3, 0.3)],
)
def test_every_query_is_in_one_part_and_no_pair_in_two(ops, digits, fraction):
    alphabet, parts = load_arrays(ops, digits, fraction)
    n, n_pairs = 10**digits, 10**digits * (10**digits + 1) // 2
    assert alphabet == "0123456789" + "".join(op for op in "+-*" if op in ops) + " " and [*parts] == [*PARTS]
    seen = torch.zeros(3 * n * n, dtype=torch.int64)
    pairs = {}
    for part, arrays in parts.items():
        a, b, op = map(torch.from_numpy, arrays)
        seen += torch.bincount((op * n + a) * n + b, minlength=len(seen))
        pairs[part] = torch.bincount(torch.minimum(a, b) * n + torch.maximum(a, b), minlength=n * n) > 0
    asked = torch.zeros(3, dtype=torch.int64)
    asked[[SIGN[op] for op in ops]] = 1
    assert torch.equal(seen, asked.repeat_interleave(n * n))
    assert sum(p.long() for p in pairs.values()).max() == 1
    counts = {part: int(p.sum()) for part, p in pairs.items()}
    n_train = round(fraction * n_pairs)
    assert counts["train"] + counts["val"] == n_train and counts["test"] == n_pairs - n_train
    assert counts["val"] == min(max(1, n_train // 20), MOST_VAL) and 1 <= counts["val"] <= 1000
    assert digits < 3 or counts["val"] == MOST_VAL


def test_parts_are_random_and_in_random_order():
    """If a part had its operators or its pairs in blocks, batches would be of one kind."""
    splits = load("+-", 2, 0.5)
    for part in (splits.train, splits.val, splits.test):
        n = len(part)
        for value, expected in ((part.op, 0.5), (part.a / 99, 0.5), (part.b / 99, 0.5)):
            for rows in (slice(0, n // 2), slice(n // 2, n)):
                assert value[rows].double().mean() == pytest.approx(expected, abs=3 * 0.5 / math.sqrt(n / 2))
        runs = 1 + (part.op[1:] != part.op[:-1]).sum()
        assert runs == pytest.approx(n / 2, rel=0.15)


def test_a_larger_share_has_the_same_val_and_test_pairs_no_more():
    """The parts of two shares are cut from one order: with a larger share, training only gains and test only
    loses.
    """
    small, large = (load_arrays("+", 2, fraction)[1] for fraction in (0.25, 0.5))

    def pairs(parts, *names):
        return {(min(p), max(p)) for name in names for p in zip(*(v.tolist() for v in parts[name][:2]))}

    assert pairs(small, "train", "val") < pairs(large, "train", "val")
    assert pairs(large, "test") < pairs(small, "test")


def test_the_content_hash():
    known = load("+-", 2, 0.5)
    assert (known.name, known.content_hash) == ("2-digit +-", "7ce4fc0e174e4467")
    assert [len(part) for part in (known.train, known.val, known.test)] == [9510, 498, 9992]
    others = [load("+", 2, 0.5), load("+-*", 2, 0.5), load("+-", 1, 0.5), load("+-", 2, 0.25)]
    hashes = {s.content_hash for s in (known, *others)}
    assert len(hashes) == 5 and load("+-", 2, 0.5).content_hash in hashes
    assert load("-+", 2, 0.5).content_hash == known.content_hash  # the same queries
    assert torch.equal(load("+-", 2, 0.5).train.src, known.train.src)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("", 2, 0.5), r"--ops=: must be some of \+-\*, each once"),
        (("++", 2, 0.5), r"--ops=\+\+: must be some of \+-\*, each once"),
        (("+/", 2, 0.5), r"--ops=\+/: must be some of \+-\*, each once"),
        (("+", 0, 0.5), r"--digits=0: must be from 1 to 3"),
        (("+", 4, 0.5), r"--digits=4: must be from 1 to 3"),
        (("+", 2, 0.0), r"--train_fraction=0.0: must lie between 0 and 1"),
        (("+", 2, 1.0), r"--train_fraction=1.0: must lie between 0 and 1"),
        (("+", 2, -0.5), r"--train_fraction=-0.5: must lie between 0 and 1"),
        (("+", 2, math.nan), r"--train_fraction=nan: must lie between 0 and 1"),
        (("+", 1, 0.02), r"--train_fraction=0.02: it leaves a part without any of the 55 pairs"),
        (("+", 1, 0.999), r"--train_fraction=0.999: it leaves a part without any of the 55 pairs"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(flags, message):
    with pytest.raises(DataError, match=f"^{message}$"):
        load(*flags)


def test_the_smallest_share_that_can_be():
    splits = load("+", 1, 2 / 55)  # one pair to learn from, one for val
    assert {len(splits.train), len(splits.val)} <= {1, 2} and len(splits.test) >= 96
