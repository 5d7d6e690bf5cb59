"""The report of a fit: one self-contained HTML page, and its pictures as PNG files."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from scattergen.evaluation.judgement import in_words
from scattergen.files import atomic_path
from scattergen.image_quality import WINDOW_SIZE, psnr, ssim
from scattergen.report import paper, plots
from scattergen.report.facts import DensityEntry, FitReport
from scattergen.report.html import Picture, grid, render, themed
from scattergen.report.panels import density_grids, reconstruction_pairs, visualisation_matrix
from scattergen.wording import duration, number

_HERO_COLUMNS, _GRID_COLUMNS = 16, 8


def write_fit_report(facts: FitReport, folder: str | Path) -> Path:
    """Write ``report.html`` and ``pictures/*.png``, and return the path of the page.

    The page needs no other file and loads nothing from elsewhere. Files appear whole or not at all, the page last;
    pictures of earlier reports in the folder are replaced by name.

    Args:
        facts: What the report says.
        folder: Where to write; made when missing.

    Raises:
        InputError: If pictures or numbers do not fit together.
        ScattergenError: If a file cannot be written.

    Example:
        >>> import tempfile
        >>> facts = FitReport(dataset="toy", image_shape=(1, 28, 28), n_train=100)
        >>> write_fit_report(facts, tempfile.mkdtemp()).name
        'report.html'
    """
    folder, files = Path(folder), _PictureFiles()
    page = render(
        "fit.html.j2",
        facts=facts,
        title=facts.title,
        paper=paper.MNIST if facts.beside_paper else None,
        total=sum(seconds for _, seconds in facts.stages),
        expectation=facts.judgement and in_words(facts.judgement, facts.n_train),
        machine=[*facts.machine.items(), *([("scattergen", facts.version)] * bool(facts.version))],
        options=list(_flat(facts.config)),
        **_quality(facts, files),
        **_samples(facts, files),
        **_leading_components(facts, files),
        **_codes(facts, files),
        training=_training(facts, files),
    )
    for name, content in files.items():
        with atomic_path(folder / "pictures" / name) as temporary:
            temporary.write_bytes(content)
    path = folder / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


class _PictureFiles(dict[str, bytes]):
    """Name to content of each PNG file that goes beside the page."""

    def keep(self, name: str, content: bytes) -> None:
        """Add a file; the name may hold anything and is made fit for a file system."""
        stem = re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "picture"
        free, count = f"{stem}.png", 1
        while free in self:
            count += 1
            free = f"{stem}-{count}.png"
        self[free] = content

    def themed(self, name: str, draw: Callable[[plots.Theme], Figure]) -> Picture:
        """A figure in both themes, of which the light one becomes a file."""
        picture = themed(draw)
        self.keep(name, picture.png)
        return picture


def _quality(facts: FitReport, files: _PictureFiles) -> dict[str, Any]:
    """Pairs of test images and their reconstructions, and the distribution of their quality."""
    quality = {
        name: _summary(values)
        for name, values in (("psnr", facts.psnr), ("ssim", facts.ssim))
        if values is not None and len(values)
    }
    x, y = facts.originals, facts.reconstructions
    if x is None or y is None or not len(x):
        return {"quality": quality, "pairs": []}
    decibels = [f"{number(value, 1)} dB" for value in psnr(x, y).tolist()]
    similar = [""] * len(decibels)
    if min(x.shape[-2:]) >= WINDOW_SIZE:
        similar = [f"{value:.3f}" for value in ssim(x, y).tolist()]
    labels = [f"{a}   {b}".rstrip() for a, b in zip(decibels, similar, strict=True)]
    files.keep("reconstructions", plots.figure_png(reconstruction_pairs(x, y, labels)))
    pictures = [grid(pair, columns=2) for pair in torch.stack([x, y], dim=1)]
    return {"quality": quality, "pairs": list(zip(pictures, decibels, similar, strict=True))}


def _summary(values: Tensor) -> list[float]:
    """Mean, and percentiles 5, 50 and 95."""
    array = values.double().numpy()
    # "lower" picks a value that is there: interpolating next to an infinite PSNR gives NaN.
    return [float(array.mean()), *np.quantile(array, [0.05, 0.5, 0.95], method="lower").tolist()]


def _samples(facts: FitReport, files: _PictureFiles) -> dict[str, Any]:
    """A band of samples for the top, and the sample grid of every density."""
    entries = {entry.name: entry for entry in facts.densities}
    if not entries:
        return {"featured": None, "cards": []}
    chosen = entries.get(facts.featured or "mixture", facts.densities[-1])
    count = len(chosen.samples)
    if count > _HERO_COLUMNS:
        count -= count % _HERO_COLUMNS
    band = grid(chosen.samples[:count], _HERO_COLUMNS, side=112, pad=8)
    grids = {name: entry.samples for name, entry in entries.items()}
    efforts = {name: _effort(entry) for name, entry in entries.items()}
    files.keep("densities", plots.figure_png(density_grids(grids, efforts, columns=_GRID_COLUMNS)))
    cards = []
    for entry in facts.densities:
        picture = grid(entry.samples, _GRID_COLUMNS)
        files.keep(f"samples-{entry.name}", picture.png)
        cards.append({"entry": entry, "picture": picture, "effort": _effort(entry)})
    featured = {"name": chosen.name, "seed": chosen.seed, "count": count, "picture": band}
    return {"featured": featured, "cards": cards}


def _effort(entry: DensityEntry) -> str:
    time = f"trained in {duration(entry.seconds)}"
    return time if entry.epochs is None else f"{entry.epochs} {'epoch' if entry.epochs == 1 else 'epochs'}, {time}"


def _leading_components(facts: FitReport, files: _PictureFiles) -> dict[str, Any]:
    """The visualisation matrices, and what the paper's values are to this decoder."""
    matrices = []
    for matrix in facts.visualisation:
        name = f"visualisation-matrix-{'paper' if matrix.paper else 'sigma'}"
        draw = partial(visualisation_matrix, matrix.images, matrix.first, matrix.second, matrix.sigma)
        matrices.append((matrix, files.themed(name, draw)))
    deviations = [
        abs(value / sigma)
        for matrix in facts.visualisation
        if matrix.paper and facts.beside_paper
        for sigma, values in zip(matrix.sigma, (matrix.first, matrix.second), strict=True)
        for value in values
    ]
    decoder = facts.config.get("decoder")
    unit_norm = isinstance(decoder, Mapping) and bool(decoder.get("unit_norm"))
    return {
        "matrices": matrices,
        "reach": (min(deviations), max(deviations)) if deviations else None,
        "unit_norm": unit_norm and bool(deviations),
    }


def _codes(facts: FitReport, files: _PictureFiles) -> dict[str, Any]:
    """The variance of the components, and whether they are normal."""
    found: dict[str, Any] = dict.fromkeys(("spectrum", "kept", "exceeded"))
    values, kept = facts.eigenvalues, facts.explained_variance
    if values is not None:
        found["spectrum"] = files.themed("eigenvalues", partial(plots.eigenvalue_spectrum, values))
        if kept is not None:
            found["kept"] = files.themed("explained-variance", partial(plots.cumulative_variance, values, kept))
    found["curves"] = {}
    theirs = paper.MNIST.rejections if facts.beside_paper else {}
    if facts.normality is not None and facts.rejections:
        for test in plots.TEST_NAMES:
            draw = partial(plots.rejections_by_n, facts.rejections, test, facts.normality.d, theirs.get(test))
            found["curves"][test] = files.themed(f"rejections-{test.lower()}", draw)
        smallest = min(rate.n for rate in facts.rejections)
        exceeds = [
            rate.observed > theirs[rate.test][rate.level]
            for rate in facts.rejections
            if rate.n == smallest and rate.level in theirs.get(rate.test, {})
        ]
        if exceeds and all(exceeds):
            found["exceeded"] = {"n": smallest, "counts": len(exceeds)}
    found["effects"] = {}
    if facts.skewness is not None and facts.excess_kurtosis is not None:
        effects = {"|skewness|": facts.skewness, "|excess kurtosis|": facts.excess_kurtosis}
        for name, effect in effects.items():
            sizes = np.abs(np.asarray(effect, dtype=np.float64))
            sizes = sizes[np.isfinite(sizes)]  # constant components have none
            if sizes.size:
                found["effects"][name] = np.quantile(sizes, [0.05, 0.5, 0.95, 1.0]).tolist()
    return found


def _training(facts: FitReport, files: _PictureFiles) -> dict[str, Picture]:
    """The decoder's curves, by their titles."""
    curves = {}
    for name, series, title in (
        ("training-loss", {"val_loss": "validation", "train_loss": "training"}, "Decoder: loss"),
        ("validation-psnr", {"val_psnr": "validation"}, "Decoder: validation PSNR, dB"),
    ):
        if any(row.get(key) is not None for row in facts.history for key in series):
            curves[title] = files.themed(name, partial(plots.training_curve, facts.history, series, title))
    return curves


def _flat(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested settings as one list, their names joined by dots."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
