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
from scattergen.paper.count_search import (
    AS_DESCRIBED,
    UNIT_NORM,
    count_search_content,
    reproducing,
)
from scattergen.paper.count_search import NAME as SEARCH
from scattergen.paper.material import Material
from scattergen.paper.page import Finding, ReproductionPage, panels
from scattergen.paper.plots import effect_sizes_by_component
from scattergen.paper.stage_cache import Measured
from scattergen.report import paper
from scattergen.report.draft import number, sample_size
from scattergen.report.html import Html, table, tag
from scattergen.report.number_sections import TEST_NAMES
from scattergen.report.plots import rejections_by_n

NAME = "normality_counts"
LEVELS = (0.05, 0.01)


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    parts = material.depends_on_model("encoder", "codes")
    return {**parts, "repeats": material.effort.repeats}


def measure(material: Material, work: Path) -> Measured:
    """Count rejections on training and test codes, plain and corrected, and against n."""
    train, test = material.training_codes, material.test_codes
    rates = rejections_by_sample_size(
        test, repeats=material.effort.repeats, seed=material.seed, levels=LEVELS
    )
    rows, corrected = {}, {}
    for split, codes in (("training", train), ("test", test)):
        counted = count_rejections(codes, LEVELS)
        rows[split] = {"n": counted.n, **{test: list(c) for test, c in counted.counts.items()}}
        corrected[split] = {
            name: _benjamini_hochberg(test(codes).pvalue)
            for name, test in (("K2", dagostino_k2), ("JB", jarque_bera))
        }
    skewness, kurtosis = effect_sizes(train)
    facts = {
        "d": train.shape[1],
        "counts": rows,
        "corrected": corrected,
        "rates": [[r.n, r.test, r.level, r.observed, r.simulated] for r in rates],
        "skewness": np.nan_to_num(skewness).tolist(),
        "excess_kurtosis": np.nan_to_num(kurtosis).tolist(),
    }
    return Measured(facts)


def _benjamini_hochberg(pvalues: Any) -> list[int]:
    """Rejections at a false-discovery rate of each level."""
    adjusted = stats.false_discovery_control(np.nan_to_num(pvalues, nan=1.0))
    return [int(np.count_nonzero(adjusted <= level)) for level in LEVELS]


def show(page: ReproductionPage, results: Mapping[str, Measured], material: Material) -> None:
    """Add the section."""
    measured, search = results[NAME], results[SEARCH]
    facts, d = measured.facts, measured.facts["d"]
    rates = [RejectionRate(*row) for row in facts["rates"]]
    curves = [
        page.themed(
            f"{name}: rejections against sample size, beside simulated normal data",
            partial(rejections_by_n, rates, test, d, material.paper.rejections[test]),
        )
        for test, name in TEST_NAMES.items()
    ]
    caption = (
        "Components rejected against the number n of test codes tested: means over "
        f"{material.effort.repeats} random samples, beside those of simulated normal data of the "
        "same shape, which at small n differ from the level times d. Horizontal lines: the paper."
    )
    draw = partial(
        effect_sizes_by_component, np.array(facts["skewness"]), np.array(facts["excess_kurtosis"])
    )
    effects = page.themed("skewness and excess kurtosis of every component", draw)
    n_train, n_test = (facts["counts"][split]["n"] for split in ("training", "test"))
    content = [
        _counts(facts, material.paper),
        page.page.figure(panels(*curves), caption, "Table 1"),
        tag("p", _reading(rates, d, material.paper)),
        *count_search_content(search, material.paper),
        page.page.figure(
            effects,
            f"How far from normal each component is, over {sample_size(n_train)} training codes: "
            "effect sizes, which do not grow with n. Both are 0 for a normal distribution, and "
            "an excess kurtosis of 3 is that of a Laplace distribution. Those below 0.01 are drawn "
            "at 0.01.",
        ),
    ]
    sizes = f"{sample_size(n_train)} training and {n_test:,} test codes"
    finding = _finding(facts, search)
    page.section("Are the codes normal?", finding, content, [measured, search], sizes, wide=True)


def _counts(facts: Mapping[str, Any], theirs: paper.Results) -> Html:
    header: list[object] = ["rejected components", *(f"at {level:g}" for level in LEVELS)]
    header += [tag("span", f"paper, {level:g}", class_="paper") for level in LEVELS]
    header += [f"BH, {level:g}" for level in LEVELS]
    rows: list[list[object]] = []
    for test, name in TEST_NAMES.items():
        for split in ("test", "training"):
            n = sample_size(facts["counts"][split]["n"])
            rows.append(
                [
                    f"{name}, {split} codes, {n}",
                    *(number(count) for count in facts["counts"][split][test]),
                    *(theirs.rejections[test][level] for level in LEVELS),
                    *(number(count) for count in facts["corrected"][split][test]),
                ]
            )
    caption = (
        f"Of d = {facts['d']} components. The first counts are without correction, as in the "
        "paper; “BH” bounds the share of false rejections (Benjamini and Hochberg)."
    )
    return table(header, rows, caption=caption)


def _reading(rates: list[RejectionRate], d: int, theirs: paper.Results) -> str:
    chance = " and ".join(f"{level * d:.0f}" for level in LEVELS)
    words = (
        "A count says little without its n: a test rejects more, the more codes it sees. With no "
        f"correction for {d} tests at once, perfectly normal codes would still have about {chance} "
        "components rejected at the two levels."
    )
    smallest = min(rate.n for rate in rates)
    low = {(r.test, r.level): r for r in rates if r.n == smallest}
    over = all(
        low[t, level].observed > theirs.rejections[t][level] for t in TEST_NAMES for level in LEVELS
    )
    if over:
        words += (
            f" On our codes as they are, every one of the paper’s four counts is exceeded on "
            f"average at {sample_size(smallest)} already, the smallest n that the tests are made "
            "for."
        )
    return words


def _finding(facts: Mapping[str, Any], search: Measured) -> Finding:
    d, corrected = facts["d"], facts["corrected"]["test"]
    n = facts["counts"]["test"]["n"]
    found = reproducing(search.facts)
    kept = min(corrected["K2"][1], corrected["JB"][1])
    share = f"{kept} of {d} components are rejected at a false-discovery rate of 0.01"
    strong = kept > 0.5 * d
    because = (
        f"The conclusion holds{', far more strongly than the paper’s counts say' if strong else ''}"
        f": {share} on {n:,} test codes. "
        if kept
        else f"No component is rejected at a false-discovery rate of 0.01 on {n:,} test codes. "
    )
    if found:
        names = "; ".join(f"{name} at n = {_span(sizes)}" for name, sizes in found.items())
        if not found.keys() & AS_DESCRIBED:
            because += "From codes as the paper describes them its counts do not come out. "
        because += (
            f"Of {len(search.facts['rows'])} combinations of preprocessing and n that were tried "
            f"afterwards, these give all four of them, also with fresh samples: {names}. The paper "
            "states neither"
        )
        if UNIT_NORM in found:
            because += "; Angles and Mallat, whom it follows, divide codes by their norms."
        elif len(found) > 1:
            because += ", so nothing decides between them."
        else:
            because += ", so this is a candidate only."
    else:
        because += (
            "The counts themselves do not come out: its n is not stated, and neither an n nor a "
            "preprocessing that was tried gives all four."
        )
    if not kept:
        return Finding("Table 1", "disagrees", because)
    return Finding("Table 1", "agrees" if UNIT_NORM in found else "agrees in part", because)


def _span(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes))
