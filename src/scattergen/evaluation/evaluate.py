"""All metrics of several tables of samples against one table of real images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError
from scattergen.evaluation.distances import (
    Manifolds,
    frechet_estimate,
    kernel_distance,
    kernel_sums,
    manifold_metrics,
    neighbour_distances,
)
from scattergen.evaluation.memorisation import FEWEST, Memorisation, image_cells, memorisation
from scattergen.evaluation.tables import Estimate, check_tables, nearest
from scattergen.evaluation.two_sample import BinTest, TwoSampleTest, classifier_two_sample_test, different_bins, k_means


@dataclass(frozen=True)
class Evaluation:
    """What n samples scored against `n_reference` real images."""

    n: int
    n_reference: int
    frechet: Estimate  # its error is by the jackknife
    kernel: Estimate
    manifolds: Manifolds
    two_sample: TwoSampleTest
    bins: BinTest  # of the training images if they were given, else of the real images
    memorisation: Memorisation | None  # if training images were given

    def summary(self) -> dict[str, Any]:
        """Everything that JSON can hold, nested by the names of the attributes."""
        content = asdict(self)
        content["bins"]["zscores"] = self.bins.zscores.tolist()
        if self.memorisation is not None:
            content["memorisation"]["copies"] = self.memorisation.copies
        return content


def evaluate(
    samples: Mapping[str, Tensor], reference: Tensor, *, train: Tensor | None = None, n_neighbours: int = 5,
    seed: int = 0, progress: Progress = SILENT,
) -> dict[str, Evaluation]:  # fmt: skip
    """Compare tables of features of samples, (n, k), with real images: name to what it scored, in the same order.

    The `reference`, (N, k), is of images that nothing was fitted to; with `train`, (M, k), bins are of the training
    images and there is a test of memorisation. `n_neighbours` bounds a neighbourhood, in precision and its kin. Most
    metrics depend on the number of rows: give all tables the same. An `InputError` if there is nothing to evaluate, or
    the tables cannot be compared or have fewer than 20 rows.

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

    Example:
        >>> import torch
        >>> Evaluator(torch.rand(400, 4))(torch.rand(300, 4)).n
        300
    """

    def __init__(self, reference: Tensor, *, train: Tensor | None = None, n_neighbours: int = 5, seed: int = 0) -> None:
        self.reference, self.train, self.n_neighbours, self.seed = reference, train, n_neighbours, seed
        self.binned = reference if train is None else train
        check_tables(FEWEST, **{"the reference": reference, "the training images": self.binned})
        self.among_real, self.radii = kernel_sums(reference), neighbour_distances(reference, n_neighbours)
        # 20 rows for a bin in the mean, so that its z-score is nearly normal and the number of bins suits small data.
        self.bins = k_means(self.binned, max(2, min(100, len(self.binned) // 20)), seed=seed)
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
            n=len(samples), n_reference=len(reference), memorisation=copies,
            frechet=frechet_estimate(reference, samples, seed=seed),
            kernel=kernel_distance(reference, samples, among_real=self.among_real),
            manifolds=manifold_metrics(reference, samples, self.n_neighbours, radii=self.radii),
            two_sample=classifier_two_sample_test(reference, samples, seed=seed),
            bins=different_bins(self.binned, samples, centres=self.bins),
        )  # fmt: skip
