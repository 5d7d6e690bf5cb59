"""A claim of the paper: normal, whitened components "should be completely independent".

They need not be: only *jointly* normal variables that are uncorrelated are independent. Three
tables of numbers show it, each white and with standard normal components.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from scattergen.diagnostics import dagostino_k2, jarque_bera
from scattergen.paper.leading_components import correlation_of_squares
from scattergen.paper.material import Material
from scattergen.paper.measured import Measured
from scattergen.paper.page import Finding, Section

NAME = "gaussian_marginals"
_N = 10_000

Floats = NDArray[np.float64]


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    return {"seed": material.seed, "n": _N}


def counter_examples(n: int, random: np.random.Generator) -> dict[str, Floats]:
    """Pairs of uncorrelated standard normal variables, the first independent, the others not.

    Args:
        n: Rows.
        random: Source of randomness.

    Returns:
        Description to (n, 2).

    Example:
        >>> pairs = counter_examples(5, np.random.default_rng(0))
        >>> x, y = pairs["z₂ = ±z₁, the sign by chance"].T
        >>> bool((abs(x) == abs(y)).all())
        True
    """
    first, other = random.standard_normal((2, n))
    # The radius c at which the correlation of the third pair, 2 E z² [|z| < c] - 1, vanishes; E z²
    # [|z| < c] is P(χ²₃ < c²).
    radius = np.sqrt(stats.chi2.median(3))
    return {
        "z₂ drawn for itself": np.stack([first, other], 1),
        "z₂ = ±z₁, the sign by chance": np.stack([first, first * np.sign(other)], 1),
        f"z₂ = z₁ where |z₁| < {radius:.3f}, else −z₁": np.stack(
            [first, np.where(np.abs(first) < radius, first, -first)], 1
        ),
    }


def measure(material: Material, work: Path) -> Measured:
    """Test the marginals, the correlation and the dependence of each pair."""
    rows = []
    for name, z in counter_examples(_N, np.random.default_rng(material.seed)).items():
        rows.append(
            {
                "name": name,
                "k2": dagostino_k2(z).pvalue.tolist(),
                "jb": jarque_bera(z).pvalue.tolist(),
                "correlation": float(np.corrcoef(z[:, 0], z[:, 1])[0, 1]),
                "squares": correlation_of_squares(z[:, 0], z[:, 1]),
            }
        )
    return Measured({"rows": rows})


def show(results: Mapping[str, Measured], material: Material) -> Section:
    """That normal components need not be independent."""
    finding = Finding(
        "Section 4.2",
        "disagrees",
        "“If those distributions are perfect Gaussians, then they should be completely "
        "independent, because they were whitened” does not follow: variables can be white, each "
        "be perfectly normal, and be as dependent as can be, as two worked examples show.",
    )
    return Section(NAME, finding, [results[NAME]], {"n": _N})
