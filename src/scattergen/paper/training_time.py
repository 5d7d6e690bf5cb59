"""Table 4: training time of latent and pixel models on this machine, and what it buys."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from scattergen.paper.density_samples import NAME as SAMPLES
from scattergen.paper.density_samples import seconds_of
from scattergen.paper.material import Material
from scattergen.paper.measured import Measured
from scattergen.paper.page import Finding, Section
from scattergen.paper.pixel_baselines import NAMES as PIXEL_MODELS
from scattergen.paper.plots import quality_curves
from scattergen.report import paper
from scattergen.report.html import themed
from scattergen.wording import duration, number

_ONCE = ("encoder", "codes", "decoder")
"""Stages of a fit that are done once, however often a density is fitted."""


def refits_to_win(once: float, latent: float, pixel: float) -> int | None:
    r"""Fits of the generative model after which the latent route has taken less time in total.

    The smallest k with $D + k\,G < k\,P$, where D is spent once (encoder and decoder), G on every
    fit of the latent density and P on every fit of the pixel model.

    Args:
        once: D, seconds.
        latent: G, seconds.
        pixel: P, seconds.

    Returns:
        k; None if a fit of the pixel model is not slower than one of the density.

    Example:
        >>> refits_to_win(240, 40, 240), refits_to_win(240, 40, 30)
        (2, None)
    """
    if pixel <= latent:
        return None
    return math.floor(once / (pixel - latent)) + 1


def time_to_reach(curve: list[list[float]], distance: float) -> float | None:
    """Seconds of training at the first snapshot that is at least as good.

    Args:
        curve: (seconds, distance) pairs, in order.
        distance: Lower is better.

    Returns:
        Seconds, or None if no snapshot is.

    Example:
        >>> time_to_reach([[1, 9.0], [2, 4.0]], 5.0)
        2
    """
    return next((seconds for seconds, found in curve if found <= distance), None)


def show(results: Mapping[str, Measured], material: Material) -> Section:
    """Table 4: training times, quality against them, and how many fits it takes to win."""
    samples = results[SAMPLES]
    facts, pixels = samples.facts, {name: results[name] for name in PIXEL_MODELS}
    once = sum(seconds_of(facts, stage) for stage in _ONCE)
    seconds = {key: seconds_of(facts, f"densities/{key}") for key in facts["rows"]}
    curves = {PIXEL_MODELS[name]: found.facts["curve"] for name, found in pixels.items()}
    # An instant fit, such as that of the Gaussian, has no place on a logarithmic axis.
    points = {key: (max(seconds[key], 0.1), row["distance"]) for key, row in facts["rows"].items()}
    title = "Fréchet distance to test images"
    shown = {
        "once": once,
        "densities": [
            {
                "name": key,
                "seconds": seconds[key],
                "distance": row["distance"],
                "against": [_against(once, seconds[key], row["distance"], found.facts) for found in pixels.values()],
            }
            for key, row in facts["rows"].items()
        ],
        "pixels": {PIXEL_MODELS[name]: found for name, found in pixels.items()},
        "quoted": paper.TRAINING_TIMES,
        "curves": themed(partial(quality_curves, curves, points, title)),
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
    best = min(rows, key=lambda key: rows[key]["distance"])
    fit, distance = seconds_of(facts, f"densities/{best}"), rows[best]["distance"]
    final = {PIXEL_MODELS[name]: m.facts["curve"][-1][1] for name, m in pixels.items()}
    ends = " and ".join(f"the {name} {number(value, 1)}" for name, value in final.items())
    better = all(distance < value for value in final.values())
    because = (
        f"Refitting a density is cheap: {best}, the best here, takes {duration(fit)} and scores "
        f"{number(distance, 1)}; after {budget} of training, {ends}"
        f"{', neither as good' if better else ''}. "
    )
    counts = [refits_to_win(once, fit, m.facts["seconds"]) for m in pixels.values()]
    known = [count for count in counts if count is not None]
    because += f"With encoder and decoder counted in ({duration(once)}, once), the latent route with {best} "
    if known:
        because += f"has cost less from fit {max(known)} on than models of pixels trained so long"
    else:
        because += "never costs less than models of pixels trained for so short a time"
    equal = [
        key
        for key in ("vae", "gan")
        if any(
            (reached := time_to_reach(m.facts["curve"], rows[key]["distance"])) is not None
            and refits_to_win(once, seconds_of(facts, f"densities/{key}"), reached) is None
            for m in pixels.values()
        )
    ]
    if equal:
        names = " and ".join(key.upper() for key in equal)
        because += (
            f"; but a model of pixels is as good as the paper’s {names} in less time than "
            f"{'that takes' if len(equal) == 1 else 'those take'} to fit"
        )
    because += "."
    return Finding("Table 4", "agrees in part" if known or better else "disagrees", because)
