"""Table 4: training time of latent and pixel models on this machine, and what it buys."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from scattergen.paper.density_samples import NAME as SAMPLES
from scattergen.paper.density_samples import seconds_of
from scattergen.paper.findings import Finding, Measured, Section
from scattergen.paper.material import Material
from scattergen.paper.pixel_baselines import NAMES as PIXEL_MODELS
from scattergen.paper.plots import quality_curves
from scattergen.report import paper
from scattergen.report.html import themed
from scattergen.wording import duration, number


def refits_to_win(once: float, latent: float, pixel: float) -> int | None:
    """Fits of the generative model after which the latent route has taken less time in total, if it ever has.

    The smallest k with once + k·latent < k·pixel, in seconds: encoder and decoder are fitted once, the density or the
    model of pixels k times.
    """
    return None if pixel <= latent else math.floor(once / (pixel - latent)) + 1


def time_to_reach(curve: list[list[float]], distance: float) -> float | None:
    """Seconds of training at the first (seconds, distance) pair that is at least as good."""
    return next((seconds for seconds, found in curve if found <= distance), None)


def show(results: Mapping[str, Measured], material: Material) -> Section:
    """Table 4: training times, quality against them, and how many fits it takes to win."""
    samples = results[SAMPLES]
    facts, pixels = samples.facts, {name: results[name] for name in PIXEL_MODELS}
    once = sum(seconds_of(facts, stage) for stage in ("encoder", "codes", "decoder"))
    curves = {PIXEL_MODELS[name]: found.facts["curve"] for name, found in pixels.items()}
    densities, points = [], {}
    for key, row in facts["rows"].items():
        seconds, distance = seconds_of(facts, f"densities/{key}"), row["distance"]
        against = [_against(once, seconds, distance, found.facts) for found in pixels.values()]
        densities.append({"name": key, "seconds": seconds, "distance": distance, "against": against})
        # An instant fit, such as that of the Gaussian, has no place on a logarithmic axis.
        points[key] = max(seconds, 0.1), distance
    shown = {
        "once": once,
        "densities": densities,
        "pixels": {PIXEL_MODELS[name]: found for name, found in pixels.items()},
        "quoted": paper.TRAINING_TIMES,
        "curves": themed(partial(quality_curves, curves, points, "Fréchet distance to test images")),
    }
    finding = _finding(facts, pixels, once, duration(material.effort.pixel_seconds))
    return Section("training_time", finding, [samples, *pixels.values()], shown)


def _against(once: float, fit: float, distance: float, pixel: Mapping[str, Any]) -> dict[str, Any]:
    """When a model of pixels is as good as a density, and from which fit on that is cheaper."""
    equal = time_to_reach(pixel["curve"], distance)
    return {
        "total": pixel["seconds"],
        "equal": equal,
        "at_equal_quality": None if equal is None else refits_to_win(once, fit, equal),
        "at_full_time": refits_to_win(once, fit, pixel["seconds"]),
    }


def _finding(facts: Mapping[str, Any], pixels: Mapping[str, Measured], once: float, budget: str) -> Finding:
    rows = facts["rows"]
    against = {
        key: [_against(once, seconds_of(facts, f"densities/{key}"), row["distance"], m.facts) for m in pixels.values()]
        for key, row in rows.items()
    }
    best = min(rows, key=lambda key: rows[key]["distance"])
    distance = rows[best]["distance"]
    final = {PIXEL_MODELS[name]: m.facts["curve"][-1][1] for name, m in pixels.items()}
    ends = " and ".join(f"the {name} {number(value, 1)}" for name, value in final.items())
    better = all(distance < value for value in final.values())
    because = (
        f"Refitting a density is cheap: {best}, the best here, takes "
        f"{duration(seconds_of(facts, f'densities/{best}'))} and scores {number(distance, 1)}; after {budget} of "
        f"training, {ends}{', neither as good' if better else ''}. With encoder and decoder counted in "
        f"({duration(once)}, once), the latent route with {best} "
    )
    known = [found["at_full_time"] for found in against[best] if found["at_full_time"] is not None]
    if known:
        because += f"has cost less from fit {max(known)} on than models of pixels trained so long"
    else:
        because += "never costs less than models of pixels trained for so short a time"
    sooner = [
        key.upper()
        for key in ("vae", "gan")
        if any(found["equal"] is not None and found["at_equal_quality"] is None for found in against[key])
    ]
    if sooner:
        because += (
            f"; but a model of pixels is as good as the paper’s {' and '.join(sooner)} in less time than "
            f"{'that takes' if len(sooner) == 1 else 'those take'} to fit"
        )
    return Finding("Table 4", "agrees in part" if known or better else "disagrees", because + ".")
