"""How disentangled codes are where the factors are known: DCI, SAP and the FactorVAE score, beside MIG.

Codes are (N, D) arrays, usually the means mu(x), and factors (N, F), N at least 1. A factor with at most
n_bins different values is categorical, any other continuous, as in `mutual_information.discretize`. A factor
that does not vary gets NaN and does not count. Codes with a value that is not finite make every score NaN.
ValueError: factors that are not finite, or another number of factors than of codes. Compare scores only at
equal N, n_bins and settings; `mutual_information.jackknife` gives confidence intervals.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from research.measure.mutual_information import discretize, mig

MIN_VARIANCE = 0.01  # an active latent has more, as in `latents.active_units`; the prior's variance is 1


def _checked(codes, factors, n_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes (N, D), factors (N, F), their categories (N, F), and which factors vary (F,)."""
    codes, factors = np.asarray(codes, dtype=np.float64), np.asarray(factors, dtype=np.float64)
    categories = discretize(factors, n_bins)
    if codes.ndim != 2 or len(codes) != len(factors) or not len(codes):
        raise ValueError(f"as many codes as factors, at least one: {codes.shape} and {factors.shape}")
    return codes, factors, categories, np.ptp(factors, axis=0) > 0


def _first_half(n: int, seed: int) -> np.ndarray:
    """The half of n examples on which a predictor is fitted, bool (n,); it is scored on the other half."""
    return np.random.default_rng(seed).permutation(n) < (n + 1) // 2


def _active(codes: np.ndarray, min_variance: float) -> np.ndarray:
    # The range of a constant is 0, but rounding of its mean may make its variance 1e-34.
    return (np.ptp(codes, axis=0) > 0) & (codes.var(0) > min_variance)


def _mean(values: np.ndarray, counts: np.ndarray) -> float:
    return float(values[counts].mean()) if counts.any() else float("nan")


# -------------------------------------------------------------------------------------------------------- DCI


class DCI(NamedTuple):
    """disentanglement: mean of per_latent (D,) weighted by importance; completeness: mean of per_factor (F,);
    informativeness: mean of informativeness_per_factor (F,); importance (D, F): each column sums to 1, or to
    0.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    per_latent: np.ndarray
    per_factor: np.ndarray
    informativeness_per_factor: np.ndarray
    importance: np.ndarray


def _concentration(importance: np.ndarray) -> np.ndarray:
    """1 − H / ln C, with H the entropy of a row of importances (R, C): (R,). For a row of zeros it is 0."""
    n, total = importance.shape[1], importance.sum(1, keepdims=True)
    p = np.divide(importance, total, out=np.full(importance.shape, 1 / n), where=total > 0)
    h = -(p * np.log(np.where(p > 0, p, 1))).sum(1)
    return np.where(total[:, 0] > 0, np.clip(1 - h / np.log(max(n, 2)), 0, 1), 0.0)


def dci(codes, factors, n_bins: int = 20, seed: int = 0, n_trees: int = 20) -> DCI:
    """Disentanglement, completeness, informativeness of codes (N, D) and factors (N, F), by random forests.

    Eastwood & Williams 2018 (ICLR), §2. For each factor a forest is fitted on one half of the examples; the
    forests' importances are R (D, F). The score of a latent is 1 − H(R_dk / Σ_k R_dk) / ln F, and its weight
    is Σ_k R_dk / ΣR; the completeness of a factor is 1 − H(R_dk / Σ_d R_dk) / ln D. Informativeness is
    measured on the other half: R² for a continuous factor; for a categorical one (accuracy − c) / (1 − c),
    where c is the share of its commonest category. It is at least 0. A latent without importance gets NaN and
    no weight; if all latents are like that, disentanglement and completeness are 0.

    Trees try all latents at each split, and each leaf has at least 10 examples. If they tried only a third of
    the latents, as is usual, a perfect code would have a disentanglement of 0.75. If leaves had one example,
    latents that fit the noise would gain importance.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    codes, factors, categories, varies = _checked(codes, factors, n_bins)
    n_latents, n_factors = codes.shape[1], factors.shape[1]
    importance, informed = np.full((n_latents, n_factors), np.nan), np.full(n_factors, np.nan)
    per_factor, nan = informed.copy(), float("nan")
    if not np.isfinite(codes).all() or not varies.any():
        return DCI(nan, nan, nan, np.full(n_latents, nan), per_factor, informed, importance)
    # The forests compute in float32, in which a code that varies little about a large mean would lose its
    # digits.
    spread = np.where(np.ptp(codes, axis=0) > 0, codes.std(0), np.inf)
    z, fit = (codes - codes.mean(0)) / spread, _first_half(len(codes), seed)
    for k in np.flatnonzero(varies):
        categorical = len(np.unique(factors[:, k])) <= n_bins
        forest = (RandomForestClassifier if categorical else RandomForestRegressor)(
            n_trees, max_features=None, min_samples_leaf=10, random_state=(seed + int(k)) % 2**32, n_jobs=1
        )
        v = categories[:, k] if categorical else factors[:, k]
        guess, held_out = forest.fit(z[fit], v[fit]).predict(z[~fit]), v[~fit]
        if categorical:
            commonest = np.bincount(held_out).argmax()
            error, baseline = (guess != held_out).mean(), (commonest != held_out).mean()
        else:
            error, baseline = ((guess - held_out) ** 2).mean(), held_out.var()
        importance[:, k] = forest.feature_importances_
        informed[k] = max(0.0, 1 - error / baseline) if baseline > 0 else 0.0
    counted = importance[:, varies]
    per_latent, weight = _concentration(counted), counted.sum(1)
    disentanglement = float(per_latent @ weight / weight.sum()) if weight.sum() > 0 else 0.0
    per_factor[varies] = _concentration(counted.T)
    per_latent = np.where(weight > 0, per_latent, np.nan)
    means = _mean(per_factor, varies), _mean(informed, varies)
    return DCI(disentanglement, *means, per_latent, per_factor, informed, importance)


