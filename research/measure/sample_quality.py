"""How far generated samples are from real ones, by their features: distances, coverage, and whether a
classifier can distinguish them.

Sets of features are (N, K) and (M, K) tensors, float32 or float64, on any device; everything is computed in
float64 on the CPU. ValueError: tensors of other shapes, different K, too few rows, values that are not
finite. Every figure depends on the features and on N. So compare only at equal features and equal N, and
beside the floor: the same figure between two disjoint real sets of that N (`scores`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 500  # rows at once: their distances to 10,000 rows take 40 MB
FOLDS = 5


def _checked(a: Tensor, b: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Both sets as float64 on the CPU, with at least `least` rows each."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise ValueError(
            f"two sets of features, (N, K) and (M, K) of at least {least} rows; got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
    a, b = a.detach().cpu().double(), b.detach().cpu().double()  # cpu() first: MPS has no float64
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features must be finite")
    return a, b


# ------------------------------------------------------------------------------------------------- distances


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased estimate of MMD² between a (N, K) and b (M, K), N and M at least 2: the kernel distance (KID).

    Bińkowski et al. 2018 (arXiv:1801.01401), eq. 4, with their kernel (x·y / K + 1)³, but over all pairs at
    once instead of a mean over subsets. It is a squared distance, in the unit of the kernel. For samples from
    equal distributions its mean is 0 at any N, so it may be negative, which means that no difference is
    found. Meant for a few thousand rows.
    """
    a, b = _checked(a, b, least=2)
    within_a = _kernel_sum(a, a) - _kernel(a.square().sum(1), a.shape[1]).sum()
    within_b = _kernel_sum(b, b) - _kernel(b.square().sum(1), b.shape[1]).sum()
    n, m = len(a), len(b)
    return float(within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * _kernel_sum(a, b) / (n * m))


def _kernel(products: Tensor, n_features: int) -> Tensor:
    return (products / n_features + 1) ** 3


def _kernel_sum(a: Tensor, b: Tensor) -> Tensor:
    """The kernel's sum over all pairs of rows of a (N, K) and b (M, K), a row with itself included."""
    return torch.stack([_kernel(rows @ b.T, b.shape[1]).sum() for rows in a.split(CHUNK)]).sum()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance between Gaussians with the moments of a (N, K) and b (M, K), N and M at least 2.

    Heusel et al. 2017 (arXiv:1706.08500), eq. 6: |m_a − m_b|² + tr(S_a + S_b − 2 (S_a S_b)^½), a squared
    distance in features², with covariances divided by N − 1. It also works for N < K: the trace of the root
    is taken from the eigenvalues of the symmetric S_a^½ S_b S_a^½, which are those of S_a S_b. It is biased
    upwards, more so for smaller N, so even two samples of one distribution have a distance above 0.
    """
    a, b = _checked(a, b, least=2)
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    # If a covariance is singular, rounding makes some eigenvalues negative; hence both clamps.
    root_a = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = root_a @ cov_b @ root_a
    trace = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    gap = (a.mean(0) - b.mean(0)).square().sum()
    return float(gap + cov_a.trace() + cov_b.trace() - 2 * trace)


# ------------------------------------------------------------------------------------------------ neighbours


def nearest(a: Tensor, b: Tensor, n: int = 1) -> tuple[Tensor, Tensor]:
    """For each row of a (N, K), its n nearest rows of b (M, K), the nearest first; M is at least n.

    Returns their indices in b, int64 (N, n), and their Euclidean distances, float64 (N, n). It takes N·M·K
    operations: distances are summed from differences, because the faster way through products rounds, and so
    finds a distance above 0 between equal rows.
    """
    a, b = _checked(a, b, least=1)
    if not 1 <= n <= len(b):
        raise ValueError(f"n must be from 1 to the {len(b)} rows of b, got {n}")
    found = [_distances(rows, b).topk(n, dim=1, largest=False) for rows in a.split(CHUNK)]
    return torch.cat([part.indices for part in found]), torch.cat([part.values for part in found])


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


class PrecisionRecall(NamedTuple):
    """Shares from 0 to 1, except density, which may exceed 1; see `precision_recall`."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(generated: Tensor, real: Tensor, k: int = 3, density_k: int = 5) -> PrecisionRecall:
    """Do generated samples (N, K) lie among the real ones (M, K), and the real among the generated?

    A set's region is the union of balls around its rows; the radius of a ball is the distance to the row's
    k-th nearest other row. Each set needs more rows than k and density_k.

    precision, recall: share of generated rows in the real region, and of real rows in the generated region;
    below 1 even for equal distributions. They use k: Kynkäänniemi et al. 2019 (arXiv:1904.06991), eqs. 1, 2.
    density: the number of real balls in which a generated row lies, averaged over these rows, divided by
    density_k; its mean is 1 for equal distributions. coverage: share of real balls that contain a generated
    row; about 1 − 2^−density_k for equal distributions at N = M (lemma 2). Both use density_k: Naeem et al.
    2020 (arXiv:2002.09797), §3.
    A row on a ball's rim counts as inside it in all four, so equal rows lie in each other's balls.
    """
    generated, real = _checked(generated, real, least=max(k, density_k) + 1)
    by_real = _neighbour_distances(real, max(k, density_k))  # (M, k)
    by_generated = _neighbour_distances(generated, k)  # (N, k)
    precise, balls = [], 0
    recalled = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    for rows, radius in zip(generated.split(CHUNK), by_generated[:, k - 1].split(CHUNK), strict=True):
        distances = _distances(rows, real)  # (chunk, M)
        precise.append((distances <= by_real[:, k - 1]).any(1))
        recalled |= (distances <= radius[:, None]).any(0)
        inside = distances <= by_real[:, density_k - 1]
        balls += int(inside.sum())
        covered |= inside.any(0)
    return PrecisionRecall(
        precision=float(torch.cat(precise).double().mean()),
        recall=float(recalled.double().mean()),
        density=balls / (density_k * len(generated)),
        coverage=float(covered.double().mean()),
    )


