"""Factor analysis of a covariance matrix: a few factors and independent noise."""

import math

import torch
from torch import Tensor

_OVERSAMPLING = 8  # directions beyond the rank while the first axes are sought
_POWER_ITERATIONS = 3
_ITERATIONS = 15
_LEAST_NOISE = 1e-5  # of the mean variance


def factor_analysis(
    covariance: Tensor, rank: int, iterations: int = _ITERATIONS
) -> tuple[Tensor, Tensor]:
    r"""Loadings Λ and noise variances ψ of a covariance S, by maximum likelihood.

    $S \approx \Lambda \Lambda^T + \mathrm{diag}(\psi)$. EM starts at the principal axes and
    never lowers the likelihood; with $\beta = \Lambda^T (\Lambda \Lambda^T + \mathrm{diag}\,
    \psi)^{-1}$ and $C = S \beta^T$ an iteration is

    $$\Lambda' = C (I - \beta \Lambda + \beta C)^{-1}, \qquad
    \psi' = \mathrm{diag}(S - \Lambda' C^T)$$

    and costs $d^2 q$ operations.

    Args:
        covariance: S, (d, d), positive definite.
        rank: Number q of factors; at most d are used.
        iterations: Of EM.

    Returns:
        Λ, (d, q), and ψ, (d,), with the type of S.

    References:
        Rubin, Thayer, "EM algorithms for ML factor analysis", 1982.
        Tipping, Bishop, "Probabilistic principal component analysis", 1999.

    Example:
        >>> loadings, noise = factor_analysis(torch.eye(4) + 3 * torch.ones(4, 4), 1)
        >>> [round(value, 3) for value in (loadings[0, 0].item() ** 2, noise[0].item())]
        [3.0, 1.0]
    """
    d = len(covariance)
    rank = min(rank, d)
    variances = covariance.diagonal()
    least = _LEAST_NOISE * variances.mean()
    values, axes = _principal_axes(covariance, rank)
    rest = (variances.sum() - values.sum()).clamp(min=0) / max(d - rank, 1)
    loadings = axes * (values - rest).clamp(min=0).sqrt()
    noise = (variances - loadings.square().sum(1)).clamp(min=least)
    identity = torch.eye(rank, dtype=covariance.dtype, device=covariance.device)
    for _ in range(iterations):
        scaled = loadings / noise[:, None]
        # β by the matrix inversion lemma: only q × q is inverted.
        beta = torch.linalg.solve(identity + loadings.T @ scaled, scaled.T)
        products = covariance @ beta.T
        loadings = torch.linalg.solve(
            identity - beta @ loadings + beta @ products, products, left=False
        )
        noise = (variances - (loadings * products).sum(1)).clamp(min=least)
    return loadings, noise


def _principal_axes(covariance: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues, (q,), and their eigenvectors, (d, q), nearly: subspace iteration."""
    d = len(covariance)
    # Cosines: a basis in general position without random numbers.
    grid = torch.arange(d, dtype=torch.float64)
    first = (math.sqrt(2) * torch.outer(grid + 0.5, grid[: rank + _OVERSAMPLING] + 1)).cos()
    basis = torch.linalg.qr(covariance @ first.to(covariance)).Q
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(covariance @ basis).Q
    values, vectors = torch.linalg.eigh(basis.T @ covariance @ basis)
    kept = slice(len(values) - rank, None)
    return values[kept], basis @ vectors[:, kept]


def log_density_of_factors(x: Tensor, loadings: Tensor, noise: Tensor) -> Tensor:
    r"""Logarithm of $N(x; 0, \Lambda \Lambda^T + \mathrm{diag}\, \psi)$, in nats.

    Args:
        x: (N, d).
        loadings: Λ, (d, q).
        noise: ψ, (d,).

    Returns:
        (N,); d q operations per row.

    Example:
        >>> log_density_of_factors(torch.zeros(1, 2), torch.zeros(2, 1), torch.ones(2)).exp()
        tensor([0.1592])
    """
    identity = torch.eye(loadings.shape[1], dtype=x.dtype, device=x.device)
    scale = noise.sqrt()
    white, axes = x / scale, loadings / scale[:, None]
    lower = torch.linalg.cholesky(identity + axes.T @ axes)
    explained = torch.linalg.solve_triangular(lower, (white @ axes).T, upper=False)
    squares = white.square().sum(1) - explained.square().sum(0)
    log_determinant = noise.log().sum() + 2 * lower.diagonal().log().sum()
    return -0.5 * (squares + log_determinant + len(noise) * math.log(2 * math.pi))
