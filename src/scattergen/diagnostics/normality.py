"""Are codes normal? Each component by itself, how rejections grow with the sample, and all components together."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from scattergen.calls.keywords import whole_number
from scattergen.datasets.source import as_numpy
from scattergen.densities.protocol import check_codes
from scattergen.diagnostics.monte_carlo import SIMULATIONS, Codes, DiagnosticTest, Floats, checked_codes, pvalues_of
from scattergen.errors import InputError

# The null distribution of the kurtosis in K2 (Anscombe & Glynn, 1983) is an approximation stated for n >= 20; the
# chi-square limit of Jarque-Bera is poorer still below that.
SMALLEST_SAMPLE = 20
COMPONENTS_PER_BLOCK = 64  # tested at once: the moments of 60,000 codes then need about 100 MB, not 1 GB
LEVELS = (0.05, 0.01)
_SIZES = (20, 40, 100, 200, 500, 1000, 2000, 5000, 10000)

# The trapezoidal rule for the integral over t of Epps and Pulley's statistic. The integrand is a product of Gaussians
# and cosines of differences of the data, for which the rule is exact up to aliasing from 2π/0.5 = 12.6 on; beyond t = 4
# the weight holds 6e-5 of its mass.
_STEP = 0.5
_T = _STEP * np.arange(1, 9)
_WEIGHT = 2 * _STEP * stats.norm.pdf(_T)


@dataclass(frozen=True)
class NormalityTest:
    """One test applied to every component; NaN for those that are constant, which have no skewness or kurtosis."""

    statistic: Floats  # (d,), asymptotically chi-square with 2 degrees of freedom
    pvalue: Floats  # (d,)


@dataclass(frozen=True)
class NormalityTable:
    """How many of the d components of n codes each test rejects, without any multiple-testing correction."""

    n: int
    d: int
    constant: int  # components that are constant and never counted as rejected
    levels: tuple[float, ...]
    counts: dict[str, tuple[int, ...]]  # test, "K2" or "JB", to its rejections at each of the levels

    def count(self, test: str, level: float) -> int:
        """Number of components that a test rejects at a level."""
        if level not in self.levels or test not in self.counts:
            raise InputError(f"{test} at {level}: there are {', '.join(self.counts)} at {self.levels}.")
        return self.counts[test][self.levels.index(level)]


@dataclass(frozen=True)
class RejectionRate:
    """Rejections of one test, "K2" or "JB", at one level among samples of n codes."""

    n: int
    test: str
    level: float
    observed: float  # mean count over random samples
    simulated: float  # mean count over standard normal data of the same shape; at small n it is not d × level


def dagostino_k2(z: Codes) -> NormalityTest:
    r"""D'Agostino and Pearson's omnibus test of normality, for each component of codes (n, d), n ≥ 20.

    .. math:: K^2 = Z(\sqrt{b_1})^2 + Z(b_2)^2

    where the two Z are the skewness and the kurtosis transformed to approximate normality ("Tests for departure from
    normality", 1973). An `InputError` if z is not (n, d), has fewer than 20 rows, or holds NaN or infinite values.

    Example:
        >>> z = np.random.default_rng(0).normal(size=(500, 2)) ** [1, 3]
        >>> (dagostino_k2(z).pvalue < 0.01).tolist()
        [False, True]
    """
    codes = _codes(z)
    return _k2(*effect_sizes(codes), len(codes))


def jarque_bera(z: Codes) -> NormalityTest:
    r"""Jarque and Bera's test of normality, for each component of codes (n, d), n ≥ 20, as in `dagostino_k2`.

    .. math:: JB = \frac{n}{6} \left( S^2 + \tfrac14 K^2 \right)

    with skewness S and excess kurtosis K, against its limit, chi-square with 2 degrees of freedom ("Efficient tests for
    normality, homoscedasticity and serial independence of regression residuals", 1980).

    Example:
        >>> z = np.random.default_rng(0).normal(size=(500, 2)) ** [1, 3]
        >>> (jarque_bera(z).pvalue < 0.01).tolist()
        [False, True]
    """
    codes = _codes(z)
    return _jb(*effect_sizes(codes), len(codes))


def effect_sizes(z: Codes) -> tuple[Floats, Floats]:
    """Skewness and excess kurtosis, (d,), of each component of codes (n, d), n ≥ 20: 0 if normal, NaN if constant.

    Example:
        >>> skewness, kurtosis = effect_sizes([[-1.0], [1.0]] * 10)
        >>> skewness.tolist(), kurtosis.tolist()
        ([0.0], [-2.0])
    """
    codes = _codes(z)
    skewness, kurtosis = np.full((2, codes.shape[1]), np.nan)
    for start in range(0, codes.shape[1], COMPONENTS_PER_BLOCK):
        block = codes[:, start : start + COMPONENTS_PER_BLOCK].astype(np.float64)
        varying = np.flatnonzero(np.ptp(block, axis=0))
        block = block[:, varying]
        # No change of skewness or kurtosis, but to compute these from columns of tiny spread around a large mean loses
        # all digits.
        block -= block.mean(axis=0)
        block /= np.abs(block).max(axis=0)
        block -= block.mean(axis=0)  # what the rounding of a large mean has left
        squares = block * block
        variance = squares.mean(axis=0)
        third, fourth = (np.einsum("ij,ij->j", squares, x) / len(codes) for x in (block, squares))
        skewness[start + varying] = third / variance**1.5
        kurtosis[start + varying] = fourth / variance**2 - 3
    return skewness, kurtosis


def _k2(skewness: Floats, kurtosis: Floats, n: int) -> NormalityTest:
    """K² of n codes: of the skewness by D'Agostino (1970), of the kurtosis by Anscombe and Glynn (1983)."""
    y = skewness * math.sqrt((n + 1) * (n + 3) / (6 * (n - 2)))
    beta = 3 * (n * n + 27 * n - 70) * (n + 1) * (n + 3) / ((n - 2) * (n + 5) * (n + 7) * (n + 9))
    w = math.sqrt(2 * (beta - 1)) - 1
    z_skewness = np.arcsinh(y / math.sqrt(2 / (w - 1))) / math.sqrt(0.5 * math.log(w))

    x = (kurtosis + 6 / (n + 1)) / math.sqrt(24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5)))
    root = math.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    beta = 6 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9)) * root  # the skewness of the kurtosis
    a = 6 + 8 / beta * (2 / beta + math.sqrt(1 + 4 / beta**2))
    cube = (1 - 2 / a) / (1 + x * math.sqrt(2 / (a - 4)))
    z_kurtosis = (1 - 2 / (9 * a) - np.cbrt(cube)) / math.sqrt(2 / (9 * a))
    return _chi_square(z_skewness**2 + z_kurtosis**2)