def _neighbour_distances(x: Tensor, k: int) -> Tensor:
    """Distance of each row of x (N, K) to its 1st … k-th nearest other row: (N, k)."""
    found = []
    for start in range(0, len(x), CHUNK):
        distances = _distances(x[start : start + CHUNK], x)
        # A row itself is excluded by its index, not by its distance: that is 0 for equal rows, too.
        own = torch.arange(len(distances))
        distances[own, start + own] = torch.inf
        found.append(distances.topk(k, dim=1, largest=False).values)
    return torch.cat(found)


# ----------------------------------------------------------------------------------------------- in one table


def scores(generated: Tensor, real: Tensor, other_real: Tensor) -> dict[str, float]:
    """All figures of generated samples against real ones, (N, K), (M, K), (L, K).

    Each set is cut to its first n rows, where n is the number of rows of the smallest set.

    kernel_distance, frechet_distance: between generated and real; …_floor: between other_real and real, as a
    perfect generator would have it; other_real are real samples that are in neither set. A floor is a single
    draw; the floor of the kernel distance may by chance be several times as large. precision, recall, density
    and coverage: as in `precision_recall`; if samples are few different ones, recall and coverage show it,
    while the distances hardly do. n: rows of each set.
    """
    n = min(len(generated), len(real), len(other_real))
    generated, real, other_real = generated[:n], real[:n], other_real[:n]
    return {
        "kernel_distance": kernel_distance(generated, real),
        "kernel_distance_floor": kernel_distance(other_real, real),
        "frechet_distance": frechet_distance(generated, real),
        "frechet_distance_floor": frechet_distance(other_real, real),
        **precision_recall(generated, real)._asdict(),
        "n": n,
    }


def two_sample_accuracy(generated: Tensor, real: Tensor, seed: int) -> float:
    """Accuracy with which a classifier tells generated (N, K) from real (M, K) features that it has not seen.

    Logistic regression on standardised features, with 5-fold cross-validation; both sets are cut to their
    first min(N, M) rows, at least 5. 0.5 means that no linear classifier can distinguish them; 1 means no
    mistakes. seed: assigns rows to folds. Samples that occur repeatedly may lie in several folds, which makes
    them easier to distinguish. Lopez-Paz & Oquab 2017 (arXiv:1610.06545), eq. 2.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generated, real = _checked(generated, real, least=FOLDS)
    n = min(len(generated), len(real))
    x = torch.cat([generated[:n], real[:n]]).numpy()
    is_real = np.arange(2 * n) >= n
    rng = np.random.default_rng(seed)
    fold = np.concatenate([rng.permutation(n) % FOLDS for _ in range(2)])  # as many of both in each fold
    right = 0
    for held_out in range(FOLDS):
        seen = fold != held_out
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        model.fit(x[seen], is_real[seen])
        right += int((model.predict(x[~seen]) == is_real[~seen]).sum())
    return right / (2 * n)
