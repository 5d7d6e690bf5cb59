"""Figure 1: what the two leading components do to an image, and whether they are independent."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scattergen.diagnostics.component_grid import PAPER_VALUES, SIGMA_VALUES
from scattergen.paper.decoder_settings import PLAIN, UNIT, by_setting, decoded_matrices, with_other
from scattergen.paper.findings import Finding, Measured, Section
from scattergen.paper.material import Material
from scattergen.report.html import themed
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
    first, second = codes[:, :2].double().numpy().T
    facts = {
        "sigma": sigma.tolist(),
        "reached": (train[:, :2].abs().amax(0) * sigma).tolist(),
        "share": (train[:, :2].square().sum(1) / train.square().sum(1)).max().item(),
        "n_train": len(train),
        "n": len(codes),
        "of": of,
        "correlation": float(np.corrcoef(first, second)[0, 1]),
        "dependence": {
            name: _permutation_test(statistic, first, second, material.seed) for name, statistic in STATISTICS.items()
        },
    }
    return Measured(facts, decoded_matrices(variances, model.decode))


def correlation_of_squares(first: Floats, second: Floats) -> float:
    """Correlation of the squares of two variables, (n,): 0 in expectation if they are independent."""
    return float(np.corrcoef(first**2, second**2)[0, 1])


def correlation_ratio(first: Floats, second: Floats) -> float:
    """Share of the variance of `second` that its mean given the decile of `first` explains; about 9/n if independent.

    >>> x = np.arange(100.0)
    >>> correlation_ratio(x, x) > 0.98
    True
    """
    edges = np.quantile(first, np.linspace(0, 1, _BINS + 1)[1:-1])
    bins = np.searchsorted(edges, first)
    counts = np.bincount(bins, minlength=_BINS)
    means = np.bincount(bins, second, minlength=_BINS) / np.maximum(counts, 1)
    return float((counts * (means - second.mean()) ** 2).sum() / (len(second) * second.var()))


Statistic = Callable[[Floats, Floats], float]
STATISTICS: dict[str, Statistic] = {
    "correlation of squares": correlation_of_squares,
    "correlation ratio": correlation_ratio,
}


def _permutation_test(statistic: Statistic, first: Floats, second: Floats, seed: int) -> dict[str, float]:
    """The statistic, and how often as large a one is found after one variable is shuffled."""
    random = np.random.default_rng(seed)
    value = statistic(first, second)
    shuffled = [statistic(first, random.permutation(second)) for _ in range(_PERMUTATIONS)]
    as_large = sum(abs(other) >= abs(value) for other in shuffled)
    return {"value": value, "p": (1 + as_large) / (1 + _PERMUTATIONS)}


def show(results: Mapping[str, Measured], material: Material) -> Section:
    """Both matrices through each decoder, and whether the two components are independent."""
    measured = results[NAME]
    first, second = measured.facts["sigma"]
    values = {
        "paper": (PAPER_VALUES, PAPER_VALUES),
        "sigma": ([v * first for v in SIGMA_VALUES], [v * second for v in SIGMA_VALUES]),
    }
    shown = {
        setting: {
            key: themed(partial(visualisation_matrix, tensors[key], *at, (first, second))) for key, at in values.items()
        }
        for setting, tensors in by_setting(results, material, measured.tensors, "pictures").items()
    }
    finding, sources = _finding(measured.facts), with_other(measured, results)
    return Section(NAME, finding, sources, {"matrices": shown, "unit": UNIT, "plain": PLAIN})


def _finding(facts: Mapping[str, Any]) -> Finding:
    dependent = [name for name, row in facts["dependence"].items() if row["p"] <= _LEVEL]
    if not dependent:
        because = "A dependence of the two components could not be shown on these images."
        return Finding("Figure 1", "cannot be compared", because)
    because = (
        f"The two components are uncorrelated but not independent ({' and '.join(dependent)}, p ≤ {_LEVEL:g}), as the "
        "paper concludes by eye."
    )
    return Finding("Figure 1", "agrees", because)
