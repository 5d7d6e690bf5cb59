"""Are samples copies? Whether they lie nearest to training images or to images never trained on."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.evaluation.tables import check_tables, nearest
from scattergen.evaluation.two_sample import k_means

REJECTED = 0.001  # p-values below it are evidence of copies
_CELLS = 10
FEWEST = 20  # images or samples, in all or in a cell that is tested alone
_PERMUTATIONS = 9_999  # p-values are multiples of 1/10,000


@dataclass(frozen=True)
class Memorisation:
    """Evidence that samples are closer to training images than to other images of their kind."""

    distance: float  # median, of a sample to its nearest training image
    test_distance: float  # the same of a test image
    close: float  # share of samples closer to a training image than 99 % of 100 or more test images; 0.01 if no copies
    train_share: float  # share of samples whose nearest real image is a training image rather than a test image
    expected_share: float  # what it is if the generator does not know one from the other
    copying: float  # largest z-score of such shares, in all and in single cells, of all samples and the closest tenth
    copying_pvalue: float  # exact, of a largest z-score as high; at least 0.0001
    copying_cell: int | None  # number of the cell where it is, None if it is that of all cells together

    @property
    def copies(self) -> bool:
        """The guard: whether p < 0.001."""
        return self.copying_pvalue < REJECTED


def image_cells(train: Tensor, test: Tensor, n_cells: int = _CELLS, *, seed: int = 0) -> Tensor:
    """Numbers (n + m,) of the k-means clusters of all images, training ones first, by features (n, k) and (m, k).

    Example:
        >>> train, test = torch.tensor([[0.0], [9.0], [1.0]]), torch.tensor([[8.0]])
        >>> cells = image_cells(train, test, 2)
        >>> bool(cells[0] == cells[2] != cells[1] == cells[3])
        True
    """
    images = torch.cat([train, test])
    return nearest(images, k_means(images, min(n_cells, len(images)), seed=seed))[1][:, 0]


@torch.no_grad()
def memorisation(
    train: Tensor, test: Tensor, samples: Tensor, *, n_cells: int = _CELLS, cells: Tensor | None = None,
    test_distances: Tensor | None = None, seed: int = 0,
) -> Memorisation:  # fmt: skip
    r"""Test whether samples (l, k) lie nearer to training images (n, k) than to images never trained on (m, k).

    All are features, or pixels, of 20 images or more, else an `InputError`, and no image is in both `train` and `test`.
    If nothing is copied, and training and test images are draws of one distribution, every choice of those that were
    trained on is equally likely, given all real images and the samples, good or bad.

    Let $c_i$ be the number of samples whose nearest real image is i. In a cell of N real images with a share p of
    training images, $\sum_{i \in \mathrm{train}} c_i$ then has mean $p \sum c$ and variance
    $p (1 - p) \frac{N}{N - 1} (\sum c^2 - (\sum c)^2 / N)$. Such z-scores are formed for each cell and for all
    together, of all samples and of the tenth of each cell's that is closest to any real image. The largest is compared
    with its values under 9,999 random choices, within each cell, of the images that were trained on: an exact test of
    all at once (Ernst, "Permutation methods: a basis for exact inference", 2004; cells are an idea of Meehan,
    Chaudhuri, Dasgupta, "A non-parametric test to detect data-copying in generative models", 2020).

    `cells`, of `image_cells(train, test, n_cells)`, and `test_distances`, of test images to their nearest training
    images, (m,), are given where they are at hand.

    Example:
        >>> train, test, new = torch.randn(3, 500, 8, generator=torch.Generator().manual_seed(0))
        >>> found = memorisation(train, test, torch.cat([new, train[:50] + 0.1 * new[:50]]))
        >>> memorisation(train, test, new).copies, found.copies, found.copying_pvalue
        (False, True, 0.0001)
    """
    check_tables(FEWEST, train=train, test=test, samples=samples)
    if cells is None:
        cells = image_cells(train, test, n_cells, seed=seed)
    from_test = nearest(test, train)[0][:, 0] if test_distances is None else test_distances
    from_samples, train_rows = (column[:, 0] for column in nearest(samples, train))
    to_test, test_rows = (column[:, 0] for column in nearest(samples, test))
    near_train = from_samples < to_test  # not if both are as near, as the same image is: no evidence of copying
    images = torch.where(near_train, train_rows, len(train) + test_rows).numpy()
    distances, rng = torch.minimum(from_samples, to_test).numpy(), np.random.default_rng(seed)
    copying, pvalue, cell = _largest_zscore(images, distances, cells.numpy(), len(train), rng)
    # An order statistic: 1 % of all test images in the mean over sets of (say) 999 are below it.
    threshold = from_test.quantile(0.01, interpolation="lower")
    return Memorisation(
        distance=from_samples.median().item(), test_distance=from_test.median().item(),
        close=(from_samples < threshold).double().mean().item(), train_share=near_train.double().mean().item(),
        expected_share=len(train) / len(cells), copying=copying, copying_pvalue=pvalue, copying_cell=cell,
    )  # fmt: skip


def _largest_zscore(
    images: NDArray[np.int64], distances: NDArray[np.float64], cells: NDArray[np.int64], n_train: int,
    rng: np.random.Generator,
) -> tuple[float, float, int | None]:  # fmt: skip
    """Largest z-score, its p-value and its cell, of samples' nearest images and distances."""
    excesses: dict[int, NDArray[np.float64]] = {}
    variances: dict[int, NDArray[np.float64]] = {}
    alone = []
    for cell in np.unique(cells).tolist():
        members = np.flatnonzero(cells == cell)
        inside = np.flatnonzero(cells[images] == cell)
        closest = inside[np.argsort(distances[inside], kind="stable")][: -(-len(inside) // 10)]
        counts = np.stack([np.bincount(images[who], minlength=len(cells))[members] for who in (inside, closest)])
        trained = members < n_train
        N, n = len(trained), int(trained.sum())
        # Images with the same counts are drawn together: how many of them are chosen is hypergeometric.
        kinds, sizes = np.unique(counts, axis=1, return_counts=True)
        drawn = rng.multivariate_hypergeometric(sizes, n, size=_PERMUTATIONS, method="marginals")
        # Of the images that were trained on, then of each random choice.
        sums = np.concatenate([counts[:, trained].sum(1)[None], drawn @ kinds.T])
        total, squares, p = counts.sum(1), np.square(counts).sum(1), n / N
        variance = p * (1 - p) * N / max(N - 1, 1) * (squares - total**2 / N)
        excesses[cell], variances[cell] = sums - p * total, np.maximum(variance, 0)
        if min(n, N - n, len(inside)) >= FEWEST:
            alone.append(cell)
    excess = np.stack([np.sum([*excesses.values()], axis=0), *(excesses[cell] for cell in alone)])
    spread = np.sqrt([np.sum([*variances.values()], axis=0), *(variances[cell] for cell in alone)])
    # Without spread there is nothing to learn: all of a cell's images count alike.
    scores = np.divide(excess, spread[:, None], out=np.zeros_like(excess), where=spread[:, None] > 0)
    largest = scores.max((0, 2))
    # Excesses are sums of counts, so ties are real: they must not be broken by rounding.
    as_high = int((largest[1:] >= largest[0] - 1e-9).sum())
    where = [None, *alone][int(scores[:, 0].max(1).argmax())]
    return float(largest[0]), (1 + as_high) / (1 + _PERMUTATIONS), where
