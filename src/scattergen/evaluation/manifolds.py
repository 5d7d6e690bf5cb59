"""Precision, recall, density and coverage: fidelity and diversity by nearest neighbours."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scattergen.errors import InputError
from scattergen.evaluation.tables import Estimate, check_tables, nearest, rounding, squared_distances


@dataclass(frozen=True)
class Manifolds:
    """How two tables cover each other, each with its standard error given the other table.

    Attributes:
        precision: Share of samples inside the manifold of the real images; fidelity.
        recall: Share of real images inside the manifold of the samples; diversity.
        density: Mean number of real neighbourhoods around a sample, over k; 1 for equal distributions, and not bounded
            by it. Unlike precision it is not fooled by outliers.
        coverage: Share of real images with a sample in their neighbourhood; close to 1 − 2^−k for equal distributions
            and numbers of rows.
        k: The neighbour that bounds a neighbourhood.
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate
    k: int


@torch.no_grad()
def manifold_metrics(real: Tensor, samples: Tensor, k: int = 5) -> Manifolds:
    r"""Precision and recall, density and coverage of samples.

    A row's neighbourhood is the closed ball that reaches to its k-th nearest neighbour within its own table; the
    manifold of a table is the union of its neighbourhoods $B$:

    $\mathrm{precision} = \frac1m \sum_j [y_j \in \bigcup_i B(x_i)]$,
    $\mathrm{recall} = \frac1n \sum_i [x_i \in \bigcup_j B(y_j)]$,
    $\mathrm{density} = \frac{1}{km} \sum_{ij} [y_j \in B(x_i)]$,
    $\mathrm{coverage} = \frac1n \sum_i [\exists j: y_j \in B(x_i)]$.

    All depend on the numbers of rows: compare equal ones only. The standard errors are those of a mean over the rows
    that are judged, with the other table held fixed.

    Args:
        real: Features x of real images, (n, d), n > k.
        samples: Features y of samples, (m, d), m > k.
        k: Which neighbour bounds a neighbourhood.

    Returns:
        The four numbers.

    Raises:
        InputError: If the tables cannot be compared or have k rows or fewer.

    References:
        Kynkäänniemi, Karras, Laine, Lehtinen, Aila, "Improved precision and recall metric for assessing generative
        models", 2019.
        Naeem, Oh, Uh, Choi, Yoo, "Reliable fidelity and diversity metrics for generative models", 2020.

    Example:
        >>> x = torch.randn(2, 300, 2, generator=torch.Generator().manual_seed(0))
        >>> half = x[1][x[1, :, 0] > 0]  # good samples, but only from one half of the plane
        >>> metrics = manifold_metrics(x[0], half)
        >>> metrics.precision.value > 0.95, metrics.coverage.value < 0.6
        (True, True)
    """
    if k < 1:
        raise InputError(f"k={k}: a neighbourhood needs at least 1 neighbour.")
    check_tables(k + 1, real=real, samples=samples)
    real, samples = real.double(), samples.double()
    # Balls are closed, so that copies count: a neighbour at the very radius must be inside in spite of rounding.
    slack = rounding(real, samples) + rounding(samples, real)
    real_radii = nearest(real, real, k, exclude_self=True)[0][:, -1].square() + slack
    sample_radii = nearest(samples, samples, k, exclude_self=True)[0][:, -1].square() + slack
    neighbourhoods = torch.zeros(len(samples), dtype=torch.long, device=real.device)
    recalled = torch.empty(len(real), dtype=torch.bool, device=real.device)
    covered = torch.empty_like(recalled)
    for rows, squared in squared_distances(real, samples):
        inside = squared <= real_radii[rows, None]
        neighbourhoods += inside.sum(0)
        covered[rows] = inside.any(1)
        recalled[rows] = (squared <= sample_radii).any(1)
    return Manifolds(
        precision=_mean(neighbourhoods > 0),
        recall=_mean(recalled),
        density=_mean(neighbourhoods.double() / k),
        coverage=_mean(covered),
        k=k,
    )


def _mean(values: Tensor) -> Estimate:
    values = values.double()
    return Estimate(values.mean().item(), values.std().item() / math.sqrt(len(values)))
