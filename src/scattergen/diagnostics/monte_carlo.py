"""What the tests of joint normality and dependence share: their result, their input, p-values."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from scattergen.calls.keywords import whole_number
from scattergen.datasets.source import as_numpy
from scattergen.densities.protocol import check_codes
from scattergen.errors import InputError

Floats = NDArray[np.float64]
Codes = Tensor | ArrayLike  # (n, d), in floating point

FEWEST_CODES = 40  # of which the classifiers learn from 20 and are tested on 20
SIMULATIONS = 199  # a level of 0.05 is then exact, as 0.05 · (199 + 1) is whole; p-values are 0.005 or more


@dataclass(frozen=True)
class DiagnosticTest:
    """One test of all components together."""

    name: str
    null: str  # what a small p-value speaks against: "normal" (the codes are) or "independent" (their components are)
    statistic: float  # larger speaks more against the null hypothesis; depends on n
    pvalue: float  # probability of a statistic at least as large under the null hypothesis
    effect: float  # how far from the null hypothesis, on a scale that does not grow with n
    effect_name: str  # what the effect is, and its value under the null hypothesis

    def summary(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)


def checked_codes(z: Codes, components: int = 1) -> Floats:
    """The codes (n, d) in float64, if the tests can work with them and there are so many components."""
    codes = as_numpy(check_codes(z, minimum=FEWEST_CODES))
    constant = np.flatnonzero(np.ptp(codes, axis=0) == 0)
    if constant.size:
        problem = f"Component {constant[0]} of the codes is constant, so there is nothing to test"
        raise InputError(f"{problem}: leave it out.")
    codes = codes.astype(np.float64)
    scale = np.abs(codes).max()
    # Fourth powers of codes, and sums of them, have to be finite and not 0.
    if not 1e-60 < scale < 1e60:
        problem = f"The largest entry of the codes is {scale:.3g}, which is out of the range of the tests"
        raise InputError(f"{problem}: divide them by their standard deviation.")
    if codes.shape[1] < components:
        raise InputError(f"Dependence needs at least {components} components but got {codes.shape[1]}: give more.")
    return codes


def pvalues_of(
    observed: Floats, draw: Callable[[np.random.Generator], Floats], count: int, seed: int
) -> tuple[Floats, Floats]:
    """P-values (k,) of statistics T (k,) against B = `count` draws T_b of them under the null hypothesis, (B, k)."""
    # p = (1 + #{b : T_b ≥ T}) / (B + 1) is at most α with probability at most α for every α, however small B is:
    # Phipson, Smyth, "Permutation p-values should never be zero", 2010.
    count = whole_number("n_simulations", count, least=19)  # with fewer, nothing could be rejected at 0.05
    # Not the generator that made data with the same seed, which would be drawn again.
    random = np.random.default_rng([seed, 2])
    draws = np.stack([draw(random) for _ in range(count)])
    return (1 + (draws >= observed).sum(axis=0)) / (count + 1), draws