def _jb(skewness: Floats, kurtosis: Floats, n: int) -> NormalityTest:
    """Jarque-Bera of n codes."""
    return _chi_square(n / 6 * (skewness**2 + kurtosis**2 / 4))


def _chi_square(statistic: Floats) -> NormalityTest:
    """A test by chi-square with 2 degrees of freedom, of which exp(-x/2) is above x."""
    return NormalityTest(statistic, np.exp(-statistic / 2))


_TESTS: dict[str, Callable[[Floats, Floats, int], NormalityTest]] = {"K2": _k2, "JB": _jb}


def count_rejections(z: Codes, levels: Sequence[float] = LEVELS) -> NormalityTable:
    """How many components of codes (n, d), n ≥ 20, K2 and Jarque-Bera reject at each significance level.

    Example:
        >>> z = np.random.default_rng(0).normal(size=(500, 2)) ** [1, 3]
        >>> count_rejections(z).counts
        {'K2': (1, 1), 'JB': (1, 1)}
    """
    codes, levels = _codes(z), _checked_levels(levels)
    constant = int(np.count_nonzero(np.ptp(codes, axis=0) == 0))
    counts = dict(zip(_TESTS, map(tuple, _counts(codes, levels).tolist()), strict=True))
    return NormalityTable(len(codes), codes.shape[1], constant, levels, counts)


