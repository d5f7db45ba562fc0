"""Muon, for convolutions too: momentum whose update is made orthogonal, so that a weight learns equally
fast in all directions, rare and common ones alike.

Source  Jordan et al. 2024 (kellerjordan.github.io/posts/muon). torch.optim.Muon is the same for matrices,
        takes nothing else, and multiplies in bfloat16, which many processors only emulate.
Shapes  A weight (O, …) counts as a matrix (O, rest): for a convolution one row an output channel, for a
        transposed one an input channel.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that is steepest at 0


def orthogonal(matrix: Tensor, rounds: int = 5) -> Tensor:
    """About U Vᵀ of the singular value decomposition U S Vᵀ of a matrix (O, I): its directions, all of about
    one size, 0.7 to 1.2, but for those that are 10⁻³ of the largest or less.

    Newton-Schulz, `rounds` times x ← (a + b·x xᵀ + c·(x xᵀ)²) x. The factors are polynomials of x xᵀ: they
    are multiplied first, as small square matrices, and x itself is met twice only.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (x.norm() + 1e-7)  # no singular value is above 1 then
    a, b, c = COEFFICIENTS
    gram, product = x @ x.T, torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(rounds):
        factor = b * gram + c * gram @ gram
        factor.diagonal().add_(a)
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x.T if is_tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal, for weights of two or more axes; biases and norms need another
    optimiser. ValueError: a parameter with fewer axes.

    lr: the size of a step along each direction, larger by √(O / rest) for tall matrices.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim < 2:
                    raise ValueError(
                        f"Muon is for weights of two or more axes, not for one of {tuple(p.shape)}"
                    )

    @torch.no_grad()
    def step(self, closure=None):
        """One update from the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                average = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(average, group["momentum"]).flatten(1)
                rows, columns = update.shape
                update = orthogonal(update)
                p.sub_(update.reshape(p.shape), alpha=group["lr"] * max(1.0, rows / columns) ** 0.5)
        return loss
