"""Is each component of the codes normal? Counts of rejections, how they grow with the sample, and effect sizes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor

from scattergen.diagnostics.monte_carlo import Floats
from scattergen.errors import InputError

# The null distribution of the kurtosis in K2 (Anscombe & Glynn, 1983) is an approximation stated
# for n >= 20; the chi-square limit of Jarque-Bera is poorer still below that.
SMALLEST_SAMPLE = 20
# Components tested at once: the moments of 60,000 codes then need about 100 MB, not 1 GB.
COMPONENTS_PER_BLOCK = 64
DEFAULT_LEVELS = (0.05, 0.01)
DEFAULT_SIZES = (20, 40, 100, 200, 500, 1000, 2000, 5000, 10000)


@dataclass(frozen=True)
class NormalityTest:
    """One test applied to every component; NaN for those that are constant, which have no skewness or kurtosis.

    Attributes:
        statistic: (d,), asymptotically chi-square with 2 degrees of freedom.
        pvalue: (d,).
    """

    statistic: Floats
    pvalue: Floats


@dataclass(frozen=True)
class NormalityTable:
    """How many of the d components of n codes each test rejects, without any multiple-testing correction.

    Attributes:
        constant: How many of the d are constant; they are never counted as rejected.
        counts: Test ("K2", "JB") to its rejections at each of the levels.

    Example:
        >>> NormalityTable(100, 8, 0, (0.05, 0.01), {"K2": (3, 1), "JB": (2, 1)}).count("K2", 0.01)
        1
    """

    n: int
    d: int
    constant: int
    levels: tuple[float, ...]
    counts: dict[str, tuple[int, ...]]

    def count(self, test: str, level: float) -> int:
        """Number of components that a test rejects at a level."""
        return self.counts[test][self.levels.index(level)]


@dataclass(frozen=True)
class RejectionRate:
    """Rejections of one test, "K2" or "JB", at one level among samples of n codes.

    Attributes:
        observed: Mean count over random samples.
        simulated: Mean count over standard normal data of the same shape, what perfectly normal codes would score; at
            small n it is not d × level.
    """

    n: int
    test: str
    level: float
    observed: float
    simulated: float


def dagostino_k2(z: Tensor | ArrayLike) -> NormalityTest:
    r"""D'Agostino and Pearson's omnibus test of normality, for each component.

    .. math:: K^2 = Z(\sqrt{b_1})^2 + Z(b_2)^2

    where the two Z are the skewness and the kurtosis transformed to approximate normality.

    Args:
        z: Codes, (n, d), n ≥ 20.

    Returns:
        Statistics and p-values, (d,); NaN for constant components.

    Raises:
        InputError: If z is not (n, d), has fewer than 20 rows, or holds NaN or infinite values.

    References:
        D'Agostino, Pearson, "Tests for departure from normality", 1973.

    Example:
        >>> z = np.random.default_rng(0).normal(size=(500, 2)) ** [1, 3]
        >>> (dagostino_k2(z).pvalue < 0.01).tolist()
        [False, True]
    """
    return _per_component(stats.normaltest, _codes(z))


def jarque_bera(z: Tensor | ArrayLike) -> NormalityTest:
    r"""Jarque and Bera's test of normality, for each component.

    .. math:: JB = \frac{n}{6} \left( S^2 + \tfrac14 K^2 \right)

    with skewness S and excess kurtosis K, against its limit, chi-square with 2 degrees of freedom.

    Args:
        z: Codes, (n, d), n ≥ 20.

    Returns:
        Statistics and p-values, (d,); NaN for constant components.

    Raises:
        InputError: As for `dagostino_k2`.

    References:
        Jarque, Bera, "Efficient tests for normality, homoscedasticity and serial independence of regression residuals",
        1980.

    Example:
        >>> z = np.random.default_rng(0).normal(size=(500, 2)) ** [1, 3]
        >>> (jarque_bera(z).pvalue < 0.01).tolist()
        [False, True]
    """
    return _per_component(stats.jarque_bera, _codes(z))


_TESTS: dict[str, Callable[[Tensor | ArrayLike], NormalityTest]] = {"K2": dagostino_k2, "JB": jarque_bera}


def effect_sizes(z: Tensor | ArrayLike) -> tuple[Floats, Floats]:
    """Skewness and excess kurtosis of each component: how far from normal, whatever the n.

    Args:
        z: Codes, (n, d), n ≥ 20.

    Returns:
        Skewness and excess kurtosis, each (d,), both 0 for a normal distribution; NaN for constant components.

    Raises:
        InputError: As for `dagostino_k2`.

    Example:
        >>> skewness, kurtosis = effect_sizes([[-1.0], [1.0]] * 10)
        >>> skewness.tolist(), kurtosis.tolist()
        ([0.0], [-2.0])
    """
    codes = _codes(z)
    skewness, kurtosis = np.full((2, codes.shape[1]), np.nan)
    for block, varying in _standardised_blocks(codes):
        skewness[varying] = stats.skew(block, axis=0)
        kurtosis[varying] = stats.kurtosis(block, axis=0)
    return skewness, kurtosis


def count_rejections(z: Tensor | ArrayLike, levels: Sequence[float] = DEFAULT_LEVELS) -> NormalityTable:
    """How many components K2 and Jarque-Bera reject, at each level.

    Args:
        z: Codes, (n, d), n ≥ 20.
        levels: Significance levels, each between 0 and 1.

    Returns:
        The counts, with n and d, without which they mean nothing.

    Raises:
        InputError: As for `dagostino_k2`, or if a level is outside (0, 1).

    Example:
        >>> z = np.random.default_rng(0).normal(size=(500, 2)) ** [1, 3]
        >>> count_rejections(z).counts
        {'K2': (1, 1), 'JB': (1, 1)}
    """
    codes = _codes(z)
    levels = _checked_levels(levels)
    constant = int(np.count_nonzero(np.ptp(codes, axis=0) == 0))
    counts = dict(zip(_TESTS, map(tuple, _counts(codes, levels).tolist()), strict=True))
    return NormalityTable(len(codes), codes.shape[1], constant, levels, counts)


def rejections_by_sample_size(
    z: Tensor | ArrayLike,
    sizes: Sequence[int] | None = None,
    repeats: int = 10,
    seed: int = 0,
    levels: Sequence[float] = DEFAULT_LEVELS,
) -> list[RejectionRate]:
    """Counts of rejections against the sample size, beside those of simulated normal data.

    A test rejects more the more data it sees, so a count without its n says nothing. Each sample is drawn from z
    without replacement.

    Args:
        z: Codes, (N, d).
        sizes: Of the samples, each from 20 to N; by default those of 20, 40, 100 … 10,000 that do not exceed N.
        repeats: Samples drawn at each size, and as many simulated ones.
        seed: Of the draws; the result for a size does not depend on the other sizes.
        levels: Significance levels, each between 0 and 1.

    Returns:
        One entry per size, test and level, in this order.

    Raises:
        InputError: As for `count_rejections`, or if a size is below 20 or above N, or repeats is below 1.

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
        sizes = [size for size in DEFAULT_SIZES if size <= len(codes)]
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


