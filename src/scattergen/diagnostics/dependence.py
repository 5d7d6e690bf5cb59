"""Do components depend on each other, whatever their distributions? Statistics beside those of shuffled columns."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from scattergen.diagnostics.monte_carlo import SIMULATIONS, Codes, DiagnosticTest, Floats, checked_codes, pvalues_of

_TERMS = 6  # of the cosine series; those left out hold 0.2 % of the statistic's null variance


@dataclass(frozen=True)
class PairwiseDependence:
    """Dependence of every pair of d components."""

    strongest: DiagnosticTest  # is the most dependent pair more dependent than chance allows in any pair?
    mean: DiagnosticTest  # are pairs dependent on average?
    correlation: Floats  # distance correlation of ranks, (d, d); 1 on the diagonal, 0 for less than by chance
    pvalue: Floats  # (d, d), adjusted for all pairs: below α there is a false rejection with probability at most α

    def dependent(self, level: float = 0.05) -> list[tuple[int, int]]:
        """Pairs whose adjusted p-value is at most the level, most dependent first."""
        first, second = np.triu_indices(len(self.pvalue), k=1)
        order = np.argsort(-self.correlation[first, second], kind="stable")
        pairs = zip(first[order].tolist(), second[order].tolist(), strict=True)
        return [(i, j) for i, j in pairs if self.pvalue[i, j] <= level]


def correlation_of_squares(z: Codes, *, n_simulations: int = SIMULATIONS, seed: int = 0) -> DiagnosticTest:
    r"""Are components of codes (n, d), n ≥ 40, d ≥ 2, large together? Null hypothesis "independent".

    .. math:: T = \frac{2 n}{d(d-1)} \sum_{i<j} \mathrm{corr}(z_i^2, z_j^2)^2

    of the centred components, near 1 if they are independent. Where they share a scale, as those of images do, the
    effect, the mean of the correlations, is above 0. The idea is of McLeod, Li, "Diagnostic checking ARMA time series
    models using squared-residual autocorrelations", 1983. An `InputError` if the codes cannot be tested.

    Example:
        >>> random = np.random.default_rng(0)
        >>> z = random.normal(size=(1000, 8)) * random.choice([0.5, 1.3], (1000, 1))
        >>> correlation_of_squares(z, n_simulations=19).pvalue
        0.05
    """
    codes = checked_codes(z, components=2)
    pairs = np.triu_indices(codes.shape[1], k=1)
    squares = np.square(codes - codes.mean(axis=0))
    squares -= squares.mean(axis=0)
    spread = np.sqrt(np.square(squares).sum(axis=0))
    # The square of a component with two opposite values is constant, and correlated with nothing.
    squares *= np.where(spread > 0, 1 / np.maximum(spread, np.finfo(float).tiny), 0)

    def mean_square(some: Floats) -> Floats:
        return np.array([len(codes) * np.mean(np.square((some.T @ some)[pairs]))])

    observed = mean_square(squares)
    pvalue, _ = pvalues_of(observed, lambda random: mean_square(random.permuted(squares, axis=0)), n_simulations, seed)
    effect = float((squares.T @ squares)[pairs].mean())
    measure = "mean correlation of z², independent 0"
    return DiagnosticTest("correlation of squares", "independent", observed.item(), pvalue.item(), effect, measure)


def pairwise_dependence(z: Codes, *, n_simulations: int = SIMULATIONS, seed: int = 0) -> PairwiseDependence:
    r"""Distance correlation of the ranks of all pairs of components of codes (n, d), n ≥ 40, d ≥ 2, with its tests.

    Distance covariance is 0 only for independent variables (Székely, Rizzo, Bakirov, "Measuring and testing dependence
    by correlation of distances", 2007). For ranks u, v in (0, 1) it is a statistic of Blum, Kiefer, Rosenblatt,
    "Distribution free tests of independence based on the sample distribution function", 1961, and a cosine series:

    .. math:: \mathrm{dCov}^2(u, v) = \frac{16}{\pi^4} \sum_{k,l \ge 1} \frac{1}{k^2 l^2}
              \Bigl(\frac1n \sum_i \cos(\pi k u_i) \cos(\pi l v_i)\Bigr)^2

    whose first 6 × 6 terms are taken. Less its expectation for shuffled columns, and divided by its value for u = v, it
    is the squared correlation. P-values of pairs are adjusted as in Westfall, Young, "Resampling-based multiple
    testing", 1993. Time grows as n d² times the number of shuffles. An `InputError` if the codes cannot be tested.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(500, 2))
        >>> pairwise_dependence(np.column_stack([x, x[:, 0] ** 2]), n_simulations=19).dependent()
        [(0, 2)]
    """
    codes = checked_codes(z, components=2)
    n, d = codes.shape
    first, second = np.triu_indices(d, k=1)
    u = (stats.rankdata(codes, axis=0).T - 0.5) / n
    k = np.arange(1, _TERMS + 1)
    waves: NDArray[Any] = np.cos(np.pi * k * u[:, :, None]) / k  # (d, n, terms)
    waves -= waves.mean(axis=1, keepdims=True)  # which only ties keep from being 0 already
    waves = waves.astype(np.float32)
    # For a shuffle, E (Σ_i a_i b_π(i))² = Σa² Σb² / (n − 1) for centred a and b.
    totals = np.square(waves).sum(axis=1).sum(axis=1)
    chance = totals[first] * totals[second] / (n - 1)
    products = np.einsum("dnk,dnl->dkl", waves, waves, dtype=np.float64, optimize=True)
    scale = np.sqrt(np.square(products).sum(axis=(1, 2)) - totals**2 / (n - 1))
    scale = scale[first] * scale[second]

    def correlations(some: NDArray[np.float32]) -> Floats:
        """Squared correlations of all pairs, (pairs,), around 0 under independence."""
        stacked = np.moveaxis(some, 0, 1).reshape(n, d * _TERMS)
        products = np.square((stacked.T @ stacked).astype(np.float64))
        return (products.reshape(d, _TERMS, d, _TERMS).sum(axis=(1, 3))[first, second] - chance) / scale

    def null(random: np.random.Generator) -> Floats:
        order = random.permuted(np.broadcast_to(np.arange(n), (d, n)), axis=1)
        shuffled = correlations(np.take_along_axis(waves, order[:, :, None], axis=1))
        return np.array([shuffled.max(), shuffled.mean()])

    values = correlations(waves)
    observed = np.array([values.max(), values.mean()])
    pvalues, draws = pvalues_of(observed, null, n_simulations, seed)
    exceeding = (draws[:, 0] >= values[:, None]).sum(axis=1)
    correlation, pvalue = np.eye(d), np.zeros((d, d))
    correlation[first, second] = correlation[second, first] = np.sqrt(np.maximum(values, 0))
    pvalue[first, second] = pvalue[second, first] = (1 + exceeding) / (n_simulations + 1)
    effects = np.sqrt(np.maximum(observed, 0))
    names, measure = ("pairs, strongest", "pairs, mean"), "distance corr. of ranks, independent 0"
    found = zip(names, (n * observed).tolist(), pvalues.tolist(), effects.tolist(), strict=True)
    strongest, mean = (DiagnosticTest(name, "independent", t, p, effect, measure) for name, t, p, effect in found)
    return PairwiseDependence(strongest, mean, correlation, pvalue)
