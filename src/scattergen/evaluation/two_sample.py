"""The classifier two-sample test: can a classifier tell samples from real images?"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from scattergen.evaluation.tables import check_tables
from scattergen.training.loop import train
from scattergen.training.settings import TrainingSettings

_HIDDEN = 64
_EPOCHS = 10


@dataclass(frozen=True)
class TwoSampleTest:
    """How well a classifier told held-out samples from held-out real images.

    Attributes:
        accuracy: Share of the held-out rows that it got right; 0.5 is chance.
        standard_error: Of the accuracy.
        pvalue: Probability of so many right or more if both distributions are equal.
        n: Number of held-out rows, half of them real.
    """

    accuracy: float
    standard_error: float
    pvalue: float
    n: int


def classifier_two_sample_test(real: Tensor, samples: Tensor, *, seed: int = 0) -> TwoSampleTest:
    """Train a classifier on half of the rows and test on the other half.

    A network with one hidden layer learns to tell real images from samples, equally many of each. If both have one
    distribution, the number of right answers among the n held-out rows is binomial(n, 1/2), or varies less where one
    answer is preferred, so that the p-value is valid for any classifier, and small only if the distributions differ.

    Args:
        real: Features of real images, (N, k), N ≥ 4.
        samples: Features of samples, (M, k), M ≥ 4; of the longer table, min(N, M) rows are used.
        seed: Of the split and the training.

    Returns:
        Held-out accuracy and p-value.

    Raises:
        InputError: If the tables cannot be compared.

    References:
        Lopez-Paz, Oquab, "Revisiting classifier two-sample tests", 2017.
        Hoeffding, "On the distribution of the number of successes in independent trials", 1956.

    Example:
        >>> x = torch.randn(2, 500, 2, generator=torch.Generator().manual_seed(0))
        >>> test = classifier_two_sample_test(x[0], x[1] + 1)
        >>> test.accuracy > 0.65, test.pvalue < 1e-6, test.n
        (True, True, 500)
    """
    check_tables(4, real=real, samples=samples)
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
    with torch.random.fork_rng(devices=[]):  # the caller's generator is left as it was
        torch.default_generator.manual_seed(seed)
        classifier = nn.Sequential(nn.Linear(learned.shape[1], _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 2))
    train(
        {"classifier": classifier},
        {"classifier": _cross_entropy},
        TensorDataset(learned, labels),
        TrainingSettings(epochs=_EPOCHS, batch_size=128, learning_rate=3e-3, seed=seed),
    )
    with torch.no_grad():
        right = int((classifier(held_out).argmax(1) == labels).sum())
    n = 2 * count
    accuracy = right / n
    standard_error = (accuracy * (1 - accuracy) / n) ** 0.5
    return TwoSampleTest(accuracy, standard_error, pvalue=float(stats.binom.sf(right - 1, n, 0.5)), n=n)


def _cross_entropy(modules: Mapping[str, nn.Module], batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    x, y = batch
    return functional.cross_entropy(modules["classifier"](x), y)