def _per_component(test: Callable[..., Any], codes: NDArray[Any]) -> NormalityTest:
    """A test of SciPy's, applied to the components that vary."""
    statistic, pvalue = np.full((2, codes.shape[1]), np.nan)
    for block, varying in _standardised_blocks(codes):
        result = test(block, axis=0)
        statistic[varying] = result.statistic
        pvalue[varying] = result.pvalue
    return NormalityTest(statistic, pvalue)


def _standardised_blocks(codes: NDArray[Any]) -> Iterator[tuple[Floats, NDArray[np.intp]]]:
    """Centred float64 columns of the components that vary, and their indices.

    Skewness and kurtosis do not change under shift and scale, but computing them from columns of tiny spread around a
    large mean loses all digits, and scipy warns; so both are removed here.
    """
    for start in range(0, codes.shape[1], COMPONENTS_PER_BLOCK):
        block = codes[:, start : start + COMPONENTS_PER_BLOCK].astype(np.float64)
        varying = np.flatnonzero(np.ptp(block, axis=0))
        if varying.size:
            block = block[:, varying]
            block -= block.mean(axis=0)
            block /= np.abs(block).max(axis=0)
            yield block, start + varying


def _codes(z: Tensor | ArrayLike) -> NDArray[Any]:
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
        bad = int(np.flatnonzero(~np.isfinite(codes).all(axis=0))[0])
        raise InputError(
            f"component {bad} of the codes holds NaN or infinite values, so its normality cannot "
            f"be tested; look for what made them, or drop these codes."
        )
    return codes


def _checked_levels(levels: Sequence[float]) -> tuple[float, ...]:
    for level in levels:
        if not 0 < level < 1:
            raise InputError(f"a significance level must lie between 0 and 1, got {level}.")
    return tuple(levels)
