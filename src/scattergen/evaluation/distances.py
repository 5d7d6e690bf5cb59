"""How far a table of features is from another, by Gaussians (FID), a kernel (KID) and nearest neighbours."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scattergen.calls.keywords import whole_number
from scattergen.evaluation.tables import (
    Estimate,
    check_tables,
    jackknife,
    nearest,
    rounding,
    row_blocks,
    squared_distances,
)


@torch.no_grad()
def frechet_distance(real: Tensor, samples: Tensor) -> float:
    r"""Squared Fréchet distance between Gaussians fitted to features of real images, (N, k), and of samples, (M, k).

    $\|\mu_1 - \mu_2\|^2 + \mathrm{tr}\,\Sigma_1 + \mathrm{tr}\,\Sigma_2
    - 2\,\mathrm{tr}(\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}$, with unbiased covariances: "FID" for features of
    Inception and for no others (Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs trained by a two time-scale
    update rule converge to a local Nash equilibrium", 2017; Dowson, Landau, "The Fréchet distance between multivariate
    normal distributions", 1982). Its bias is of order k/n: compare equal numbers of rows. An `InputError` if the tables
    cannot be compared or have fewer than 2 rows.

    Example:
        >>> x = torch.randn(1000, 8)
        >>> round(frechet_distance(x, x + 0.5), 4)  # 8 × 0.5²
        2.0
    """
    check_tables(real=real, samples=samples)
    return _between(_moments(real), _moments(samples))


def frechet_estimate(real: Tensor, samples: Tensor, *, seed: int = 0) -> Estimate:
    """`frechet_distance` with its standard error by the `jackknife`."""
    return jackknife(_between, real, samples, prepare=_moments, seed=seed)


def _between(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    (mean1, root1), (mean2, root2) = first, second
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
    if len(x) <= k:  # the centred rows are a root already
        return mean, (x.double() - mean).T / (len(x) - 1) ** 0.5
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
def kernel_distance(real: Tensor, samples: Tensor, *, among_real: Tensor | None = None) -> Estimate:
    r"""Unbiased squared maximum mean discrepancy of features (N, k) and (M, k) with a cubic kernel, and its error.

    $\frac{1}{n(n-1)} \sum_{i \ne j} \kappa(x_i, x_j) + \frac{1}{m(m-1)} \sum_{i \ne j} \kappa(y_i, y_j)
    - \frac{2}{nm} \sum_{ij} \kappa(x_i, y_j)$ with $\kappa(x, y) = (x^\top y / k + 1)^3$: "KID" on Inception features
    (Bińkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs", 2018; Gretton, Borgwardt, Rasch, Schölkopf, Smola,
    "A kernel two-sample test", 2012), here of all pairs. The standard error, by the jackknife, is about √2 too large if
    the distributions are equal. `among_real`, of `kernel_sums(real)`, is given where it is at hand. An `InputError` if
    the tables cannot be compared or have fewer than 3 rows.

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
    within_x, within_y = kernel_sums(x) if among_real is None else among_real, kernel_sums(y)
    sum_x, sum_y, sum_xy = within_x.sum(), within_y.sum(), across_x.sum()
    value = sum_x / (n * (n - 1)) + sum_y / (m * (m - 1)) - 2 * sum_xy / (n * m)
    # The same sums without row i: constants, which the variance does not see, are left out.
    without_x = (sum_x - 2 * within_x) / ((n - 1) * (n - 2)) - 2 * (sum_xy - across_x) / ((n - 1) * m)
    without_y = (sum_y - 2 * within_y) / ((m - 1) * (m - 2)) - 2 * (sum_xy - across_y) / (n * (m - 1))
    # (n - 1)/n × the sum of squared deviations
    variance = sum((len(t) - 1) * t.var(correction=0).item() for t in (without_x, without_y))
    return Estimate(value.item(), math.sqrt(variance))


@torch.no_grad()
def kernel_sums(x: Tensor) -> Tensor:
    """Sums (N,) of the kernel of `kernel_distance` over all other rows, for every row of features (N, k)."""
    x = x.double()
    return _kernel_sums(x, x)[0] - _kernel(x.square().sum(1), x.shape[1])  # pairs of a row with itself do not count


def _kernel_sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the kernel over the rows of `y`, for every row of `x`, and the other way round."""
    sums_x, sums_y = x.new_empty(len(x)), y.new_zeros(len(y))
    blocks = [*row_blocks(len(x), len(y))]
    memory = x.new_empty(blocks[0].stop, len(y))
    for rows in blocks:
        products = torch.mm(x[rows], y.T, out=memory[: rows.stop - rows.start])
        block = _kernel(products, x.shape[1])
        sums_x[rows] = block.sum(1)
        sums_y += block.sum(0)
    return sums_x, sums_y


def _kernel(products: Tensor, k: int) -> Tensor:
    return products.div_(k).add_(1).pow_(3)


@dataclass(frozen=True)
class Manifolds:
    """How samples and real images cover each other, with standard errors given the other table."""

    precision: Estimate  # share of samples inside the manifold of the real images; fidelity
    recall: Estimate  # share of real images inside the manifold of the samples; diversity
    density: Estimate  # real neighbourhoods around a sample, over k; 1 for equal distributions; not fooled by outliers
    coverage: Estimate  # share of real images with a sample in their neighbourhood; near 1 − 2^−k for equal tables
    k: int  # the neighbour that bounds a neighbourhood


@torch.no_grad()
def manifold_metrics(real: Tensor, samples: Tensor, k: int = 5, *, radii: Tensor | None = None) -> Manifolds:
    r"""Precision and recall, density and coverage of features of samples, (m, d), against those of real images, (n, d).

    With B the closed ball around a row that reaches to its k-th nearest neighbour within its own table:

    $\mathrm{precision} = \frac1m \sum_j [y_j \in \bigcup_i B(x_i)]$,
    $\mathrm{recall} = \frac1n \sum_i [x_i \in \bigcup_j B(y_j)]$,
    $\mathrm{density} = \frac{1}{km} \sum_{ij} [y_j \in B(x_i)]$,
    $\mathrm{coverage} = \frac1n \sum_i [\exists j: y_j \in B(x_i)]$.

    All depend on the numbers of rows: compare equal ones only. Standard errors hold the other table fixed. `radii`, of
    `neighbour_distances(real, k)`, are given where they are at hand. An `InputError` if tables do not compare or have k
    rows or fewer. (Kynkäänniemi, Karras, Laine, Lehtinen, Aila, "Improved precision and recall metric for assessing
    generative models", 2019; Naeem, Oh, Uh, Choi, Yoo, "Reliable fidelity and diversity metrics for generative models",
    2020.)

    Example:
        >>> x = torch.randn(2, 300, 2, generator=torch.Generator().manual_seed(0))
        >>> half = x[1][x[1, :, 0] > 0]  # good samples, but only from one half of the plane
        >>> metrics = manifold_metrics(x[0], half)
        >>> metrics.precision.value > 0.95, metrics.coverage.value < 0.6
        (True, True)
    """
    check_tables(k + 1, real=real, samples=samples)
    real, samples = real.double(), samples.double()
    # Balls are closed, so that copies count: a neighbour at the very radius must be inside in spite of rounding.
    slack = rounding(real, samples) + rounding(samples, real)
    real_radii = (neighbour_distances(real, k) if radii is None else radii).square() + slack
    sample_radii = neighbour_distances(samples, k).square() + slack
    neighbourhoods = torch.zeros(len(samples), dtype=torch.long, device=real.device)
    recalled = torch.empty(len(real), dtype=torch.bool, device=real.device)
    covered = torch.empty_like(recalled)
    for rows, squared in squared_distances(real, samples):
        inside = squared <= real_radii[rows, None]
        neighbourhoods += inside.sum(0)
        covered[rows] = inside.any(1)
        recalled[rows] = (squared <= sample_radii).any(1)
    return Manifolds(_mean(neighbourhoods > 0), _mean(recalled), _mean(neighbourhoods.double() / k), _mean(covered), k)


def neighbour_distances(x: Tensor, k: int) -> Tensor:
    """Distances (N,) of rows of features (N, d) to their k-th nearest other row; an `InputError` if there is none."""
    k = whole_number("k", k, least=1)
    check_tables(k + 1, features=x)
    return nearest(x, x, k, exclude_self=True)[0][:, -1]


def _mean(values: Tensor) -> Estimate:
    values = values.double()
    return Estimate(values.mean().item(), values.std().item() / math.sqrt(len(values)))
