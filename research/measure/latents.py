"""Paths and directions in latent space, and what q(z|x) = N(mu, exp(logvar)) says about each latent.

Shapes: N examples, D latents; codes are (N, D), a single code is (D,). KL is in nats.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SILENT_NATS = 0.05  # less KL: silent. With means of variance v and noise of variance 1 − v that is v < 0.095


def _ratios(t, z: Tensor) -> Tensor:
    """t, a number, list or tensor (*T), as a tensor (*T, 1, …, 1) that multiplies z."""
    t = torch.as_tensor(t, dtype=z.dtype, device=z.device)
    return t.reshape(t.shape + (1,) * z.ndim)


def lerp(z0: Tensor, z1: Tensor, t) -> Tensor:
    """The straight line from z0 to z1 (both (*S)) at t (*T): (*T, *S); exactly z0 at 0 and z1 at 1."""
    t = _ratios(t, z0)
    return (1 - t) * z0 + t * z1


def slerp(z0: Tensor, z1: Tensor, t) -> Tensor:
    """The great arc from z0 to z1 (both (…, D)) at t (*T): (*T, …, D); exactly z0 at 0 and z1 at 1.

    Between codes of equal norm, the norm stays the same on the way; in many dimensions, codes drawn from a
    Gaussian have nearly equal norms. The straight line passes through shorter codes, which no decoder has
    seen. Codes that are zero, parallel or opposite have no definite arc and get the straight line. Shoemake
    1985; White 2016 (arXiv:1609.04468).
    """
    t = _ratios(t, z0)
    n0, n1 = z0.norm(dim=-1, keepdim=True), z1.norm(dim=-1, keepdim=True)
    u0, u1 = z0 * n1, z1 * n0
    # Kahan's form of the angle: near π the weights are large, and in float32 arccos is off by some per cent.
    angle = 2 * torch.atan2((u0 - u1).norm(dim=-1, keepdim=True), (u0 + u1).norm(dim=-1, keepdim=True))
    sine = torch.sin(angle)
    flat = (sine < 1e-3) | (n0 * n1 == 0)
    sine = torch.where(flat, torch.ones_like(sine), sine)
    w0 = torch.where(flat, 1 - t, torch.sin((1 - t) * angle) / sine)
    w1 = torch.where(flat, t, torch.sin(t * angle) / sine)
    return w0 * z0 + w1 * z1


def traversal(
    z: Tensor, dim_order, values, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """Copies (R, C, D) of the code z (D,) in which one latent is replaced: z[d] = shift[d] + scale[d]·value.

    dim_order (R,): the latent d of each row; values (C,), or (R, C): the value of each column; scale and
    shift: (D,), by default 1 and 0.
    """
    dims = torch.as_tensor(dim_order, dtype=torch.long, device=z.device)
    column = torch.as_tensor(values, dtype=z.dtype, device=z.device).expand(len(dims), -1)
    if scale is not None:
        column = column * scale[dims, None]
    if shift is not None:
        column = column + shift[dims, None]
    codes = z.repeat(len(dims), column.shape[1], 1)
    index = dims[:, None, None].expand(-1, column.shape[1], 1)
    return codes.scatter(-1, index, column[..., None].to(z.dtype))


def kl_per_latent(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) ‖ N(0, 1)) of each latent, mean over the N examples: (D,), nats.

    Kingma & Welling 2013 (arXiv:1312.6114), appendix B. Its sum over latents is the KL term of the ELBO.
    """
    return 0.5 * (mu.square() + torch.expm1(logvar) - logvar).mean(0)


