"""Two distances between tables of features: of fitted Gaussians (FID) and by a kernel (KID)."""

import math

import torch
from torch import Tensor

from scattergen.evaluation.tables import Estimate, check_tables, row_blocks


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
    # Eigenvalues that are 0 come out as k roundings of the largest; their square roots would not be small at all.
    kept = values > k * torch.finfo(torch.float64).eps * values[-1]
    return mean, vectors[:, kept] * values[kept].sqrt()


@torch.no_grad()
def kernel_distance(real: Tensor, samples: Tensor) -> Estimate:
    r"""Unbiased squared maximum mean discrepancy with a cubic kernel, "KID" on Inception features.

    $\frac{1}{n(n-1)} \sum_{i \ne j} \kappa(x_i, x_j) + \frac{1}{m(m-1)} \sum_{i \ne j} \kappa(y_i, y_j)
    - \frac{2}{nm} \sum_{ij} \kappa(x_i, y_j)$ with $\kappa(x, y) = (x^\top y / k + 1)^3$.

    All pairs are used: the customary mean over random subsets of 1,000 estimates the same number with more noise. Being
    unbiased, it compares across numbers of rows, and is about as often negative as positive where both tables have one
    distribution. The standard error is the delete-one jackknife of both tables, in closed form; where the distributions
    are equal it is too large (by about √2), never too small.

    Args:
        real: Features of real images, (N, k), N ≥ 3.
        samples: Features of samples, (M, k), M ≥ 3.

    Returns:
        The distance and its standard error.

    Raises:
        InputError: If the tables cannot be compared.

    References:
        Bińkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs", 2018.
        Gretton, Borgwardt, Rasch, Schölkopf, Smola, "A kernel two-sample test", 2012.

    Example:
        >>> x = torch.randn(2, 500, 4, generator=torch.Generator().manual_seed(0))
        >>> same, moved = kernel_distance(x[0], x[1]), kernel_distance(x[0], x[1] + 1)
        >>> abs(same.value) < 3 * same.standard_error, moved.value > 10 * moved.standard_error
        (True, True)
    """
    check_tables(3, real=real, samples=samples)
    x, y = real.double(), samples.double()
    n, m = len(x), len(y)
    across_x, across_y = _kernel_sums(x, y)
    within_x, within_y = _kernel_sums(x, x)[0], _kernel_sums(y, y)[0]
    within_x -= _kernel(x.square().sum(1), x.shape[1])  # pairs of a row with itself do not count
    within_y -= _kernel(y.square().sum(1), y.shape[1])
    sum_x, sum_y, sum_xy = within_x.sum(), within_y.sum(), across_x.sum()
    value = sum_x / (n * (n - 1)) + sum_y / (m * (m - 1)) - 2 * sum_xy / (n * m)
    # The same sums without row i: constants, which the variance does not see, are left out.
    without_x = (sum_x - 2 * within_x) / ((n - 1) * (n - 2)) - 2 * (sum_xy - across_x) / ((n - 1) * m)
    without_y = (sum_y - 2 * within_y) / ((m - 1) * (m - 2)) - 2 * (sum_xy - across_y) / (n * (m - 1))
    variance = sum(
        (len(t) - 1) * t.var(correction=0).item() for t in (without_x, without_y)
    )  # (n - 1)/n × the sum of squared deviations
    return Estimate(value.item(), math.sqrt(variance))


def _kernel_sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the kernel over the rows of `y`, for every row of `x`, and the other way round."""
    sums_x, sums_y = x.new_empty(len(x)), y.new_zeros(len(y))
    for rows in row_blocks(len(x), len(y)):
        block = _kernel(x[rows] @ y.T, x.shape[1])
        sums_x[rows] = block.sum(1)
        sums_y += block.sum(0)
    return sums_x, sums_y


def _kernel(products: Tensor, k: int) -> Tensor:
    scaled = products.div_(k).add_(1)
    return scaled.square().mul_(scaled)
