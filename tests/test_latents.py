"""Paths, KL per latent, aggregate posterior and directions: known values and planted structure."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from research.measure import latents


def close(actual, expected, atol=1e-6, rtol=1e-5):
    # numpy's: the import behind torch.testing takes seconds
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), atol=atol, rtol=rtol)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("path", [latents.lerp, latents.slerp])
@pytest.mark.parametrize("shape", [(8,), (3, 8)])
def test_paths_are_exact_at_the_ends_and_shaped_by_t(path, shape):
    z0, z1 = noise(*shape, seed=1), 3 * noise(*shape, seed=2)
    line = path(z0, z1, torch.linspace(0, 1, 5))
    assert line.shape == (5, *shape)
    assert torch.equal(line[0], z0)
    assert torch.equal(line[-1], z1)
    assert path(z0, z1, 0.5).shape == shape
    close(path(z0, z1, [0.0, 0.5, 1.0])[1], line[2])


def test_lerp_halves_and_slerp_follows_the_circle():
    z0, z1 = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    close(latents.lerp(z0, z1, 0.25), torch.tensor([1.5, 0.5]))
    angle = math.pi / 2 * 0.25
    close(latents.slerp(z0, z1, 0.25), torch.tensor([2 * math.cos(angle), 2 * math.sin(angle)]))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(0, 1))
def test_slerp_keeps_the_norm_of_codes_of_equal_norm(seed, radius, t):
    z = noise(2, 16, seed=seed)
    z = radius * z / z.norm(dim=-1, keepdim=True)
    assert latents.slerp(z[0], z[1], t).norm().item() == pytest.approx(radius, rel=1e-4)


def test_slerp_without_an_arc_is_a_straight_line():
    z = noise(6)
    for other in (z, 2 * z, z + 1e-6 * noise(6, seed=1), -z, torch.zeros(6)):
        between = latents.slerp(z, other, torch.linspace(0, 1, 7))
        close(between, latents.lerp(z, other, torch.linspace(0, 1, 7)))
    # Each code of a batch decides for itself.
    z0, z1 = torch.stack([z, z]), torch.stack([2 * z, noise(6, seed=3)])
    close(latents.slerp(z0, z1, 0.3)[1], latents.slerp(z0[1], z1[1], 0.3))
    close(latents.slerp(z0, z1, 0.3)[0], 1.3 * z)


def test_slerp_of_nearly_opposite_codes_keeps_the_norm():
    z0 = torch.tensor([1.0, 0.0])
    z1 = torch.tensor([-math.cos(2e-3), math.sin(2e-3)])
    assert latents.slerp(z0, z1, 0.5).norm().item() == pytest.approx(1, rel=1e-3)


def test_traversal_replaces_one_latent():
    z = torch.arange(4.0)
    codes = latents.traversal(
        z, [2, 0], [-1.0, 0.0, 1.0], scale=torch.full((4,), 2.0), shift=10 * torch.ones(4)
    )
    assert codes.shape == (2, 3, 4)
    assert codes[0, :, 2].tolist() == [8.0, 10.0, 12.0]
    assert codes[1, :, 0].tolist() == [8.0, 10.0, 12.0]
    assert (codes[0][:, [0, 1, 3]] == z[[0, 1, 3]]).all()
    assert (codes[1][:, 1:] == z[1:]).all()
    assert latents.traversal(z, torch.tensor([3]), torch.tensor([5.0]))[0, 0].tolist() == [0, 1, 2, 5]
    assert z.tolist() == [0, 1, 2, 3]


def test_kl_is_zero_for_the_prior_and_equals_torch_distributions():
    assert latents.kl_per_latent(torch.zeros(5, 3), torch.zeros(5, 3)).tolist() == [0, 0, 0]
    mu, logvar = noise(200, 6), noise(200, 6, seed=1)
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).mean(0)
    close(latents.kl_per_latent(mu, logvar), expected)


@settings(max_examples=50, deadline=None)
@given(st.floats(-5, 5), st.floats(-20, 10))
def test_kl_is_never_negative(mu, logvar):
    assert latents.kl_per_latent(torch.tensor([[mu]]), torch.tensor([[logvar]])).item() >= -1e-6


def test_sort_by_kl_puts_the_most_informative_first():
    mu = noise(100, 4) * torch.tensor([0.0, 2.0, 0.0, 1.0])
    order, kl = latents.sort_by_kl(mu, torch.zeros(100, 4))
    assert order.tolist() == [1, 3, 0, 2]
    close(kl, latents.kl_per_latent(mu, torch.zeros(100, 4))[order])


def test_active_units_compares_the_variance_of_the_means_with_the_threshold():
    # Values ±s have variance s² over N: 0.0121 and 0.0081 lie on either side of 0.01.
    mu = torch.tensor([[0.11, 0.09, 5.0], [-0.11, -0.09, 5.0]])
    assert latents.active_units(mu).tolist() == [True, False, False]
    assert latents.active_units(mu, threshold=0.005).tolist() == [True, True, False]
    assert latents.active_units(mu[:1]).sum().item() == 0


def test_aggregate_recovers_a_known_gaussian():
    # q(z|x) = N(mu, 0.2) and mu ~ N(m, S), so q(z) = N(m, S + 0.2).
    root = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.8, 0.0], [0.0, 0.3, 0.2]])
    mean = torch.tensor([1.0, -2.0, 0.5])
    mu = noise(100_000, 3) @ root.T + mean
    fit = latents.fit_aggregate(mu, torch.full_like(mu, math.log(0.2)))
    expected = root @ root.T + 0.2 * torch.eye(3)
    close(fit.mean.float(), mean, atol=0.02, rtol=0)
    close(fit.cov.float(), expected, atol=0.02, rtol=0)
    drawn = latents.sample_aggregate(fit, 100_000, torch.Generator().manual_seed(3))
    assert drawn.dtype == torch.float32
    close(drawn.mean(0), mean, atol=0.02, rtol=0)
    close(drawn.T.cov(), expected, atol=0.03, rtol=0)


def test_aggregate_of_point_codes_with_a_constant_latent():
    mu = torch.cat([noise(500, 2), torch.full((500, 1), 3.0)], dim=1)
    fit = latents.fit_aggregate(mu)
    close(fit.cov, mu.double().T.cov(correction=0))
    drawn = latents.sample_aggregate(fit, 7, torch.Generator().manual_seed(0))
    assert drawn.shape == (7, 3)
    close(drawn[:, 2], torch.full((7,), 3.0))
    assert torch.equal(drawn, latents.sample_aggregate(fit, 7, torch.Generator().manual_seed(0)))
    assert not torch.equal(drawn, latents.sample_aggregate(fit, 7, torch.Generator().manual_seed(1)))


def test_regression_recovers_a_planted_direction():
    planted = torch.nn.functional.normalize(noise(10, seed=5), dim=0)
    mu = noise(5000, 10)
    target = 2.5 * mu @ planted + 7 + 0.5 * noise(5000, seed=6)
    fit = latents.regression_direction(mu, target)
    assert fit.direction.norm().item() == pytest.approx(1, abs=1e-5)
    assert (fit.direction @ planted).item() > 0.999
    assert fit.slope == pytest.approx(2.5, rel=0.03)
    assert fit.intercept == pytest.approx(7, abs=0.05)
    assert fit.r2 == pytest.approx(2.5**2 / (2.5**2 + 0.5**2), abs=0.01)
    exact = latents.regression_direction(mu, 2.5 * mu @ planted + 7, ridge=0)
    assert exact.slope == pytest.approx(2.5, rel=1e-5)
    assert exact.r2 == pytest.approx(1)


def test_regression_ignores_unused_latents():
    mu = noise(300, 6)
    target = mu[:, 0] + noise(300, seed=1)
    mu[:, 3:] *= 1e-4  # a latent at rest, where least squares would find weights of several hundred
    assert latents.regression_direction(mu, target).direction[0].item() > 0.98
    assert abs(latents.regression_direction(mu, target, ridge=0).direction[0].item()) < 0.1


def test_regression_of_a_constant_has_no_direction():
    for mu, target in (
        (noise(50, 3), torch.full((50,), 0.1, dtype=torch.float64)),
        (0.1 * torch.ones(50, 3), noise(50)),
    ):
        fit = latents.regression_direction(mu, target)
        assert fit.direction.tolist() == [0, 0, 0]
        assert (fit.slope, fit.r2) == (0, pytest.approx(0, abs=1e-12))
        assert fit.intercept == pytest.approx(target.mean().item())


def test_mirror_recovers_a_planted_direction_and_its_share():
    planted = torch.nn.functional.normalize(noise(8, seed=2), dim=0)
    planted = planted * torch.sign(planted[planted.abs().argmax()])
    side = noise(2000, 1, seed=3)
    base = noise(2000, 8, seed=4)
    difference = side * planted
    direction, share = latents.mirror_direction(base + difference / 2, base - difference / 2)
    assert (direction @ planted).item() == pytest.approx(1, abs=1e-5)
    assert share == pytest.approx(1, abs=1e-6)
    # Noise of one hundredth of the planted variance per latent leaves 1.01 of 1.08 along it.
    noisy = difference + 0.1 * noise(2000, 8, seed=5)
    direction, share = latents.mirror_direction(base + noisy, base)
    assert (direction @ planted).item() > 0.999
    assert share == pytest.approx(1.01 / 1.08, abs=0.01)


def test_mirror_does_not_centre_and_has_a_sign():
    mu = torch.zeros(20, 3)
    mu[:, 1] = -2.0  # the same difference everywhere: centring would leave nothing
    direction, share = latents.mirror_direction(mu, torch.zeros(20, 3))
    close(direction, torch.tensor([0.0, 1.0, 0.0]))
    assert share == pytest.approx(1)
    swapped, _ = latents.mirror_direction(torch.zeros(20, 3), mu)
    assert torch.equal(swapped, direction)
    zeros, share = latents.mirror_direction(mu, mu)
    assert (zeros.tolist(), share) == ([0, 0, 0], 0)


def test_a_latent_is_silent_below_its_nats_and_active_above_another_bound():
    kl = torch.tensor([0.0, 0.04, 0.0499, 0.05, 2.0, float("nan")])
    assert latents.silent(kl).tolist() == [True, True, True, False, False, False]
    # the best q(z|x) of means with variance v has variance 1 − v, and −½ ln(1 − v) nats
    for v, is_silent, is_active in ((0.005, True, False), (0.09, True, True), (0.1, False, True)):
        mu = math.sqrt(v) * torch.tensor([[1.0], [-1.0]])
        logvar = torch.full_like(mu, math.log(1 - v))
        close(latents.kl_per_latent(mu, logvar), torch.tensor([-0.5 * math.log(1 - v)]))
        assert latents.silent(latents.kl_per_latent(mu, logvar)).tolist() == [is_silent]
        assert latents.active_units(mu).tolist() == [is_active]
