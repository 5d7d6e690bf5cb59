"""All metrics of several tables of samples against one table of real images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from scattergen.errors import InputError
from scattergen.evaluation.clusters import BinTest, different_bins, k_means
from scattergen.evaluation.frechet import frechet_distance
from scattergen.evaluation.kernel_distance import kernel_distance
from scattergen.evaluation.manifolds import Manifolds, manifold_metrics
from scattergen.evaluation.memorisation import Memorisation, memorisation
from scattergen.evaluation.tables import Estimate, check_tables, jackknife, nearest
from scattergen.evaluation.two_sample import TwoSampleTest, classifier_two_sample_test
from scattergen.progress import SILENT, Progress

FEWEST = 20
"""Rows that a table must have."""
N_BINS = 100
N_CELLS = 10
# Rows that a bin needs in the mean, so that its z-score is nearly normal and the number of clusters
# suits small data, too.
_ROWS_PER_BIN = 20


@dataclass(frozen=True)
class Evaluation:
    """What one table of samples scored.

    Attributes:
        n: Number of samples.
        n_reference: Number of real images they were compared with.
        frechet: Fréchet distance; its error by the jackknife.
        kernel: Kernel distance, unbiased.
        manifolds: Precision, recall, density, coverage.
        two_sample: Classifier two-sample test.
        bins: Number of statistically different bins, against the training images if they were
            given.
        memorisation: Nearest-neighbour evidence; None without training images.
    """

    n: int
    n_reference: int
    frechet: Estimate
    kernel: Estimate
    manifolds: Manifolds
    two_sample: TwoSampleTest
    bins: BinTest
    memorisation: Memorisation | None

    def summary(self) -> dict[str, Any]:
        """Everything that JSON can hold, nested by the names of the attributes."""
        content = asdict(self)
        content["bins"]["zscores"] = self.bins.zscores.tolist()
        return content


def evaluate(
    samples: Mapping[str, Tensor],
    reference: Tensor,
    *,
    train: Tensor | None = None,
    n_neighbours: int = 5,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Evaluation]:
    """Compare tables of features of samples with features of real images.

    Fréchet distance, precision, recall, density and coverage depend on the number of rows: give all
    tables the same, and beside the samples the references that say what the numbers mean, such as
    training images (what perfect samples would score), decoded training codes (perfect codes) and
    decoded codes of the reference (the decoder's bound; paired, so optimistic).

    Args:
        samples: Name to features, (n, k), at least 20 rows.
        reference: Features of real images that nothing was fitted to, (N, k), at least 20.
        train: Features of the training images, (M, k); without them there is no test of
            memorisation, and the bins are those of the reference.
        n_neighbours: Which neighbour bounds a neighbourhood, in precision and its kin.
        seed: Of everything random.
        progress: Where to report.

    Returns:
        Name to what it scored, in the same order.

    Raises:
        InputError: If there is nothing to evaluate or the tables cannot be compared.

    Example:
        >>> import torch
        >>> x = torch.randn(3, 400, 4, generator=torch.Generator().manual_seed(0))
        >>> results = evaluate({"good": x[0], "shifted": x[0] + 1}, x[1], train=x[2])
        >>> results["good"].frechet.value < 0.2 < results["shifted"].frechet.value
        True
        >>> results["shifted"].two_sample.accuracy > 0.7
        True
    """
    if not samples:
        raise InputError("There is nothing to evaluate: give at least one table of samples.")
    binned = reference if train is None else train
    for name, x in samples.items():
        check_tables(FEWEST, **{name: x, "the reference": reference, "the training images": binned})
    bins = k_means(binned, max(2, min(N_BINS, len(binned) // _ROWS_PER_BIN)), seed=seed)
    if train is not None:
        cells = k_means(train, N_CELLS, seed=seed)
        test_distances = nearest(reference, train)[0][:, 0]
    results = {}
    with progress.task("evaluate", len(samples)) as task:
        for name, x in samples.items():
            results[name] = Evaluation(
                n=len(x),
                n_reference=len(reference),
                frechet=jackknife(frechet_distance, reference, x, seed=seed),
                kernel=kernel_distance(reference, x),
                manifolds=manifold_metrics(reference, x, n_neighbours),
                two_sample=classifier_two_sample_test(reference, x, seed=seed),
                bins=different_bins(binned, x, centres=bins),
                memorisation=None
                if train is None
                else memorisation(
                    train, reference, x, centres=cells, test_distances=test_distances
                ),
            )
            task.advance(1, name)
    return results
