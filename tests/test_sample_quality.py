"""Figures of two sets of features: known values, planted differences, and what must not matter."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from research.measure import sample_quality as quality


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shuffled(x, seed):
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]


sizes = st.integers(2, 12)
seeds = st.integers(0, 10_000)


# ------------------------------------------------------------------------------------------------- distances


@settings(max_examples=30, deadline=None)
@given(sizes, sizes, st.integers(1, 6), seeds)
def test_the_kernel_distance_is_the_double_loop(n, m, k, seed):
    a, b = noise(n, k, seed=seed), 1 + noise(m, k, seed=seed + 1)

    def mean(x, y, skip):
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if not (skip and i == j)]
        return sum((float(x[i] @ y[j]) / k + 1) ** 3 for i, j in pairs) / len(pairs)

    expected = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    assert quality.kernel_distance(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_kernel_distance_of_equal_distributions_is_zero_in_the_mean_at_any_n():
    for n in (5, 40):
        found = [
            quality.kernel_distance(noise(n, 4, seed=2 * i), noise(n, 4, seed=2 * i + 1)) for i in range(400)
        ]
        error = np.std(found) / math.sqrt(len(found))
        assert abs(np.mean(found)) < 4 * error
        assert min(found) < 0 < max(found)
    # a biased estimate would count each row with itself: of N = 5 that is far away
    diagonal = float(((noise(5, 4).square().sum(1) / 4 + 1) ** 3).mean()) / 5
    assert diagonal > 4 * error


def test_the_kernel_distance_of_known_distributions():
    # x = ±1 and y = ±s, K = 1: E k = 1 + 3 s² for products with mean 0 and even powers 1, s², s⁴
    a = torch.tensor([1.0, -1.0]).repeat(500)[:, None]
    expected = (1 + 3) + (1 + 3 * 0.5**4) - 2 * (1 + 3 * 0.5**2)
    assert quality.kernel_distance(a, 0.5 * a) == pytest.approx(expected, abs=0.02)


def test_the_frechet_distance_of_gaussians_with_known_moments():
    # whitened, so that the moments are exact; covariances that do not commute
    x = noise(50, 2) - noise(50, 2).mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    a, b = x @ torch.diag(torch.tensor([1.0, 3.0])).double(), x * 2 + torch.tensor([3.0, 4.0])
    assert quality.frechet_distance(a, b) == pytest.approx(25 + (1 - 2) ** 2 + (3 - 2) ** 2, rel=1e-9)
    one = noise(50, 1)
    assert quality.frechet_distance(one, 3 * one) == pytest.approx(float(4 * one.mean() ** 2 + 4 * one.var()))
    turn = torch.tensor([[0.8, 0.6], [-0.6, 0.8]]).double()
    s_a, s_b = torch.cov(a.T), torch.cov((a @ turn).T)
    # in two dimensions tr(M^½)² = tr M + 2 (det M)^½
    root = ((s_a @ s_b).trace() + 2 * (s_a @ s_b).det().sqrt()).sqrt()
    expected = s_a.trace() + s_b.trace() - 2 * root + (a.mean(0) - (a @ turn).mean(0)).square().sum()
    assert quality.frechet_distance(a, a @ turn) == pytest.approx(float(expected), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(sizes, sizes, st.integers(1, 40), seeds)
def test_distances_have_no_order_and_no_sides_also_with_fewer_rows_than_features(n, m, k, seed):
    a, b = noise(n, k, seed=seed), 0.5 + 2 * noise(m, k, seed=seed + 1)
    for distance in (quality.frechet_distance, quality.kernel_distance):
        found = distance(a, b)
        assert math.isfinite(found)
        assert distance(b, a) == pytest.approx(found, rel=1e-6, abs=1e-6 * k)
        assert distance(shuffled(a, seed), shuffled(b, seed)) == pytest.approx(found, rel=1e-6, abs=1e-6 * k)
    assert quality.frechet_distance(a, a) == pytest.approx(0, abs=1e-6 * k)
    assert quality.frechet_distance(a, b) > -1e-6 * k
    moved = quality.frechet_distance(a, a + 1)
    assert moved == pytest.approx(k, rel=1e-6)  # the same covariance, however singular


def test_the_frechet_distance_is_biased_upwards_and_less_so_with_more_rows():
    few, many = (
        np.mean(
            [
                quality.frechet_distance(noise(n, 10, seed=2 * i), noise(n, 10, seed=2 * i + 1))
                for i in range(10)
            ]
        )
        for n in (30, 300)
    )
    assert few > 3 * many > 0


def test_the_frechet_distance_is_that_of_the_matrix_square_root():
    from scipy.linalg import sqrtm

    a, b = noise(200, 6) @ noise(6, 6, seed=5), 1 + noise(150, 6, seed=1)
    s_a, s_b = np.cov(a.numpy().T), np.cov(b.numpy().T)
    gap = (a.mean(0) - b.mean(0)).square().sum().item()
    expected = gap + np.trace(s_a + s_b - 2 * sqrtm(s_a @ s_b).real)
    assert quality.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.soak  # its import takes seconds
def test_the_frechet_distance_is_that_of_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Identity(nn.Module):
        num_features = 6

        def forward(self, x):
            return x.double()

    a, b = noise(200, 6) @ noise(6, 6, seed=5), 1 + noise(150, 6, seed=1)
    metric = FrechetInceptionDistance(feature=Identity()).set_dtype(torch.float64)
    metric.update(a, real=False)
    metric.update(b, real=True)
    assert quality.frechet_distance(a, b) == pytest.approx(float(metric.compute()), rel=1e-6)


# ------------------------------------------------------------------------------------------------ neighbours


def test_the_nearest_row_of_a_copy_is_itself_exactly(monkeypatch):
    x = 100 + 1e-3 * noise(30, 50).float()  # through products such distances would be lost in rounding
    copy = x[[4, 20, 4]]
    for chunk in (2, 500):
        monkeypatch.setattr(quality, "CHUNK", chunk)
        index, distance = quality.nearest(copy, x)
        assert index.tolist() == [[4], [20], [4]] and distance.tolist() == [[0], [0], [0]]


def test_the_nearest_rows_come_in_order():
    b = torch.tensor([[0.0, 0.0], [10.0, 0.0], [3.0, 4.0]])
    index, distance = quality.nearest(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), b, n=3)
    assert index.tolist() == [[0, 2, 1], [1, 2, 0]]
    assert distance[0].tolist() == [0, 5, 10] and distance.dtype == torch.float64
    with pytest.raises(ValueError, match="from 1 to the 3 rows"):
        quality.nearest(b, b, n=4)


def test_precision_and_recall_of_points_on_a_line():
    real = torch.arange(8.0)[:, None]  # with k = 1 each ball has radius 1: from −1 to 8
    generated = torch.tensor([[-1.0], [2.5], [8.5], [100.0]])  # radii 3.5, 3.5, 6 and 91.5
    found = quality.precision_recall(generated, real, k=1, density_k=2)
    assert found.precision == 2 / 4
    # the ball of 100 reaches 8.5, that of 2.5 from −1 to 6, that of 8.5 from 2.5 to 14.5, that of −1 to 2.5
    assert found.recall == 8 / 8
    # second neighbours: 2 for the ends, else 1. −1 lies in the balls of 0; 2.5 in those of 2 and 3; 8.5 in
    # that of 7, which reaches 9
    assert found.density == (1 + 2 + 1) / (2 * 4)
    assert found.coverage == 4 / 8  # 0, 2, 3, 7


def test_equal_disjoint_and_fewer_modes(monkeypatch):
    centres = 100 * noise(4, 5, seed=9)
    real = torch.cat([c + noise(40, 5, seed=i) for i, c in enumerate(centres)])
    other = torch.cat([c + noise(40, 5, seed=10 + i) for i, c in enumerate(centres)])
    same = quality.precision_recall(real, real)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1) and same.density > 1
    assert quality.precision_recall(real, real + 1e4) == (0, 0, 0, 0)
    fair = quality.precision_recall(other, real)
    dropped = quality.precision_recall(other[:80], real)  # two of four modes
    assert fair.precision > 0.6 and fair.recall > 0.6
    assert dropped.precision > 0.6 and 0.3 < dropped.recall <= 0.5 and 0.3 < dropped.coverage <= 0.5
    repeated = quality.precision_recall(other[::10].repeat(10, 1), real)  # its balls have no size
    assert repeated.recall == 0 and repeated.coverage < 0.5 and repeated.precision > 0.6
    monkeypatch.setattr(quality, "CHUNK", 7)
    assert quality.precision_recall(other, real) == pytest.approx(fair)


def test_density_and_coverage_of_equal_distributions():
    found = [
        quality.precision_recall(noise(200, 3, seed=2 * i), noise(200, 3, seed=2 * i + 1)) for i in range(20)
    ]
    assert np.mean([f.density for f in found]) == pytest.approx(1, abs=0.05)
    # Naeem et al. 2020, lemma 2: 1 − Π (N − i) / (2N − i), i = 1 … k
    expected = 1 - math.prod((200 - i) / (400 - i) for i in range(1, 6))
    assert np.mean([f.coverage for f in found]) == pytest.approx(expected, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(st.integers(6, 20), st.integers(6, 20), seeds)
def test_precision_and_recall_have_no_order_and_change_sides(n, m, seed):
    a, b = noise(n, 3, seed=seed), 1 + noise(m, 3, seed=seed + 1)
    found = quality.precision_recall(a, b)
    assert quality.precision_recall(shuffled(a, seed), shuffled(b, seed)) == pytest.approx(found)
    swapped = quality.precision_recall(b, a)
    assert (swapped.precision, swapped.recall) == (found.recall, found.precision)
    assert quality.precision_recall(3 * a + 7, 3 * b + 7) == pytest.approx(found)


# ----------------------------------------------------------------------------------------------- in one table


def test_scores_cut_all_sets_to_the_fewest_rows_and_give_the_floor():
    generated, real, other = 0.5 + noise(300, 8), noise(120, 8, seed=1), noise(150, 8, seed=2)
    found = quality.scores(generated, real, other)
    assert found["n"] == 120
    cut = (generated[:120], real[:120])
    assert found["kernel_distance"] == quality.kernel_distance(*cut)
    assert found["frechet_distance"] == quality.frechet_distance(*cut)
    assert found["kernel_distance_floor"] == quality.kernel_distance(other[:120], real)
    assert found["frechet_distance_floor"] == quality.frechet_distance(other[:120], real)
    assert (found["precision"], found["recall"]) == quality.precision_recall(*cut)[:2]
    assert found["kernel_distance"] > found["kernel_distance_floor"]
    assert found["frechet_distance"] > found["frechet_distance_floor"]
    perfect = quality.scores(other, real, other)
    assert perfect["kernel_distance"] == perfect["kernel_distance_floor"]


def test_a_classifier_tells_what_differs_and_nothing_else():
    a, b = noise(300, 5), noise(400, 5, seed=1)
    a, b = a.float(), b.float()
    same = quality.two_sample_accuracy(a, b, seed=0)
    assert same == pytest.approx(0.5, abs=0.07)
    assert same == quality.two_sample_accuracy(a, b, seed=0)
    assert quality.two_sample_accuracy(a + 10, b, seed=0) == 1
    # one feature moved by 1 of its deviations: the best rule is right in Φ(½) = 0.69
    moved = a + torch.tensor([1.0, 0, 0, 0, 0])
    assert quality.two_sample_accuracy(moved, b, seed=0) == pytest.approx(0.69, abs=0.06)
    # whatever the features' scale is
    scale = torch.tensor([1e-3, 1.0, 1e3, 1.0, 1.0])
    assert quality.two_sample_accuracy(moved * scale, b * scale, seed=0) == pytest.approx(0.69, abs=0.06)
    # folds are dealt by the seed
    assert len({quality.two_sample_accuracy(moved, b, seed=i) for i in range(4)}) > 1


def test_a_classifier_is_scored_on_rows_that_it_has_not_seen():
    a, b = noise(20, 60), noise(20, 60, seed=1)  # more features than rows: what is seen is always told
    found = np.mean([quality.two_sample_accuracy(a, b, seed=i) for i in range(5)])
    assert 0.25 < found < 0.75


@pytest.mark.parametrize(
    "measure",
    [
        quality.kernel_distance,
        quality.frechet_distance,
        quality.precision_recall,
        quality.nearest,
        lambda a, b: quality.two_sample_accuracy(a, b, seed=0),
    ],
)
def test_what_are_no_two_sets_of_features_is_refused(measure):
    good = noise(10, 3)
    broken = good.clone()
    broken[3, 1] = math.nan
    for bad in (noise(10, 4), noise(0, 3), noise(10)):
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(ValueError, match="two sets of features"):
                measure(*pair)
    with pytest.raises(ValueError, match="finite"):
        measure(good, broken)