def sort_by_kl(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """The latents (D,) by their KL, the largest first, equal ones by number; and their KL in this order."""
    kl, order = torch.sort(kl_per_latent(mu, logvar), descending=True, stable=True)
    return order, kl


def silent(kl: Tensor) -> Tensor:
    """A mask (D,) of the latents that carry too little to be interpreted: their KL (D,) is below SILENT_NATS.

    This is stricter than `active_units`, whose bound is reached at 0.005 nats: the means of a silent latent
    may still correlate with factors, but its noise drowns them.
    """
    return kl < SILENT_NATS


def active_units(mu: Tensor, threshold: float = 0.01) -> Tensor:
    """A mask (D,) of the latents that carry information about x: Var_x(E[z|x]) > threshold, for mu (N, D).

    Burda et al. 2016 (arXiv:1509.00519), §5.2. The sum of squares is divided by N. The sum of the mask is the
    number of active units.
    """
    return mu.var(0, correction=0) > threshold


def total_correlation(z: Tensor, mu: Tensor, logvar: Tensor, n: int, sampling: str) -> Tensor:
    """TC = E log q(z) − Σ_d E log q(z_d), in nats, from a batch of z ~ q(z|x); z, mu, logvar: (B, D), B > 1.

    n: number of pictures in the whole set. q(z) is estimated by a weighted sum of the batch's q(z|x), as in
    Chen et al. 2018 (arXiv:1802.04942). sampling="weighted": each has the weight 1 / B (eq. S5 without its
    constant (D − 1) ln n). sampling="stratified": the code's own picture has 1 / n, and the others share the
    rest equally, so that q(z) is exact for B = n (appendix C.2, where the weights differ but have the same
    mean). If codes carry more than ln B nats, both are only a pressure in training, not a measurement.
    """
    b = len(z)
    # (B, B, D): at (i, j) the code of i under q(.|x_j)
    log_pair = -0.5 * ((z[:, None] - mu).square() * (-logvar).exp() + logvar)
    own = 1 / (n if sampling == "stratified" else b)
    others = (1 - own) / max(b - 1, 1)  # the last batch of an evaluation may have a single picture
    log_w = torch.full((b, b), others, device=z.device).fill_diagonal_(own).log()
    log_q = torch.logsumexp(log_pair.sum(2) + log_w, dim=1)  # (B,); lacks −½ ln 2π per latent, as above
    log_q_each = torch.logsumexp(log_pair + log_w[:, :, None], dim=1)  # (B, D)
    return (log_q - log_q_each.sum(1)).mean()


def mutual_information(z: Tensor, mu: Tensor, logvar: Tensor) -> float:
    """I(x; z) of N examples, in nats: the mean of log q(z|x) − log 1/N Σ_j q(z|x_j); z, mu, logvar: (N, D).

    z has one draw from q(z|x) for each example. I(x; z) is the KL term of the ELBO minus the KL of the
    aggregate posterior from the prior, and never above ln N: Hoffman & Johnson 2016 (ELBO surgery, NIPS
    workshop on approximate inference), §2.
    """
    z, mu, logvar = (t.double() for t in (z, mu, logvar))
    own = -0.5 * ((z - mu).square() * (-logvar).exp() + logvar).sum(1)  # without −D/2 ln 2π, as below
    total = 0.0
    for some, log_q in zip(z.split(50), own.split(50), strict=True):
        pair = -0.5 * ((some[:, None] - mu).square() * (-logvar).exp() + logvar).sum(2)  # (b, N)
        total += float((log_q - torch.logsumexp(pair, 1) + math.log(len(mu))).sum())
    return total / len(z)


class Aggregate(NamedTuple):
    """A Gaussian with the first two moments of the aggregate posterior: mean (D,), cov (D, D)."""

    mean: Tensor
    cov: Tensor


def fit_aggregate(mu: Tensor, logvar: Tensor | None = None) -> Aggregate:
    """Mean and full covariance of q(z) = E_x q(z|x), float64: Cov_x(mu) + E_x diag(exp(logvar)), divided by
    N.

    mu, logvar: (N, D). Without logvar, q(z|x) is a point, as in an autoencoder.
    """
    mu = mu.double()
    mean = mu.mean(0)
    centred = mu - mean
    cov = centred.T @ centred / len(mu)
    return Aggregate(mean, cov if logvar is None else cov + torch.diag(logvar.double().exp().mean(0)))


def gaussian_tc(fit: Aggregate) -> float:
    """Total correlation of the fitted Gaussian, ½ (Σ_d ln cov_dd − ln det cov), in nats. Watanabe 1960.

    It is 0 if no latent can be predicted linearly from others, and infinite if one is a linear function of
    others.
    """
    return float(0.5 * (fit.cov.diagonal().log().sum() - torch.linalg.slogdet(fit.cov).logabsdet))


def sample_aggregate(fit: Aggregate, n: int, generator: torch.Generator) -> Tensor:
    """n codes (n, D), float32, drawn from the fitted Gaussian; the noise is drawn on the generator's device.

    It uses the symmetric root of the covariance, which exists even if latents are constant; Cholesky's does
    not.
    """
    values, vectors = torch.linalg.eigh(fit.cov)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    noise = torch.randn(n, len(fit.mean), generator=generator, device=generator.device)
    return (fit.mean + noise.to(root) @ root).float()


class Regression(NamedTuple):
    """target ≈ intercept + slope · (z @ direction). direction (D,) has norm 1; r2: R² on the codes of the
    fit.
    """

    direction: Tensor
    slope: float
    intercept: float
    r2: float


def regression_direction(mu: Tensor, target: Tensor, ridge: float = 0.01) -> Regression:
    """The direction that best predicts a continuous factor, target (N,), linearly from codes mu (N, D).

    Adding Δ / slope · direction to a code changes the prediction by Δ. When the factor itself varies, codes
    move along Σ · direction, where Σ is the codes' covariance (Haufe et al. 2014). ridge is relative to the
    mean variance of a latent; without it, unused latents, which hardly vary, would get huge weights that fit
    noise. If the target or all codes are constant, there is no direction: it is zeros, and r2 is 0.
    """
    # Through float32, whose sums are exact in float64: so a constant has a variance of exactly zero.
    x, y = mu.float().double(), target.to(mu.device).float().double()
    x_mean, y_mean = x.mean(0), y.mean()
    x, y = x - x_mean, y - y_mean
    cov = x.T @ x / len(x)
    penalty = ridge * cov.diagonal().mean()
    eye = torch.eye(len(cov), dtype=x.dtype, device=x.device)
    weights = torch.linalg.pinv(cov + penalty * eye, hermitian=True) @ (x.T @ y / len(x))
    slope, total = weights.norm(), y.square().sum()
    r2 = 1 - (y - x @ weights).square().sum() / total if total > 0 else 0.0
    direction = weights / slope if slope > 0 else weights
    return Regression(direction.to(mu.dtype), float(slope), float(y_mean - x_mean @ weights), float(r2))


def mirror_direction(mu: Tensor, mu_mirrored: Tensor) -> tuple[Tensor, float]:
    """The direction (D,), of norm 1, in which codes move when their images are mirrored; and its share.

    mu, mu_mirrored: (N, D). The direction is the first right singular vector of mu − mu_mirrored, which is
    not centred: an image and its mirror image give opposite differences, so their centre is zero. Its entry
    with the largest size is positive. The share is the part of the squared differences that lies along the
    direction. If all codes are equal, the direction is zeros and the share is 0.
    """
    difference = (mu - mu_mirrored).double()
    _, singular, rows = torch.linalg.svd(difference, full_matrices=False)
    total = singular.square().sum()
    if total == 0:
        return torch.zeros_like(mu[0]), 0.0
    direction = rows[0] * torch.sign(rows[0][rows[0].abs().argmax()])
    return direction.to(mu.dtype), float(singular[0].square() / total)
