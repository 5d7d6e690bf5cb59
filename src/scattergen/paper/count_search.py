"""Which preprocessing of the codes, and which n, gives the rejection counts of the paper's Table 1.

The paper states neither its sample size nor how its coefficients were scaled. Positive factors of the images (their
range, such as [0, 255]), of the coefficients or of the codes change no count, and neither does the order of the
components, since the scattering transform commutes with such factors and both tests are invariant to scale; so these
need not be tried.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scattergen.diagnostics import count_rejections, effect_sizes
from scattergen.paper.findings import Measured
from scattergen.paper.material import Material
from scattergen.report import paper

NAME = "count_search"
_SIZES = (20, 50, 100, 150, 200, 300, 500, 1000)
_MOST_DEVIATIONS = 2.0
_MOST_RELATIVE = 1 / 3  # a mean that is far off is no match, however large the spread
_AVERAGED = 16
_LEVELS = (0.05, 0.01)
_TESTS = ("K2", "JB")

Sampler = Callable[[int, np.random.Generator], Tensor]  # draws a table of n codes
Tables = Iterator[tuple[int, Sampler]]


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    parts = material.depends_on_model("encoder", "codes")
    effort = material.effort
    return {**parts, "draws": effort.draws, "n_scattered": effort.n_scattered, "wanted": _wanted(material.paper)}


def _wanted(theirs: paper.Results) -> list[int]:
    """The paper's counts: of K² at 0.05 and 0.01, and of Jarque-Bera."""
    return [theirs.rejections[test][level] for test in _TESTS for level in _LEVELS]


def measure(material: Material, work: Path) -> Measured:
    """Count rejections of random samples of every size after every preprocessing."""
    rows = []
    with material.progress.task("count search", len(_PREPROCESSINGS)) as task:
        for name, prepare in _PREPROCESSINGS.items():
            for n, sampler in prepare(material):
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
    found, wanted = np.array(draws), _wanted(material.paper)
    mean, deviation = found.mean(0), found.std(0, ddof=1)
    # Counts are whole numbers: a deviation below 1 would say nothing.
    off = float((np.abs(mean - wanted) / np.maximum(deviation, 1)).max())
    apart = float((np.abs(mean / wanted - 1)).max())
    reproduces = off <= _MOST_DEVIATIONS and apart <= _MOST_RELATIVE
    counts_found = {"mean": mean.tolist(), "deviation": deviation.tolist()}
    return {"variant": name, "n": n, "off": off, "reproduces": reproduces, **counts_found}


def _choices(codes: Tensor) -> Tables:
    """Random rows of a table."""
    for n in _SIZES:
        if n <= len(codes):
            yield n, lambda n, random: codes[random.choice(len(codes), n, replace=False)]


def _averages(material: Material) -> Tables:
    """Means of several codes, whose distribution approaches a normal one."""
    codes = material.training_codes

    def sample(n: int, random: np.random.Generator) -> Tensor:
        chosen = codes[random.choice(len(codes), _AVERAGED * n, replace=False)]
        return chosen.unflatten(0, (n, _AVERAGED)).mean(1)

    yield from ((n, sample) for n in _SIZES if _AVERAGED * n <= len(codes))


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
    codes = material.test_codes
    d = codes.shape[1]
    if 20 <= d <= len(codes):
        yield d, lambda n, random: codes[random.choice(len(codes), n, replace=False)].T


UNIT_NORM = "training codes of unit norm"  # what Angles and Mallat did to codes in 2018

_PREPROCESSINGS: dict[str, Callable[[Material], Tables]] = {
    "test codes": lambda material: _choices(material.test_codes),
    "training codes": lambda material: _choices(material.training_codes),
    UNIT_NORM: lambda material: _choices(material.training_codes / material.training_codes.norm(dim=1, keepdim=True)),
    f"means of {_AVERAGED} training codes": _averages,
    "components fitted to the tested images alone": _refitted,
    "tested across the components of each of as many images": _across_components,
}

AS_DESCRIBED = frozenset(("test codes", "training codes"))
"""The preprocessings that are none: codes as the paper describes them."""


def reproducing(facts: Mapping[str, Any]) -> dict[str, list[int]]:
    """The preprocessings that give the paper's counts, the closest first, to the sample sizes at which they do."""
    found: dict[str, list[int]] = {}
    for row in sorted(facts["rows"], key=lambda row: row["off"]):
        if row["reproduces"]:
            found.setdefault(row["variant"], []).append(row["n"])
    return {name: sorted(sizes) for name, sizes in found.items()}


def closest(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For every preprocessing, in their order, the row of the n whose counts come closest to the paper's.

    >>> [row["n"] for row in closest({"rows": [{"variant": "a", "n": n, "off": 100 / n} for n in (20, 50)]})]
    [50]
    """
    rows = facts["rows"]
    variants = dict.fromkeys(row["variant"] for row in rows)
    return [min((row for row in rows if row["variant"] == name), key=lambda row: row["off"]) for name in variants]
