"""Classifiers as tests: what a network can learn about codes that the null hypothesis denies."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from scattergen.diagnostics.monte_carlo import (
    SIMULATIONS,
    DiagnosticTest,
    Floats,
    checked_codes,
    monte_carlo_pvalues,
    pairs_of,
)
from scattergen.training.loop import train
from scattergen.training.settings import TrainingSettings

_WIDTHS = (128, 128)
# Enough to see a scale mixture or a dependent pair among 16 components in 500 codes; after 600
# steps the network knows those 500 by heart and sees less in others.
_STEPS, _EPOCHS = 200, 10
_BATCH = 256

Fake = Callable[[Tensor, torch.Generator], Tensor]


def classifier_dependence(z: Tensor | ArrayLike, *, n_simulations: int = SIMULATIONS, seed: int = 0) -> DiagnosticTest:
    r"""Can a network tell the codes from codes with shuffled columns?

    A network f learns, from half of the codes, the log-odds of a code against one whose components come from different
    codes; every batch is shuffled anew. On the other half, its mean

    .. math:: T = \frac1m \sum_{i=1}^m f(z_i)

    is compared with T of the same rows with shuffled columns: an exact permutation test, whatever the network learned.

    Args:
        z: Codes, (n, d), n ≥ 40, d ≥ 2.
        n_simulations: Shuffles of the held-out half.
        seed: Of the split, the training and the shuffles.

    Returns:
        Null hypothesis "independent", with any marginal distributions. Effect: the held-out accuracy; 0.5 is chance.

    Raises:
        InputError: If the codes cannot be tested.

    References:
        Lopez-Paz, Oquab, "Revisiting classifier two-sample tests", 2017.
        Cheng, Cloninger, "Classification logit two-sample testing by neural networks", 2022.

    Example:
        >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> z = torch.stack([x[:, 0], x[:, 0].abs()], dim=1)
        >>> classifier_dependence(z, n_simulations=19).pvalue
        0.05
    """
    codes = checked_codes(z)
    pairs_of(codes.shape[1])
    return _classifier_test(
        "classifier against shuffled",
        "independent",
        codes,
        lambda x, generator: x.gather(0, torch.rand(x.shape, generator=generator).argsort(0)),
        lambda x, random: random.permuted(x, axis=0),
        n_simulations,
        seed,
    )


def classifier_normality(z: Tensor | ArrayLike, *, n_simulations: int = SIMULATIONS, seed: int = 0) -> DiagnosticTest:
    """Can a network tell the codes from draws of N(0, I)?

    As `classifier_dependence`, with draws of N(0, I) in the place of shuffled codes.

    Args:
        z: Codes, (n, d), n ≥ 40, whitened.
        n_simulations: Simulated sets that the held-out half is compared with.
        seed: Of the split, the training and the simulation.

    Returns:
        Null hypothesis "normal", with mean 0 and covariance I. Effect: the held-out accuracy; 0.5 is chance.

    Raises:
        InputError: If the codes cannot be tested.

    References:
        As for `classifier_dependence`.

    Example:
        >>> z = 3**0.5 * (2 * torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) - 1)
        >>> classifier_normality(z, n_simulations=19).pvalue
        0.05
    """
    return _classifier_test(
        "classifier against N(0, I)",
        "normal",
        checked_codes(z),
        lambda x, generator: torch.randn(x.shape, generator=generator),
        lambda x, random: random.standard_normal(x.shape),
        n_simulations,
        seed,
    )


def _classifier_test(
    name: str,
    null: str,
    codes: Floats,
    fake: Fake,
    draw: Callable[[Floats, np.random.Generator], Floats],
    n_simulations: int,
    seed: int,
) -> DiagnosticTest:
    """Learn codes from fakes on one half; compare the other half with draws under the null hypothesis."""
    order = np.random.default_rng([seed, 1]).permutation(len(codes))
    learned, held_out = codes[order[: len(codes) // 2]], codes[order[len(codes) // 2 :]]
    log_odds = _learn(learned, fake, seed)
    accepted = []  # share of each null set that the network takes for codes

    def mean(some: Floats) -> Floats:
        values = log_odds(some)
        accepted.append(float((values > 0).mean()))
        return np.array([values.mean()])

    observed = mean(held_out)
    pvalue, draws = monte_carlo_pvalues(observed, lambda random: mean(draw(held_out, random)), n_simulations, seed)
    effect = (accepted[0] + 1 - float(np.mean(accepted[1:]))) / 2
    statistic = float(observed[0] - draws.mean())
    return DiagnosticTest(name, null, statistic, pvalue.item(), effect, "held-out accuracy, chance 0.5")


def _learn(codes: Floats, fake: Fake, seed: int) -> Callable[[Floats], Floats]:
    """A network's log-odds of a code against a fake one."""
    d = codes.shape[1]
    with torch.random.fork_rng(devices=[]):  # the caller's generator is left as it was
        torch.default_generator.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(2 * d, _WIDTHS[0]), nn.ReLU(), nn.Linear(*_WIDTHS), nn.ReLU(), nn.Linear(_WIDTHS[1], 1)
        )
    center, scale = torch.from_numpy(codes.mean(0)), torch.from_numpy(codes.std(0))

    def inputs(x: Tensor) -> Tensor:
        # Magnitudes beside values: what components share most often is their scale.
        x = ((x - center) / scale).float()
        return torch.cat([x, x.square().clamp(max=25) - 1], dim=1)

    def loss(modules: Mapping[str, nn.Module], batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        (x,) = batch
        real = modules["network"](inputs(x))
        other = modules["network"](inputs(fake(x, generator).to(x)))
        return functional.softplus(-real).mean() + functional.softplus(other).mean()

    batch = min(_BATCH, len(codes))
    epochs = max(_EPOCHS, -(-_STEPS // (len(codes) // batch)))
    train(
        {"network": network},
        {"network": loss},
        TensorDataset(torch.from_numpy(codes)),
        TrainingSettings(epochs=epochs, batch_size=batch, learning_rate=1e-3, seed=seed),
    )

    @torch.no_grad()
    def log_odds(x: Floats) -> Floats:
        return network(inputs(torch.from_numpy(x))).double().squeeze(1).numpy()

    return log_odds
