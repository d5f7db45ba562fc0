"""Characters as pictures: digits from one part only, operators that are drawn anew, black blanks."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from data import DataError, digits
from data.glyphs import SLANTS, Glyphs, classes, load, strokes, varied

pytestmark = pytest.mark.usefixtures("one_thread")

ALPHABET = "0123456789+-* "
PLUS, MINUS, TIMES, BLANK = range(10, 14)


@pytest.fixture(scope="module")
def data():
    return digits.load("digits", "nowhere")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_stored(x: torch.Tensor) -> list[bytes]:
    """float (N, 28, 28) as the bytes of stored pictures; only of what comes from them without a loss."""
    stored = x.mul(255).round().byte()
    assert torch.equal(stored.float() / 255, x)
    return [picture.numpy().tobytes() for picture in stored]


def drawn(character: int, n: int = 200, seed: int = 0) -> torch.Tensor:
    """n pictures (n, 28, 28) of one operator."""
    return strokes(n, SLANTS[ALPHABET[character]], rng(seed))


def test_shapes_and_range(data):
    ids = torch.randint(0, 14, (40, 5), generator=rng(), dtype=torch.uint8)
    x = Glyphs(data, "train", "cpu").draw(ids, ALPHABET, rng())
    assert x.shape == (40, 5, 28, 28) and x.dtype == torch.float32
    assert x.min() == 0 and 0.9 < x.max() <= 1
    ink = x.amax((2, 3))
    assert (ink[ids == BLANK] == 0).all() and (ink[ids != BLANK] > 0.5).all()


@pytest.mark.parametrize("part", digits.PARTS)
def test_digits_are_pictures_of_their_own_part_and_class(data, part):
    images, labels = getattr(data, part), getattr(data, f"{part}_labels")
    for digit in range(10):
        own = {picture.numpy().tobytes() for picture in images[labels == digit]}
        ids = torch.full((200, 6), digit)
        seen = set(as_stored(Glyphs(data, part, "cpu").draw(ids, ALPHABET, rng(digit)).flatten(0, 1)))
        assert seen <= own
        assert len(seen) == len(own) or (part == "train" and len(seen) > 0.99 * len(own))  # none left out


def test_characters_do_not_depend_on_their_place(data):
    """Each character of a row is drawn by itself, and is at the place of its id."""
    glyphs = Glyphs(data, "train", "cpu")
    ids = torch.tensor([[3, PLUS, 3, BLANK, 7]]).repeat(50, 1)
    x = glyphs.draw(ids, ALPHABET, rng())
    labels = {p.numpy().tobytes(): int(k) for p, k in zip(data.train, data.train_labels)}
    read = [[labels[p] for p in as_stored(row[[0, 2, 4]])] for row in x]
    assert read == [[3, 3, 7]] * 50
    assert (x[:, 0] != x[:, 2]).flatten(1).any(1).sum() > 45 and (x[:, 3] == 0).all()


def test_the_same_generator_draws_the_same(data):
    ids = torch.tensor([[1, PLUS, 2], [MINUS, TIMES, 0]])
    glyphs = Glyphs(data, "val", "cpu")
    one, same, other = (glyphs.draw(ids, ALPHABET, rng(seed)) for seed in (4, 4, 5))
    assert torch.equal(one, same) and (one != other).flatten(2).any(2).all()
    state = torch.random.get_rng_state()
    source = rng()
    assert not torch.equal(glyphs.draw(ids, ALPHABET, source), glyphs.draw(ids, ALPHABET, source))
    assert torch.equal(torch.random.get_rng_state(), state)  # the global one is left alone


def test_an_alphabet_without_an_operator(data):
    """Ids are indices in the alphabet: if '*' is the only operator its id is 10, and the blank's is 11."""
    x = Glyphs(data, "train", "cpu").draw(torch.tensor([[10, 11]]), "0123456789* ", rng())
    assert torch.equal(x[0, 0], strokes(1, SLANTS["*"], after(rng(), 2))[0]) and (x[0, 1] == 0).all()


def after(source: torch.Generator, n: int) -> torch.Generator:
    """The generator when the pictures of n characters have been chosen."""
    torch.rand((1, n), generator=source)
    return source


