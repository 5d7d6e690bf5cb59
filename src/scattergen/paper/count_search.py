"""Which preprocessing of the codes, and which n, gives the rejection counts of the paper's Table 1.

The paper states neither its sample size nor how its coefficients were scaled. Positive factors of
the images (their range, such as [0, 255]), of the coefficients or of the codes change no count,
and neither does the order of the components, since the scattering transform commutes with such
factors and both tests are invariant to scale; so these need not be tried.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scattergen.diagnostics import count_rejections, effect_sizes
from scattergen.paper.material import Material
from scattergen.paper.measured import Measured
from scattergen.report import paper

NAME = "count_search"
_SIZES = (20, 50, 100, 150, 200, 300, 500, 1000)
_MOST_DEVIATIONS = 2.0
_MOST_RELATIVE = 1 / 3  # a mean that is far off is no match, however large the spread
_AVERAGED = 16
_LEVELS = (0.05, 0.01)
_TESTS = ("K2", "JB")

Sampler = Callable[[int, np.random.Generator], Tensor]
"""Draws a table of n codes."""


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    parts = material.depends_on_model("encoder", "codes")
    effort = material.effort
    return {**parts, "draws": effort.draws, "n_scattered": effort.n_scattered, "wanted": wanted(material.paper)}


def wanted(theirs: paper.Results) -> list[int]:
    """The paper's counts, in the order of tests and levels.

    Args:
        theirs: Of a data set.

    Returns:
        K² and Jarque-Bera at 0.05 and 0.01.

    Example:
        >>> wanted(paper.MNIST)
        [41, 12, 35, 16]
    """
    return [theirs.rejections[test][level] for test in _TESTS for level in _LEVELS]


def measure(material: Material, work: Path) -> Measured:
    """Count rejections of random samples of every size after every preprocessing."""
    rows = []
    with material.progress.task("count search", len(_PREPROCESSINGS)) as task:
        for name, prepare in _PREPROCESSINGS.items():
            tables = prepare(material)
            for n, sampler in tables:
                row = _counts(name, n, sampler, material)
                if row["reproduces"]:
                    again = _counts(name, n, sampler, material, first_draw=material.effort.draws)
                    row["reproduces"] = again["reproduces"]
                rows.append(row)
            task.advance()
    codes = material.training_codes
    norms = codes.norm(dim=1)
    kurtosis = {
        name: float(np.nanmedian(np.abs(effect_sizes(table)[1])))
        for name, table in (("codes", codes), ("unit norm", codes / norms[:, None]))
    }
    facts = {
        "rows": rows,
        "norm": [norms.mean().item(), norms.std().item()],
        "kurtosis": kurtosis,
        "d": codes.shape[1],
        "draws": material.effort.draws,
    }
    return Measured(facts)


def _counts(name: str, n: int, sampler: Sampler, material: Material, first_draw: int = 0) -> dict[str, Any]:
    """Mean and standard deviation of each count over the draws, and how far the paper's are off."""
    draws: list[list[int]] = []
    for draw in range(first_draw, first_draw + material.effort.draws):
        random = np.random.default_rng([material.seed, n, draw])
        counts = count_rejections(sampler(n, random), _LEVELS).counts
        draws.append([count for test in _TESTS for count in counts[test]])
    found = np.array(draws)
    mean, deviation = found.mean(0), found.std(0, ddof=1)
    # Counts are whole numbers: a deviation below 1 would say nothing.
    off = float((np.abs(mean - wanted(material.paper)) / np.maximum(deviation, 1)).max())
    apart = float((np.abs(mean / wanted(material.paper) - 1)).max())
    return {
        "variant": name,
        "n": n,
        "off": off,
        "reproduces": off <= _MOST_DEVIATIONS and apart <= _MOST_RELATIVE,
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
    }


Tables = Iterator[tuple[int, Sampler]]


def _choices(codes: Tensor) -> Tables:
    """Random rows of a table."""
    for n in _SIZES:
        if n <= len(codes):
            yield n, lambda n, random: codes[random.choice(len(codes), n, replace=False)]


