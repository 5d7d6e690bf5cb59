"""Classifiers as tests: what a network can learn about codes that the null hypothesis denies."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from scattergen.calls.keywords import check_seed
from scattergen.calls.state import seeded
from scattergen.diagnostics.monte_carlo import SIMULATIONS, Codes, DiagnosticTest, Floats, checked_codes, pvalues_of
from scattergen.training import TrainingSettings, train

# Enough to see a scale mixture or a dependent pair among 16 components in 500 codes; after 600 steps the network knows
# those 500 by heart and sees less in others.
_STEPS, _EPOCHS = 200, 10


def classifier_dependence(z: Codes, *, n_simulations: int = SIMULATIONS, seed: int = 0) -> DiagnosticTest:
    r"""Can a network tell codes (n, d), n ≥ 40, d ≥ 2, from codes with shuffled columns? Null hypothesis "independent".

    A network f learns, from half of the codes, the log-odds of a code against one whose components come from different
    codes; every batch is shuffled anew. On the other half, its mean

    .. math:: T = \frac1m \sum_{i=1}^m f(z_i)

    is compared with T of the same rows with shuffled columns: an exact permutation test (Lopez-Paz, Oquab, "Revisiting
    classifier two-sample tests", 2017; Cheng, Cloninger, "Classification logit two-sample testing by neural networks",
    2022). The effect is the held-out accuracy; 0.5 is chance. An `InputError` if the codes cannot be tested.

    Example:
        >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))[:, 0]
        >>> classifier_dependence(torch.stack([x, x.abs()], dim=1), n_simulations=19).pvalue
        0.05
    """
    return _classifier_test(
        "classifier against shuffled", "independent", checked_codes(z, components=2),
        lambda x, generator: x.gather(0, torch.rand(x.shape, generator=generator).argsort(0)),
        lambda x, random: random.permuted(x, axis=0), n_simulations, seed,
    )  # fmt: skip


def classifier_normality(z: Codes, *, n_simulations: int = SIMULATIONS, seed: int = 0) -> DiagnosticTest:
    """Can a network tell whitened codes from draws of N(0, I)? Null hypothesis "normal", with mean 0 and covariance I.

    As `classifier_dependence`, with draws of N(0, I) in the place of shuffled codes; d may be 1.

    Example:
        >>> z = 3**0.5 * (2 * torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) - 1)
        >>> classifier_normality(z, n_simulations=19).pvalue
        0.05
    """
    return _classifier_test(
        "classifier against N(0, I)", "normal", checked_codes(z),
        lambda x, generator: torch.randn(x.shape, generator=generator),
        lambda x, random: random.standard_normal(x.shape), n_simulations, seed,
    )  # fmt: skip


def _classifier_test(
    name: str, null: str, codes: Floats, fake: Callable[[Tensor, torch.Generator], Tensor],
    draw: Callable[[Floats, np.random.Generator], Floats], n_simulations: int, seed: int,
) -> DiagnosticTest:  # fmt: skip
    """Learn log-odds of codes against fakes on one half; compare the other with draws under the null hypothesis."""
    (n, d), half, seed = codes.shape, len(codes) // 2, check_seed(seed)
    order = np.random.default_rng([seed, 1]).permutation(n)
    learned, held_out = codes[order[:half]], codes[order[half:]]
    with seeded(seed):
        network = nn.Sequential(nn.Linear(2 * d, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1))
    center, spread = torch.from_numpy(learned.mean(0)), torch.from_numpy(learned.std(0))
    scale = spread.where(spread > 0, 1.0)  # a component may be constant in this half alone

    def inputs(x: Tensor) -> Tensor:
        # Magnitudes beside values: what components share most often is their scale.
        x = ((x - center) / scale).float()
        return torch.cat([x, x.square().clamp(max=25) - 1], dim=1)

    def loss(modules: Mapping[str, nn.Module], batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        (x,) = batch
        real = modules["network"](inputs(x))
        other = modules["network"](inputs(fake(x, generator).to(x)))
        return functional.softplus(-real).mean() + functional.softplus(other).mean()

    batch = min(256, half)
    epochs = max(_EPOCHS, -(-_STEPS // (half // batch)))
    settings = TrainingSettings(epochs=epochs, batch_size=batch, learning_rate=1e-3, seed=seed)
    train({"network": network}, {"network": loss}, TensorDataset(torch.from_numpy(learned)), settings)
    accepted = []  # share of each null set that the network takes for codes

    @torch.no_grad()
    def mean(some: Floats) -> Floats:
        log_odds = network(inputs(torch.from_numpy(some))).double().squeeze(1).numpy()
        accepted.append(float((log_odds > 0).mean()))
        return np.array([log_odds.mean()])

    observed = mean(held_out)
    pvalue, draws = pvalues_of(observed, lambda random: mean(draw(held_out, random)), n_simulations, seed)
    effect = (accepted[0] + 1 - float(np.mean(accepted[1:]))) / 2
    statistic = float(observed[0] - draws.mean())
    return DiagnosticTest(name, null, statistic, pvalue.item(), effect, "held-out accuracy, chance 0.5")