@pytest.mark.parametrize("character", [PLUS, MINUS, TIMES])
def test_operators_differ_from_draw_to_draw(character):
    x = drawn(character)
    assert len({picture.numpy().tobytes() for picture in x}) == 200
    assert x.min() == 0 and x.max() <= 1 and x.amax((1, 2)).min() > 0.5
    assert x.amax((1, 2)).std() > 0.03  # brightness
    ink = x.sum((1, 2))
    assert ink.std() > 0.1 * ink.mean()  # length, thickness
    row = (x.sum(2) * torch.arange(28.0)).sum(1) / ink
    assert row.std() > 0.8 and abs(row.mean() - 13.5) < 0.5  # place, around the middle


def extent(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Height and width, each (N,), of the area that is brighter than a third of the brightest pixel."""
    lit = x > x.amax((1, 2), keepdim=True) / 3
    return lit.any(2).sum(1), lit.any(1).sum(1)


def test_operators_have_their_shapes():
    height, width = extent(drawn(MINUS))
    assert (width > 1.5 * height).all() and width.float().mean() == pytest.approx(16, abs=2)
    height, width = extent(drawn(PLUS))
    assert (height.float() / width).mean() == pytest.approx(1, abs=0.05)
    means = {k: drawn(k, 2000).mean(0) for k in (PLUS, MINUS, TIMES)}
    right = {k: x[13:15, 18:20].mean() for k, x in means.items()}  # 5 pixels from the middle
    above = {k: x[8:10, 13:15].mean() for k, x in means.items()}
    assert right[PLUS] > 0.3 and above[PLUS] > 0.3
    assert right[MINUS] > 0.3 and above[MINUS] < 0.03
    assert above[TIMES] > 0.3 and right[TIMES] < 0.75 * above[TIMES]  # upright, and two that cross it
    for x in means.values():  # not thrown to one side
        assert x.sum(0).sub(x.sum(0).flip(0)).abs().max() < 0.1 * x.sum(0).max()
    ink = [means[k].sum() for k in (MINUS, PLUS, TIMES)]
    assert ink[0] < 0.7 * ink[1] and ink[1] < 0.9 * ink[2]


def test_strokes_lean_both_ways():
    """The angle's sign: a stroke that leans by 45° goes from the lower left to the upper right."""
    x = strokes(500, (torch.pi / 4,), rng()).mean(0)
    diagonal = torch.arange(9, 13)
    assert x[27 - diagonal, diagonal].mean() > 3 * x[diagonal, diagonal].mean()


# ---- pictures that are varied ---------------------------------------------------------------------------


def chosen(monkeypatch, **values: float) -> None:
    """Let `varied` draw these numbers, and 0 for all others."""
    names = ("turn", "scale", "shear", "right", "down")
    assert set(values) <= set(names)
    columns = torch.tensor([[values.get(name, 0.0)] for name in names])
    monkeypatch.setattr(torch, "randn", lambda n, size, **_: columns.expand(n, size))


def noise(n: int = 3) -> torch.Tensor:
    return torch.rand(n, 28, 28, generator=rng(9))


def sheared(x: torch.Tensor) -> torch.Tensor:
    """x with row r, counted from the middle, moved by 2 r: a pixel comes from 2 r further right."""
    out = torch.zeros_like(x)
    for row in range(28):
        for column in range(28):
            source = column + 2 * row - 27
            if 0 <= source < 28:
                out[:, row, column] = x[:, row, source]
    return out


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ({}, lambda x: x),
        ({"right": 1}, lambda x: F.pad(x, (0, 1))[:, :, 1:]),  # sd a pixel; what was further right
        ({"right": -2}, lambda x: F.pad(x, (2, 0))[:, :, :28]),
        ({"down": 1}, lambda x: F.pad(x, (0, 0, 0, 1))[:, 1:]),
        ({"down": 1, "right": -1}, lambda x: F.pad(x, (1, 0, 0, 1))[:, 1:, :28]),
        ({"turn": 90 / 8}, lambda x: x.rot90(1, (1, 2))),  # sd 8°
        ({"scale": 1 / 0.08}, lambda x: F.pad(F.avg_pool2d(x, 2), (7, 7, 7, 7))),  # sd 8 %: half as large
        ({"shear": 20}, sheared),  # sd 0.1: by twice the height
    ],
    ids=lambda v: "-".join(f"{k}={n:g}" for k, n in v.items()) or "nothing" if isinstance(v, dict) else "",
)
def test_known_variations(monkeypatch, drawn, expected):
    """Each picture is changed by exactly the numbers drawn for it, about its middle; beyond the edge it is
    black.
    """
    x = noise()
    chosen(monkeypatch, **drawn)
    torch.testing.assert_close(varied(x, rng()), expected(x), atol=1e-4, rtol=0)


