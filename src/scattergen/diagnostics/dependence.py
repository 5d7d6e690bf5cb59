"""Do the components depend on each other? Tests that hold whatever their distributions are.

Under independence shuffling a column changes nothing, so every statistic is compared with those of shuffled columns.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor

from scattergen.diagnostics.monte_carlo import (
    SIMULATIONS,
    DiagnosticTest,
    Floats,
    checked_codes,
    monte_carlo_pvalues,
    pairs_of,
)

# Terms of the cosine series; those left out hold 0.2 % of the statistic's null variance.
_TERMS = 6


@dataclass(frozen=True)
class PairwiseDependence:
    """Dependence of every pair of components.

    Attributes:
        strongest: Is the most dependent pair more dependent than chance allows in any pair?
        mean: Are pairs dependent on average?
        correlation: Distance correlation of the ranks of each pair, (d, d), symmetric, with 1 on the diagonal; 0 where
            there is less dependence than by chance.
        pvalue: Of each pair, adjusted for all pairs, (d, d): rejecting those below α makes one false rejection or more
            with probability at most α.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(500, 2))
        >>> z = np.column_stack([x, x[:, 0] ** 2])
        >>> pairwise_dependence(z, n_simulations=19).dependent(0.05)
        [(0, 2)]
    """

    strongest: DiagnosticTest
    mean: DiagnosticTest
    correlation: Floats
    pvalue: Floats

    def dependent(self, level: float = 0.05) -> list[tuple[int, int]]:
        """Pairs whose adjusted p-value is at most the level, most dependent first."""
        first, second = pairs_of(len(self.pvalue))
        order = np.argsort(-self.correlation[first, second], kind="stable")
        return [
            (int(i), int(j)) for i, j in zip(first[order], second[order], strict=True) if self.pvalue[i, j] <= level
        ]


def correlation_of_squares(z: Tensor | ArrayLike, *, n_simulations: int = SIMULATIONS, seed: int = 0) -> DiagnosticTest:
    r"""Are components large together? Correlations of their squares, over all pairs.

    .. math:: T = \frac{2 n}{d(d-1)} \sum_{i<j} \mathrm{corr}(z_i^2, z_j^2)^2

    of the centred components, which is near 1 if they are independent. Uncorrelated components that share a scale, as
    those of images do, have correlated squares.

    Args:
        z: Codes, (n, d), n ≥ 40, d ≥ 2.
        n_simulations: Shuffles of the columns.
        seed: Of the shuffles.

    Returns:
        Null hypothesis "independent", with any marginal distributions. Effect: the mean of the correlations, which is
        above 0 for a common scale.

    Raises:
        InputError: If the codes cannot be tested.

    References:
        McLeod, Li, "Diagnostic checking ARMA time series models using squared-residual autocorrelations", 1983, for
        the idea.

    Example:
        >>> random = np.random.default_rng(0)
        >>> z = random.normal(size=(1000, 8)) * random.choice([0.5, 1.3], (1000, 1))
        >>> test = correlation_of_squares(z, n_simulations=19)
        >>> test.pvalue, test.effect > 0.1
        (0.05, True)
    """
    codes = checked_codes(z)
    n = len(codes)
    pairs = pairs_of(codes.shape[1])
    squares = np.square(codes - codes.mean(axis=0))
    squares -= squares.mean(axis=0)
    spread = np.sqrt(np.square(squares).sum(axis=0))
    # The square of a component with two opposite values is constant, and correlated with nothing.
    squares *= np.where(spread > 0, 1 / np.maximum(spread, np.finfo(float).tiny), 0)

    def mean_square(some: Floats) -> Floats:
        return np.array([n * np.mean(np.square((some.T @ some)[pairs]))])

    observed = mean_square(squares)
    pvalue, _ = monte_carlo_pvalues(
        observed, lambda random: mean_square(random.permuted(squares, axis=0)), n_simulations, seed
    )
    effect = float((squares.T @ squares)[pairs].mean())
    measure = "mean correlation of z², independent 0"
    return DiagnosticTest("correlation of squares", "independent", observed.item(), pvalue.item(), effect, measure)


def pairwise_dependence(
    z: Tensor | ArrayLike, *, n_simulations: int = SIMULATIONS, seed: int = 0
) -> PairwiseDependence:
    r"""Distance correlation of the ranks of every pair of components.

    Distance covariance is 0 only for independent variables. For ranks u, v in (0, 1) it is Blum, Kiefer and
    Rosenblatt's statistic, and a cosine series:

    .. math:: \mathrm{dCov}^2(u, v) = \frac{16}{\pi^4} \sum_{k,l \ge 1} \frac{1}{k^2 l^2}
              \Bigl(\frac1n \sum_i \cos(\pi k u_i) \cos(\pi l v_i)\Bigr)^2

    whose first 6 × 6 terms are one matrix product for all pairs. The expectation for shuffled columns is subtracted,
    and the result divided by its value for u = v: the squared correlation.

    Args:
        z: Codes, (n, d), n ≥ 40, d ≥ 2. Time grows as n d² times the number of shuffles: 64 components of 5,000 codes
            take some 20 s on one core.
        n_simulations: Shuffles of the columns.
        seed: Of the shuffles.

    Returns:
        The matrix, the adjusted p-values, and two tests of the null hypothesis "independent", with any marginal
        distributions: of the strongest pair, and of the mean over pairs.

    Raises:
        InputError: If the codes cannot be tested.

    References:
        Székely, Rizzo, Bakirov, "Measuring and testing dependence by correlation of distances", 2007.
        Blum, Kiefer, Rosenblatt, "Distribution free tests of independence based on the sample distribution function",
        1961.
        Westfall, Young, "Resampling-based multiple testing", 1993, for the adjustment.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(500, 2))
        >>> z = np.column_stack([x, x[:, 0] ** 2])
        >>> pairwise_dependence(z, n_simulations=19).correlation.round(1)[0, 1:].tolist()
        [0.0, 0.5]
    """
    codes = checked_codes(z)
    n, d = codes.shape
    first, second = pairs_of(d)
    waves = _cosines(codes)
    sizes = np.square(waves).sum(axis=1)  # (d, terms)
    # For a shuffle, E (Σ_i a_i b_π(i))² = Σa² Σb² / (n − 1) for centred a and b.
    totals = sizes.sum(axis=1)
    chance = totals[first] * totals[second] / (n - 1)
    products = np.einsum("dnk,dnl->dkl", waves, waves, dtype=np.float64, optimize=True)
    scale = np.sqrt(np.square(products).sum(axis=(1, 2)) - totals**2 / (n - 1))
    scale = scale[first] * scale[second]

    def correlations(some: NDArray[np.float32]) -> Floats:
        """Squared correlations of all pairs, (pairs,), around 0 under independence."""
        stacked = np.moveaxis(some, 0, 1).reshape(n, d * _TERMS)
        products = np.square((stacked.T @ stacked).astype(np.float64))
        by_pair = products.reshape(d, _TERMS, d, _TERMS).sum(axis=(1, 3))
        return (by_pair[first, second] - chance) / scale

    def null(random: np.random.Generator) -> Floats:
        order = random.permuted(np.broadcast_to(np.arange(n), (d, n)), axis=1)
        shuffled = correlations(np.take_along_axis(waves, order[:, :, None], axis=1))
        return np.array([shuffled.max(), shuffled.mean()])

    values = correlations(waves)
    observed = np.array([values.max(), values.mean()])
    pvalues, draws = monte_carlo_pvalues(observed, null, n_simulations, seed)
    exceeding = (draws[:, 0] >= values[:, None]).sum(axis=1)
    correlation, pvalue = np.eye(d), np.zeros((d, d))
    correlation[first, second] = correlation[second, first] = np.sqrt(np.maximum(values, 0))
    pvalue[first, second] = pvalue[second, first] = (1 + exceeding) / (n_simulations + 1)
    strongest, mean = (
        DiagnosticTest(
            name=f"pairs, {which}",
            null="independent",
            statistic=float(n * observed[k]),
            pvalue=float(pvalues[k]),
            effect=math.sqrt(max(observed[k], 0)),
            effect_name="distance corr. of ranks, independent 0",
        )
        for k, which in enumerate(("strongest", "mean"))
    )
    return PairwiseDependence(strongest, mean, correlation, pvalue)


def _cosines(codes: Floats) -> NDArray[np.float32]:
    """Centred weighted cosines of the ranks, (d, n, terms)."""
    n = len(codes)
    u = (stats.rankdata(codes, axis=0).T - 0.5) / n
    k = np.arange(1, _TERMS + 1)
    waves = np.cos(np.pi * k * u[:, :, None]) / k
    waves -= waves.mean(axis=1, keepdims=True)  # which only ties keep from being 0 already
    return waves.astype(np.float32)
