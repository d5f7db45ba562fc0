"""Muon, for convolutions too: an optimiser with momentum whose updates are made orthogonal, so that a weight
learns equally fast in all directions, the rare as well as the common ones.

Source  Jordan et al. 2024 (kellerjordan.github.io/posts/muon). torch.optim.Muon does the same for matrices,
        takes nothing else, and multiplies in bfloat16, which many processors only emulate.
Shapes  A weight (O, …) counts as a matrix (O, rest): each row is an output channel of a convolution, or an
        input channel of a transposed one.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c of the quintic a x + b x³ + c x⁵, chosen to be steep at 0


def orthogonal(matrix: Tensor, rounds: int = 5) -> Tensor:
    """About U Vᵀ, where U S Vᵀ is the singular value decomposition of a matrix (O, I): the same directions
    with singular values of 0.7 to 1.2. Those that were 10⁻³ of the largest or less remain smaller.

    Newton-Schulz iteration: `rounds` times x ← (a + b·x xᵀ + c·(x xᵀ)²) x. The factors are polynomials of
    x xᵀ, so they are multiplied first, as small square matrices, and x itself is used only twice.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (x.norm() + 1e-7)  # now no singular value is above 1
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
    """Nesterov momentum, made orthogonal, for weights with two or more axes; biases and the gains of norms
    need another optimiser. A parameter with fewer axes raises ValueError.

    lr: the size of a step along each direction; for tall matrices it is multiplied by √(O / rest).
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
        """One update from the gradients. closure: as in torch's optimisers; returns what it returns."""
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
