"""Are components normal? Table 1, the n and preprocessing that give its counts, and the effect of averaging."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from scattergen.diagnostics import RejectionRate, count_rejections, dagostino_k2, effect_sizes, jarque_bera
from scattergen.diagnostics.normality import LEVELS, rejections_by_sample_size
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.paper.findings import Facts, Finding, Measured, Results, Section, Stage, graded, judge
from scattergen.paper.material import Material
from scattergen.report.html import themed
from scattergen.report.paper import exceeded_at
from scattergen.report.plots import TEST_NAMES, effect_sizes_by_component, rejections_by_n

NAME, SEARCH, AVERAGES = "normality_counts", "count_search", "central_limit"
_TESTS = {"K2": dagostino_k2, "JB": jarque_bera}
_SIZES = (20, 50, 100, 150, 200, 300, 500, 1000)
_MOST_DEVIATIONS = 2.0
_MOST_RELATIVE = 1 / 3  # a mean that is far off is no match, however large the spread
_AVERAGED = 16
_COMPONENTS = 64  # that all scales have, so that like is compared with like
_LEVEL = 0.01  # of the tests of these
UNIT_NORM = "training codes of unit norm"  # what Angles and Mallat did to codes in 2018

Sampler = Callable[[int, np.random.Generator], Tensor]  # draws a table of n codes
Tables = Iterator[tuple[int, Sampler]]


def measure(material: Material, work: Path) -> Measured:
    """Count rejections on training and test codes, plain and corrected, and against n."""
    train, test = material.training_codes, material.test_codes
    rates = rejections_by_sample_size(test, repeats=material.effort.repeats, seed=material.seed)
    rows, corrected = {}, {}
    for split, codes in (("training", train), ("test", test)):
        counted = count_rejections(codes)
        rows[split] = {"n": counted.n, **{name: list(counts) for name, counts in counted.counts.items()}}
        corrected[split] = {name: _benjamini_hochberg(test(codes).pvalue) for name, test in _TESTS.items()}
    skewness, kurtosis = (np.nan_to_num(effect).tolist() for effect in effect_sizes(train))
    return Measured({
        "d": train.shape[1], "counts": rows, "corrected": corrected,
        "rates": [[r.n, r.test, r.level, r.observed, r.simulated] for r in rates],
        "skewness": skewness, "excess_kurtosis": kurtosis,
    })  # fmt: skip


def _benjamini_hochberg(pvalues: Any) -> list[int]:
    """Rejections at a false-discovery rate of each level."""
    adjusted = stats.false_discovery_control(np.nan_to_num(pvalues, nan=1.0))
    return [int(np.count_nonzero(adjusted <= level)) for level in LEVELS]


def search(material: Material, work: Path) -> Measured:
    """Count rejections of random samples of every size after every preprocessing."""
    rows, draws = [], material.effort.draws
    with material.progress.task("count search", len(_PREPROCESSINGS)) as task:
        for name, prepare in _PREPROCESSINGS.items():
            for n, sampler in prepare(material):
                row = _counts(name, n, sampler, material)
                if row["reproduces"]:
                    row["reproduces"] = _counts(name, n, sampler, material, first_draw=draws)["reproduces"]
                rows.append(row)
            task.advance()
    codes, norms = material.training_codes, material.training_codes.norm(dim=1)
    tables = {"codes": codes, "unit norm": codes / norms[:, None]}
    kurtosis = {name: float(np.nanmedian(np.abs(effect_sizes(table)[1]))) for name, table in tables.items()}
    norm = [norms.mean().item(), norms.std().item()]
    return Measured({"rows": rows, "norm": norm, "kurtosis": kurtosis, "d": codes.shape[1], "draws": draws})


def _counts(name: str, n: int, sampler: Sampler, material: Material, first_draw: int = 0) -> dict[str, Any]:
    """Mean and standard deviation of each count over the draws, and how far the paper's are off."""
    draws: list[list[int]] = []
    for draw in range(first_draw, first_draw + material.effort.draws):
        counts = count_rejections(sampler(n, np.random.default_rng([material.seed, n, draw]))).counts
        draws.append([count for test in _TESTS for count in counts[test]])
    found, wanted = np.array(draws), [material.paper.rejections[test][level] for test in _TESTS for level in LEVELS]
    mean, deviation = found.mean(0), found.std(0, ddof=1)
    # Counts are whole numbers: a deviation below 1 would say nothing.
    off = float((np.abs(mean - wanted) / np.maximum(deviation, 1)).max())
    reproduces = off <= _MOST_DEVIATIONS and float((np.abs(mean / wanted - 1)).max()) <= _MOST_RELATIVE
    spread = {"mean": mean.tolist(), "deviation": deviation.tolist()}
    return {"variant": name, "n": n, "off": off, "reproduces": reproduces, **spread}


def _choices(codes: Tensor, averaged: int = 1) -> Tables:
    """Random rows of a table, or means of several, whose distribution approaches a normal one."""

    def sample(n: int, random: np.random.Generator) -> Tensor:
        chosen = codes[random.choice(len(codes), averaged * n, replace=False)]
        return chosen.unflatten(0, (n, averaged)).mean(1)

    yield from ((n, sample) for n in _SIZES if averaged * n <= len(codes))


def _refitted(material: Material) -> Tables:
    """Components fitted to the tested images alone, whose trailing ones are nearly random."""
    d = material.training_codes.shape[1]
    images = material.some(material.train, material.effort.n_scattered, stream=1)[:]
    features = torch.cat([material.model.encoder.features(x) for x in images.split(256)])
    for n in (d + 2, 2 * d):
        if 20 <= n <= len(features):
            yield n, lambda n, random: _whitened(features[random.permutation(len(features))[:n]], d)


