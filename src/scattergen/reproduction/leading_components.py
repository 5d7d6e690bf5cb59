"""Figure 1: what the two leading components do to an image, and whether they are independent."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scattergen.diagnostics import component_grid
from scattergen.report.draft import number, sample_size
from scattergen.report.html import table, tag
from scattergen.report.panels import visualisation_matrix
from scattergen.reproduction.material import Material
from scattergen.reproduction.page import Finding, ReproductionPage, panels, titled
from scattergen.reproduction.stage_cache import Measured

NAME = "leading_components"
PAPER_VALUES = (-10.0, -5.0, 5.0, 10.0)
SIGMA_VALUES = (-2.0, -1.0, 1.0, 2.0)
_PERMUTATIONS = 999
_BINS = 10
_LEVEL = 0.01
_ENOUGH = 5000  # test images; of fewer, the training images have more power

Floats = NDArray[np.float64]


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    return material.depends_on_model("encoder", "codes", "decoder")


def measure(material: Material, work: Path) -> Measured:
    """Decode both matrices; measure the dependence of the two components."""
    model, tests, train = material.model, material.test_codes, material.training_codes
    codes, of = (tests, "test") if len(tests) >= min(_ENOUGH, len(train)) else (train, "training")
    variances = model.encoder.whitening.explained_variance_
    sigma = variances[:2].sqrt()
    reached = material.training_codes[:, :2].abs().amax(0) * sigma
    first, second = codes[:, :2].double().numpy().T
    dependence = {
        name: _permutation_test(statistic, first, second, material.seed)
        for name, statistic in STATISTICS.items()
    }
    facts = {
        "sigma": sigma.tolist(),
        "reached": reached.tolist(),
        "n_train": len(material.training_codes),
        "norm": material.training_codes.norm(dim=1).mean().item(),
        "paper_norms": component_grid(variances, PAPER_VALUES).norm(dim=1).tolist(),
        "n": len(codes),
        "of": of,
        "correlation": float(np.corrcoef(first, second)[0, 1]),
        "dependence": dependence,
    }
    pictures = {
        "paper": model.decode(component_grid(variances, PAPER_VALUES)),
        "sigma": model.decode(component_grid(variances, SIGMA_VALUES, in_sigma=True)),
    }
    return Measured(facts, pictures)


def correlation_of_squares(first: Floats, second: Floats) -> float:
    """Correlation of the squares of two variables.

    Args:
        first: (n,).
        second: (n,).

    Returns:
        A number in [-1, 1], 0 in expectation for independent variables.

    Example:
        >>> x = np.array([-2.0, -1.0, 1.0, 2.0])
        >>> round(correlation_of_squares(x, x[[1, 0, 3, 2]]), 6)
        -1.0
    """
    return float(np.corrcoef(first**2, second**2)[0, 1])


def correlation_ratio(first: Floats, second: Floats) -> float:
    """Share of the variance of one variable that its mean, given another one's decile, explains.

    Args:
        first: (n,), the one that is conditioned on.
        second: (n,).

    Returns:
        A number in [0, 1], about 9/n for independent variables.

    Example:
        >>> x = np.arange(100.0)
        >>> correlation_ratio(x, x) > 0.98
        True
    """
    edges = np.quantile(first, np.linspace(0, 1, _BINS + 1)[1:-1])
    bins = np.searchsorted(edges, first)
    counts = np.bincount(bins, minlength=_BINS)
    means = np.bincount(bins, second, minlength=_BINS) / np.maximum(counts, 1)
    return float((counts * (means - second.mean()) ** 2).sum() / (len(second) * second.var()))


STATISTICS = {
    "correlation of squares": correlation_of_squares,
    "correlation ratio": correlation_ratio,
}


def _permutation_test(statistic: Any, first: Floats, second: Floats, seed: int) -> dict[str, float]:
    """The statistic, and how often as large a one is found after one variable is shuffled."""
    random = np.random.default_rng(seed)
    value = statistic(first, second)
    shuffled = [statistic(first, random.permutation(second)) for _ in range(_PERMUTATIONS)]
    as_large = sum(abs(other) >= abs(value) for other in shuffled)
    return {"value": value, "p": (1 + as_large) / (1 + _PERMUTATIONS)}


def show(page: ReproductionPage, results: Mapping[str, Measured], material: Material) -> None:
    """Add the section."""
    measured = results[NAME]
    facts, sigma = measured.facts, measured.facts["sigma"]
    matrices = []
    for title, key, values in (
        ("The paper’s values", "paper", [PAPER_VALUES, PAPER_VALUES]),
        (
            "One and two standard deviations",
            "sigma",
            [[v * s for v in SIGMA_VALUES] for s in sigma],
        ),
    ):
        draw = partial(
            visualisation_matrix, measured.tensors[key], values[0], values[1], (sigma[0], sigma[1])
        )
        alt = f"{title}: 16 decoded images; the first component grows from top to bottom, the "
        alt += "second from left to right"
        matrices.append(titled(title, page.themed(alt, draw)))
    caption = (
        "Decoded codes in which only the two leading components differ from 0; large numbers are "
        "values before whitening, small ones the same in standard deviations."
    )
    rows = [
        [name, number(entry["value"], 3), f"{entry['p']:.3f}"]
        for name, entry in facts["dependence"].items()
    ]
    dependence = table(
        ["first and second component", "value", "p, by permutation"],
        [["correlation", number(facts["correlation"], 3), ""], *rows],
        caption="Dependence of the two components over "
        f"{sample_size(facts['n'])} {facts['of']} images.",
    )
    content = [
        page.page.figure(panels(*matrices), caption, "Figure 1"),
        dependence,
        tag("p", _scale(facts)),
    ]
    page.section(
        "Leading components", _finding(facts), content, [measured], sample_size(facts["n"])
    )


def _finding(facts: Mapping[str, Any]) -> Finding:
    dependent = [name for name, row in facts["dependence"].items() if row["p"] <= _LEVEL]
    outside = PAPER_VALUES[-1] > max(facts["reached"])
    if dependent:
        because = (
            f"The two components are uncorrelated but not independent ({' and '.join(dependent)}, "
            f"p ≤ {_LEVEL:g}), as the paper concludes by eye."
        )
    else:
        because = "A dependence of the two components could not be shown on these images."
    if PAPER_VALUES[-2] > max(facts["reached"]):
        because += (
            " No training image comes near its values of ±5 and ±10 on our codes, though, so the "
            "pictures there show the decoder outside its data."
        )
    elif outside:
        because += (
            " No training image has its values of ±10 on our codes, though, and few have ±5, so "
            "most pictures there show the decoder outside its data."
        )
    if not dependent:
        return Finding("Figure 1", "cannot be compared", because)
    return Finding("Figure 1", "agrees in part" if outside else "agrees", because)


def _scale(facts: Mapping[str, Any]) -> str:
    sigma, reached = facts["sigma"], facts["reached"]
    largest = max(abs(value) / s for value in PAPER_VALUES for s in sigma)
    of_bytes = max(abs(value) / (255 * s) for value in PAPER_VALUES for s in sigma)
    shortest, longest = min(facts["paper_norms"]), max(facts["paper_norms"])
    as_long = "as long as codes are" if longest > 0.8 * facts["norm"] else "shorter than codes are"
    return (
        f"Of images in [0, 1] the two components have the standard deviations {sigma[0]:.3f} and "
        f"{sigma[1]:.3f} before whitening, and no one of the {facts['n_train']:,} training images "
        f"exceeds {reached[0]:.2f} and {reached[1]:.2f}; the paper’s ±10 is up to {largest:.0f} "
        f"standard deviations. Of images in [0, 255] it would be at most {of_bytes:.2f}, so that "
        f"all 16 images would look alike. But after whitening its 16 vectors are {shortest:.0f} to "
        f"{longest:.0f} long, and codes of training images {facts['norm']:.0f} on average: they "
        f"are {as_long}, with all of the length in two components. If codes were "
        "normalised to unit norm, as by Angles and Mallat in 2018, their scale would not matter at "
        "all."
    )
