"""Is each component of the codes normal? Counts of rejections, how they grow with the sample, and effect sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from scattergen.diagnostics.monte_carlo import Codes, Floats, first_infinite
from scattergen.errors import InputError

# The null distribution of the kurtosis in K2 (Anscombe & Glynn, 1983) is an approximation stated
# for n >= 20; the chi-square limit of Jarque-Bera is poorer still below that.
SMALLEST_SAMPLE = 20
COMPONENTS_PER_BLOCK = 64  # tested at once: the moments of 60,000 codes then need about 100 MB, not 1 GB
LEVELS = (0.05, 0.01)
_SIZES = (20, 40, 100, 200, 500, 1000, 2000, 5000, 10000)


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
    return NormalityTest(*_per_component(z, lambda block: stats.normaltest(block, axis=0)))


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
    return NormalityTest(*_per_component(z, lambda block: stats.jarque_bera(block, axis=0)))


_TESTS: dict[str, Callable[[Codes], NormalityTest]] = {"K2": dagostino_k2, "JB": jarque_bera}


def effect_sizes(z: Codes) -> tuple[Floats, Floats]:
    """Skewness and excess kurtosis, (d,), of each component of codes (n, d), n ≥ 20: 0 if normal, NaN if constant.

    Example:
        >>> skewness, kurtosis = effect_sizes([[-1.0], [1.0]] * 10)
        >>> skewness.tolist(), kurtosis.tolist()
        ([0.0], [-2.0])
    """
    return _per_component(z, lambda block: (stats.skew(block, axis=0), stats.kurtosis(block, axis=0)))


def count_rejections(z: Codes, levels: Sequence[float] = LEVELS) -> NormalityTable:
    """How many components of codes (n, d), n ≥ 20, K2 and Jarque-Bera reject at each significance level.

    Example:
        >>> z = np.random.default_rng(0).normal(size=(500, 2)) ** [1, 3]
        >>> table = count_rejections(z)
        >>> table.counts, table.count("K2", 0.01)
        ({'K2': (1, 1), 'JB': (1, 1)}, 1)
    """
    codes = _codes(z)
    levels = _checked_levels(levels)
    constant = int(np.count_nonzero(np.ptp(codes, axis=0) == 0))
    counts = dict(zip(_TESTS, map(tuple, _counts(codes, levels).tolist()), strict=True))
    return NormalityTable(len(codes), codes.shape[1], constant, levels, counts)


def rejections_by_sample_size(
    z: Codes, sizes: Sequence[int] | None = None, repeats: int = 10, seed: int = 0, levels: Sequence[float] = LEVELS
) -> list[RejectionRate]:
    """Counts of rejections, per sample size, test and level in this order, beside those of simulated normal data.

    A test rejects more the more data it sees, so a count without its n says nothing. At each size, by default 20, 40,
    100 … 10,000 as far as there are codes z (N, d), `repeats` samples are drawn from z without replacement, and as many
    simulated; the result for a size does not depend on the other sizes. An `InputError` if a size is not from 20 to N.

    Example:
        >>> z = np.random.default_rng(0).uniform(size=(1000, 4))
        >>> rates = rejections_by_sample_size(z, sizes=[20, 1000], repeats=2)
        >>> [(r.n, r.observed) for r in rates if (r.test, r.level) == ("K2", 0.05)][-1]
        (1000, 4.0)
    """
    codes = _codes(z)
    levels = _checked_levels(levels)
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, got {repeats}.")
    if sizes is None:
        sizes = [size for size in _SIZES if size <= len(codes)]
    for size in sizes:
        if not SMALLEST_SAMPLE <= size <= len(codes):
            raise InputError(
                f"cannot draw samples of {size} from {len(codes)} codes for normality tests: "
                f"choose sizes from {SMALLEST_SAMPLE} to {len(codes)}."
            )
    rates = []
    for size in sizes:
        totals = np.zeros((2, len(_TESTS), len(levels)))
        for repeat in range(repeats):
            random = np.random.default_rng([seed, size, repeat])
            sample = codes[random.choice(len(codes), size, replace=False)]
            normal = random.standard_normal((size, codes.shape[1]))
            totals += _counts(sample, levels), _counts(normal, levels)
        observed, simulated = (totals / repeats).tolist()
        rates += [
            RejectionRate(size, test, level, observed[t][k], simulated[t][k])
            for t, test in enumerate(_TESTS)
            for k, level in enumerate(levels)
        ]
    return rates


def _counts(codes: NDArray[Any], levels: tuple[float, ...]) -> NDArray[np.intp]:
    """Components that each test rejects at each level, (tests, levels)."""
    pvalues = np.stack([test(codes).pvalue for test in _TESTS.values()])
    # The NaN of a constant component compares as False and so is not counted.
    return np.count_nonzero(pvalues[:, None] < np.array(levels)[:, None], axis=2)


def _per_component(z: Codes, statistics: Callable[[Floats], Any]) -> tuple[Floats, Floats]:
    """Two statistics of columns, (d,) each, of the components of codes that vary; NaN for the others."""
    codes = _codes(z)
    first, second = np.full((2, codes.shape[1]), np.nan)
    for start in range(0, codes.shape[1], COMPONENTS_PER_BLOCK):
        block = codes[:, start : start + COMPONENTS_PER_BLOCK].astype(np.float64)
        varying = np.flatnonzero(np.ptp(block, axis=0))
        if varying.size:
            block = block[:, varying]
            # No change of skewness or kurtosis, but to compute these from columns of tiny spread around a large mean
            # loses all digits, and SciPy warns.
            block -= block.mean(axis=0)
            block /= np.abs(block).max(axis=0)
            first[start + varying], second[start + varying] = statistics(block)
    return first, second


def _codes(z: Codes) -> NDArray[Any]:
    """The codes, if every component of them can be tested."""
    codes = z.detach().cpu().numpy() if isinstance(z, Tensor) else np.asarray(z)
    if codes.ndim != 2 or codes.shape[1] == 0 or not np.issubdtype(codes.dtype, np.floating):
        raise InputError(
            f"normality tests need codes of shape (n, d) in floating point, got shape {codes.shape} of {codes.dtype}."
        )
    if len(codes) < SMALLEST_SAMPLE:
        raise InputError(
            f"normality tests need at least {SMALLEST_SAMPLE} codes, got {len(codes)}: their null "
            f"distributions do not hold for fewer; encode more images."
        )
    if not np.isfinite(codes).all():
        raise InputError(
            f"component {first_infinite(codes)} of the codes holds NaN or infinite values, so its normality cannot "
            f"be tested; look for what made them, or drop these codes."
        )
    return codes


def _checked_levels(levels: Sequence[float]) -> tuple[float, ...]:
    for level in levels:
        if not 0 < level < 1:
            raise InputError(f"a significance level must lie between 0 and 1, got {level}.")
    return tuple(levels)
