"""The stability of training: how much its result depends on learning rate and seed."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import geometric_mean, median
from typing import Any

from scattergen.paper.material import Material
from scattergen.paper.page import Finding, ReproductionPage, Verdict, panels, titled
from scattergen.paper.plots import rate_curves, rate_factor
from scattergen.paper.stability_trials import ALIKE, DIVERGED, NAME, RATES, SHOWN, Trial
from scattergen.paper.stage_cache import Measured
from scattergen.report.draft import duration, number, sample_size
from scattergen.report.html import Html, table, tag


def sensitivity(rows: Sequence[Trial], blank: float) -> dict[str, Any]:
    """How much a method's distance depends on rate and seed.

    Args:
        rows: Trials of one method, each with "factor", "distance" (None if it diverged) and
            "failure".
        blank: Distance of blank images.

    Returns:
        "means", by factor, over seeds, geometric, of trainings that did not diverge (None: all
        did); "kept", the mean over trainings of (blank − distance)/(blank − best distance), at
        least 0, which a training that diverged has; "rates", the worst of the means over the
        best; "seeds", the median over factors of the worst seed over the best, None if there is
        one seed; either is infinite if that worst training diverged; "failed", a count.

    Example:
        >>> rows = [{"factor": f, "distance": d, "failure": None} for f, d in ((1, 2), (3, 6))]
        >>> found = sensitivity(rows, blank=10)
        >>> found["rates"], found["kept"]
        (3.0, 0.75)
    """
    by_factor: dict[float, list[float | None]] = {}
    for row in rows:
        by_factor.setdefault(row["factor"], []).append(row["distance"])
    finite = {k: [d for d in found if d is not None] for k, found in by_factor.items()}
    means = {k: geometric_mean(found) if found else None for k, found in finite.items()}
    known = [mean for mean in means.values() if mean is not None]
    diverged = any(None in found for found in by_factor.values())
    best = min((d for found in finite.values() for d in found), default=blank)
    kept = [
        max(0.0, (blank - d) / (blank - best)) if d is not None and best < blank else 0.0
        for found in by_factor.values()
        for d in found
    ]
    spreads = [
        math.inf if None in found else max(finite[k]) / min(finite[k])
        for k, found in by_factor.items()
        if len(found) > 1
    ]
    return {
        "means": means,
        "kept": sum(kept) / len(kept),
        "rates": math.inf if diverged else max(known) / min(known),
        "seeds": median(spreads) if spreads else None,
        "failed": sum(row["failure"] is not None for row in rows),
    }


def show(page: ReproductionPage, results: Mapping[str, Measured], material: Material) -> None:
    """Add the section."""
    measured = results[NAME]
    facts, rows = measured.facts, measured.facts["rows"]
    by_method = _by_method(facts)
    trials = {
        name: {
            factor: [row["distance"] for row in found if row["factor"] == factor]
            for factor in _factors(facts)
        }
        for name, found in by_method.items()
    }
    title = f"Fréchet distance to test images, {sample_size(facts['n'])}"
    picture = page.themed(
        "Fréchet distance of three methods against their learning rate",
        partial(rate_curves, trials, title),
    )
    grids = [
        titled(name, page.grid(measured.tensors[name], SHOWN, f"images of the {name}", side=28))
        for name in by_method
    ]
    content = [
        page.page.figure(
            picture,
            "Each method after one short training: means over seeds, from the best seed to the "
            "worst. A cross marks a training that diverged.",
        ),
        _table(facts, by_method),
        page.page.figure(
            panels(*grids),
            f"The first {SHOWN} images of the first seed. Rows: the learning rate’s factors "
            f"{', '.join(map(rate_factor, _factors(facts)))}. Black: diverged or nearly blank.",
        ),
        tag(
            "p",
            "The paper (Section 6): training a generative model “is a very unstable process, which "
            "is highly sensitive to hyperparameters”; training the decoder “is also stable and not "
            "that sensitive to hyperparameters”; “All of the instability lies in training a "
            "completely independent generating network”.",
        ),
        tag(
            "p",
            "The rule of the verdict: three numbers per method, each compared between the decoder "
            "and both GANs: what a training keeps (higher is steadier), the worst mean distance "
            "over the best of all rates, and the worst seed over the best at one rate (median over "
            "rates; lower is steadier, and infinite if one diverged). “Agrees”: the decoder is "
            "steadier by all, and none of its trainings failed. “Agrees in part”: by more than "
            "half of the comparisons. “Cannot be compared”: by no more, since trainings of seconds "
            "cannot settle it. What a training keeps was added to "
            "the rule after the two ratios of an earlier run were seen, and “more than half” later "
            "still; with “by any”, two of six comparisons would have been agreement in part.",
        ),
        tag(
            "p",
            "What it cannot tell: at so small a budget a low rate also means an unfinished "
            "training, for all three; ratios ask more of a method whose best is better, and "
            "nothing of one that leaves images blank at every rate, which is why they are not the "
            "only measure; and the networks are smaller than elsewhere on this page, so that a "
            "training takes seconds. The decoder is scored by decoded test codes, which are "
            "optimistic, being paired with images that they are compared with; the GANs by "
            "samples, those of the latent GAN through the run’s own decoder.",
        ),
    ]
    trained = f"{len(rows)} trainings, {sample_size(facts['n'])} images each"
    page.section("Stability of training", _finding(facts), content, [measured], trained, wide=True)


def _by_method(facts: Mapping[str, Any]) -> dict[str, list[Trial]]:
    names = dict.fromkeys(row["method"] for row in facts["rows"])
    return {name: [row for row in facts["rows"] if row["method"] == name] for name in names}


def _factors(facts: Mapping[str, Any]) -> list[float]:
    return sorted({row["factor"] for row in facts["rows"]})


def _table(facts: Mapping[str, Any], by_method: Mapping[str, list[Trial]]) -> Html:
    rows = []
    for name, trials in by_method.items():
        found = sensitivity(trials, facts["blank"])
        seconds = [row["seconds"] for row in trials if row["seconds"] is not None]
        cells = [
            f"{name}, {RATES[name]:g}",
            f"{max((row['steps'] or 0 for row in trials), default=0):,}",
            duration(median(seconds)) if seconds else "–",
            *(_cell(found["means"][k], trials, k) for k in _factors(facts)),
            _percent(found["kept"]).replace(" ", "\N{NO-BREAK SPACE}"),
            _ratio(found["rates"]),
            _ratio(found["seeds"]),
            f"{found['failed']} of {len(trials)}".replace(" ", "\N{NO-BREAK SPACE}"),
        ]
        rows.append(cells)
    decibels = [
        [row["psnr"] for row in by_method["decoder"] if row["factor"] == k and row["psnr"]]
        for k in _factors(facts)
    ]
    means = [number(sum(found) / len(found), 1) if found else "–" for found in decibels]
    rows.append(["decoder, PSNR in dB", "", "", *means, "", "", "", ""])
    header = [
        "method, own learning rate", "steps", "seconds",
        *(f"× {rate_factor(factor)}" for factor in _factors(facts)),
        "kept", "worst / best rate", "worst / best seed", "failed",
    ]  # fmt: skip
    caption = (
        f"Fréchet distance of {facts['n']:,} images to {facts['n_real']:,} test images: geometric "
        "means over seeds, by the factor of the learning rate. Failed: diverged, or images all "
        "alike, with less than a twentieth of the variance of test images (marked *). Kept: the "
        "part of the way from blank images "
        f"({number(facts['blank'], 1)}) to the method’s best training that a training goes, on "
        "average over rates and seeds. Steps are fixed, seconds are the median of a training."
    )
    return table(header, rows, caption=caption)


def _cell(mean: float | None, trials: Sequence[Trial], factor: float) -> str:
    failures = [row["failure"] for row in trials if row["factor"] == factor]
    text = "diverged" if mean is None else number(mean, 1)
    if mean is not None and DIVERGED in failures:
        text += f" ({failures.count(DIVERGED)} diverged)"
    return text + ("*" if ALIKE in failures else "")


def _percent(part: float) -> str:
    return f"{number(100 * part)} %"


def _ratio(value: float | None) -> str:
    return "–" if value is None else number(value, 2 if value < 10 else 0)


def _finding(facts: Mapping[str, Any]) -> Finding:
    by_method = _by_method(facts)
    found = {name: sensitivity(trials, facts["blank"]) for name, trials in by_method.items()}
    own = found["decoder"]
    # Signs make less what is steadier.
    steadier = [
        sign * own[kind] < sign * other[kind]
        for kind, sign in (("kept", -1), ("rates", 1), ("seeds", 1))
        for name, other in found.items()
        if name != "decoder" and own[kind] is not None
    ]
    factors = _factors(facts)
    span = f"{rate_factor(factors[0])} to {rate_factor(factors[-1])} times its own"
    kept = ", ".join(f"{name} {_percent(row['kept'])}" for name, row in found.items())
    rates = ", ".join(f"{name} {_ratio(row['rates'])}" for name, row in found.items())
    because = (
        f"Over rates of {span}, a training keeps of what the method’s best one reaches: {kept}. "
        f"The worst rate’s distance is a multiple of the best one’s: {rates}. "
    )
    if own["seeds"] is not None:
        seeds = ", ".join(f"{name} {_ratio(row['seeds'])}" for name, row in found.items())
        because += f"Between seeds: {seeds}. "
    failures = [
        f"{row['failed']} of {len(by_method[name])} of the {name}"
        for name, row in found.items()
        if row["failed"]
    ]
    because += f"Trainings that failed: {', '.join(failures) or 'none'}. "
    if all(steadier) and not own["failed"]:
        verdict: Verdict = "agrees"
        because += "Regression is the steadier training by every comparison."
    elif sum(steadier) > len(steadier) / 2:
        verdict = "agrees in part"
        because += (
            f"Regression is the steadier training by {sum(steadier)} of {len(steadier)} "
            "comparisons with a GAN."
        )
    else:
        verdict = "cannot be compared"
        because += (
            f"Regression is the steadier training by {sum(steadier)} of {len(steadier)} "
            "comparisons with a GAN, no more than half: trainings of seconds cannot settle what "
            "the paper says of trainings of minutes and hours."
        )
    return Finding("Section 6, stability", verdict, because)
