"""The Fréchet distance between two tables of features."""

import torch
from torch import Tensor

from scattergen.evaluation.tables import check_tables, row_blocks


@torch.no_grad()
def frechet_distance(real: Tensor, samples: Tensor) -> float:
    r"""Fréchet distance between Gaussians fitted to two tables.

    $\|\mu_1 - \mu_2\|^2 + \mathrm{tr}\,\Sigma_1 + \mathrm{tr}\,\Sigma_2
    - 2\,\mathrm{tr}(\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}$, with unbiased covariances.

    The last trace is the sum of the singular values of $\Sigma_1^{1/2} \Sigma_2^{1/2}$: no product of covariances is
    formed and no root of a rounded zero is taken, so deficient ranks cost no accuracy. The distance is biased upwards
    by an amount of order k/n: compare equal numbers of rows only. It is "FID" for features of Inception and for no
    others.

    Args:
        real: Features of real images, (N, k), N ≥ 2.
        samples: Features of samples, (M, k), M ≥ 2.

    Returns:
        The squared distance, as is the custom; not negative beyond rounding, 0 for equal tables.

    Raises:
        InputError: If the tables cannot be compared.

    References:
        Dowson, Landau, "The Fréchet distance between multivariate normal distributions", 1982.
        Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs trained by a two time-scale update rule converge to a
        local Nash equilibrium", 2017.

    Example:
        >>> x = torch.randn(1000, 8)
        >>> round(frechet_distance(x, x + 0.5), 4)  # 8 × 0.5²
        2.0
    """
    check_tables(real=real, samples=samples)
    (mean1, root1), (mean2, root2) = _moments(real), _moments(samples)
    cross = torch.linalg.svdvals(root1.T @ root2).sum()
    traces = root1.square().sum() + root2.square().sum()
    return ((mean1 - mean2).square().sum() + traces - 2 * cross).item()


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (k,) and a square root R (k, rank) of the covariance, R R^T."""
    k = x.shape[1]
    mean = torch.zeros(k, dtype=torch.float64, device=x.device)
    for rows in row_blocks(len(x), k):
        mean += x[rows].double().sum(0)
    mean /= len(x)
    covariance = torch.zeros(k, k, dtype=torch.float64, device=x.device)
    for rows in row_blocks(len(x), k):
        centred = x[rows].double() - mean
        covariance.addmm_(centred.T, centred)
    covariance /= len(x) - 1
    values, vectors = torch.linalg.eigh(covariance)
    # Eigenvalues that are 0 come out as k roundings of the largest; their square roots would not be
    # small at all.
    kept = values > k * torch.finfo(torch.float64).eps * values[-1]
    return mean, vectors[:, kept] * values[kept].sqrt()
