"""DCI, SAP and the FactorVAE score: known values, invariances, and a second computation by definition.

The seconds go to the import of scikit-learn, once, and to forests.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.measure.disentanglement import dci, disentanglement, factor_vae, sap
from research.measure.mutual_information import discretize, mig

SCORES = ["mig", "dci_disentanglement", "dci_completeness", "dci_informativeness", "sap", "factor_vae"]


def mixed_factors(n, n_uniform=4, seed=0):
    """n_uniform continuous factors, then one of three categories and one of two: (N, n_uniform + 2)."""
    rng = np.random.default_rng((seed, 1))
    return np.column_stack([rng.random((n, n_uniform)), rng.integers(0, 3, n), rng.integers(0, 2, n)])


def aligned(factors, noise, n_more=0, seed=0):
    """A latent for each factor, with variance 1 and noise (a standard deviation), and n_more latents of only
    noise.
    """
    rng = np.random.default_rng((seed, 2))
    z = (factors - factors.mean(0)) / factors.std(0) + noise * rng.normal(size=factors.shape)
    return np.hstack([z, rng.normal(size=(len(z), n_more))])


def halves(n, seed):
    fit = np.random.default_rng(seed).permutation(n) < n / 2
    return np.flatnonzero(fit), np.flatnonzero(~fit)


# ------------------------------------------------------------------------------------------ known values


def test_an_aligned_code_is_near_one():
    factors = mixed_factors(1500)
    scores = disentanglement(aligned(factors, noise=0.01, n_more=2), factors)
    assert list(scores) == SCORES
    assert scores["factor_vae"] == 1
    # This noise, a 350th of the range, blurs the 20 bins: MIG has 0.88 for a continuous factor.
    assert 0.9 < scores.pop("mig") < 1
    assert min(scores.values()) > 0.98, scores
    assert min(sap(factors * 10, factors).per_factor) > 0.9


def test_a_rotated_code_keeps_the_information_only():
    factors = mixed_factors(2000, n_uniform=10)
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(12, 12)))[0]
    straight = aligned(factors, noise=0.01)
    scores, before = disentanglement(straight @ rotation, factors), disentanglement(straight, factors)
    assert min(before[name] for name in SCORES) > 0.9
    bars = {"mig": 0.1, "sap": 0.25, "dci_disentanglement": 0.45, "dci_completeness": 0.45, "factor_vae": 0.7}
    assert all(scores[name] < bar for name, bar in bars.items()), scores
    assert scores["dci_informativeness"] > 0.5
    assert scores["factor_vae"] > 2 / 12  # above chance: a latent may lie mostly along one factor


def test_an_independent_code_is_at_chance():
    factors, codes = mixed_factors(2000), np.random.default_rng(4).normal(size=(2000, 8))
    scores = disentanglement(codes, factors)
    bars = {"mig": 0.01, "sap": 0.03, "dci_disentanglement": 0.1, "dci_completeness": 0.1}
    assert all(scores[name] < bar for name, bar in bars.items()), scores
    assert scores["dci_informativeness"] < 0.02
    assert sap(codes, factors).predicted.min() == 0  # those that do worse than chance, too


def test_chance_of_the_factor_vae_score_is_one_in_the_number_of_factors():
    # Training and test votes of the same examples would agree, and score 0.36 here.
    scores = [
        factor_vae(
            np.random.default_rng(seed).normal(size=(600, 32)), mixed_factors(600, seed=seed), n_votes=400
        ).score
        for seed in range(12)
    ]
    assert np.mean(scores) == pytest.approx(1 / 6, abs=0.05)


def test_two_latents_of_a_factor_cost_completeness_and_two_factors_in_a_latent_disentanglement():
    factors = mixed_factors(1000, n_uniform=2)
    codes = aligned(factors, noise=0.01)
    noisy = aligned(factors, noise=0.2, seed=1)[:, :1], aligned(factors, noise=0.2, seed=2)[:, :1]
    double = np.hstack([*noisy, codes[:, 1:]])
    doubled = dci(double, factors)
    assert doubled.disentanglement > 0.97
    assert doubled.per_factor[0] == pytest.approx(1 - np.log(2) / np.log(5), abs=0.04)  # 2 of 5 latents
    assert doubled.per_factor[1:].min() > 0.97
    assert sap(double, factors).per_factor[0] < 0.05
    merged = dci(np.hstack([codes[:, :1] + codes[:, 1:2], codes[:, 2:]]), factors)
    assert merged.per_latent[0] == pytest.approx(1 - np.log(2) / np.log(4), abs=0.04)  # 2 of 4 factors
    assert merged.per_factor[2:].min() > 0.97
    informed = merged.informativeness_per_factor
    assert informed[:2].max() < 0.7 < 0.97 < informed[2:].min()


def test_more_noise_lowers_every_score():
    factors = mixed_factors(1000)
    clear, noisy = (disentanglement(aligned(factors, noise, n_more=4), factors) for noise in (0.3, 1.0))
    assert all(noisy[name] < clear[name] - 0.02 for name in SCORES), (clear, noisy)


def test_votes_of_fewer_examples_are_worse():
    factors = mixed_factors(1000)
    codes = aligned(factors, noise=0.3, n_more=4)
    many, few = factor_vae(codes, factors), factor_vae(codes, factors, vote_size=3)
    assert few.score < many.score - 0.1
    assert many.votes.sum() == few.votes.sum() == 2000


# -------------------------------------------------------------------------------- a second computation


def entangled(n=900, seed=5):
    factors = mixed_factors(n, n_uniform=2, seed=seed)
    mix = np.eye(6) + 0.3 * np.random.default_rng(seed).normal(size=(6, 6))
    return aligned(factors, 0.5, n_more=2, seed=seed) @ mix, factors


def impurity_decrease(tree, n_latents):
    """Mean decrease of impurity of each latent in one tree, cut by cut, summing to 1."""
    total = np.zeros(n_latents)
    for node, (left, right) in enumerate(zip(tree.children_left, tree.children_right, strict=True)):
        if left >= 0:
            n, impurity = tree.weighted_n_node_samples, tree.impurity
            fall = n[node] * impurity[node] - n[left] * impurity[left] - n[right] * impurity[right]
            total[tree.feature[node]] += fall
    return total / total.sum()


def test_dci_by_definition():
    from scipy.stats import entropy
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.metrics import r2_score

    codes, factors = entangled()
    z = (codes - codes.mean(0)) / codes.std(0)
    fit, rest = halves(len(z), 7)
    importance, informative = np.empty((6, 4)), []
    for k, forest in enumerate([RandomForestRegressor] * 2 + [RandomForestClassifier] * 2):
        forest = forest(n_estimators=20, max_features=1.0, min_samples_leaf=10, random_state=7 + k)
        forest.fit(z[fit], factors[fit, k])
        importance[:, k] = np.mean([impurity_decrease(t.tree_, 6) for t in forest.estimators_], axis=0)
        guess, truth = forest.predict(z[rest]), factors[rest, k]
        if k < 2:
            informative.append(r2_score(truth, guess))
        else:
            commonest = max((truth == c).mean() for c in set(truth))
            informative.append(((guess == truth).mean() - commonest) / (1 - commonest))
    per_latent = [1 - entropy(importance[d], base=4) for d in range(6)]
    per_factor = [1 - entropy(importance[:, k], base=6) for k in range(4)]
    result = dci(codes, factors, seed=7)
    np.testing.assert_allclose(result.importance, importance, atol=1e-9)
    np.testing.assert_allclose(result.per_latent, per_latent, atol=1e-9)
    np.testing.assert_allclose(result.per_factor, per_factor, atol=1e-9)
    np.testing.assert_allclose(result.informativeness_per_factor, informative, atol=1e-9)
    weighted = sum(importance[d].sum() / importance.sum() * per_latent[d] for d in range(6))
    assert result.disentanglement == pytest.approx(weighted)
    assert result.completeness == pytest.approx(np.mean(per_factor))
    assert result.informativeness == pytest.approx(np.mean(informative))
    assert 0.1 < result.disentanglement < 0.9 and 0.1 < result.informativeness < 0.9  # or it says little


def test_sap_by_definition():
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import balanced_accuracy_score

    codes, factors = entangled()
    fit, rest = halves(len(codes), 7)
    expected = np.empty((6, 4))
    for d in range(6):
        z = codes[:, d : d + 1]
        for k in range(2):
            expected[d, k] = LinearRegression().fit(z, factors[:, k]).score(z, factors[:, k])
        for k, n_categories in ((2, 3), (3, 2)):
            line = LinearDiscriminantAnalysis(priors=[1 / n_categories] * n_categories)
            guess = line.fit(z[fit], factors[fit, k]).predict(z[rest])
            expected[d, k] = max(0, balanced_accuracy_score(factors[rest, k], guess, adjusted=True))
    result = sap(codes, factors, seed=7)
    np.testing.assert_allclose(result.predicted, expected, atol=1e-9)
    gaps = [sorted(column)[-1] - sorted(column)[-2] for column in expected.T]
    np.testing.assert_allclose(result.per_factor, gaps, atol=1e-9)
    assert result.score == pytest.approx(np.mean(gaps))
    assert 0.1 < result.score < 0.9


def test_factor_vae_by_definition():
    """If votes use whole bins, only the draws of factor and example are random: here, all
    of them are tried.
    """
    codes, factors = entangled(400)
    factors[:, 0] **= 4  # bins of unequal size: an example is drawn, not a bin
    bins, accuracy, share = discretize(factors, 20), 0.0, np.zeros((2, 6, 4))
    for part, half in enumerate(halves(400, 7)):
        for k in range(4):
            for i in half:
                same = [j for j in half if bins[j, k] == bins[i, k]]
                if len(same) > 1:
                    spread = [np.var([codes[j, d] for j in same]) / np.var(codes[:, d]) for d in range(6)]
                    share[part, spread.index(min(spread)), k] += 1
    for d in range(6):
        accuracy += share[1, d, share[0, d].argmax()] / share[1].sum()
    result = factor_vae(codes, factors, seed=7, n_votes=4000, vote_size=400)
    assert result.score == pytest.approx(accuracy, abs=0.03)  # 4 standard errors of 4,000 votes
    np.testing.assert_allclose(result.votes / result.votes.sum(), share[1] / share[1].sum(), atol=0.03)
    assert 0.4 < accuracy < 0.95


# --------------------------------------------------------------------------------------- invariances


@settings(max_examples=15, deadline=None)
@given(
    st.permutations(range(6)),
    st.lists(st.sampled_from([-4.0, -1.0, 0.5, 1.0, 32.0]), min_size=6, max_size=6),
    st.lists(st.floats(-1e6, 1e6), max_size=2),
)
def test_order_sign_and_scale_of_latents_do_not_matter_nor_do_constant_ones(order, scale, constants):
    codes, factors = entangled(300)
    other = np.hstack([codes * scale, np.tile(constants, (300, 1))])
    columns = [*order, *range(6, other.shape[1])]
    before, after = sap(codes, factors), sap(other[:, columns], factors)
    np.testing.assert_allclose(after.predicted[:6], before.predicted[list(order)], atol=1e-9)
    assert (after.predicted[6:] == 0).all()
    assert after.score == pytest.approx(before.score)
    before, after = (factor_vae(z, factors, n_votes=100) for z in (codes, other[:, columns]))
    np.testing.assert_array_equal(after.votes[:6], before.votes[list(order)])
    assert (after.votes[6:] == 0).all()
    assert after.score == before.score


def test_order_sign_scale_and_shift_of_latents_hardly_change_dci():
    # Hardly: of two cuts that are equally good, a tree takes the one it meets first.
    codes, factors = entangled()
    order = [3, 0, 5, 1, 4, 2]
    before = dci(codes, factors)
    after = dci((codes * [1, -2, 1e-6, 50, -1e7, 1])[:, order] + 1e3, factors)
    np.testing.assert_allclose(after[:3], before[:3], atol=0.02)
    np.testing.assert_allclose(after.importance, before.importance[order], atol=0.05)


def test_the_seed_decides_all():
    codes, factors = entangled(500)
    for score in (dci, sap, factor_vae):
        a, b, c = (score(codes, factors, seed=seed) for seed in (1, 1, 2))
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        assert a[0] != c[0]


# ----------------------------------------------------------------------------------------- edge cases


def test_a_constant_factor_does_not_count():
    codes, factors = entangled(500)
    more = np.insert(factors, 1, 0.7, axis=1)
    expected, got = sap(codes, factors), sap(codes, more)
    assert got.score == expected.score and np.isnan(got.per_factor[1]) and np.isnan(got.predicted[:, 1]).all()
    assert factor_vae(codes, more).score == factor_vae(codes, factors).score
    # After the others: each factor has a seed of its own, by its place.
    expected, got = dci(codes, factors), dci(codes, np.insert(factors, 4, 0.7, axis=1))
    assert got[:3] == expected[:3] and np.isnan(got.per_factor[4]) and np.isnan(got.importance[:, 4]).all()
    np.testing.assert_array_equal(got.per_latent, expected.per_latent)
    nothing = disentanglement(codes, np.ones((500, 2)))
    assert list(nothing) == SCORES and np.isnan(list(nothing.values())).all()


def test_a_collapsed_code_has_zero_and_an_unused_latent_no_score():
    codes, factors = entangled(300)
    assert set(disentanglement(np.full((300, 3), 0.1), factors).values()) == {0.0}
    result = dci(np.hstack([codes, np.ones((300, 1))]), factors)
    assert np.isnan(result.per_latent[6]) and not result.importance[6].any()
    assert result.disentanglement == pytest.approx(dci(codes, factors).disentanglement, abs=0.05)


def test_inactive_latents_take_no_part():
    codes, factors = entangled(500)
    faint = 0.01 * aligned(factors, noise=0.0)  # a perfect code, of variance 0.0001
    both = np.hstack([codes, faint])
    assert sap(both, factors).score == sap(codes, factors).score
    assert factor_vae(both, factors).score == factor_vae(codes, factors).score
    assert factor_vae(faint, factors).score == sap(faint, factors).score == 0
    assert factor_vae(faint, factors, min_variance=0).score == 1
    assert sap(faint, factors, min_variance=0).per_factor[0] > 0.95


def test_a_constant_is_inactive_whatever_its_rounding():
    codes, factors = entangled(500)
    codes[:, 0] = 0.1
    assert 0 < codes.var(0)[0] < 1e-30
    assert not sap(codes, factors, min_variance=0).predicted[0].any()
    assert not factor_vae(codes, factors, min_variance=0).votes[0].any()


def test_bins_of_one_example_do_not_vote():
    codes, factors = entangled(200)
    numbered = np.arange(200.0)[:, None]
    votes = factor_vae(codes, np.hstack([numbered, factors]), n_bins=200).votes
    assert not votes[:, 0].any() and votes[:, 3:].any(0).all()
    assert np.isnan(factor_vae(codes, numbered, n_bins=200).score)


def test_one_latent_or_one_factor():
    codes, factors = entangled(300)
    single = sap(codes[:, :1], factors)
    np.testing.assert_array_equal(single.per_factor, single.predicted[0])
    assert dci(codes[:, :1], factors).completeness == 1
    assert dci(codes, factors[:, :1]).disentanglement == 1
    assert factor_vae(codes, factors[:, :1]).score == 1


def test_codes_that_are_not_finite_give_nan_and_other_mistakes_an_error():
    codes, factors = entangled(60)
    for bad in (np.nan, np.inf):
        codes[3, 1] = bad
        assert np.isnan(list(disentanglement(codes, factors).values())).all()
    for score in (dci, sap, factor_vae):
        with pytest.raises(ValueError, match="as many codes as factors"):
            score(codes[1:], factors)
        with pytest.raises(ValueError, match=r"columns \[1\] are not finite"):
            score(factors, codes)


@pytest.mark.filterwarnings("error::RuntimeWarning")  # of a division by zero
@pytest.mark.parametrize("n", [1, 2, 3, 5, 22])
def test_few_examples_give_numbers_or_nan(n):
    codes, factors = entangled(30)
    scores = np.array(list(disentanglement(codes[:n], factors[:n]).values()))
    assert (np.isnan(scores) | ((scores >= 0) & (scores <= 1))).all()


def test_all_scores_are_those_of_the_single_functions():
    codes, factors = entangled(300)
    scores = disentanglement(codes, factors, n_bins=10, seed=3)
    forests = dci(codes, factors, 10, 3)
    expected = [mig(codes, factors, 10).score, *forests[:3]]
    assert list(scores.values()) == [*expected, *(f(codes, factors, 10, 3).score for f in (sap, factor_vae))]
    assert all(type(value) is float for value in scores.values())
