"""Figure 1: what the two leading components do to an image, and whether they are independent."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scattergen.diagnostics.component_grid import PAPER_VALUES, SIGMA_VALUES, component_grid
from scattergen.paper.decoder_settings import PLAIN, UNIT, by_setting, with_other
from scattergen.paper.material import Material
from scattergen.paper.page import Finding, ReproductionPage, panels, titled
from scattergen.paper.stage_cache import Measured
from scattergen.report.draft import number, sample_size
from scattergen.report.html import Html, table, tag
from scattergen.report.panels import visualisation_matrix

NAME = "leading_components"
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
    reached = train[:, :2].abs().amax(0) * sigma
    share = train[:, :2].square().sum(1) / train.square().sum(1)
    first, second = codes[:, :2].double().numpy().T
    dependence = {
        name: _permutation_test(statistic, first, second, material.seed)
        for name, statistic in STATISTICS.items()
    }
    facts = {
        "sigma": sigma.tolist(),
        "reached": reached.tolist(),
        "share": share.max().item(),
        "n_train": len(material.training_codes),
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
    settings = by_setting(results, material, measured.tensors, "pictures")
    figures = []
    for setting, tensors in settings.items():
        matrices = [
            _matrix(page, title, tensors[key], values, sigma)
            for title, key, values in (
                ("The paper’s values", "paper", (PAPER_VALUES, PAPER_VALUES)),
                (
                    "One and two standard deviations",
                    "sigma",
                    [[v * s for v in SIGMA_VALUES] for s in sigma],
                ),
            )
        ]
        caption = (
            f"Decoder of {setting}: decoded codes in which only the two leading components differ "
            "from 0; large numbers are values before whitening, small ones the same in standard "
            "deviations."
        )
        figures.append(page.page.figure(panels(*matrices), caption, "Figure 1"))
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
    content = [*figures, dependence, tag("p", _scale(facts, list(settings)))]
    sources = with_other(measured, results)
    page.section("Leading components", _finding(facts), content, sources, sample_size(facts["n"]))


def _matrix(
    page: ReproductionPage,
    title: str,
    images: Tensor,
    values: Sequence[Sequence[float]],
    sigma: Sequence[float],
) -> Html:
    draw = partial(visualisation_matrix, images, values[0], values[1], (sigma[0], sigma[1]))
    alt = f"{title}: 16 decoded images; the first component grows from top to bottom, the "
    alt += "second from left to right"
    return titled(title, page.themed(alt, draw))


def _finding(facts: Mapping[str, Any]) -> Finding:
    dependent = [name for name, row in facts["dependence"].items() if row["p"] <= _LEVEL]
    if dependent:
        because = (
            f"The two components are uncorrelated but not independent ({' and '.join(dependent)}, "
            f"p ≤ {_LEVEL:g}), as the paper concludes by eye."
        )
        return Finding("Figure 1", "agrees", because)
    because = "A dependence of the two components could not be shown on these images."
    return Finding("Figure 1", "cannot be compared", because)


def _scale(facts: Mapping[str, Any], settings: Sequence[str]) -> str:
    sigma, reached = facts["sigma"], facts["reached"]
    words = ""
    if UNIT in settings:
        words = (
            "For a decoder of codes of unit norm the 16 vectors are directions: (5, 5) and (10, "
            "10) are the same, so that the paper’s 16 images are 12. All of their length is in two "
            "components, which in no code of a training image have more than "
            f"{number(100 * facts['share'])} % of the squared length: the pictures show what the "
            "decoder makes of directions that it has never seen, and some look like none of the "
            "images for that reason alone. "
        )
    if PLAIN in settings:
        largest = max(abs(value) / s for value in PAPER_VALUES for s in sigma)
        words += (
            "For a decoder of codes as they are the paper’s scale is not ours: of images in [0, "
            f"1] the two components have the standard deviations {sigma[0]:.3f} and "
            f"{sigma[1]:.3f}, and no one of the {facts['n_train']:,} training images exceeds "
            f"{reached[0]:.2f} and {reached[1]:.2f}; ±10 is up to {largest:.0f} standard "
            "deviations."
        )
    return words.strip()