def _test_codes(material: Material) -> Tables:
    return _choices(material.test_codes)


def _training_codes(material: Material) -> Tables:
    return _choices(material.training_codes)


def _unit_norm(material: Material) -> Tables:
    codes = material.training_codes
    return _choices(codes / codes.norm(dim=1, keepdim=True))


def _averages(material: Material) -> Tables:
    """Means of several codes, whose distribution approaches a normal one."""
    codes = material.training_codes
    for n in _SIZES:
        if _AVERAGED * n <= len(codes):
            yield (
                n,
                lambda n, random: (
                    codes[random.choice(len(codes), _AVERAGED * n, replace=False)].unflatten(0, (n, _AVERAGED)).mean(1)
                ),
            )


def _refitted(material: Material) -> Tables:
    """Components fitted to the tested images alone, whose trailing ones are nearly random."""
    d = material.training_codes.shape[1]
    n_images = min(material.effort.n_scattered, len(material.train))
    images = material.some(material.train, n_images, stream=1)[:]
    features = torch.cat([material.model.encoder.features(x) for x in images.split(256)])
    for n in (d + 2, 2 * d):
        if 20 <= n <= n_images:
            yield n, lambda n, random: _whitened(features[random.permutation(n_images)[:n]], d)


def _whitened(features: Tensor, d: int) -> Tensor:
    """Whitened leading components of these rows by themselves, by the smaller Gram matrix."""
    centred = (features - features.mean(0)).double()
    vectors = torch.linalg.eigh(centred @ centred.T).eigenvectors
    return vectors[:, -d:].flip(1) * math.sqrt(len(features))


def _across_components(material: Material) -> Tables:
    """The table the other way round: every image a variable and every component a sample."""
    d = material.test_codes.shape[1]
    if 20 <= d <= len(material.test_codes):
        codes = material.test_codes
        yield d, lambda n, random: codes[random.choice(len(codes), n, replace=False)].T


UNIT_NORM = "training codes of unit norm"
"""What Angles and Mallat did to codes in 2018."""

_PREPROCESSINGS: dict[str, Callable[[Material], Tables]] = {
    "test codes": _test_codes,
    "training codes": _training_codes,
    UNIT_NORM: _unit_norm,
    f"means of {_AVERAGED} training codes": _averages,
    "components fitted to the tested images alone": _refitted,
    "tested across the components of each of as many images": _across_components,
}


AS_DESCRIBED = frozenset(("test codes", "training codes"))
"""The preprocessings that are none: codes as the paper describes them."""


def reproducing(facts: Mapping[str, Any]) -> dict[str, list[int]]:
    """The preprocessings that give the paper's counts, the closest first.

    Args:
        facts: Of this stage.

    Returns:
        Name to the sample sizes at which it does.

    Example:
        >>> rows = [{"variant": "a", "n": n, "off": off} for n, off in ((20, 9.0), (50, 1.0))]
        >>> reproducing({"rows": [{**row, "reproduces": row["off"] < 2} for row in rows]})
        {'a': [50]}
    """
    found: dict[str, list[int]] = {}
    rows = [row for row in facts["rows"] if row["reproduces"]]
    for row in sorted(rows, key=lambda row: row["off"]):
        found.setdefault(row["variant"], []).append(row["n"])
    return {name: sorted(sizes) for name, sizes in found.items()}


def closest(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For every preprocessing, the row of the n whose counts come closest to the paper's.

    Args:
        facts: Of this stage.

    Returns:
        Rows in the order of the preprocessings.

    Example:
        >>> rows = [{"variant": "a", "n": n, "off": off} for n, off in ((20, 9.0), (50, 1.0))]
        >>> [row["n"] for row in closest({"rows": rows})]
        [50]
    """
    best: dict[str, dict[str, Any]] = {}
    for row in facts["rows"]:
        if row["variant"] not in best or row["off"] < best[row["variant"]]["off"]:
            best[row["variant"]] = row
    return list(best.values())
