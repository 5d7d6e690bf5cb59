"""What the tests of joint normality and dependence share: their result, their input, p-values."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from scattergen.errors import InputError
from scattergen.keywords import whole_number

Floats = NDArray[np.float64]

_LARGEST_SCALE = 1e60
FEWEST_CODES = 40  # of which the classifiers learn from 20 and are tested on 20
# A level of 0.05 is then exact, as 0.05 · (199 + 1) is whole; p-values are 0.005 or more.
SIMULATIONS = 199


@dataclass(frozen=True)
class DiagnosticTest:
    """One test of all components together.

    Attributes:
        name: What is tested, in plain words.
        null: What a small p-value speaks against: "normal" (the codes are) or "independent" (their components are,
            whatever their distributions).
        statistic: Larger speaks more against the null hypothesis; depends on n.
        pvalue: Probability of a statistic at least as large under the null hypothesis.
        effect: How far from the null hypothesis, on a scale that does not grow with n.
        effect_name: What the effect is, and its value under the null hypothesis.

    Example:
        >>> test = DiagnosticTest("radius", "normal", 0.1, 0.02, 1.3, "spread, normal 1")
        >>> test.summary()["pvalue"]
        0.02
    """

    name: str
    null: str
    statistic: float
    pvalue: float
    effect: float
    effect_name: str

    def summary(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)


def checked_codes(z: Tensor | ArrayLike) -> Floats:
    """The codes (n, d) in float64, if the tests can work with them."""
    codes = z.detach().cpu().numpy() if isinstance(z, Tensor) else np.asarray(z)
    if codes.ndim != 2 or codes.shape[1] == 0 or not np.issubdtype(codes.dtype, np.floating):
        raise InputError(
            f"The diagnostics need codes of shape (n, d) in floating point but got shape "
            f"{codes.shape} of {codes.dtype}: give the codes of an encoder or samples of a density."
        )
    if len(codes) < FEWEST_CODES:
        raise InputError(
            f"The diagnostics need at least {FEWEST_CODES} codes but got {len(codes)}: encode or draw more."
        )
    if not np.isfinite(codes).all():
        bad = int(np.flatnonzero(~np.isfinite(codes).all(axis=0))[0])
        raise InputError(
            f"Component {bad} of the codes holds NaN or infinite values: look for what made them, "
            "or leave these codes out."
        )
    constant = np.flatnonzero(np.ptp(codes, axis=0) == 0)
    if constant.size:
        raise InputError(
            f"Component {constant[0]} of the codes is constant, so there is nothing to test: leave it out."
        )
    codes = codes.astype(np.float64)
    scale = np.abs(codes).max()
    # Fourth powers of codes, and sums of them, have to be finite and not 0.
    if not 1 / _LARGEST_SCALE < scale < _LARGEST_SCALE:
        raise InputError(
            f"The largest entry of the codes is {scale:.3g}, which is out of the range of the "
            "tests: divide them by their standard deviation."
        )
    return codes


def pairs_of(d: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the pairs i < j of d components, at least two."""
    if d < 2:
        raise InputError(f"Dependence needs at least 2 components but got {d}: give more.")
    first, second = np.triu_indices(d, k=1)
    return first, second


def monte_carlo_pvalues(
    observed: Floats, draw: Callable[[np.random.Generator], Floats], count: int, seed: int
) -> tuple[Floats, Floats]:
    """P-values (k,) of statistics T (k,) against B = `count` draws T_b of them under the null hypothesis, (B, k).

    p = (1 + #{b : T_b ≥ T}) / (B + 1) is at most α with probability at most α for every α, however small B is
    (Phipson, Smyth, "Permutation p-values should never be zero", 2010).
    """
    count = whole_number("n_simulations", count, least=19)  # with fewer, nothing could be rejected at 0.05
    # Not the generator that made data with the same seed, which would be drawn again.
    random = np.random.default_rng([seed, 2])
    draws = np.stack([draw(random) for _ in range(count)])
    return (1 + (draws >= observed).sum(axis=0)) / (count + 1), draws
