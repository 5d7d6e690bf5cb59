"""The stability of training: how much its result depends on learning rate and seed."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean, geometric_mean, median
from typing import Any

from scattergen.paper.material import Material
from scattergen.paper.measured import Measured
from scattergen.paper.page import Finding, Section, Verdict
from scattergen.paper.plots import rate_curves, rate_factor
from scattergen.paper.stability_trials import ALIKE, DIVERGED, NAME, RATES, SHOWN, Trial
from scattergen.report.html import themed
from scattergen.wording import number, sample_size


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


def show(results: Mapping[str, Measured], material: Material) -> Section:
    """How much each method's result depends on learning rate and seed."""
    measured = results[NAME]
    facts, factors = measured.facts, _factors(measured.facts)
    by_method = _by_method(facts)
    trials = {
        name: {factor: [row["distance"] for row in rows if row["factor"] == factor] for factor in factors}
        for name, rows in by_method.items()
    }
    title = f"Fréchet distance to test images, {sample_size(facts['n'])}"
    decibels = [
        [row["psnr"] for row in by_method["decoder"] if row["factor"] == factor and row["psnr"]] for factor in factors
    ]
    shown = {
        "factors": list(map(rate_factor, factors)),
        "curves": themed(partial(rate_curves, trials, title)),
        "methods": [_method(name, rows, facts) for name, rows in by_method.items()],
        "decibels": [fmean(found) if found else None for found in decibels],
        "columns": SHOWN,
        "ratio": _ratio,
    }
    return Section(NAME, _finding(facts), [measured], shown)


def _method(name: str, trials: list[Trial], facts: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table."""
    found = sensitivity(trials, facts["blank"])
    seconds = [row["seconds"] for row in trials if row["seconds"] is not None]
    cells = []
    for factor in _factors(facts):
        failures = [row["failure"] for row in trials if row["factor"] == factor]
        cells.append({"mean": found["means"][factor], "diverged": failures.count(DIVERGED), "alike": ALIKE in failures})
    return {
        "name": name,
        "rate": RATES[name],
        "steps": max((row["steps"] or 0 for row in trials), default=0),
        "seconds": median(seconds) if seconds else None,
        "at_factors": cells,
        "found": found,
        "trials": len(trials),
    }


def _by_method(facts: Mapping[str, Any]) -> dict[str, list[Trial]]:
    names = dict.fromkeys(row["method"] for row in facts["rows"])
    return {name: [row for row in facts["rows"] if row["method"] == name] for name in names}


def _factors(facts: Mapping[str, Any]) -> list[float]:
    return sorted({row["factor"] for row in facts["rows"]})


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
        f"{row['failed']} of {len(by_method[name])} of the {name}" for name, row in found.items() if row["failed"]
    ]
    because += f"Trainings that failed: {', '.join(failures) or 'none'}. "
    if all(steadier) and not own["failed"]:
        verdict: Verdict = "agrees"
        because += "Regression is the steadier training by every comparison."
    elif sum(steadier) > len(steadier) / 2:
        verdict = "agrees in part"
        because += f"Regression is the steadier training by {sum(steadier)} of {len(steadier)} comparisons with a GAN."
    else:
        verdict = "cannot be compared"
        because += (
            f"Regression is the steadier training by {sum(steadier)} of {len(steadier)} "
            "comparisons with a GAN, no more than half: trainings of seconds cannot settle what "
            "the paper says of trainings of minutes and hours."
        )
    return Finding("Section 6, stability", verdict, because)
