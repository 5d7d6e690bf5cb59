"""Table 4: training time of latent and pixel models on this machine, and what it buys."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from scattergen.paper.density_samples import NAME as SAMPLES
from scattergen.paper.density_samples import seconds_of
from scattergen.paper.material import Material
from scattergen.paper.page import Finding, ReproductionPage, panels, titled
from scattergen.paper.pixel_baselines import NAMES as PIXEL_MODELS
from scattergen.paper.plots import quality_curves
from scattergen.paper.stage_cache import Measured
from scattergen.report import paper
from scattergen.report.draft import duration, number, sample_size
from scattergen.report.html import Html, table, tag

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


def show(page: ReproductionPage, results: Mapping[str, Measured], material: Material) -> None:
    """Add the section."""
    samples = results[SAMPLES]
    pixels = {name: results[name] for name in PIXEL_MODELS}
    facts = samples.facts
    once = sum(seconds_of(facts, stage) for stage in _ONCE)
    budget = duration(material.effort.pixel_seconds)
    curves = {PIXEL_MODELS[name]: pixels[name].facts["curve"] for name in pixels}
    # An instant fit, such as that of the Gaussian, has no place on a logarithmic axis.
    points = {
        key: (max(seconds_of(facts, f"densities/{key}"), 0.1), row["distance"])
        for key, row in facts["rows"].items()
    }
    picture = page.themed(
        "Fréchet distance against seconds of generative training",
        partial(quality_curves, curves, points, "Fréchet distance to test images"),
    )
    grids = [
        titled(
            PIXEL_MODELS[name],
            page.grid(found.tensors["samples"], 8, f"64 samples of the {PIXEL_MODELS[name]}", 28),
            tag("p", f"{found.facts['description']}; stopped in epoch {found.facts['epochs']}"),
        )
        for name, found in pixels.items()
    ]
    content = [
        _times(facts, pixels, once),
        page.page.figure(
            picture,
            f"Quality against generative training time, of {sample_size(facts['n'])} samples. "
            "Dots: densities of this run, at the end of their training, without the decoder’s. "
            f"Lines: models of pixels within their {budget}. The learning rate of the pixel VAE "
            "falls to 0 at the end of that time, so its earlier points are of a training under "
            "way, not of a shorter one.",
            "Table 4",
        ),
        page.page.figure(
            panels(*grids), f"The first 64 samples of each pixel model after {budget}."
        ),
        _accounting(facts, pixels, once),
        tag(
            "p",
            "“At equal quality” asks a pixel model only for the distance that the density reaches, "
            "and takes the first of its snapshots that does; “at its full time” trains it for all "
            f"{budget}. Fits are counted until the latent route, with encoder and decoder ("
            f"{duration(once)}, once), has taken less time in total; “never” means that one fit "
            "of the pixel model is faster than one of the density.",
        ),
    ]
    page.section(
        "Training time",
        _finding(facts, pixels, once, budget),
        content,
        [samples, *pixels.values()],
        f"{sample_size(len(material.train))} training images",
        wide=True,
    )


def _times(facts: Mapping[str, Any], pixels: Mapping[str, Measured], once: float) -> Html:
    size = "MNIST (28×28)"
    rows: list[list[object]] = [
        [
            tag("b", "measured here"),
            size,
            f"{key} in scattering space",
            tag("b", duration(seconds_of(facts, f"densities/{key}"))),
            tag("b", duration(once)),
        ]
        for key in facts["rows"]
    ]
    rows += [
        [
            tag("b", "measured here"),
            size,
            f"{PIXEL_MODELS[name]}, stopped by the clock",
            tag("b", duration(found.facts["seconds"])),
            "–",
        ]
        for name, found in pixels.items()
    ]
    rows += [list(row) for row in paper.TRAINING_TIMES]
    caption = (
        "Training times. “Non-generative” is what is trained once and for all densities: encoder "
        "and decoder. The times of densities and decoder are those that the run’s fit recorded, "
        "which does not say how many threads it had: compare them with those of models of pixels "
        "only if both had as many, on the same machine; the paper’s rows quote other machines, "
        "data sets and sizes of images."
    )
    header = ["source", "data set", "method", "generative training", "non-generative training"]
    return table(header, rows, caption=caption)


def _accounting(facts: Mapping[str, Any], pixels: Mapping[str, Measured], once: float) -> Html:
    header: list[object] = ["density", "distance", "one fit"]
    for name in pixels:
        header += [
            f"{PIXEL_MODELS[name]} as good after",
            "fits to win at equal quality",
            "fits to win at its full time",
        ]
    rows = []
    for key, row in facts["rows"].items():
        fit = seconds_of(facts, f"densities/{key}")
        cells: list[object] = [key, number(row["distance"], 1), duration(fit)]
        for found in pixels.values():
            total = found.facts["seconds"]
            equal = time_to_reach(found.facts["curve"], row["distance"])
            cells.append(f"not within {duration(total)}" if equal is None else duration(equal))
            cells.append(_at_equal_quality(once, fit, total, equal))
            cells.append(str(refits_to_win(once, fit, total) or "never"))
        rows.append(cells)
    caption = "After how many fits of the generative model the latent route has cost less time."
    return table(header, rows, caption=caption)


def _at_equal_quality(once: float, fit: float, total: float, equal: float | None) -> str:
    """The cell of the table for a pixel model that is as good after `equal` seconds, or never."""
    if equal is not None:
        return str(refits_to_win(once, fit, equal) or "never")
    # A pixel model that is not as good by the end of its training needs more than all of that time.
    most = refits_to_win(once, fit, total)
    return "not known" if most is None else f"≤ {most}"


def _finding(
    facts: Mapping[str, Any], pixels: Mapping[str, Measured], once: float, budget: str
) -> Finding:
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
    because += (
        f"With encoder and decoder counted in ({duration(once)}, once), the latent route with "
        f"{best} "
    )
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