# -------------------------------------------------------------------------------------------------------- SAP


class SAP(NamedTuple):
    """score: mean of the gaps per_factor (F,); predicted (D, F): how well each single latent predicts each
    factor, from 0 to 1.
    """

    score: float
    per_factor: np.ndarray
    predicted: np.ndarray


def _nearest_mean(z: np.ndarray, v: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """How well each latent of z (N, D) alone predicts the categories v (N,): (D,).

    The prediction is the category with the nearest mean. Means are fitted where `fit` (N,) is true; elsewhere
    the balanced accuracy is taken and scaled so that chance is 0.
    """
    known, present = np.unique(v[fit]), np.unique(v[~fit])
    if len(present) < 2:
        return np.zeros(z.shape[1])
    means = np.stack([z[fit & (v == c)].mean(0) for c in known])  # (K, D)
    guess = known[np.abs(z[~fit, None] - means).argmin(1)]  # (N/2, D)
    recall = np.stack([(guess[v[~fit] == c] == c).mean(0) for c in present])  # (K, D)
    return np.maximum(0, (recall.sum(0) - 1) / (len(present) - 1))  # at chance the sum is exactly 1


def sap(codes, factors, n_bins: int = 20, seed: int = 0, min_variance: float = MIN_VARIANCE) -> SAP:
    """Separated attribute predictability: mean over factors of the gap between the two best single latents.

    Codes (N, D), factors (N, F). As in Kumar et al. 2018 (arXiv:1711.00848), §3, a latent is scored by its
    squared correlation with a continuous factor, and for a categorical one by the balanced accuracy of
    thresholds on the latent; a latent with a variance up to min_variance is inactive and has 0. Here the
    thresholds lie midway between the means of the categories (a linear discriminant with equal priors). They
    are fitted on one half and scored on the other, and a useless latent has 0 instead of one over the number
    of categories. With one latent the second best is 0. disentanglement_lib scores categories by the plain
    accuracy of a regularised support vector machine, which depends on the scale of the latent.
    """
    codes, factors, categories, varies = _checked(codes, factors, n_bins)
    predicted = np.full((codes.shape[1], factors.shape[1]), np.nan)
    if not np.isfinite(codes).all():
        return SAP(float("nan"), np.full(factors.shape[1], np.nan), predicted)
    active, fit = _active(codes, min_variance), _first_half(len(codes), seed)
    z = codes[:, active] - codes[:, active].mean(0)
    predicted[:, varies] = 0
    for k in np.flatnonzero(varies):
        if len(np.unique(factors[:, k])) <= n_bins:
            predicted[active, k] = _nearest_mean(z, categories[:, k], fit)
        else:
            v = factors[:, k] - factors[:, k].mean()
            predicted[active, k] = (v @ z) ** 2 / ((z**2).sum(0) * (v @ v))
    first, second = np.sort(np.vstack([predicted, np.zeros((2, len(varies)))]), axis=0)[::-1][:2]
    per_factor = np.where(varies, first - second, np.nan)
    return SAP(_mean(per_factor, varies), per_factor, predicted)


# -------------------------------------------------------------------------------------------------- FactorVAE


class FactorVAE(NamedTuple):
    """score: accuracy on the test votes; votes (D, F): how many test votes latent d got when factor k was
    fixed.
    """

    score: float
    votes: np.ndarray


def factor_vae(
    codes,
    factors,
    n_bins: int = 20,
    seed: int = 0,
    n_votes: int = 2000,
    vote_size: int = 64,
    min_variance: float = MIN_VARIANCE,
) -> FactorVAE:
    """How often the latent with the least variance reveals which factor was fixed: codes (N, D), factors (N,
    F).

    Kim & Mnih 2018 (arXiv:1802.05983), §4. For each vote, a factor and an example are drawn, and then up to
    vote_size examples whose value of that factor lies in the same bin. The latent that varies least among
    them, relative to its variance among all examples, gets the vote. A latent stands for the factor for which
    it got most of its n_votes training votes; the score is the accuracy on n_votes test votes. Chance is
    about 1/F.

    The authors render new examples in which the factor is fixed exactly. Here it is fixed up to one of n_bins
    bins, among the given examples. One half of these votes in training and the other in the test, because
    votes of the same examples agree and would raise chance. Latents with a variance up to min_variance do not
    take part; if there are no others, the score is 0. Nor do bins with one example; if there are no others,
    the score is NaN.
    """
    codes, factors, categories, varies = _checked(codes, factors, n_bins)
    votes = np.zeros((2, codes.shape[1], factors.shape[1]), dtype=np.int64)
    if not np.isfinite(codes).all() or not varies.any():
        return FactorVAE(float("nan"), votes[1])
    active, drawn = np.flatnonzero(_active(codes, min_variance)), np.flatnonzero(varies)
    if not len(active):
        return FactorVAE(0.0, votes[1])
    z, first = codes[:, active] / codes[:, active].std(0), _first_half(len(codes), seed)
    rng = np.random.default_rng((seed, 1))  # independent of the draws that made the halves
    for part, half in enumerate((np.flatnonzero(first), np.flatnonzero(~first))):
        for _ in range(n_votes):
            k = drawn[rng.integers(len(drawn))]
            v = categories[half, k]
            chosen = rng.permutation(half[v == v[rng.integers(len(half))]])[:vote_size]
            if len(chosen) > 1:  # a single example has no variance in any latent
                votes[part, active[z[chosen].var(0).argmin()], k] += 1
    stands_for = votes[0].argmax(1)  # (D,)
    right = votes[1, np.arange(len(stands_for)), stands_for].sum()
    return FactorVAE(float(right / votes[1].sum()) if votes[1].any() else float("nan"), votes[1])


def disentanglement(codes, factors, n_bins: int = 20, seed: int = 0) -> dict[str, float]:
    """Every score of codes (N, D) and factors (N, F), by the name under which it is logged."""
    by_forests = dci(codes, factors, n_bins, seed)
    return {
        "mig": mig(codes, factors, n_bins).score,
        "dci_disentanglement": by_forests.disentanglement,
        "dci_completeness": by_forests.completeness,
        "dci_informativeness": by_forests.informativeness,
        "sap": sap(codes, factors, n_bins, seed).score,
        "factor_vae": factor_vae(codes, factors, n_bins, seed).score,
    }
