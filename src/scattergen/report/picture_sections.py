"""The sections that are mostly pictures. Each adds itself to the page, or nothing without facts."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from scattergen.evaluation import psnr, ssim
from scattergen.image_grid import image_grid, png
from scattergen.image_quality import WINDOW_SIZE
from scattergen.report.draft import Draft, duration, number, sample_size, setting
from scattergen.report.facts import DensityEntry, VisualisationMatrix
from scattergen.report.html import Html, image, joined, table, tag
from scattergen.report.panels import density_grids, reconstruction_pairs, visualisation_matrix
from scattergen.report.plots import figure_png

HERO_COLUMNS = 16
GRID_COLUMNS = 8


def add_header(draft: Draft) -> None:
    """One sentence, the key numbers, and a band of samples."""
    facts = draft.facts
    channels, height, width = facts.image_shape
    kind = {1: "grey", 3: "RGB"}.get(channels, f"{channels}-channel")
    lead = [f"{number(facts.n_train)} {kind} images of {height} × {width} pixels"]
    if facts.eigenvalues is not None:
        lead.append(f", each coded as {len(facts.eigenvalues)} whitened scattering components")
    if facts.densities:
        plural = "densities" if len(facts.densities) > 1 else "density"
        lead.append(f"; new images decoded from samples of {len(facts.densities)} {plural}")
    draft.page.header.append(tag("p", *lead, ".", class_="lead"))

    keys: list[tuple[str, str, str]] = []
    if facts.psnr is not None and len(facts.psnr):
        keys.append(("Test PSNR, mean", number(float(facts.psnr.mean()), 2), "dB"))
    if facts.ssim is not None and len(facts.ssim):
        keys.append(("Test SSIM, mean", number(float(facts.ssim.mean()), 4), ""))
    if facts.explained_variance is not None:
        keys.append(("Variance kept", number(100 * facts.explained_variance, 2), "%"))
    if facts.stages:
        keys.append(("Total time", duration(sum(seconds for _, seconds in facts.stages)), ""))
    if keys:
        cells = [
            tag("div", tag("dt", label), tag("dd", value, tag("small", unit) if unit else ""))
            for label, value, unit in keys
        ]
        draft.page.header.append(tag("dl", *cells, class_="key"))

    if facts.densities:
        entry = _featured(facts.densities, facts.featured)
        band = entry.samples
        if len(band) > HERO_COLUMNS:
            band = band[: len(band) // HERO_COLUMNS * HERO_COLUMNS]
        picture = png(
            image_grid(band, columns=HERO_COLUMNS, pad=8, scale=_enlargement(band, 112), fill=None)
        )
        alt = f"{len(band)} images decoded from samples of the density {entry.name}"
        caption = (
            f"{sample_size(len(band))} decoded samples of the density ",
            tag("b", entry.name),
            f": the first ones drawn, seed {entry.seed}.",
        )
        draft.page.header.append(
            tag("figure", image(picture, alt), tag("figcaption", *caption), class_="hero")
        )


def add_reconstructions(draft: Draft) -> None:
    """Pairs of test images and their reconstructions, and the distribution of their quality."""
    facts = draft.facts
    content: list[Html] = []
    if facts.originals is not None and facts.reconstructions is not None and len(facts.originals):
        content.append(_pairs(draft, facts.originals, facts.reconstructions))
    rows = [
        [name, *(number(value, digits) for value in _summary(values))]
        for name, values, digits in (("PSNR, dB", facts.psnr, 2), ("SSIM", facts.ssim, 4))
        if values is not None and len(values)
    ]
    if rows:
        header = ["per image", "mean", "5th percentile", "median", "95th percentile"]
        count = max(len(values) for values in (facts.psnr, facts.ssim) if values is not None)
        caption = f"All test images, {sample_size(count)}; outputs clipped to [0, 1]"
        content.append(table(header, rows, caption=caption))
    if content:
        note = "Test images that no stage has seen, encoded and decoded again."
        draft.page.section("Reconstruction", *content, note=note)


def _pairs(draft: Draft, originals: Tensor, reconstructions: Tensor) -> Html:
    facts = draft.facts
    decibels = [f"{number(value, 1)} dB" for value in psnr(originals, reconstructions).tolist()]
    similar = [""] * len(decibels)
    if min(originals.shape[-2:]) >= WINDOW_SIZE:
        similar = [f"{value:.3f}" for value in ssim(originals, reconstructions).tolist()]
    labels = [f"{a}   {b}".rstrip() for a, b in zip(decibels, similar, strict=True)]
    draft.keep(
        "reconstructions", figure_png(reconstruction_pairs(originals, reconstructions, labels))
    )
    cells = []
    for index, pair in enumerate(torch.stack([originals, reconstructions], dim=1)):
        picture = png(image_grid(pair, columns=2, pad=4, scale=_enlargement(pair, 56), fill=None))
        alt = f"test image and its reconstruction, {labels[index]}"
        numbers = tag("span", tag("span", decibels[index]), tag("span", similar[index]))
        cells.append(tag("div", image(picture, alt), numbers))
    of = f" of {number(facts.n_test)}" if facts.n_test else ""
    words = (
        f"{sample_size(len(cells))}{of} test images. In each pair the original is on the left, its "
    )
    words += "reconstruction on the right; below them PSNR"
    words += " and SSIM." if similar[0] else "."
    return draft.page.figure(tag("div", *cells, class_="pairs"), words, class_="pixels")


def add_samples(draft: Draft) -> None:
    """The sample grid of every density, with how it was trained."""
    entries = draft.facts.densities
    if not entries:
        return
    together = density_grids(
        {entry.name: entry.samples for entry in entries},
        {entry.name: _effort(entry) for entry in entries},
        columns=GRID_COLUMNS,
    )
    draft.keep("densities", figure_png(together))
    cards = []
    for entry in entries:
        scale = _enlargement(entry.samples, 56)
        picture = png(
            image_grid(entry.samples, columns=GRID_COLUMNS, pad=4, scale=scale, fill=None)
        )
        draft.keep(f"samples-{entry.name}", picture)
        words = [tag("p", _effort(entry))]
        if entry.hyperparameters:
            options = ", ".join(f"{k}={setting(v)}" for k, v in entry.hyperparameters.items())
            words.append(tag("p", tag("code", options)))
        if entry.layers:
            words.append(tag("p", entry.layers))
        alt = f"{len(entry.samples)} images decoded from samples of the density {entry.name}"
        cards.append(
            tag("div", tag("h3", entry.name), image(picture, alt), *words, class_="density")
        )
    counts = [sample_size(n) for n in sorted({len(entry.samples) for entry in entries})]
    seeds = sorted({entry.seed for entry in entries})
    caption = (
        f"Decoded samples of each density: {setting(counts)} each, seed {setting(seeds)}, the "
        f"first ones drawn, one decoder for all."
    )
    figure = draft.page.figure(
        tag("div", *cards, class_="densities"), caption, draft.beside("Figure 2"), "pixels"
    )
    note = "The same decoder under different models of how the codes are distributed."
    draft.page.section("Samples", figure, note=note, wide=True)


def add_visualisation(draft: Draft) -> None:
    """The visualisation matrices, at the paper's values and within the data's range."""
    matrices = draft.facts.visualisation
    if not matrices:
        return
    panels = []
    for matrix in matrices:
        alt = f"{matrix.title}: decoded images, the first component grows from row to row, the "
        alt += "second from column to column"
        name = "visualisation-matrix-paper" if matrix.paper else "visualisation-matrix-sigma"
        draw = partial(
            visualisation_matrix, matrix.images, matrix.first, matrix.second, matrix.sigma
        )
        panels.append(tag("div", tag("h3", matrix.title), draft.themed(name, alt, draw)))
    caption: list[object] = [
        f"{sample_size(sum(len(m.images) for m in matrices))} decoded codes in which only the two "
        "leading principal components differ from 0. The first component grows from top to bottom, "
        "the second from left to right; large numbers are values before whitening, small ones the "
        "same in standard deviations."
    ]
    chosen = [matrix for matrix in matrices if matrix.paper]
    if chosen and draft.facts.beside_paper:
        caption.append(_scale(draft, chosen))
        if len(chosen) < len(matrices):
            caption.append(" The other matrix stays where the data are.")
    figure = draft.page.figure(
        tag("div", *panels, class_="panels"), joined(caption), draft.beside("Figure 1")
    )
    note = "What the two components of greatest variance do to an image."
    draft.page.section("Leading components", figure, note=note)


def _scale(draft: Draft, chosen: Sequence[VisualisationMatrix]) -> str:
    """What the paper's values are to this decoder."""
    decoder = draft.facts.config.get("decoder")
    if isinstance(decoder, Mapping) and decoder.get("unit_norm"):
        return (
            " This decoder divides codes by their norms, so that the paper’s values are "
            "directions, and (5, 5) is the same as (10, 10). No image has all of its length in two "
            "components, though."
        )
    distances = [
        abs(value / matrix.sigma[axis])
        for matrix in chosen
        for axis, values in enumerate((matrix.first, matrix.second))
        for value in values
    ]
    return (
        f" The paper’s values lie {min(distances):.0f} to {max(distances):.0f} standard deviations "
        "out on our codes of images in [0, 1], where there is no data: its coefficients must have "
        "been on another scale, or its codes divided by their norms."
    )


def _enlargement(images: Tensor, side: int) -> int:
    """The integer scale at which the longer side of the images comes closest to a length."""
    return max(1, round(side / max(images.shape[-2:])))


def _featured(entries: Sequence[DensityEntry], name: str | None) -> DensityEntry:
    by_name = {entry.name: entry for entry in entries}
    return by_name.get(name or "mixture", entries[-1])


def _effort(entry: DensityEntry) -> str:
    time = f"trained in {duration(entry.seconds)}"
    if entry.epochs is None:
        return time
    return f"{entry.epochs} {'epoch' if entry.epochs == 1 else 'epochs'}, {time}"


def _summary(values: Tensor) -> list[float]:
    """Mean, and percentiles 5, 50 and 95."""
    array = values.double().numpy()
    # "lower" picks a value that is there: interpolating next to an infinite PSNR gives NaN.
    return [float(array.mean()), *np.quantile(array, [0.05, 0.5, 0.95], method="lower").tolist()]
