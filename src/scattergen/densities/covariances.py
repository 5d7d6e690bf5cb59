"""Covariance matrices: shrinkage towards the identity, factors, and the normal density."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

_ROWS = 8192  # codes per matrix product, to bound memory


def shrink_to_identity(covariance: Tensor, n: int, ridge: float = 0.0) -> Tensor:
    """Sample covariance S (d, d) of n codes, shrunk: (1 - ρ) S + (ρ tr S/d + ridge) I, ρ of Chen et al., 2010."""
    d = len(covariance)
    squares, trace = covariance.square().sum().item(), covariance.trace().item()
    spread = (n + 1 - 2 / d) * (squares - trace**2 / d)
    numerator = (1 - 2 / d) * squares + trace**2
    rho = 1.0 if spread <= numerator else numerator / spread
    shrunk = (1 - rho) * covariance
    shrunk.diagonal().add_(rho * trace / d + ridge)
    return shrunk


def precision_factor(covariance: Tensor) -> Tensor:
    """Lower triangular P with P^T P the inverse of the covariance (d, d)."""
    # The factorization needs float64 where directions have little variance; its inversion does not.
    return inverse_of_lower(torch.linalg.cholesky(covariance.double()).to(covariance))


def inverse_of_lower(lower: Tensor) -> Tensor:
    """Inverse of a lower triangular matrix, in its own type."""
    return torch.linalg.solve_triangular(lower, torch.eye(len(lower)).to(lower), upper=False)


def from_white(white: Tensor, lower: Tensor, means: Tensor, chosen: Tensor) -> Tensor:
    """means[k] + lower[k] @ white, row by row, with k = chosen: (N, d) in float64."""
    codes = means.double()[chosen]
    for k in chosen.unique().tolist():
        rows = (chosen == k).nonzero()[:, 0]
        codes[rows] += white[rows] @ lower[k].double().T
    return codes


def log_joint(x: Tensor, weight: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Logarithm of weight × N(x; mean, covariance) for codes x (N, d), in nats; `factor` is `precision_factor`'s."""
    constant = weight.log() + factor.diagonal().log().sum() - 0.5 * len(mean) * math.log(2 * math.pi)
    squares = [((part - mean) @ factor.T).square().sum(1) for part in x.split(_ROWS)]
    return constant - 0.5 * torch.cat(squares)


def log_mixture(x: Tensor, weights: Tensor, means: Tensor, factors: Iterable[Tensor]) -> Tensor:
    """Logarithm of a Gaussian mixture at codes x (N, d), in nats; `factors` are those of `precision_factor`."""
    total = torch.full_like(x[:, 0], -math.inf)
    for weight, mean, factor in zip(weights, means, factors, strict=True):
        total = torch.logaddexp(total, log_joint(x, weight, mean, factor))
    return total
