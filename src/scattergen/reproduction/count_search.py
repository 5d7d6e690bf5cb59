"""Which preprocessing of the codes, and which n, gives the rejection counts of the paper's Table 1.

The paper states neither its sample size nor how its coefficients were scaled. Positive factors of
the images (their range, such as [0, 255]), of the coefficients or of the codes change no count,
and neither does the order of the components, since the scattering transform commutes with such
factors and both tests are invariant to scale; so these need not be tried.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scattergen.diagnostics import count_rejections
from scattergen.report import paper
from scattergen.report.draft import number
from scattergen.report.html import Html, table
from scattergen.reproduction.material import Material
from scattergen.reproduction.stage_cache import Measured

NAME = "count_search"
_SIZES = (20, 30, 40, 60, 100, 200, 500, 1000, 2000)
_AVERAGED = 16
_LEVELS = (0.05, 0.01)
_TESTS = ("K2", "JB")

Sampler = Callable[[int, np.random.Generator], Tensor]
"""Draws a table of n codes."""


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    effort = material.effort
    parts = material.depends_on_model("encoder", "codes")
    return {**parts, "repeats": effort.repeats, "n_scattered": effort.n_scattered}


def measure(material: Material, work: Path) -> Measured:
    """Count rejections of random samples of every size after every preprocessing."""
    rows = []
    with material.progress.task("count search", len(_PREPROCESSINGS)) as task:
        for name, prepare in _PREPROCESSINGS.items():
            tables = prepare(material)
            for n, sampler in tables:
                row = _counts(name, n, sampler, material)
                rows.append(row)
            task.advance()
    return Measured({"rows": rows, "repeats": material.effort.repeats})


def _counts(name: str, n: int, sampler: Sampler, material: Material) -> dict[str, Any]:
    """Mean, smallest and largest count over the draws, and how these compare with the paper's."""
    draws: dict[str, list[tuple[int, ...]]] = {test: [] for test in _TESTS}
    for repeat in range(material.effort.repeats):
        random = np.random.default_rng([material.seed, n, repeat])
        for test, counts in count_rejections(sampler(n, random), _LEVELS).counts.items():
            draws[test].append(counts)
    found = {test: np.array(draws[test]) for test in _TESTS}
    wanted = {test: [paper.REJECTIONS[test][level] for level in _LEVELS] for test in _TESTS}
    within = all(
        found[test][:, k].min() <= wanted[test][k] <= found[test][:, k].max()
        for test in _TESTS
        for k in range(len(_LEVELS))
    )
    # Largest factor between a mean count and the paper's, both raised by one for counts of 0.
    factor = max(
        abs(math.log((found[test][:, k].mean() + 1) / (wanted[test][k] + 1)))
        for test in _TESTS
        for k in range(len(_LEVELS))
    )
    return {
        "variant": name,
        "n": n,
        "reproduces": within,
        "factor": math.exp(factor),
        "counts": {
            test: [[c.mean(), int(c.min()), int(c.max())] for c in found[test].T] for test in _TESTS
        },
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
    codes = material.test_codes
    return _choices(codes / codes.norm(dim=1, keepdim=True))


def _averages(material: Material) -> Tables:
    """Means of several codes, whose distribution approaches a normal one."""
    codes = material.training_codes
    for n in _SIZES:
        if _AVERAGED * n <= len(codes):
            yield (
                n,
                lambda n, random: codes[random.choice(len(codes), _AVERAGED * n, replace=False)]
                .unflatten(0, (n, _AVERAGED))
                .mean(1),
            )


def _refitted(material: Material) -> Tables:
    """Components fitted to the tested images alone: the trailing ones are nearly random mixtures."""
    d = material.training_codes.shape[1]
    n_images = min(material.effort.n_scattered, len(material.train))
    images = material.some(material.train, n_images, stream=1)[:]
    features = torch.cat([material.model.encoder.features(x) for x in images.split(256)])
    for n in sorted({d + 2, 2 * d, 4 * d}):
        if 20 <= n <= n_images:
            yield n, lambda n, random: _whitened(features[random.permutation(n_images)[:n]], d)


def _whitened(features: Tensor, d: int) -> Tensor:
    """Whitened leading components of these rows by themselves, by the smaller Gram matrix."""
    centred = (features - features.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    return vectors[:, -d:].flip(1) * math.sqrt(len(features))


def _across_components(material: Material) -> Tables:
    """The table the other way round: every image a variable and every component a sample."""
    d = material.test_codes.shape[1]
    if d >= 20:
        codes = material.test_codes
        yield d, lambda n, random: codes[random.choice(len(codes), n, replace=False)].T


_PREPROCESSINGS: dict[str, Callable[[Material], Tables]] = {
    "test codes": _test_codes,
    "training codes": _training_codes,
    "test codes of unit norm": _unit_norm,
    f"means of {_AVERAGED} training codes": _averages,
    "components fitted to the tested images alone": _refitted,
    "tested across the components of each of as many images": _across_components,
}


def count_search_table(measured: Measured) -> Html:
    """For every preprocessing, the n whose counts come closest to the paper's.

    Args:
        measured: Of this stage.

    Returns:
        The markup.
    """
    best: dict[str, dict[str, Any]] = {}
    for row in measured.facts["rows"]:
        key = (not row["reproduces"], row["factor"])
        other = best.get(row["variant"])
        if other is None or key < (not other["reproduces"], other["factor"]):
            best[row["variant"]] = row
    rows: list[list[object]] = []
    for name, row in best.items():
        counts = [
            f"{number(mean)} ({low}–{high})"
            for test in _TESTS
            for mean, low, high in row["counts"][test]
        ]
        answer = "yes" if row["reproduces"] else "no"
        rows.append([name, number(row["n"]), *counts, f"{row['factor']:.1f}", answer])
    heads = [f"{test}, {level:g}" for test in ("K²", "JB") for level in _LEVELS]
    wanted = [paper.REJECTIONS[test][level] for test in _TESTS for level in _LEVELS]
    rows.append(["the paper", "?", *wanted, "", ""])
    caption = (
        "A search for the paper’s counts: for every preprocessing the n that comes closest, with "
        f"the mean count over {measured.facts['repeats']} random samples and, in brackets, the "
        "smallest and largest. “Worst factor” is between a mean and the paper’s count; the last "
        "column says whether all four of the paper’s counts lie within the brackets. The range of "
        "the images ([0, 1] or [0, 255]), any other positive factor, and the order of the "
        "components change no count, since both tests are invariant to them."
    )
    return table(["codes", "n", *heads, "worst factor", "all four?"], rows, caption=caption)
