"""All metrics of several tables of samples against one table of real images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from scattergen.errors import InputError
from scattergen.evaluation.clusters import BinTest, different_bins, k_means
from scattergen.evaluation.distances import frechet_distance, kernel_distance
from scattergen.evaluation.manifolds import Manifolds, manifold_metrics
from scattergen.evaluation.memorisation import Memorisation, image_cells, memorisation
from scattergen.evaluation.tables import Estimate, check_tables, jackknife, nearest
from scattergen.evaluation.two_sample import TwoSampleTest, classifier_two_sample_test
from scattergen.progress import SILENT, Progress

FEWEST = 20
"""Rows that a table must have."""
N_BINS = 100
# Rows that a bin needs in the mean, so that its z-score is nearly normal and the number of clusters
# suits small data, too.
_ROWS_PER_BIN = 20


@dataclass(frozen=True)
class Evaluation:
    """What n samples scored against `n_reference` real images.

    The error of the Fréchet distance is by the jackknife. Bins are those of the training images if they were given;
    without them there is no test of memorisation.
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
        if self.memorisation is not None:
            content["memorisation"]["copies"] = self.memorisation.copies
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

    Fréchet distance, precision, recall, density and coverage depend on the number of rows: give all tables the same,
    and beside the samples the references that say what the numbers mean, such as training images (what perfect samples
    would score), decoded training codes (perfect codes) and decoded codes of the reference (the decoder's bound;
    paired, so optimistic).

    Args:
        samples: Name to features, (n, k), at least 20 rows.
        reference: Features of real images that nothing was fitted to, (N, k), at least 20.
        train: Features of the training images, (M, k); without them there is no test of memorisation, and the bins are
            those of the reference.
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
    """
    if not samples:
        raise InputError("There is nothing to evaluate: give at least one table of samples.")
    for name, x in samples.items():
        check_tables(FEWEST, **{name: x, "the reference": reference})
    evaluator = Evaluator(reference, train=train, n_neighbours=n_neighbours, seed=seed)
    results = {}
    with progress.task("evaluate", len(samples)) as task:
        for name, x in samples.items():
            results[name] = evaluator(x)
            task.advance(1, name)
    return results


class Evaluator:
    """Scores one table of samples after the other, with what they share computed once; arguments are as for `evaluate`.

    Raises:
        InputError: If the tables cannot be compared.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 400, 4, generator=torch.Generator().manual_seed(0))
        >>> Evaluator(x[0])(x[1]).n
        400
    """

    def __init__(self, reference: Tensor, *, train: Tensor | None = None, n_neighbours: int = 5, seed: int = 0) -> None:
        self.reference, self.train = reference, train
        self.n_neighbours, self.seed = n_neighbours, seed
        self.binned = reference if train is None else train
        check_tables(FEWEST, **{"the reference": reference, "the training images": self.binned})
        n_bins = max(2, min(N_BINS, len(self.binned) // _ROWS_PER_BIN))
        self.bins = k_means(self.binned, n_bins, seed=seed)
        if train is not None:
            self.cells = image_cells(train, reference, seed=seed)
            self.test_distances = nearest(reference, train)[0][:, 0]

    def __call__(self, samples: Tensor) -> Evaluation:
        """What samples, (n, k), at least 20, score against the reference; an `InputError` if they do not compare."""
        reference, seed = self.reference, self.seed
        check_tables(FEWEST, **{"the samples": samples, "the reference": reference})
        copies = None
        if self.train is not None:
            copies = memorisation(
                self.train, reference, samples, cells=self.cells, test_distances=self.test_distances, seed=seed
            )
        return Evaluation(
            n=len(samples),
            n_reference=len(reference),
            frechet=jackknife(frechet_distance, reference, samples, seed=seed),
            kernel=kernel_distance(reference, samples),
            manifolds=manifold_metrics(reference, samples, self.n_neighbours),
            two_sample=classifier_two_sample_test(reference, samples, seed=seed),
            bins=different_bins(self.binned, samples, centres=self.bins),
            memorisation=copies,
        )
