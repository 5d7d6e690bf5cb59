"""Table 1: components that are not normal; counts against n, corrected counts, effect sizes."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from scattergen.diagnostics import (
    RejectionRate,
    count_rejections,
    dagostino_k2,
    effect_sizes,
    jarque_bera,
    rejections_by_sample_size,
)
from scattergen.paper.count_search import AS_DESCRIBED, UNIT_NORM, closest, reproducing
from scattergen.paper.count_search import NAME as SEARCH
from scattergen.paper.findings import Finding, Measured, Section
from scattergen.paper.material import Material
from scattergen.paper.plots import effect_sizes_by_component
from scattergen.report.html import themed
from scattergen.report.plots import TEST_NAMES, rejections_by_n

NAME = "normality_counts"
LEVELS = (0.05, 0.01)


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    return {**material.depends_on_model("encoder", "codes"), "repeats": material.effort.repeats}


def measure(material: Material, work: Path) -> Measured:
    """Count rejections on training and test codes, plain and corrected, and against n."""
    train, test = material.training_codes, material.test_codes
    rates = rejections_by_sample_size(test, repeats=material.effort.repeats, seed=material.seed, levels=LEVELS)
    rows, corrected = {}, {}
    for split, codes in (("training", train), ("test", test)):
        counted = count_rejections(codes, LEVELS)
        rows[split] = {"n": counted.n, **{test: list(c) for test, c in counted.counts.items()}}
        corrected[split] = {
            name: _benjamini_hochberg(test(codes).pvalue) for name, test in (("K2", dagostino_k2), ("JB", jarque_bera))
        }
    skewness, kurtosis = (np.nan_to_num(effect).tolist() for effect in effect_sizes(train))
    facts = {
        "d": train.shape[1],
        "counts": rows,
        "corrected": corrected,
        "rates": [[r.n, r.test, r.level, r.observed, r.simulated] for r in rates],
        "skewness": skewness,
        "excess_kurtosis": kurtosis,
    }
    return Measured(facts)


def _benjamini_hochberg(pvalues: Any) -> list[int]:
    """Rejections at a false-discovery rate of each level."""
    adjusted = stats.false_discovery_control(np.nan_to_num(pvalues, nan=1.0))
    return [int(np.count_nonzero(adjusted <= level)) for level in LEVELS]


def show(results: Mapping[str, Measured], material: Material) -> Section:
    """Table 1, the search for its counts, and effect sizes."""
    measured, search = results[NAME], results[SEARCH]
    facts, theirs = measured.facts, material.paper.rejections
    rates = [RejectionRate(*row) for row in facts["rates"]]
    smallest = min(rate.n for rate in rates)
    exceeded = all(rate.observed > theirs[rate.test][rate.level] for rate in rates if rate.n == smallest)
    skewness, kurtosis = (np.array(facts[name]) for name in ("skewness", "excess_kurtosis"))
    curves = {test: themed(partial(rejections_by_n, rates, test, facts["d"], theirs[test])) for test in TEST_NAMES}
    shown = {
        "levels": LEVELS,
        "curves": curves,
        "effects": themed(partial(effect_sizes_by_component, skewness, kurtosis)),
        "exceeded": smallest if exceeded else None,
        "search": search.facts,
        "closest": closest(search.facts),
    }
    return Section(NAME, _finding(facts, search), [measured, search], shown)


def _finding(facts: Mapping[str, Any], search: Measured) -> Finding:
    d, corrected, n = facts["d"], facts["corrected"]["test"], facts["counts"]["test"]["n"]
    found = reproducing(search.facts)
    kept = min(corrected["K2"][1], corrected["JB"][1])
    if kept:
        because = (
            f"The conclusion holds{', far more strongly than the paper’s counts say' if kept > 0.5 * d else ''}: "
            f"{kept} of {d} components are rejected at a false-discovery rate of 0.01 on {n:,} test codes. "
        )
    else:
        because = f"No component is rejected at a false-discovery rate of 0.01 on {n:,} test codes. "
    if found:
        names = "; ".join(f"{name} at n = {', '.join(map(str, sizes))}" for name, sizes in found.items())
        if not found.keys() & AS_DESCRIBED:
            because += "From codes as the paper describes them its counts do not come out. "
        because += (
            f"Of {len(search.facts['rows'])} combinations of preprocessing and n that were tried afterwards, these "
            f"give all four of them, also with fresh samples: {names}. The paper states neither"
        )
        if UNIT_NORM in found:
            because += "; Angles and Mallat, whom it follows, divide codes by their norms."
        elif len(found) > 1:
            because += ", so nothing decides between them."
        else:
            because += ", so this is a candidate only."
    else:
        because += (
            "The counts themselves do not come out: its n is not stated, and neither an n nor a preprocessing that "
            "was tried gives all four."
        )
    if not kept:
        return Finding("Table 1", "disagrees", because)
    return Finding("Table 1", "agrees" if UNIT_NORM in found else "agrees in part", because)
