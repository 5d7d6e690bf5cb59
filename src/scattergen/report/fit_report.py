"""The report of a fit: one self-contained HTML page, and its pictures as PNG files."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from scattergen.diagnostics import NormalityTable, RejectionRate
from scattergen.display.words import duration, number
from scattergen.evaluation.judgement import DECODER, LEAST_SQUARES, REAL, Judgement, Row, in_words
from scattergen.files import atomic_path
from scattergen.image_quality import WINDOW_SIZE, psnr, ssim
from scattergen.report import paper, plots
from scattergen.report.html import Picture, grid, render, themed
from scattergen.runs.index import flatten

_HERO_COLUMNS, _GRID_COLUMNS = 16, 8


@dataclass(frozen=True)
class DensityEntry:
    """One density of the codes and what its samples look like."""

    name: str
    hyperparameters: Mapping[str, object]  # its constructor's keywords
    seconds: float  # of its training
    samples: Tensor  # decoded ones in [0, 1], (N, C, H, W): the first N drawn with `seed`; 64 fill the grids
    epochs: int | None = None  # passes over the codes; None for a density that is not trained in epochs
    layers: str | None = None  # its networks' widths in words, where it has networks
    seed: int = 0


@dataclass(frozen=True)
class VisualisationMatrix:
    """Decoded codes of which only the two leading components differ from zero."""

    title: str
    images: Tensor  # (len(first) * len(second), C, H, W); the second component varies fastest
    first: Sequence[float]  # values of the first component before whitening, from the top row down
    second: Sequence[float]  # those of the second component, from left to right
    sigma: tuple[float, float]  # standard deviations of the two components before whitening
    paper: bool = False  # whether the values are the paper's


@dataclass(frozen=True)
class FitReport:
    """Everything that a report shows; whatever is left at its default is left out of the page."""

    dataset: str  # its name; the paper's numbers are shown beside ours when they are of the same
    image_shape: tuple[int, int, int]  # (C, H, W)
    n_train: int
    n_test: int = 0  # 0 without a test set
    seed: int = 0
    version: str = ""  # of scattergen
    command: str = ""  # the command line, or the call, that made the model
    config: Mapping[str, object] = field(default_factory=dict)  # preset and hyper-parameters; mappings may be nested
    machine: Mapping[str, object] = field(default_factory=dict)  # what it ran on, such as processor and threads
    stages: Sequence[tuple[str, float]] = ()  # (name, seconds) of each stage, in order
    eigenvalues: Tensor | Sequence[float] | None = None  # variance of each component, decreasing, (d,)
    explained_variance: float | None = None  # share of the total variance that the d components keep, in [0, 1]
    originals: Tensor | None = None  # test images to show, (k, C, H, W), in [0, 1]
    reconstructions: Tensor | None = None  # the same images, encoded and decoded
    psnr: Tensor | None = None  # of every test image, (n_test,), dB
    ssim: Tensor | None = None  # of every test image, (n_test,)
    densities: Sequence[DensityEntry] = ()  # in the order of the page
    judgement: Judgement | None = None  # scores of decoder, least squares and densities against test images
    run: str = ""  # the folder that holds the model, to tell how it is used
    morphs: Tensor | None = None  # rows of 8 decoded codes from one test image to another, (8 k, C, H, W)
    # Samples of the featured density, and to each the training image that is nearest by its coefficients, decoded.
    nearest: tuple[Tensor, Tensor] | None = None
    evaluation: Mapping[str, Any] | None = None  # what evaluation.json holds, see `schema.EVALUATION`
    diagnoses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # and each diagnosis.json, by its stem
    featured: str | None = None  # name of the density at the top of the page; "mixture", else the last, by default
    visualisation: Sequence[VisualisationMatrix] = ()
    normality: NormalityTable | None = None  # rejections at the full sample size
    normality_split: str = "training"  # that the tested codes are of
    rejections: Sequence[RejectionRate] = ()  # against the sample size
    skewness: Sequence[float] | None = None  # of each component, (d,)
    excess_kurtosis: Sequence[float] | None = None
    # Of the decoder's training: records with "seconds" and any of "loss", "validation/loss", "validation/psnr".
    history: Sequence[Mapping[str, float]] = ()

    @property
    def beside_paper(self) -> bool:
        """Whether the paper has numbers for this data set."""
        return self.dataset == paper.MNIST.name

    @property
    def title(self) -> str:
        """The heading of the page."""
        return "MNIST" if self.beside_paper else self.dataset


def write_fit_report(facts: FitReport, folder: str | Path) -> Path:
    """Write ``report.html`` and ``pictures/*.png``, and return the path of the page.

    The page needs no other file and loads nothing from elsewhere. Files appear whole or not at all, the page last;
    pictures of earlier reports in the folder, which is made when missing, are replaced by name. An `InputError` if
    pictures or numbers do not fit together; a `ScattergenError` if a file cannot be written.

    Example:
        >>> import tempfile
        >>> facts = FitReport(dataset="toy", image_shape=(1, 28, 28), n_train=100)
        >>> write_fit_report(facts, tempfile.mkdtemp()).name
        'report.html'
    """
    folder, files = Path(folder), _PictureFiles()
    options = [(name, value) for name, value in flatten(facts.config).items() if value not in ({}, [])]
    of_fit = facts.config.get("densities")
    added = [entry.name for entry in facts.densities if isinstance(of_fit, Mapping) and entry.name not in of_fit]
    page = render(
        "fit.html.j2", facts=facts, title=facts.title, paper=paper.MNIST if facts.beside_paper else None,
        total=sum(seconds for _, seconds in facts.stages), options=options, added=added,
        expectation=facts.judgement and in_words(facts.judgement, facts.n_train), board=_scoreboard(facts),
        references=(REAL, DECODER, LEAST_SQUARES), use=facts.run and (repr(facts.run), shlex.quote(facts.run)),
        machine=[*facts.machine.items(), *([("scattergen", facts.version)] * bool(facts.version))],
        **_quality(facts, files), **_samples(facts, files), **_leading_components(facts, files),
        **_codes(facts, files), training=_training(facts, files), **_evaluation(facts), **_likeness(facts),
    )  # fmt: skip
    pictures = {folder / "pictures" / name: content for name, content in files.items()}
    for path, content in [*pictures.items(), (folder / "report.html", page.encode())]:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return folder / "report.html"


def _scoreboard(facts: FitReport) -> list[tuple[str, Row, float | None]]:
    """Name, scores and seconds of training of what the best density is compared with, and of all densities."""
    if facts.judgement is None:
        return []
    rows = facts.judgement.rows
    seconds = {**dict(facts.stages), **{entry.name: entry.seconds for entry in facts.densities}}
    densities = sorted(rows.keys() - {REAL, DECODER, LEAST_SQUARES}, key=lambda name: rows[name].kernel)
    order = [name for name in (REAL, DECODER, *densities, LEAST_SQUARES) if name in rows]
    return [(name, rows[name], seconds.get(name)) for name in order]


def _evaluation(facts: FitReport) -> dict[str, Any]:
    """The picture of what `evaluate` found."""
    if facts.evaluation is None:
        return {"by_time": None}
    found, points, lines = facts.evaluation, {}, {}
    for name, row in found["rows"].items():
        distance, seconds = row["frechet"]["value"], row["training_seconds"]
        if row["images_per_second"] is None:
            lines[name] = distance
        elif seconds is not None:
            points[name] = (seconds, distance)
    title = f"Fréchet distance to {found['against']}, {found['features']['name']} features"
    return {"by_time": themed(lambda theme: plots.quality_by_time(points, lines, title, theme))}


def _likeness(facts: FitReport) -> dict[str, Any]:
    """Lines between images, and samples beside the training images that they are most like."""
    morphs = None if facts.morphs is None else grid(facts.morphs, _GRID_COLUMNS, pad=2)
    pairs = [] if facts.nearest is None else [grid(pair, columns=2) for pair in torch.stack(facts.nearest, dim=1)]
    return {"morphs": morphs, "neighbours": pairs}


class _PictureFiles(dict[str, bytes]):
    """Name to content of each PNG file that goes beside the page."""

    def keep(self, name: str, content: bytes) -> None:
        """Add a file; the name may hold anything and is made fit for a file system."""
        stem = re.sub(r"[^\w.+-]", lambda found: f"%{ord(found[0]):x}", name)
        self[f"{stem}.png"] = content

    def themed(self, name: str, draw: Callable[[plots.Theme], Figure]) -> Picture:
        """A figure in both themes, of which the light one becomes a file."""
        picture = themed(draw)
        self.keep(name, picture.png)
        return picture


def _quality(facts: FitReport, files: _PictureFiles) -> dict[str, Any]:
    """Pairs of test images and their reconstructions, and mean and percentiles 5, 50 and 95 of their quality."""
    quality = {}
    for name, values in (("psnr", facts.psnr), ("ssim", facts.ssim)):
        if values is not None and len(values):
            array = values.double().numpy()
            # "lower" picks a value that is there: interpolating next to an infinite PSNR gives NaN.
            percentiles = np.quantile(array, [0.05, 0.5, 0.95], method="lower")
            quality[name] = [float(array.mean()), *percentiles.tolist()]
    x, y = facts.originals, facts.reconstructions
    if x is None or y is None or not len(x):
        return {"quality": quality, "pairs": []}
    decibels = [f"{number(value, 1)} dB" for value in psnr(x, y).tolist()]
    similar = [""] * len(decibels)
    if min(x.shape[-2:]) >= WINDOW_SIZE:
        similar = [f"{value:.3f}" for value in ssim(x, y).tolist()]
    labels = [f"{a}   {b}".rstrip() for a, b in zip(decibels, similar, strict=True)]
    files.keep("reconstructions", plots.figure_png(plots.reconstruction_pairs(x, y, labels)))
    pictures = [grid(pair, columns=2) for pair in torch.stack([x, y], dim=1)]
    return {"quality": quality, "pairs": list(zip(pictures, decibels, similar, strict=True))}


def _samples(facts: FitReport, files: _PictureFiles) -> dict[str, Any]:
    """A band of samples for the top, and the sample grid of every density."""
    entries = {entry.name: entry for entry in facts.densities}
    if not entries:
        return {"featured": None, "cards": []}
    chosen = entries.get(facts.featured or "mixture", facts.densities[-1])
    count = len(chosen.samples)
    if count > _HERO_COLUMNS:
        count -= count % _HERO_COLUMNS
    # Two halves, which stand side by side where there is room, and else one above the other.
    halves = chosen.samples[:count].split(count // 2 if count > _HERO_COLUMNS else count)
    band = [grid(half, _HERO_COLUMNS // 2 if len(halves) > 1 else _HERO_COLUMNS, side=112, pad=8) for half in halves]
    grids = {name: entry.samples for name, entry in entries.items()}
    efforts = {name: _effort(entry) for name, entry in entries.items()}
    files.keep("densities", plots.figure_png(plots.density_grids(grids, efforts)))
    cards = []
    for entry in facts.densities:
        picture = grid(entry.samples, _GRID_COLUMNS)
        files.keep(f"samples-{entry.name}", picture.png)
        # Those of a class-conditional density are nested.
        known = {name.removeprefix("keywords."): value for name, value in flatten(entry.hyperparameters).items()}
        settings = {name: value for name, value in known.items() if value not in (None, {}, [])}
        cards.append({"entry": entry, "picture": picture, "effort": efforts[entry.name], "settings": settings})
    return {"featured": {"name": chosen.name, "seed": chosen.seed, "count": count, "pictures": band}, "cards": cards}


def _effort(entry: DensityEntry) -> str:
    time = f"trained in {duration(entry.seconds)}"
    return time if entry.epochs is None else f"{entry.epochs} {'epoch' if entry.epochs == 1 else 'epochs'}, {time}"


def _leading_components(facts: FitReport, files: _PictureFiles) -> dict[str, Any]:
    """The visualisation matrices, and what the paper's values are to this decoder."""
    matrices, deviations = [], []
    for matrix in facts.visualisation:
        name = f"visualisation-matrix-{'paper' if matrix.paper else 'sigma'}"
        draw = partial(plots.visualisation_matrix, matrix.images, matrix.first, matrix.second, matrix.sigma)
        matrices.append((matrix, files.themed(name, draw)))
        if matrix.paper and facts.beside_paper:
            for sigma, values in zip(matrix.sigma, (matrix.first, matrix.second), strict=True):
                deviations += [abs(value / sigma) for value in values]
    reach = (min(deviations), max(deviations)) if deviations else None
    decoder = facts.config.get("decoder")
    unit_norm = isinstance(decoder, Mapping) and bool(decoder.get("unit_norm"))
    return {"matrices": matrices, "reach": reach, "unit_norm": unit_norm and reach is not None}


def _codes(facts: FitReport, files: _PictureFiles) -> dict[str, Any]:
    """The variance of the components, and whether they are normal."""
    found: dict[str, Any] = {"spectrum": None, "kept": None, "exceeded": None, "curves": {}, "effects": {}}
    values, kept = facts.eigenvalues, facts.explained_variance
    if values is not None:
        found["spectrum"] = files.themed("eigenvalues", partial(plots.eigenvalue_spectrum, values))
        if kept is not None:
            found["kept"] = files.themed("explained-variance", partial(plots.cumulative_variance, values, kept))
    theirs = paper.MNIST.rejections if facts.beside_paper else {}
    if facts.normality is not None and facts.rejections:
        for test in plots.TEST_NAMES:
            draw = partial(plots.rejections_by_n, facts.rejections, test, facts.normality.d, theirs.get(test))
            found["curves"][test] = files.themed(f"rejections-{test.lower()}", draw)
        found["exceeded"] = paper.exceeded_at(facts.rejections, theirs) if facts.beside_paper else None
    if facts.skewness is not None and facts.excess_kurtosis is not None:
        for name, effect in (("|skewness|", facts.skewness), ("|excess kurtosis|", facts.excess_kurtosis)):
            sizes = np.abs(np.asarray(effect, dtype=np.float64))
            sizes = sizes[np.isfinite(sizes)]  # constant components have none
            if sizes.size:
                found["effects"][name] = np.quantile(sizes, [0.05, 0.5, 0.95, 1.0]).tolist()
    return found


def _training(facts: FitReport, files: _PictureFiles) -> dict[str, Picture]:
    """The decoder's curves, by their titles."""
    curves = {}
    for name, series, title in (
        ("training-loss", {"validation/loss": "validation", "loss": "training"}, "Decoder: loss"),
        ("validation-psnr", {"validation/psnr": "validation"}, "Decoder: validation PSNR, dB"),
    ):
        if any(row.get(key) is not None for row in facts.history for key in series):
            curves[title] = files.themed(name, partial(plots.training_curve, facts.history, series, title))
    return curves