def rejections_by_sample_size(
    z: Codes, sizes: Sequence[int] | None = None, repeats: int = 10, seed: int = 0, levels: Sequence[float] = LEVELS
) -> list[RejectionRate]:
    """Counts of rejections, per sample size, test and level in this order, beside those of simulated normal data.

    At each size, by default 20, 40, 100 … 10,000 as far as there are codes z (N, d), `repeats` samples are drawn from z
    without replacement, and as many simulated, whatever the other sizes are. An `InputError` if one is not 20 … N.

    Example:
        >>> z = np.random.default_rng(0).uniform(size=(1000, 4))
        >>> rates = rejections_by_sample_size(z, sizes=[20, 1000], repeats=2)
        >>> [(r.n, r.observed) for r in rates if (r.test, r.level) == ("K2", 0.05)][-1]
        (1000, 4.0)
    """
    codes, levels = _codes(z), _checked_levels(levels)
    repeats = whole_number("repeats", repeats, least=1)
    if sizes is None:
        sizes = [size for size in _SIZES if size <= len(codes)]
    for size in sizes:
        if not SMALLEST_SAMPLE <= size <= len(codes):
            problem = f"cannot draw samples of {size} from {len(codes)} codes for normality tests"
            raise InputError(f"{problem}: choose sizes from {SMALLEST_SAMPLE} to {len(codes)}.")
    rates = []
    for size in sizes:
        totals = np.zeros((2, len(_TESTS), len(levels)))
        for repeat in range(repeats):
            random = np.random.default_rng([seed, size, repeat])
            sample = codes[random.choice(len(codes), size, replace=False)]
            normal = random.standard_normal((size, codes.shape[1]))
            totals += _counts(sample, levels), _counts(normal, levels)
        found = zip(product(_TESTS, levels), *(totals / repeats).reshape(2, -1).tolist(), strict=True)
        rates += [RejectionRate(size, test, level, ours, theirs) for (test, level), ours, theirs in found]
    return rates


def _counts(codes: NDArray[Any], levels: tuple[float, ...]) -> NDArray[np.intp]:
    """Components that each test rejects at each level, (tests, levels)."""
    shapes = effect_sizes(codes)
    pvalues = np.stack([test(*shapes, len(codes)).pvalue for test in _TESTS.values()])
    # The NaN of a constant component compares as False and so is not counted.
    return np.count_nonzero(pvalues[:, None] < np.array(levels)[:, None], axis=2)


def _codes(z: Codes) -> NDArray[Any]:
    """The codes, if there are so many that the null distributions hold."""
    return as_numpy(check_codes(z, minimum=SMALLEST_SAMPLE))


def _checked_levels(levels: Sequence[float]) -> tuple[float, ...]:
    for level in levels:
        if not 0 < level < 1:
            raise InputError(f"a significance level must lie between 0 and 1, got {level}.")
    return tuple(levels)


def marginal_normality(z: Codes, *, n_simulations: int = SIMULATIONS, seed: int = 0) -> DiagnosticTest:
    r"""Is every component of codes (n, d), n ≥ 40, normal? D'Agostino's K² of all of them; null hypothesis "normal".

    .. math:: T = -\log \min_k \frac{d}{k}\, p_{(k)}

    with the sorted p-values of K² (Simes, "An improved Bonferroni procedure for multiple tests of significance", 1986),
    against its distribution for simulated independent normal components; means and variances may be any. The effect is
    the largest |excess kurtosis|. An `InputError` if the codes cannot be tested.

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
        >>> radial(z).pvalue < 1e-6
        True
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
    the empirical characteristic function", 1983). Simulated N(0, I) codes give the null distribution, as whitening by
    the sample's own covariance makes all normal distributions alike. In many dimensions most projections of *any*
    distribution are nearly normal (Diaconis, Freedman, "Asymptotics of graphical projection pursuit", 1984): the effect
    is the distance $\sqrt{T/n}$ beyond that of normal codes. An `InputError` if the codes cannot be tested.

    Example:
        >>> z = np.random.default_rng(0).uniform(size=(1000, 3))
        >>> [test.pvalue for test in sliced_normality(z, n_directions=16, n_simulations=19)]
        [0.05, 0.05]
    """
    codes = checked_codes(z)
    n, d = codes.shape
    codes = codes / codes.std(axis=0)  # none is small beside another
    n_directions = whole_number("n_directions", n_directions, least=1)
    if n <= d:
        problem = f"Projections of whitened codes need more codes than components but got {n} of {d}"
        raise InputError(f"{problem}: give more codes or fewer components.")
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
    names, measure = ("projections, worst", "projections, mean"), "distance of char. functions, normal 0"
    found = zip(names, observed.tolist(), pvalues.tolist(), excess.tolist(), strict=True)
    worst, mean = (DiagnosticTest(name, "normal", t, p, effect, measure) for name, t, p, effect in found)
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
