"""A claim of the paper: normal, whitened components "should be completely independent".

They need not be: only *jointly* normal variables that are uncorrelated are independent. Three tables of numbers show
it, each white and with standard normal components.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from scattergen.diagnostics import dagostino_k2, jarque_bera
from scattergen.paper.findings import Finding, Measured, Section
from scattergen.paper.leading_components import correlation_of_squares
from scattergen.paper.material import Material

NAME = "gaussian_marginals"
_N = 10_000


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    return {"seed": material.seed, "n": _N}


def counter_examples(n: int, random: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Pairs (n, 2) of uncorrelated standard normal variables, the first independent, the others not."""
    first, other = random.standard_normal((2, n))
    # The radius c at which the correlation of the third pair, 2 E z² [|z| < c] - 1, vanishes; E z² [|z| < c] is
    # P(χ²₃ < c²).
    radius = np.sqrt(stats.chi2.median(3))
    seconds = {
        "z₂ drawn for itself": other,
        "z₂ = ±z₁, the sign by chance": first * np.sign(other),
        f"z₂ = z₁ where |z₁| < {radius:.3f}, else −z₁": np.where(np.abs(first) < radius, first, -first),
    }
    return {name: np.stack([first, second], 1) for name, second in seconds.items()}


def measure(material: Material, work: Path) -> Measured:
    """Test the marginals, the correlation and the dependence of each pair."""
    rows: list[dict[str, Any]] = []
    for name, z in counter_examples(_N, np.random.default_rng(material.seed)).items():
        tests = {"k2": dagostino_k2(z).pvalue.tolist(), "jb": jarque_bera(z).pvalue.tolist()}
        correlation, squares = float(np.corrcoef(z[:, 0], z[:, 1])[0, 1]), correlation_of_squares(z[:, 0], z[:, 1])
        rows.append({"name": name, **tests, "correlation": correlation, "squares": squares})
    return Measured({"rows": rows})


def show(results: Mapping[str, Measured], material: Material) -> Section:
    """That normal components need not be independent."""
    finding = Finding(
        "Section 4.2",
        "disagrees",
        "“If those distributions are perfect Gaussians, then they should be completely independent, because they were "
        "whitened” does not follow: variables can be white, each be perfectly normal, and be as dependent as can be, "
        "as two worked examples show.",
    )
    return Section(NAME, finding, [results[NAME]], {"n": _N})