def test_variations_are_small_and_leave_pictures_pictures(data):
    ids = torch.randint(0, 14, (100, 5), generator=rng())
    plain = Glyphs(data, "train", "cpu").draw(ids, ALPHABET, rng(1))
    glyphs = Glyphs(data, "train", "cpu", vary=True)
    x, same, other = (glyphs.draw(ids, ALPHABET, rng(seed)) for seed in (1, 1, 2))
    assert x.shape == plain.shape and x.dtype == torch.float32 and x.min() == 0 and 0.9 < x.max() <= 1
    assert torch.equal(x, same) and not torch.equal(x, other)
    blank = ids == BLANK
    assert blank.any() and not x[blank].any() and (x != plain).flatten(2).any(2)[~blank].all()
    alike = F.cosine_similarity(x[~blank].flatten(1), plain[~blank].flatten(1))
    other = F.cosine_similarity(x[~blank].flatten(1), plain[~blank].flatten(1).roll(1, 0))
    assert 0.7 < alike.mean() < 0.995 and other.mean() < alike.mean() - 0.2  # neither the same nor any
    assert x[~blank].sum((1, 2)).mean() == pytest.approx(plain[~blank].sum((1, 2)).mean().item(), rel=0.1)


def test_every_picture_varies_by_itself():
    x = noise(1).expand(50, 28, 28)
    y = varied(x, rng())
    assert len({p.numpy().tobytes() for p in y}) == 50 and 0 <= y.min() <= y.max() <= 1
    source = rng()
    assert torch.equal(varied(x, source), y) and not torch.equal(varied(x, source), y)
    state = torch.random.get_rng_state()
    varied(x, source)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global one is left alone


# ---- the set that a classifier learns from -------------------------------------------------------------


def test_classes_are_the_characters(data):
    alphabet = "0123456789+- "
    known = classes(data, alphabet)
    assert known.class_names == tuple(alphabet) and known.name == "digits"
    for part in digits.PARTS:
        images, labels = getattr(data, part), getattr(data, f"{part}_labels")
        x, y = getattr(known, part), getattr(known, f"{part}_labels")
        n = len(images) // 10
        assert x.dtype == torch.uint8 and y.dtype == torch.int64 and x.shape == (len(y), 28, 28)
        assert torch.equal(x[: len(images)], images) and torch.equal(y[: len(labels)], labels)
        assert torch.bincount(y[len(labels) :]).tolist() == [0] * 10 + [n] * 3
        assert not x[y == 12].any() and x[y == 11].flatten(1).any(1).all()
        assert (
            extent(x[y == 11].float())[1].float().mean() > 1.5 * extent(x[y == 11].float())[0].float().mean()
        )
        assert extent(x[y == 10].float())[0].float().mean() > 12


def test_operators_of_two_parts_differ(data):
    """This also holds for parts that have the same size."""
    known = classes(dataclasses.replace(data, val=data.test, val_labels=data.test_labels), "0123456789+ ")
    bags = [
        {p.numpy().tobytes() for p in getattr(known, part)[getattr(known, f"{part}_labels") == 10]}
        for part in digits.PARTS
    ]
    assert all(bags) and not (bags[0] & bags[1] or bags[0] & bags[2] or bags[1] & bags[2])


def test_the_hash_of_classes(data):
    made = [classes(data, "0123456789+- "), classes(data, "0123456789+ ")]
    made.append(classes(dataclasses.replace(data, content_hash="f" * 16), "0123456789+- "))
    again = classes(data, "0123456789+- ")
    assert len({data.content_hash, *(one.content_hash for one in made)}) == 4
    assert again.content_hash == made[0].content_hash and torch.equal(again.train, made[0].train)


def test_a_set_that_is_not_the_ten_digits_is_refused(data, monkeypatch):
    assert torch.equal(load("digits", "nowhere").train, data.train)
    few = dataclasses.replace(data, class_names=data.class_names[:9])
    letters = dataclasses.replace(data, class_names=tuple("abcdefghij"))
    more = dataclasses.replace(data, class_names=tuple(map(str, range(11))))
    no_seven = data.val_labels != 7
    lacking = dataclasses.replace(data, val=data.val[no_seven], val_labels=data.val_labels[no_seven])
    for other, part in ((few, "train"), (letters, "train"), (more, "train"), (lacking, "val")):
        monkeypatch.setattr(digits, "load", lambda *_, other=other: other)
        message = f"^--dataset=here/it: must be pictures of the ten digits, some of each in {part}$"
        with pytest.raises(DataError, match=message):
            load("here/it", "nowhere")
