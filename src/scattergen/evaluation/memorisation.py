"""Are samples copies? Whether they lie nearest to training images or to images never trained on."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.evaluation.clusters import assign, k_means
from scattergen.evaluation.tables import check_tables, nearest

N_CELLS = 10
LEVEL = 0.001
"""p-value below which samples are called copies."""
# Fewer images or samples in a cell than this are not tested alone.
_FEWEST = 20
_CLOSE = 0.01
_CLOSEST = 10  # one in so many samples of a cell
_PERMUTATIONS = 9_999  # p-values are multiples of 1/10,000


@dataclass(frozen=True)
class Memorisation:
    """Evidence that samples are closer to training images than to other images of their kind.

    Attributes:
        distance: Median distance of a sample to its nearest training image.
        test_distance: The same of a test image.
        close: Share of samples closer to a training image than 99 % of the test images are; 0.01 for samples of the
            true distribution, above where there are copies.
        train_share: Share of samples whose nearest real image is a training image rather than a test image.
        expected_share: What it is if the generator does not know one from the other.
        copying: Largest z-score of such shares: everywhere and in single cells, of all samples and of the closest
            tenth.
        copying_pvalue: Exact p-value of a largest z-score as high; at least 0.0001.
        copying_cell: Number of the cell where it is, None if it is that of all cells together.
    """

    distance: float
    test_distance: float
    close: float
    train_share: float
    expected_share: float
    copying: float
    copying_pvalue: float
    copying_cell: int | None

    @property
    def copies(self) -> bool:
        """The guard: whether p < 0.001."""
        return self.copying_pvalue < LEVEL


def image_cells(train: Tensor, test: Tensor, n_cells: int = N_CELLS, *, seed: int = 0) -> Tensor:
    """Cells of feature space, found without knowing which images were trained on.

    Args:
        train: Features of training images, (n, k).
        test: Of images that were not trained on, (m, k).
        n_cells: Number of k-means clusters of both together.
        seed: Of the clustering.

    Returns:
        Number of every image's cell, (n + m,), training images first.

    Example:
        >>> train, test = torch.tensor([[0.0], [9.0], [1.0]]), torch.tensor([[8.0]])
        >>> cells = image_cells(train, test, 2)
        >>> bool(cells[0] == cells[2] != cells[1] == cells[3])
        True
    """
    images = torch.cat([train, test])
    return assign(images, k_means(images, min(n_cells, len(images)), seed=seed))


@torch.no_grad()
def memorisation(
    train: Tensor,
    test: Tensor,
    samples: Tensor,
    *,
    n_cells: int = N_CELLS,
    cells: Tensor | None = None,
    test_distances: Tensor | None = None,
    seed: int = 0,
) -> Memorisation:
    r"""Test whether samples lie nearer to training images than to images never trained on.

    If the generator copies nothing, and training and test images are draws of one distribution, every choice of those
    that were trained on is equally likely, given all real images and the samples, good ones or bad ones.

    Let $c_i$ be the number of samples whose nearest real image is i. In a cell of N real images with a share p of
    training images, $\sum_{i \in \mathrm{train}} c_i$ then has mean $p \sum c$ and variance
    $p (1 - p) \frac{N}{N - 1} (\sum c^2 - (\sum c)^2 / N)$. Such z-scores are formed for each cell and for all
    together, once of all samples and once of the tenth of each cell's that lies closest to any real image, where copies
    are. The largest is compared with its values under 9,999 random choices, within each cell, of the images that were
    trained on: an exact test of all of them at once, also where cells differ in their shares of training images.

    With many samples small effects are significant, also that of training and test images which differ within cells;
    (train_share − expected_share) / (1 − expected_share) estimates the share of copies. Copies with so much noise that
    another image is nearer are not seen.

    Args:
        train: Features (or pixels) of training images, (n, k), at least 20.
        test: Of images that were not trained on, (m, k), at least 20, none of them in `train`.
        samples: Of samples, (l, k), at least 20.
        n_cells: Number of cells.
        cells: The cells, from `image_cells(train, test)`, where they are at hand.
        test_distances: Of the test images to their nearest training images, (m,), where they are at hand.
        seed: Of the clustering and of the random choices.

    Returns:
        The numbers.

    Raises:
        InputError: If the tables cannot be compared or are too short.

    References:
        Meehan, Chaudhuri, Dasgupta, "A non-parametric test to detect data-copying in generative models", 2020, for
        cells; their statistic C_T takes blurred samples for copies.
        Ernst, "Permutation methods: a basis for exact inference", 2004.

    Example:
        >>> train, test, new = torch.randn(3, 500, 8, generator=torch.Generator().manual_seed(0))
        >>> memorisation(train, test, new).copies
        False
        >>> found = memorisation(train, test, torch.cat([new, train[:50] + 0.1 * new[:50]]))
        >>> found.copies, found.copying_pvalue
        (True, 0.0001)
    """
    check_tables(_FEWEST, train=train, test=test, samples=samples)
    if cells is None:
        cells = image_cells(train, test, n_cells, seed=seed)
    from_test = nearest(test, train)[0][:, 0] if test_distances is None else test_distances
    from_samples, train_rows = (column[:, 0] for column in nearest(samples, train))
    to_test, test_rows = (column[:, 0] for column in nearest(samples, test))
    near_train = from_samples < to_test  # not if both are the same image: no evidence of copying
    copying, pvalue, cell = _largest_zscore(
        torch.where(near_train, train_rows, len(train) + test_rows).numpy(),
        torch.minimum(from_samples, to_test).numpy(),
        cells.numpy(),
        len(train),
        np.random.default_rng(seed),
    )
    # An order statistic: 1 % of all test images in the mean over sets of (say) 999 are below it.
    threshold = from_test.quantile(_CLOSE, interpolation="lower")
    return Memorisation(
        distance=from_samples.median().item(),
        test_distance=from_test.median().item(),
        close=(from_samples < threshold).double().mean().item(),
        train_share=near_train.double().mean().item(),
        expected_share=len(train) / len(cells),
        copying=copying,
        copying_pvalue=pvalue,
        copying_cell=cell,
    )


def _largest_zscore(
    images: NDArray[np.int64],
    distances: NDArray[np.float64],
    cells: NDArray[np.int64],
    n_train: int,
    rng: np.random.Generator,
) -> tuple[float, float, int | None]:
    """Largest z-score, its p-value and its cell, of samples' nearest images and distances."""
    together, alone = [], []
    for cell in np.unique(cells).tolist():
        members = np.flatnonzero(cells == cell)
        inside = np.flatnonzero(cells[images] == cell)
        closest = inside[np.argsort(distances[inside], kind="stable")]
        closest = closest[: -(-len(inside) // _CLOSEST)]
        counts = np.stack([np.bincount(images[who], minlength=len(cells))[members] for who in (inside, closest)])
        trained = members < n_train
        excess, variance = _excesses(counts, trained, rng)
        together.append((excess, variance))
        n, m = int(trained.sum()), int((~trained).sum())
        if min(n, m, len(inside)) >= _FEWEST:
            alone.append((cell, excess, variance))
    everywhere = [np.sum(part, axis=0) for part in zip(*together, strict=True)]
    excesses = np.stack([everywhere[0], *(excess for _, excess, _ in alone)])
    spread = np.sqrt([everywhere[1], *(variance for _, _, variance in alone)])
    # Without spread there is nothing to learn: all of a cell's images count alike.
    scores = np.divide(excesses, spread[:, None], out=np.zeros_like(excesses), where=spread[:, None] > 0)
    largest = scores.max((0, 2))
    # Excesses are sums of counts, so ties are real: they must not be broken by rounding.
    as_high = int((largest[1:] >= largest[0] - 1e-9).sum())
    where = [None, *(cell for cell, _, _ in alone)][int(scores[:, 0].max(1).argmax())]
    return float(largest[0]), (1 + as_high) / (1 + _PERMUTATIONS), where


def _excesses(
    counts: NDArray[np.int64], trained: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Counts at a cell's training images minus their expectation, and the variance of that.

    The first row is that of the images that were trained on, the others of random choices. Images with the same counts
    are drawn together: how many of them are chosen is hypergeometric.
    """
    N, n = len(trained), int(trained.sum())
    kinds, sizes = np.unique(counts, axis=1, return_counts=True)
    drawn = rng.multivariate_hypergeometric(sizes, n, size=_PERMUTATIONS, method="marginals")
    sums = np.concatenate([counts[:, trained].sum(1)[None], drawn @ kinds.T])
    total, squares = counts.sum(1), np.square(counts).sum(1)
    p = n / N
    variance = p * (1 - p) * N / max(N - 1, 1) * (squares - total**2 / N)
    return sums - p * total, np.maximum(variance, 0)
