"""Muon: its updates are orthogonal, and for matrices they equal those of torch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from research.parts.muon import Muon, orthogonal


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_all_directions_get_about_one_size(rows, columns, seed):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    sizes = torch.linalg.svdvals(matrix)
    found = orthogonal(matrix)
    assert found.shape == matrix.shape
    strong = sizes > 0.05 * sizes.max()  # the weakest need more rounds
    assert torch.linalg.svdvals(found)[strong].min() > 0.5 and torch.linalg.svdvals(found).max() < 1.3


def test_the_directions_stay_what_they_were():
    u, _, vt = torch.linalg.svd(
        torch.randn(6, 9, generator=torch.Generator().manual_seed(0)), full_matrices=False
    )
    matrix = u @ torch.diag(torch.tensor([5.0, 3, 2, 1, 0.8, 0.5])) @ vt
    shares = u.T @ orthogonal(matrix) @ vt.T
    off = shares - torch.diag(shares.diagonal())
    assert off.abs().max() < 1e-4 and shares.diagonal().min() > 0.6


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 60), st.integers(0, 1000))
def test_it_is_the_iteration_as_it_is_written(rows, columns, seed):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).double()
    x = matrix / (matrix.norm() + 1e-7)
    x = x if rows <= columns else x.T
    for _ in range(5):
        s = x @ x.T
        x = 3.4445 * x - 4.7750 * s @ x + 2.0315 * s @ s @ x
    torch.testing.assert_close(orthogonal(matrix), x if rows <= columns else x.T, rtol=1e-6, atol=1e-9)


def test_zeros_stay_zeros():
    assert torch.equal(orthogonal(torch.zeros(3, 5)), torch.zeros(3, 5))


@pytest.mark.parametrize("shape", [(8, 20), (20, 8)])
def test_for_matrices_it_is_torchs_muon(shape):
    rng = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=rng)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    a = Muon([ours], lr=0.02)
    b = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.0)
    for _ in range(5):
        gradient = torch.randn(shape, generator=rng)
        for p, optimizer in ((ours, a), (theirs, b)):
            p.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).abs().max()
    assert (ours - theirs).abs().max() < 0.1 * moved  # torch's rounds to bfloat16


def test_a_convolution_counts_as_a_matrix_of_its_output_channels():
    rng = torch.Generator().manual_seed(2)
    start, gradient = torch.randn(2, 6, 3, 2, 2, generator=rng)
    conv, matrix = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.flatten(1).clone())
    conv.grad, matrix.grad = gradient, gradient.flatten(1)
    Muon([conv]).step()
    Muon([matrix]).step()
    torch.testing.assert_close(conv.flatten(1), matrix)
    assert not torch.equal(conv, start)


def test_a_tall_matrix_takes_larger_steps():
    tall, wide = torch.nn.Parameter(torch.zeros(16, 4)), torch.nn.Parameter(torch.zeros(4, 16))
    tall.grad = torch.randn(16, 4, generator=torch.Generator().manual_seed(3))
    wide.grad = tall.grad.T.contiguous()
    Muon([tall, wide], lr=0.1).step()
    torch.testing.assert_close(tall, 2 * wide.T)  # the root of 16 / 4


def test_biases_are_refused():
    with pytest.raises(ValueError, match=r"not for one of \(5,\)"):
        Muon([torch.nn.Parameter(torch.zeros(5))])
