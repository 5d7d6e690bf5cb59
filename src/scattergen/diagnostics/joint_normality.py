"""Are the codes normal, all components together? Marginals, length and projections, each with one p-value."""

import math
from typing import Any

import numpy as np
from scipy import stats

from scattergen.diagnostics.monte_carlo import SIMULATIONS, Codes, DiagnosticTest, Floats, checked_codes, pvalues_of
from scattergen.diagnostics.normality import dagostino_k2, effect_sizes
from scattergen.errors import InputError
from scattergen.keywords import whole_number

# The trapezoidal rule for the integral over t of Epps and Pulley's statistic. The integrand is a product of Gaussians
# and cosines of differences of the data, for which the rule is exact up to aliasing from 2π/0.5 = 12.6 on; beyond t = 4
# the weight holds 6e-5 of its mass.
_STEP = 0.5
_T = _STEP * np.arange(1, 9)
_WEIGHT = 2 * _STEP * stats.norm.pdf(_T)


def marginal_normality(z: Codes, *, n_simulations: int = SIMULATIONS, seed: int = 0) -> DiagnosticTest:
    r"""Is every component of codes (n, d), n ≥ 40, normal? D'Agostino's K² of all of them; null hypothesis "normal".

    .. math:: T = -\log \min_k \frac{d}{k}\, p_{(k)}

    with the sorted p-values of K² (Simes, "An improved Bonferroni procedure for multiple tests of significance", 1986),
    against its distribution for simulated codes with independent normal components, so that the approximations behind
    the p-values of K² do not matter; means and variances may be any. The effect is the largest |excess kurtosis|. An
    `InputError` if the codes cannot be tested.

    Example:
        >>> z = np.random.default_rng(0).uniform(size=(500, 3))
        >>> marginal_normality(z, n_simulations=19).pvalue
        0.05
    """
    codes = checked_codes(z)
    observed = _simes(codes)
    pvalue, _ = pvalues_of(observed, lambda random: _simes(random.standard_normal(codes.shape)), n_simulations, seed)
    effect = float(np.abs(effect_sizes(codes)[1]).max())
    measure = "largest |excess kurtosis|, normal 0"
    return DiagnosticTest("marginals, K²", "normal", observed.item(), pvalue.item(), effect, measure)


def radial(z: Codes) -> DiagnosticTest:
    r"""Are the lengths of codes (n, d), n ≥ 40, those of N(0, I)? Null: "normal", with that mean and covariance.

    The Kolmogorov–Smirnov distance between $\|z\|^2$ and its distribution under N(0, I), with an exact p-value:

    .. math:: D = \sup_r |F_n(r) - F_{\chi^2_d}(r)|

    (Massey, "The Kolmogorov–Smirnov test for goodness of fit", 1951). The effect is the standard deviation of
    $\|z\|^2$ relative to its mean, over the $\sqrt{2/d}$ of a normal code: above 1 codes share a scale that varies.
    An `InputError` if the codes cannot be tested.

    Example:
        >>> random = np.random.default_rng(0)
        >>> z = random.normal(size=(1000, 8)) * random.choice([0.5, 1.3], (1000, 1))
        >>> test = radial(z)
        >>> test.pvalue < 1e-6, test.effect > 1.5
        (True, True)
    """
    codes = checked_codes(z)
    d = codes.shape[1]
    squares = np.square(codes).sum(axis=1)
    found: Any = stats.kstest(squares, stats.chi2(d).cdf)
    effect = float(squares.std() / squares.mean() / math.sqrt(2 / d))
    measure = "relative spread of ‖z‖², normal 1"
    return DiagnosticTest("length ‖z‖²", "normal", float(found.statistic), float(found.pvalue), effect, measure)


