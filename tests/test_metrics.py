"""Mutual information and MIG: known values, invariances, and a second computation by definition."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.measure.mutual_information import (
    discretize,
    entropy,
    jackknife,
    main_factors,
    mig,
    mutual_information_matrix,
)


def factors_and_codes(n=4000, n_factors=4, noise=0.02, seed=0):
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 8, (n, n_factors))
    return factors, factors + noise * rng.normal(size=factors.shape)


def test_discretize_cuts_as_numpy_and_disentanglement_lib_do():
    values = np.random.default_rng(0).normal(size=(500, 3))
    ours = discretize(values, 20)
    for column, mine in zip(values.T, ours.T, strict=True):
        counts, edges = np.histogram(column, 20)
        assert (np.bincount(mine, minlength=20) == counts).all()
        assert (mine + 1 == np.digitize(column, edges[:-1])).all()  # disentanglement_lib's line


def test_discretize_keeps_few_values_as_they_are():
    # Equal widths would put 0, 1 and 2 into one bin of twenty between 0 and 1000.
    values = np.array([[0.0], [1.0], [2.0], [1000.0], [1.0]])
    assert discretize(values, 20)[:, 0].tolist() == [0, 1, 2, 3, 1]
    assert discretize(values, 3)[:, 0].tolist() == [0, 0, 0, 2, 0]
    assert discretize(np.full((5, 1), 7.5)).tolist() == [[0]] * 5


def test_discretize_refuses_what_it_cannot_cut():
    with pytest.raises(ValueError, match=r"columns \[1\]"):
        discretize(np.array([[0.0, np.nan], [1.0, 2.0]]))
    with pytest.raises(ValueError, match="one column"):
        discretize(np.arange(5.0))


def test_entropy_of_known_distributions():
    categories = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 1], [3, 0, 1]])
    np.testing.assert_allclose(entropy(categories), [np.log(4), 0, np.log(2)])


def test_information_of_a_copy_is_its_entropy_and_of_a_constant_zero():
    factor = np.array([0, 0, 0, 1] * 25)[:, None]
    codes = np.hstack([factor, -factor, np.ones_like(factor)])
    h = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(mutual_information_matrix(codes, factor)[:, 0], [h, h, 0], atol=1e-12)


def mixed_sample():
    rng = np.random.default_rng(1)
    factors = np.column_stack([rng.integers(0, 5, 600), rng.integers(0, 12, 600), rng.normal(size=600)])
    codes = [factors @ rng.normal(size=3), factors[:, 0] + rng.normal(size=600), factors[:, 2]]
    return np.column_stack([*codes, rng.normal(size=600), np.zeros(600)]), factors


def cut(column):
    if len(set(column)) <= 10:
        return column.tolist()
    return np.digitize(column, np.histogram(column, 10)[1][:-1]).tolist()


def by_definition(a, b):
    """Σ p(a, b) ln p(a, b) / p(a) p(b)"""
    n, count_a, count_b = len(a), Counter(a), Counter(b)
    joint = Counter(zip(a, b, strict=True))
    return sum(c / n * math.log(c * n / (count_a[x] * count_b[y])) for (x, y), c in joint.items())


def test_information_and_mig_by_definition():
    codes, factors = mixed_sample()
    expected = np.array([[by_definition(cut(z), cut(v)) for v in factors.T] for z in codes.T])
    result = mig(codes, factors, n_bins=10)
    np.testing.assert_allclose(result.mi, expected, atol=1e-12)
    h = [by_definition(cut(v), cut(v)) for v in factors.T]
    gaps = [(sorted(i)[-1] - sorted(i)[-2]) / h_k for i, h_k in zip(expected.T, h, strict=True)]
    np.testing.assert_allclose(result.per_factor, gaps)
    assert result.score == pytest.approx(np.mean(gaps))


@pytest.mark.soak  # the import of scikit-learn takes seconds
def test_information_equals_scikit_learn():
    from sklearn.metrics import mutual_info_score

    codes, factors = mixed_sample()
    expected = [[mutual_info_score(cut(z), cut(v)) for v in factors.T] for z in codes.T]
    np.testing.assert_allclose(mutual_information_matrix(codes, factors, n_bins=10), expected, atol=1e-12)


def test_mig_of_aligned_rotated_and_unrelated_codes():
    factors, codes = factors_and_codes()
    assert mig(codes, factors).score > 0.9
    many, their_codes = factors_and_codes(n_factors=10)
    assert mig(their_codes, many).score > 0.9
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(10, 10)))[0]
    assert mig(their_codes @ rotation, many).score < 0.1
    assert mig(np.random.default_rng(3).normal(size=codes.shape), factors).score < 0.01


def test_two_latents_that_share_a_factor_leave_no_gap():
    factors, codes = factors_and_codes()
    result = mig(np.hstack([codes, codes[:, :1]]), factors)
    assert result.per_factor[0] == pytest.approx(0, abs=1e-12)
    assert result.per_factor[1:].min() > 0.9


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(4)), st.lists(st.floats(-1e6, 1e6), max_size=3), st.integers(0, 9))
def test_mig_does_not_see_the_order_of_latents_nor_constant_ones(order, constants, seed):
    factors, codes = factors_and_codes(n=200, noise=2.0, seed=seed)
    more = np.hstack([codes[:, order], np.tile(constants, (200, 1))])
    a, b = mig(codes, factors), mig(more, factors)
    np.testing.assert_array_equal(a.per_factor, b.per_factor)
    np.testing.assert_array_equal(a.mi[list(order)], b.mi[:4])
    assert (b.mi[4:] == 0).all()


def test_one_latent_and_constant_factors():
    factors, codes = factors_and_codes()
    single = mig(codes[:, :1], factors[:, :1])
    assert single.score == pytest.approx(float(single.mi[0, 0] / single.factor_entropy[0]))
    with_constant = mig(codes, np.hstack([factors, np.ones((len(factors), 1))]))
    assert np.isnan(with_constant.per_factor[-1])
    assert with_constant.score == mig(codes, factors).score
    assert np.isnan(mig(codes, np.ones((len(codes), 2))).score)


def test_codes_that_are_not_finite_give_nan_and_other_mistakes_an_error():
    factors, codes = factors_and_codes(n=100)
    codes[3, 1] = np.inf
    result = mig(codes, factors)
    assert np.isnan(result.score)
    assert np.isnan(result.mi[1]).all()
    assert np.isfinite(result.mi[[0, 2, 3]]).all()
    with pytest.raises(ValueError, match="99 codes, 100 factors"):
        mig(codes[1:], factors)


def test_main_factors_are_named_by_normalised_information():
    # The second factor has four times the entropy: in nats latent 0 tells more of it, as a share less.
    mi = np.array([[0.5, 0.8], [0.0, 0.0], [np.nan, np.nan], [0.1, 2.0]])
    named = main_factors(mi, np.array([0.5, 2.0]), ["pose", "light"])
    assert named == [("pose", 1.0), ("", 0.0), ("", 0.0), ("light", 1.0)]
    assert main_factors(mi[:1], np.array([0.5, 0.0]), ["pose", "constant"]) == [("pose", 1.0)]
    with pytest.raises(ValueError, match="1 names for 2 factors"):
        main_factors(mi, np.array([0.5, 2.0]), ["pose"])


def test_jackknife_of_a_mean_with_single_examples_is_the_interval_of_the_textbook():
    from scipy.stats import norm, t

    x = np.random.default_rng(0).gamma(2, size=(40, 1))
    result = jackknife(lambda z, v: z.mean(), x, x, n_groups=40, n_repeats=1, confidence=0.9)
    expected = t.interval(0.9, 39, loc=x.mean(), scale=x.std(ddof=1) / np.sqrt(40))
    np.testing.assert_allclose(result, [x.mean(), *expected])
    # With many repeats the default does as well as is possible, for a mean: its distribution is then normal.
    many = jackknife(lambda z, v: z.mean(), x, x, n_repeats=4000, confidence=0.9)
    np.testing.assert_allclose(many.high - many.score, norm.ppf(0.95) * x.std(ddof=1) / np.sqrt(40), rtol=0.1)


def test_jackknife_by_definition():
    from scipy.stats import t

    factors, codes = factors_and_codes(n=203, noise=1.0)
    rng, variances = np.random.default_rng(6), []
    for _ in range(4):
        order, scores = list(rng.permutation(203)), []
        for size in (41, 41, 41, 40, 40):
            group, order = set(order[:size]), order[size:]
            rest = [i for i in range(203) if i not in group]
            scores.append(mig(codes[rest], factors[rest]).score)
        mean = sum(scores) / 5
        variances.append(4 / 5 * sum((s - mean) ** 2 for s in scores))
    reach = t.ppf(0.975, 4 * 4) * math.sqrt(sum(variances) / 4)
    whole = mig(codes, factors).score
    result = jackknife(
        lambda z, v: mig(z, v).score, codes, factors, n_groups=5, n_repeats=4, seed=6, confidence=0.95
    )
    np.testing.assert_allclose(result, [whole, whole - reach, whole + reach])
    assert 0.01 < reach < 0.3


def test_jackknife_of_several_scores_at_once_and_of_none():
    factors, codes = factors_and_codes(n=200, noise=1.0)
    together = jackknife(lambda z, v: mig(z, v).per_factor, codes, factors)
    alone = [jackknife(lambda z, v, k=k: mig(z, v).per_factor[k], codes, factors) for k in range(4)]
    np.testing.assert_allclose(np.array(together).T, np.array(alone), rtol=1e-12)
    assert np.isnan(jackknife(lambda z, v: float("nan"), codes, factors)).all()
    for wrong in ({"n_groups": 1}, {"n_groups": 201}, {"n_repeats": 0}):
        with pytest.raises(ValueError, match="from 2 to 200 groups"):
            jackknife(lambda z, v: 0.0, codes, factors, **wrong)


def covered(score, draw, truth, n_samples, **deals):
    intervals = [jackknife(score, *draw(seed), **deals) for seed in range(n_samples)]
    return np.mean([i.low <= truth <= i.high for i in intervals])


@pytest.mark.parametrize("deals", [{}, {"n_groups": 20, "n_repeats": 1}])
@pytest.mark.parametrize(("confidence", "least", "most"), [(0.95, 0.92, 0.975), (0.8, 0.745, 0.85)])
def test_intervals_cover_the_truth_as_often_as_they_say(deals, confidence, least, most):
    def draw(seed):  # the squared correlation, which is SAP with one latent, is 1/2
        rng = np.random.default_rng((seed, 8))
        v = rng.normal(size=(400, 1))
        return v + rng.normal(size=v.shape), v

    def squared_correlation(z, v):
        z, v = z[:, 0] - z.mean(), v[:, 0] - v.mean()
        return (z @ v) ** 2 / ((z @ z) * (v @ v))

    # Bars about three standard errors of 800 samples from the truth, 0.945 and 0.79 (of 3,000 samples).
    assert least < covered(squared_correlation, draw, 0.5, 800, confidence=confidence, **deals) < most


def test_intervals_of_mig_cover_its_mean():
    def draw(seed):
        factors, codes = factors_and_codes(n=300, n_factors=2, noise=1.5, seed=(seed, 9))
        return codes, factors

    def score(z, v):
        return mig(z, v).score

    truth = np.mean([score(*draw(seed)) for seed in range(1000, 1600)])
    assert 0.9 < covered(score, draw, truth, 150) <= 1
