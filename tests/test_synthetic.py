"""The rendered faces: a pure function of (seed, index), with factors that are independent and visible."""

import numpy as np
import pytest

from data import synthetic
from data.synthetic import FACTOR_NAMES, FACTORS, contact_sheet, render, sample_factors

DEFAULT = np.array([factor.default for factor in FACTORS], np.float32)
MEANS = [  # RGB, 0 .. 255
    [151.5, 148.53, 175.43],
    [145.75, 159.78, 195.91],
    [137.66, 179.48, 174.68],
    [147.26, 169.45, 191.05],
    [138.62, 153.25, 125.99],
    [181.19, 130.09, 145.85],
    [134.28, 150.68, 138.14],
    [146.87, 138.38, 168.61],
]


def face(**values: float) -> np.ndarray:
    """One row of factors (1, F): the defaults, but for `values`."""
    row = DEFAULT.copy()
    for name, value in values.items():
        row[FACTOR_NAMES.index(name)] = value
    return row[None]


def test_factors_of_a_subset_are_rows_of_the_whole():
    whole = sample_factors(3, np.arange(500))
    some = np.array([499, 7, 0, 7])
    assert np.array_equal(sample_factors(3, some), whole[some])
    assert whole.dtype == np.float32 and whole.shape == (500, len(FACTORS))
    assert not np.isclose(whole, sample_factors(4, np.arange(500))).all(axis=1).any()


def test_factors_are_uniform_and_independent():
    values = sample_factors(0, np.arange(synthetic.N_IMAGES))
    off_diagonal = np.corrcoef(values.T) - np.eye(len(FACTORS))
    assert np.abs(off_diagonal).max() < 0.035  # 5 standard deviations of a correlation over 20,000 pairs
    for column, factor in zip(values.T, FACTORS):
        assert column.min() >= factor.low and column.max() <= factor.high
        if factor.kind == "categorical":
            share = np.bincount(column.astype(int), minlength=len(factor.labels)) / len(column)
            assert np.abs(share - 1 / len(factor.labels)).max() < 0.02
        else:
            share = np.histogram(column, bins=10, range=(factor.low, factor.high))[0] / len(column)
            assert np.abs(share - 0.1).max() < 0.012


@pytest.mark.parametrize("size", synthetic.SIZES)
def test_a_face_alone_has_the_bytes_it_has_in_a_batch(size):
    factors = sample_factors(1, np.arange(20))
    batch = render(factors, size)
    assert batch.shape == (20, size, size, 3) and batch.dtype == np.uint8
    for i in (0, 7, 19):
        assert np.array_equal(render(factors[i : i + 1], size)[0], batch[i])
    assert np.array_equal(render(factors[::-3], size), batch[::-3])


def test_threads_change_nothing(monkeypatch):
    factors = sample_factors(2, np.arange(40))
    several = render(factors)
    monkeypatch.setattr(synthetic, "THREADS", 1)
    assert np.array_equal(render(factors), several)


@pytest.mark.parametrize("name", FACTOR_NAMES)
def test_every_factor_is_seen(name):
    """From low to high at least 1.2 % of the pixels change by more than 24 of 255, on various faces."""
    factor = FACTORS[FACTOR_NAMES.index(name)]
    for other in ({}, {"yaw": -50}, {"skin_tone": 0.9, "hair_colour": 0}, {"hat": 1}, {"glasses": 1}):
        ends = np.concatenate([face(**{**other, name: value}) for value in (factor.low, factor.high)])
        changed = (np.abs(np.diff(render(ends).astype(int), axis=0)).max(axis=-1) > 24).mean()
        assert changed > 0.012, f"{name} with {other}: {changed:.3f} of the pixels"


@pytest.mark.parametrize("name", [f.name for f in FACTORS if f.kind == "continuous"])
def test_continuous_factors_change_the_picture_gradually(name):
    """Neighbours among 21 values are far more alike than the ends, so there are no jumps."""
    factor = FACTORS[FACTOR_NAMES.index(name)]
    values = np.linspace(factor.low, factor.high, 21)
    row = render(np.concatenate([face(**{name: value}) for value in values])).astype(float)
    steps = np.abs(np.diff(row, axis=0)).mean(axis=(1, 2, 3))
    assert steps.max() < 0.35 * np.abs(row[0] - row[-1]).mean()
    assert steps.min() > 0


def test_turning_the_other_way_mirrors_the_picture():
    for i, row in enumerate(sample_factors(5, np.arange(6))):
        mirrored = row.copy()
        mirrored[[FACTOR_NAMES.index("yaw"), FACTOR_NAMES.index("light")]] *= -1
        one, other = (render(values[None])[0].astype(int) for values in (row, mirrored))
        assert np.abs(one - other[:, ::-1]).mean() < 0.1, f"face {i}"


def test_hair_stays_readable_under_a_hat():
    black, blond = (render(face(hat=1, hair_length=0.8, hair_colour=c))[0].astype(int) for c in (0, 0.75))
    assert (np.abs(black - blond).max(axis=-1) > 60).mean() > 0.04
    bald_black, bald_blond = (render(face(hair_length=0, hair_colour=c))[0].astype(int) for c in (0, 0.75))
    assert (np.abs(bald_black - bald_blond).max(axis=-1) > 60).sum() >= 10  # the brows


def test_pictures_are_those_of_this_version():
    """Mean colours of eight faces. Where a change is meant, bump VERSION and store the new ones."""
    assert synthetic.VERSION == 1
    means = render(sample_factors(0, np.arange(8))).reshape(8, -1, 3).mean(axis=1)
    assert np.abs(means - MEANS).max() < 0.05, np.round(means, 2).tolist()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="image_size"):
        render(face(), 48)
    with pytest.raises(ValueError, match="factors"):
        render(DEFAULT)
    assert render(np.empty((0, len(FACTORS)))).shape == (0, 64, 64, 3)


def test_contact_sheet_has_a_row_per_factor():
    sheet = contact_sheet(32, columns=5)
    assert sheet.shape == (len(FACTORS) * 32, 5 * 32, 3) and sheet.dtype == np.uint8
    middle = render(face(yaw=0), 32)[0]
    assert np.array_equal(sheet[:32, 64:96], middle)
