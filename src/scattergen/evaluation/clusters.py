"""Bins of feature space: k-means clusters, and the number of statistically different bins."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from scattergen.densities.expectation_maximization import lloyd, seed_means
from scattergen.errors import InputError
from scattergen.evaluation.tables import check_tables, nearest


def k_means(x: Tensor, n_bins: int, *, seed: int = 0) -> Tensor:
    """Centres of clusters, by k-means++ and Lloyd's iterations.

    Args:
        x: Features, (N, k).
        n_bins: Number of clusters, at most N.
        seed: Of the choice of the first centres.

    Returns:
        Centres of the clusters that are not empty, (n, k) with n ≤ n_bins, float64.

    Raises:
        InputError: If there are fewer rows than clusters.

    References:
        Arthur, Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
        >>> k_means(x, 2).flatten().sort().values.tolist()
        [0.5, 11.0]
    """
    if n_bins < 1:
        raise InputError(f"n_bins={n_bins}: give at least 1.")
    check_tables(n_bins, features=x)
    x = x.double()
    first = seed_means(x, n_bins, np.random.default_rng(seed))
    centres, bins = lloyd(x, first)
    return centres[torch.bincount(bins, minlength=n_bins) > 0]


def assign(x: Tensor, centres: Tensor) -> Tensor:
    """Number of the nearest centre, (N,), of rows (N, k)."""
    return nearest(x, centres)[1][:, 0]


@dataclass(frozen=True, eq=False)
class BinTest:
    """Which bins hold a different share of the samples than of the real images.

    Attributes:
        different: Number of statistically different bins, NDB.
        n_bins: Number of bins K; equal distributions give `level` × K different ones.
        level: Significance level of each bin's test.
        zscores: Of each bin's samples, (K,): negative where there are too few; a dropped mode.
        pvalue: Of all bins together, by Pearson's χ² test of homogeneity.
    """

    different: int
    n_bins: int
    level: float
    zscores: Tensor
    pvalue: float

    @property
    def fraction(self) -> float:
        """NDB/K, comparable across numbers of bins."""
        return self.different / self.n_bins


def different_bins(
    train: Tensor,
    samples: Tensor,
    n_bins: int = 100,
    *,
    centres: Tensor | None = None,
    level: float = 0.05,
    seed: int = 0,
) -> BinTest:
    r"""Number of statistically different bins (NDB).

    The bins are the k-means clusters of the training images. In each, the shares p of the training images and q of the
    samples are compared by the two-proportion z-test, $z = (q - p) / \sqrt{r (1 - r) (1/n + 1/m)}$ with r the share of
    both together.

    Args:
        train: Features of training images, (n, k).
        samples: Features of samples, (m, k).
        n_bins: Number of bins.
        centres: Centres of the bins, from `k_means(train, n_bins)`, where they are at hand.
        level: Significance level of each bin's two-sided test.
        seed: Of the clustering.

    Returns:
        The count and the scores of the bins.

    Raises:
        InputError: If the tables cannot be compared, or the level is not between 0 and 1.

    References:
        Richardson, Weiss, "On GANs and GMMs", 2018.

    Example:
        >>> x = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
        >>> missing = x[1000:][x[1000:, 0] < 0.5]
        >>> test = different_bins(x[:1000], missing, n_bins=10)
        >>> test.different >= 3, test.zscores.min().item() < -4
        (True, True)
    """
    if not 0 < level < 1:
        raise InputError(f"level={level}: give a significance level between 0 and 1.")
    check_tables(train=train, samples=samples)
    if centres is None:
        centres = k_means(train, n_bins, seed=seed)
    counts = torch.stack(
        [torch.bincount(assign(x, centres), minlength=len(centres)) for x in (train, samples)]
    ).double()
    counts = counts[:, counts.sum(0) > 0]
    shares = counts / counts.sum(1, keepdim=True)
    both = counts.sum(0) / counts.sum()
    spread = (both * (1 - both) * (1 / len(train) + 1 / len(samples))).sqrt()
    zscores = (shares[1] - shares[0]) / spread
    if len(both) == 1:  # one bin holds everything, in both
        zscores = torch.zeros(1, dtype=torch.float64)
    bound = stats.norm.isf(level / 2)
    statistic = (zscores.square() * (1 - both)).sum().item()  # Pearson's χ² of the 2 × K table
    return BinTest(
        different=int((zscores.abs() > bound).sum()),
        n_bins=len(both),
        level=level,
        zscores=zscores,
        pvalue=float(stats.chi2.sf(statistic, len(both) - 1)) if len(both) > 1 else 1.0,
    )