def _whitened(features: Tensor, d: int) -> Tensor:
    """Whitened leading components of these rows by themselves, by the smaller Gram matrix."""
    centred = (features - features.mean(0)).double()
    return torch.linalg.eigh(centred @ centred.T).eigenvectors[:, -d:].flip(1) * math.sqrt(len(features))


def _across_components(material: Material) -> Tables:
    """The table the other way round: every image a variable and every component a sample."""
    codes, d = material.test_codes, material.test_codes.shape[1]
    if 20 <= d <= len(codes):
        yield d, lambda n, random: codes[random.choice(len(codes), n, replace=False)].T


# Positive factors of images, coefficients or codes change no count, since both tests are invariant to scale.
_PREPROCESSINGS: dict[str, Callable[[Material], Tables]] = {
    "test codes": lambda material: _choices(material.test_codes),
    "training codes": lambda material: _choices(material.training_codes),
    UNIT_NORM: lambda material: _choices(material.training_codes / material.training_codes.norm(dim=1, keepdim=True)),
    f"means of {_AVERAGED} training codes": lambda material: _choices(material.training_codes, _AVERAGED),
    "components fitted to the tested images alone": _refitted,
    "tested across the components of each of as many images": _across_components,
}


def show(results: Results, material: Material) -> Section:
    """Table 1, the search for its counts, and effect sizes."""
    facts, found, theirs = results[NAME].facts, results[SEARCH].facts, material.paper.rejections
    rates = [RejectionRate(*row) for row in facts["rates"]]
    closest: dict[str, Any] = {}  # for every preprocessing, in their order, the row of the n whose counts come closest
    for row in found["rows"]:
        closest[row["variant"]] = min(closest.get(row["variant"], row), row, key=lambda row: row["off"])
    curves = {test: themed(partial(rejections_by_n, rates, test, facts["d"], theirs[test])) for test in TEST_NAMES}
    effects = themed(partial(effect_sizes_by_component, facts["skewness"], facts["excess_kurtosis"]))
    shown = {
        "levels": LEVELS, "curves": curves, "effects": effects, "exceeded": exceeded_at(rates, theirs),
        "search": found, "closest": closest.values(),
    }  # fmt: skip
    return Section(NAME, _finding(facts, results[SEARCH]), [results[NAME], results[SEARCH]], shown)


def _finding(facts: Facts, search: Measured) -> Finding:
    corrected, n = facts["corrected"]["test"], facts["counts"]["test"]["n"]
    found: dict[str, list[int]] = {}  # preprocessings that give the paper's counts, the closest first, and their n
    for row in sorted(search.facts["rows"], key=lambda row: row["off"]):
        if row["reproduces"]:
            found.setdefault(row["variant"], []).append(row["n"])
    kept, unit_norm = min(corrected["K2"][1], corrected["JB"][1]), UNIT_NORM in found
    verdict = graded(kept > 0, kept > 0 and unit_norm)
    words = {"kept": kept, "d": facts["d"], "n": n, "found": found, "unit_norm": unit_norm}
    return judge("Table 1", verdict, NAME, **words, tried=len(search.facts["rows"]))


def measure_averages(material: Material, work: Path) -> Measured:
    """Fit leading components at every scale to some training images; test those of test images."""
    wanted, scales = material.effort.n_scattered, material.effort.scales
    train, test = (material.some(images, wanted, stream=6) for images in (material.train, material.test))
    shape, d = material.train.shape, min(_COMPONENTS, len(train) - 1)
    rows = []
    with material.progress.task("scales", len(scales)) as task:
        for J in scales:
            if min(shape[1:]) < 2**J:
                continue
            encoder = ScatteringEncoder(shape, J, n_components=d, device=material.device)
            if encoder.n_features >= d:
                codes = encoder.fit(train, material.progress).transform(test)
                coefficients = torch.cat([encoder.features(x) for x in test[:].split(256)])
                rejected = count_rejections(codes, [_LEVEL]).count("JB", _LEVEL)
                effects = {**_effects("", codes), **_effects("coefficient_", coefficients)}
                rows.append({"J": J, "rejected": rejected, **effects})
            task.advance()
    return Measured({"n": len(train), "n_test": len(test), "d": d, "rows": rows})


def _effects(prefix: str, table: Tensor) -> dict[str, float]:
    """Medians of those of all columns but constant ones, which have none."""
    skewness, kurtosis = (float(np.nanmedian(np.abs(effect))) for effect in effect_sizes(table))
    return {f"{prefix}skewness": skewness, f"{prefix}kurtosis": kurtosis}


def show_averages(results: Results, material: Material) -> Section:
    """Whether components become more normal with the scale, as averages over larger windows should."""
    return Section(AVERAGES, _averages_finding(results[AVERAGES].facts), [results[AVERAGES]], {"level": _LEVEL})


def _averages_finding(facts: Facts) -> Finding:
    first, last = facts["rows"][0], facts["rows"][-1]
    coefficients_fall, components_fall = (
        all(last[prefix + size] < first[prefix + size] for size in ("skewness", "kurtosis"))
        for prefix in ("coefficient_", "")
    )
    verdict = graded(coefficients_fall, coefficients_fall and components_fall)
    return judge("Section 1, the central-limit argument", verdict, AVERAGES, first=first, last=last, d=facts["d"])


STAGES = {
    NAME: Stage(measure, ("encoder", "codes")),
    SEARCH: Stage(search, ("encoder", "codes")),
    AVERAGES: Stage(measure_averages),
}
