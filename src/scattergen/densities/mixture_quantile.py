"""Distribution functions of one-dimensional Gaussian mixtures, and their inverses."""

import math

import torch
from torch import Tensor

_TINY = 1e-300  # least probability of a tail
_ROOT_STEPS = 60  # a bisection from 20 standard deviations ends below 1e-15


def normal_score(u: Tensor, weights: Tensor) -> Tensor:
    r"""The y at which N(0, 1) has the probability of a Gaussian mixture, $\Phi^{-1}(F(x))$.

    Args:
        u: x standardized by each component, (N, K), float64.
        weights: Summing to 1, (N, K).

    Returns:
        (N,).

    Example:
        >>> u = torch.tensor([[-9.0, -9.0]], dtype=torch.float64)
        >>> round(normal_score(u, torch.full((1, 2), 0.5)).item(), 6)
        -9.0
    """
    below = (weights * _ndtr(u)).sum(1)
    above = (weights * _ndtr(-u)).sum(1)
    # By the smaller tail, which keeps its digits.
    tail = torch.special.ndtri(torch.minimum(below, above).clamp(_TINY, 0.5))
    return torch.where(below < above, tail, -tail)


def mixture_quantile(y: Tensor, weights: Tensor, centres: Tensor, scale: Tensor) -> Tensor:
    r"""The x at which Gaussian mixtures in one dimension have the probability of N(0, 1) below y.

    Newton's steps on $\Phi^{-1}(F(x)) = y$, each replaced by a bisection where it would leave the
    interval that is known to hold the root.

    Args:
        y: (N,), float64.
        weights: Summing to 1, (N, K).
        centres: (N, K).
        scale: Standard deviations, (K,).

    Returns:
        (N,).

    Example:
        >>> y = torch.tensor([-1.0, 2.0], dtype=torch.float64)
        >>> x = mixture_quantile(y, torch.ones(2, 1), torch.zeros(2, 1), 3 * torch.ones(1))
        >>> [round(value, 6) for value in x.tolist()]
        [-3.0, 6.0]
    """
    reach = y.abs()[:, None] * scale
    low = (centres - reach).amin(1) - scale.max()
    high = (centres + reach).amax(1) + scale.max()
    x = (weights * centres).sum(1).clamp(low, high)
    for _ in range(_ROOT_STEPS):
        u = (x[:, None] - centres) / scale
        found = normal_score(u, weights)
        too_high = found > y
        low, high = torch.where(too_high, low, x), torch.where(too_high, x, high)
        # Both densities lack the same factor (2π)^-1/2.
        slope = (weights / scale * (-0.5 * u.square()).exp()).sum(1) / (-0.5 * found.square()).exp()
        step = (found - y) / slope
        newton = x - step
        inside = (newton >= low) & (newton <= high)  # not if it is NaN
        following = torch.where(inside, newton, (low + high) / 2)
        moved = (following - x).abs().max()
        x = following
        if moved <= 1e-14 * (1 + x.abs().max()):
            break
    return x


def _ndtr(x: Tensor) -> Tensor:
    """Distribution function of N(0, 1); PyTorch's own is 0 below -8.3."""
    return 0.5 * torch.erfc(-math.sqrt(0.5) * x)