def sliced_normality(
    z: Codes, *, n_directions: int = 128, n_simulations: int = SIMULATIONS, seed: int = 0
) -> tuple[DiagnosticTest, DiagnosticTest]:
    r"""Are projections of codes (n, d), n > d, n ≥ 40, normal? The worst of random directions and the mean of them.

    With y the projections of the codes, whitened, on a direction, Epps and Pulley's statistic is

    .. math:: T = n \int \bigl|\hat\varphi_y(t) - e^{-t^2/2}\bigr|^2 \varphi(t)\,dt

    with the empirical characteristic function of y and the standard normal density φ ("A test for normality based on
    the empirical characteristic function", 1983). Whitening by the sample's own covariance leaves nothing of the mean
    and the covariance of the codes, so that simulated N(0, I) codes give the null distribution for every normal
    distribution. In many dimensions most projections of *any* distribution are nearly normal (Diaconis, Freedman,
    "Asymptotics of graphical projection pursuit", 1984): the effect says how near, by the distance $\sqrt{T/n}$ of
    characteristic functions beyond that of simulated normal codes. An `InputError` if the codes cannot be tested.

    Example:
        >>> z = np.random.default_rng(0).uniform(size=(1000, 3))
        >>> [test.pvalue for test in sliced_normality(z, n_directions=16, n_simulations=19)]
        [0.05, 0.05]
    """
    codes = checked_codes(z)
    n, d = codes.shape
    n_directions = whole_number("n_directions", n_directions, least=1)
    if n <= d:
        raise InputError(
            f"Projections of whitened codes need more codes than components but got {n} of {d}: "
            "give more codes or fewer components."
        )
    whitening = _whitening(codes)
    rank = whitening.shape[1]  # the null codes have as many components as vary by themselves
    directions = np.random.default_rng([seed, 1]).standard_normal((rank, n_directions))
    directions /= np.linalg.norm(directions, axis=0)

    def worst_and_mean(some: Floats, whiten: Floats) -> Floats:
        values = epps_pulley((some - some.mean(axis=0)) @ (whiten @ directions))
        return np.array([values.max(), values.mean()])

    def null(random: np.random.Generator) -> Floats:
        normal = random.standard_normal((n, rank))
        return worst_and_mean(normal, _whitening(normal))

    observed = worst_and_mean(codes, whitening)
    pvalues, draws = pvalues_of(observed, null, n_simulations, seed)
    excess = np.sqrt(np.maximum(observed - draws.mean(axis=0), 0) / n)
    measure = "distance of char. functions, normal 0"
    found = zip(("worst", "mean"), observed.tolist(), pvalues.tolist(), excess.tolist(), strict=True)
    worst, mean = (
        DiagnosticTest(f"projections, {which}", "normal", statistic, p, effect, measure)
        for which, statistic, p, effect in found
    )
    return worst, mean


def epps_pulley(y: Floats) -> Floats:
    """Epps and Pulley's statistic (k,), as in `sliced_normality`, of columns (n, k) of mean 0 and variance 1."""
    columns = np.asarray(y, dtype=np.float32)
    # exp(i t y) at t = h, 2h, … as powers of the first, in single precision: its rounding, 1e-6 of a mean of unit
    # vectors, is far below their sampling error 1/√n.
    first = np.exp(np.complex64(1j * _STEP) * columns)
    power = first.copy()
    total = np.zeros(columns.shape[1])
    for t, weight in zip(_T, _WEIGHT, strict=True):
        difference = power.mean(axis=0) - math.exp(-(t**2) / 2)
        total += weight * np.abs(difference) ** 2
        power *= first
    return len(columns) * total


def _simes(codes: Floats) -> Floats:
    """The statistic of `marginal_normality`, (1,)."""
    pvalues = np.sort(dagostino_k2(codes).pvalue)
    # K² of wildly non-normal codes has a p-value that underflows.
    adjusted = np.min(pvalues * len(pvalues) / np.arange(1, len(pvalues) + 1))
    return np.array([-math.log(max(adjusted, np.finfo(float).tiny))])


def _whitening(codes: Floats) -> Floats:
    """Matrix (d, rank) that turns centred codes into uncorrelated ones of variance 1."""
    values, vectors = np.linalg.eigh(np.cov(codes, rowvar=False, bias=True).reshape(2 * (codes.shape[1],)))
    kept = values > 1e-10 * values[-1]  # below it a direction is constant up to rounding
    return vectors[:, kept] / np.sqrt(values[kept])
