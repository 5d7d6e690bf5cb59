"""Tests of two samples: can a classifier tell them apart, and do clusters of features hold equal shares of them?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from scattergen.calls.keywords import check_seed
from scattergen.calls.state import seeded
from scattergen.densities.expectation_maximization import lloyd, seed_means
from scattergen.errors import InputError
from scattergen.evaluation.tables import check_tables, nearest
from scattergen.training import TrainingSettings, train


@dataclass(frozen=True)
class TwoSampleTest:
    """How well a classifier told held-out samples from held-out real images."""

    accuracy: float  # share of the held-out rows that it got right; 0.5 is chance
    standard_error: float
    pvalue: float  # probability of so many right or more if both distributions are equal
    n: int  # held-out rows, half of them real


def classifier_two_sample_test(real: Tensor, samples: Tensor, *, seed: int = 0) -> TwoSampleTest:
    """Train a classifier on half of the rows of features (N, k) and (M, k), and test on the other half.

    A network with one hidden layer learns to tell real images from samples, min(N, M) of each (Lopez-Paz, Oquab,
    "Revisiting classifier two-sample tests", 2017). If both have one distribution, the number of right answers is
    binomial(n, 1/2), or varies less where one is preferred (Hoeffding, "On the distribution of the number of successes
    in independent trials", 1956). An `InputError` if tables do not compare or have fewer than 4 rows.

    Example:
        >>> x = torch.randn(2, 500, 2, generator=torch.Generator().manual_seed(0))
        >>> test = classifier_two_sample_test(x[0], x[1] + 1)
        >>> test.accuracy > 0.65, test.pvalue < 1e-6, test.n
        (True, True, 500)
    """
    from scipy import stats  # only now: it takes seconds to import

    check_tables(4, real=real, samples=samples)
    seed = check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    count = min(len(real), len(samples)) // 2
    halves = []
    for table in (real, samples):
        rows = torch.randperm(len(table), generator=generator)[: 2 * count]
        halves.append(table[rows].float().split(count))
    learned, held_out = (torch.cat(parts) for parts in zip(*halves, strict=True))
    labels = torch.arange(2).repeat_interleave(count)
    mean, spread = learned.mean(0), learned.std(0)
    # A feature that is constant in the training half says nothing about the other half.
    scale = torch.where(spread > 0, 1 / spread, 0.0)
    learned, held_out = (learned - mean) * scale, (held_out - mean) * scale
    with seeded(seed):
        classifier = nn.Sequential(nn.Linear(learned.shape[1], 64), nn.ReLU(), nn.Linear(64, 2))
    losses = {"classifier": lambda modules, pair, _: functional.cross_entropy(modules["classifier"](pair[0]), pair[1])}
    settings = TrainingSettings(epochs=10, batch_size=128, learning_rate=3e-3, seed=seed)
    train({"classifier": classifier}, losses, TensorDataset(learned, labels), settings)
    with torch.no_grad():
        right = int((classifier(held_out).argmax(1) == labels).sum())
    n, accuracy = 2 * count, right / (2 * count)
    standard_error = (accuracy * (1 - accuracy) / n) ** 0.5
    return TwoSampleTest(accuracy, standard_error, pvalue=float(stats.binom.sf(right - 1, n, 0.5)), n=n)


def k_means(x: Tensor, n_bins: int, *, seed: int = 0) -> Tensor:
    """Centres of the clusters of features (N, k) that are not empty, (n, k) with n ≤ n_bins ≤ N, float64.

    By k-means++ (Arthur, Vassilvitskii, "k-means++: the advantages of careful seeding", 2007) and Lloyd's iterations.
    An `InputError` if there are fewer rows than clusters.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
        >>> k_means(x, 2).flatten().sort().values.tolist()
        [0.5, 11.0]
    """
    if n_bins < 1:
        raise InputError(f"n_bins={n_bins}: give at least 1.")
    check_tables(n_bins, features=x)
    x = x.double()
    centres, bins = lloyd(x, seed_means(x, n_bins, np.random.default_rng(seed)))
    return centres[torch.bincount(bins, minlength=n_bins) > 0]


@dataclass(frozen=True, eq=False)
class BinTest:
    """Which bins hold a different share of the samples than of the real images."""

    different: int  # statistically different bins, NDB; equal distributions give level × n_bins
    n_bins: int
    level: float  # of significance, of each bin's test
    zscores: Tensor  # (n_bins,), negative where there are too few samples; a dropped mode
    pvalue: float  # of all bins together, by Pearson's χ² test of homogeneity

    @property
    def fraction(self) -> float:
        """NDB/K, comparable across numbers of bins."""
        return self.different / self.n_bins


def different_bins(
    train: Tensor, samples: Tensor, n_bins: int = 100, *, centres: Tensor | None = None, level: float = 0.05,
    seed: int = 0,
) -> BinTest:  # fmt: skip
    r"""Number of statistically different bins (NDB) of features of samples, (m, k), and of training images, (n, k).

    The bins are the k-means clusters of the training images. In each, the shares p of the training images and q of the
    samples are compared by the two-proportion z-test, $z = (q - p) / \sqrt{r (1 - r) (1/n + 1/m)}$ with r the share of
    both together, two-sided at the level (Richardson, Weiss, "On GANs and GMMs", 2018). `centres`, of `k_means(train,
    n_bins)`, are given where they are at hand. Rows are a little nearer to centres that are means of themselves: with
    20 rows to a bin in a hundred dimensions or more, more bins differ than the level says. An `InputError` if tables do
    not compare, or the level is not in (0, 1).

    Example:
        >>> x = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
        >>> missing = x[1000:][x[1000:, 0] < 0.5]
        >>> test = different_bins(x[:1000], missing, n_bins=10)
        >>> test.different >= 3, test.zscores.min().item() < -4
        (True, True)
    """
    from scipy import stats

    if not 0 < level < 1:
        raise InputError(f"level={level}: give a significance level between 0 and 1.")
    check_tables(train=train, samples=samples)
    if centres is None:
        centres = k_means(train, n_bins, seed=seed)
    bins = [nearest(x, centres)[1][:, 0] for x in (train, samples)]
    counts = torch.stack([torch.bincount(x, minlength=len(centres)) for x in bins])
    counts = counts[:, counts.sum(0) > 0].double()
    shares = counts / counts.sum(1, keepdim=True)
    both = counts.sum(0) / counts.sum()
    zscores = (shares[1] - shares[0]) / (both * (1 - both) * (1 / len(train) + 1 / len(samples))).sqrt()
    if len(both) == 1:  # one bin holds everything, in both
        zscores = torch.zeros(1, dtype=torch.float64)
    statistic = (zscores.square() * (1 - both)).sum().item()  # Pearson's χ² of the 2 × K table
    pvalue = float(stats.chi2.sf(statistic, len(both) - 1)) if len(both) > 1 else 1.0
    different = int((zscores.abs() > stats.norm.isf(level / 2)).sum())
    return BinTest(different, len(both), level, zscores, pvalue)
