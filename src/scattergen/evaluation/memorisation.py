"""Are samples copies? Their nearest training images against their nearest test images."""

import math
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from scattergen.evaluation.clusters import assign, k_means
from scattergen.evaluation.tables import check_tables, nearest

# Fewer distances in a cell than this are not ranked: the normal approximation needs them.
_FEWEST = 20
_CLOSE = 0.01


@dataclass(frozen=True)
class Memorisation:
    """Evidence that samples are closer to training images than new images would be.

    Attributes:
        distance: Median distance of a sample to its nearest training image.
        test_distance: The same of a test image.
        close: Share of samples closer to a training image than 99 % of the test images are; 0.01
            without memorisation, above where there are copies.
        copying: Statistic C_T of Meehan et al.: mean over cells of the z-score of the samples'
            distances to training images among those of the test images. Clearly negative: copies;
            clearly positive: samples fall beside the data (underfitting).
        copying_pvalue: One-sided, of a C_T as low if the samples were new images.
        worst_cell: Lowest z-score of a cell: copies in one place, which blurred samples elsewhere
            can hide from C_T.
        worst_cell_pvalue: One-sided, of a lowest z-score as low.
        train_share: Share of samples whose nearest real image is a training image rather than a
            test image.
        expected_share: What it is if the generator does not know one from the other.
        share_pvalue: One-sided, of a share as high.
    """

    distance: float
    test_distance: float
    close: float
    copying: float
    copying_pvalue: float
    worst_cell: float
    worst_cell_pvalue: float
    train_share: float
    expected_share: float
    share_pvalue: float


@torch.no_grad()
def memorisation(
    train: Tensor,
    test: Tensor,
    samples: Tensor,
    *,
    n_cells: int = 10,
    centres: Tensor | None = None,
    test_distances: Tensor | None = None,
    seed: int = 0,
) -> Memorisation:
    r"""Nearest-neighbour tests of memorisation, against training and test images.

    Two tests that fail in different ways:

    * Data copying, C_T. In every cell of a k-means partition of the training images, the distances
      to the nearest training image are ranked among samples and test images together (Mann &
      Whitney); the cells' z-scores are averaged with the cells' shares of the test images. It is
      calibrated for samples of the true distribution. A generator that copies here and blurs
      there may average to nothing, so the lowest z-score is reported and tested, too.
    * Training against test images. If samples know nothing of which real images were trained on,
      that choice is as good as random: with $c_i$ the number of samples whose nearest real image
      is i, and a share p of training images, $\sum_{i \in \mathrm{train}} c_i$ has mean $p \sum c$
      and variance $p (1 - p) \frac{N}{N - 1} (\sum c^2 - (\sum c)^2 / N)$. It is calibrated for
      bad samples, too; but *generalising* better near training images is enough to reject.

    With many samples small effects are significant; read the shares beside the p-values.

    Args:
        train: Features (or pixels) of training images, (n, k).
        test: Of images that were not trained on, (m, k), at least 20.
        samples: Of samples, (l, k), at least 20.
        n_cells: Number of cells of the first test.
        centres: Centres of the cells, from `k_means(train, n_cells)`, where they are at hand.
        test_distances: Of the test images to their nearest training images, (m,), where they are at
            hand.
        seed: Of the clustering.

    Returns:
        The numbers.

    Raises:
        InputError: If the tables cannot be compared or are too short.

    References:
        Meehan, Chaudhuri, Dasgupta, "A non-parametric test to detect data-copying in generative
        models", 2020.

    Example:
        >>> x = torch.randn(3, 500, 8, generator=torch.Generator().manual_seed(0))
        >>> train, test, new = x
        >>> memorisation(train, test, new).copying_pvalue > 0.01
        True
        >>> copies = memorisation(train, test, train + 0.1 * new)
        >>> copies.close > 0.9, copies.copying < -3, copies.train_share > 0.9
        (True, True, True)
    """
    check_tables(_FEWEST, train=train, test=test, samples=samples)
    if centres is None:
        centres = k_means(train, min(n_cells, len(train)), seed=seed)
    from_test = nearest(test, train)[0][:, 0] if test_distances is None else test_distances
    from_samples, train_rows = (column[:, 0] for column in nearest(samples, train))
    to_test, test_rows = (column[:, 0] for column in nearest(samples, test))
    weights, zscores = _cells(
        from_test, assign(test, centres), from_samples, assign(samples, centres)
    )
    # Given the numbers in the cells, the z-scores are independent, each with variance 1.
    copying, worst = (weights @ zscores).item(), zscores.min().item()
    # An order statistic: 1 % of all test images in the mean over sets of (say) 999 are below it.
    threshold = from_test.quantile(_CLOSE, interpolation="lower")
    near_train = from_samples < to_test
    share, expected, share_pvalue = _train_share(
        near_train,
        torch.bincount(train_rows[near_train], minlength=len(train)),
        torch.bincount(test_rows[~near_train], minlength=len(test)),
    )
    return Memorisation(
        distance=from_samples.median().item(),
        test_distance=from_test.median().item(),
        close=(from_samples < threshold).double().mean().item(),
        copying=copying,
        copying_pvalue=float(stats.norm.cdf(copying / weights.norm().item())),
        worst_cell=worst,
        worst_cell_pvalue=-math.expm1(len(zscores) * float(stats.norm.logsf(worst))),
        train_share=share,
        expected_share=expected,
        share_pvalue=share_pvalue,
    )


def _cells(
    from_test: Tensor, test_cells: Tensor, from_samples: Tensor, sample_cells: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights and z-scores of the cells that hold enough of both."""
    pairs = [
        (from_test[test_cells == cell], from_samples[sample_cells == cell])
        for cell in range(int(test_cells.max()) + 1)
    ]
    pairs = [pair for pair in pairs if min(map(len, pair)) >= _FEWEST]
    if not pairs:
        pairs = [(from_test, from_samples)]
    counts = torch.tensor([len(real) for real, _ in pairs], dtype=torch.float64)
    zscores = torch.tensor([_mann_whitney(*pair) for pair in pairs], dtype=torch.float64)
    return counts / counts.sum(), zscores


def _mann_whitney(x: Tensor, y: Tensor) -> float:
    """z-score of the number of pairs in which y is the larger, under equal distributions."""
    n, m = len(x), len(y)
    ranks = stats.rankdata(torch.cat([x, y]).numpy())
    larger = ranks[n:].sum() - m * (m + 1) / 2
    return float((larger - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12))


def _train_share(
    near_train: Tensor, train_counts: Tensor, test_counts: Tensor
) -> tuple[float, float, float]:
    """Share of samples nearest to a training image, its expectation and its p-value."""
    counts = torch.cat([train_counts, test_counts]).double()
    N, total = len(counts), counts.sum().item()
    expected = len(train_counts) / N
    variance = (
        expected * (1 - expected) * N / (N - 1) * (counts.square().sum().item() - total**2 / N)
    )
    share = near_train.double().mean().item()
    zscore = (share - expected) * total / math.sqrt(variance) if variance > 0 else 0.0
    return share, expected, float(stats.norm.sf(zscore))
