"""Figures: curves of one panel, and images, copied without resampling, with words around them."""

import io
import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from scattergen.datasets.image_files import image_grid
from scattergen.diagnostics import RejectionRate
from scattergen.display.words import visible
from scattergen.errors import InputError

DPI = 200  # two pixels of the file for each CSS pixel, at 100 CSS pixels to the inch
TEST_NAMES = {"K2": "D’Agostino K²", "JB": "Jarque–Bera"}
_SMALLEST_EFFECT = 0.01  # smaller effect sizes are drawn here, since a logarithm cannot show 0
MARGIN, GAP = 48, 8  # of sheets of images, in pixels
LABEL, TITLE = 19, 27  # pixels of letters there
Point = tuple[float, float]  # seconds and distance


class Theme(NamedTuple):
    """Colours of a figure; the page has the same in its style sheet."""

    background: str
    ink: str
    muted: str  # of ticks, secondary text and lines that are only there for comparison
    rule: str  # of grid lines
    accent: str  # of the quantity that a figure is about
    contrast: str  # of what it is compared with


LIGHT = Theme("#fdfcf9", "#1d1f23", "#6d6c67", "#e6e2d8", "#0b6470", "#c2482b")
DARK = Theme("#15171a", "#e9e6df", "#9c9990", "#2e3135", "#63bcc4", "#f0896b")


def figure_png(figure: Figure) -> bytes:
    """The content of a figure's PNG file, at the resolution it was made for, whatever backend the user has."""
    buffer = io.BytesIO()
    for text in figure.findobj(Text):  # names may hold what cannot be drawn
        text.set_text("\n".join(map(visible, text.get_text().split("\n"))))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # which are drawn as boxes
        FigureCanvasAgg(figure).print_png(buffer)  # `savefig` would draw twice, first for the layout
    return buffer.getvalue()


def eigenvalue_spectrum(eigenvalues: Tensor | Sequence[float], theme: Theme = LIGHT) -> Figure:
    """Variance of each principal component, (d,) in decreasing order, on logarithmic axes."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    figure, axes = panel("Variance of each component", "component", theme)
    (positive,) = np.nonzero(values > 0)  # a rank-deficient fit has zeros, which a logarithm cannot show
    axes.loglog(positive + 1, values[positive], color=theme.accent, linewidth=1.6)
    axes.xaxis.set_major_formatter(FuncFormatter(axis_number))
    return figure


def cumulative_variance(
    eigenvalues: Tensor | Sequence[float], explained_variance: float, theme: Theme = LIGHT
) -> Figure:
    """Share of the variance that the leading components keep; all d of them keep `explained_variance`, in [0, 1]."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    share = 100 * explained_variance * np.cumsum(values) / max(values.sum(), np.finfo(float).tiny)
    figure, axes = panel("Variance kept by the leading components, %", "components", theme)
    axes.semilogx(np.arange(1, len(values) + 1), share, color=theme.accent, linewidth=1.6)
    for target in (50, 90, 99):
        if share[0] < target <= share[-1]:
            count = int(np.searchsorted(share, target)) + 1
            point = (count, share[count - 1])
            axes.plot(*point, "o", color=theme.accent, markersize=4)
            _annotate(axes, f"{target} % with {count}", point, (7, -11), theme.muted)
    axes.set_ylim(top=101)
    axes.xaxis.set_major_formatter(FuncFormatter(axis_number))
    return figure


def training_curve(
    history: Sequence[Mapping[str, float]], series: Mapping[str, str], title: str, theme: Theme = LIGHT
) -> Figure:
    """Quantities recorded during training, whose keys and labels are `series`, against the seconds that it took."""
    figure, axes = panel(title, "training time, s", theme)
    for (key, label), color in zip(series.items(), itertools.cycle((theme.accent, theme.contrast)), strict=False):
        points = [(row["seconds"], row[key]) for row in history if row.get(key) is not None]
        if points:
            seconds, values = np.asarray(points, dtype=np.float64).T
            marker = "o" if len(points) < 25 else None
            axes.plot(seconds, values, marker=marker, markersize=3, color=color, label=label, lw=1.6)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    if len(axes.lines) > 1:
        add_legend(axes, theme, handlelength=2.2)
    return figure


def quality_by_time(
    densities: Mapping[str, Point], references: Mapping[str, float], title: str, theme: Theme = LIGHT, *,
    curves: Mapping[str, Sequence[Point]] | None = None,
) -> Figure:  # fmt: skip
    """Distance, lower being better, against seconds of training.

    Dots are of densities, known at their end only, curves of longer trainings, level lines of what was not trained.
    """
    figure, axes = panel(title, "seconds of generative training", theme, extra_height=0.6, log=True)
    axes.set_ylabel("Fréchet distance, on a log scale")
    for (name, pairs), style in zip((curves or {}).items(), ("-", "--", ":"), strict=False):
        axes.plot(*zip(*pairs, strict=True), style, color=theme.contrast, marker="o", markersize=3, label=name)
    for name, point in densities.items():
        axes.plot(*point, "o", color=theme.accent, markersize=5)
        _annotate(axes, name, point, (5, 4), theme.ink)
    dashes = itertools.cycle(((0, ()), (0, (4, 2)), (0, (1, 1.5))))
    for (name, distance), dash in zip(references.items(), dashes, strict=False):
        axes.axhline(distance, color=theme.contrast, linewidth=1.2, linestyle=dash, label=name)
    axes.minorticks_off()
    axes.margins(x=0.18, y=0.08)
    for axis in (axes.xaxis, axes.yaxis):
        least, most = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if most < 100 * least else (1,)))  # that labels have room
    if references or curves:  # below the panel, where it hides no point
        add_legend(figure, theme, loc="outside lower left", ncols=2, handlelength=2.2)
    return figure


def rejections_by_n(
    rates: Sequence[RejectionRate], test: str, d: int, paper: Mapping[float, int] | None = None, theme: Theme = LIGHT
) -> Figure:
    """Components, of d, that the test "K2" or "JB" rejects among n codes, beside the paper's counts as lines."""
    chosen = [rate for rate in rates if rate.test == test]
    title = f"{TEST_NAMES[test]}: components rejected, of {d}"
    figure, axes = panel(title, "n, codes tested", theme, extra_height=0.55, log=True)
    axes.set_yscale("symlog", linthresh=1, linscale=0.4)  # linear below a count of 1
    levels = sorted({rate.level for rate in chosen}, reverse=True)
    for level, style in zip(levels, itertools.cycle(("-", "--", ":")), strict=False):
        rows = sorted((r for r in chosen if r.level == level), key=lambda rate: rate.n)
        n = [row.n for row in rows]
        for key, color in (("observed", theme.accent), ("simulated", theme.muted)):
            label = f"{'codes' if key == 'observed' else 'simulated normal'}, {level:g}"
            axes.plot(n, [getattr(row, key) for row in rows], style, color=color, lw=1.6, marker=".", label=label)
        if paper is not None and level in paper:
            label = f"paper, {level:g}: {paper[level]}"
            axes.axhline(paper[level], ls=style, color=theme.contrast, lw=1, label=label)
    ticks = [tick for tick in (0, 1, 3, 10, 30, 100, 300, 1000) if tick < 0.75 * d]
    axes.yaxis.set_major_locator(FixedLocator([*ticks, d]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, d * 1.25)
    axes.yaxis.set_major_formatter(FuncFormatter(axis_number))
    # A column for each level; below the panel, because lines fill all of it.
    add_legend(figure, theme, loc="outside lower left", ncols=len(levels), handlelength=2.6)
    return figure


def effect_sizes_by_component(skewness: ArrayLike, excess_kurtosis: ArrayLike, theme: Theme = LIGHT) -> Figure:
    """Absolute skewness and excess kurtosis of every component, (d,) in the order of decreasing variance."""
    figure, axes = panel("Effect size of each component", "component", theme, extra_height=0.3, log=True)
    effects = (("|skewness|", skewness, theme.accent), ("|excess kurtosis|", excess_kurtosis, theme.contrast))
    for label, values, color in effects:
        sizes = np.maximum(np.abs(values), _SMALLEST_EFFECT)
        axes.plot(np.arange(1, len(sizes) + 1), sizes, "o", color=color, markersize=2, label=label)
    add_legend(figure, theme, loc="outside lower left", ncols=2, handlelength=3)
    return figure


def rate_curves(
    trials: Mapping[str, Mapping[float, Sequence[float | None]]], title: str, theme: Theme = LIGHT
) -> Figure:
    """Distances of each method's trainings, None of those that diverged, against the factors of its learning rate."""
    figure, axes = panel(title, "learning rate, as a multiple of each method’s own", theme, extra_height=0.6, log=True)
    styles = zip(("-", "--", ":"), (theme.accent, theme.contrast, theme.ink), strict=True)
    for (name, by_factor), (style, color) in zip(trials.items(), styles, strict=False):
        found = {k: [d for d in by_factor[k] if d is not None] for k in sorted(by_factor)}
        found = {factor: distances for factor, distances in found.items() if distances}
        means = [float(np.exp(np.mean(np.log(d)))) for d in found.values()]
        axes.plot(list(found), means, style, color=color, marker="o", markersize=3, label=name, lw=1.6)
        low, high = ([f(d) for d in found.values()] for f in (min, max))
        axes.fill_between(list(found), low, high, color=color, alpha=0.18, linewidth=0)
        lost = [k for k, distances in by_factor.items() for d in distances if d is None]
        edge, height = axes.get_xaxis_transform(), [0.97] * len(lost)
        axes.plot(lost, height, "x", color=color, markersize=6, label="_", transform=edge)
    factors = sorted({factor for by_factor in trials.values() for factor in by_factor})
    axes.set_xticks(factors, [rate_factor(factor) for factor in factors])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.minorticks_off()
    add_legend(figure, theme, loc="outside lower left", ncols=3, handlelength=3)
    return figure


def rate_factor(factor: float) -> str:
    """A factor as a person would write it: 1/10, 1/3, 1, 10."""
    return f"1/{1 / factor:g}" if factor < 1 else f"{factor:g}"


def new_figure(width: float, height: float, theme: Theme) -> Figure:
    """An empty figure in inches."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor=theme.background)


def panel(title: str, xlabel: str, theme: Theme, extra_height: float = 0, log: bool = False) -> tuple[Figure, Axes]:
    """A figure of one panel in the style of all of them, with so many inches for a legend below it."""
    figure = new_figure(4.0, 2.9 + extra_height, theme)
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.08)
    axes = styled_axes(figure, theme, 8)
    axes.set_title(title, loc="left", fontsize=9, color=theme.ink, pad=9, parse_math=False)
    axes.set_xlabel(xlabel)
    axes.grid(axis="y", color=theme.rule, linewidth=0.8)
    axes.set_axisbelow(True)
    if log:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(axis_number))
    return figure, axes


def styled_axes(figure: Figure, theme: Theme, ticks: float, *place: int) -> Axes:
    """A panel of a figure with no frame but the axis below, and muted labels, those of ticks of this size in points."""
    axes = figure.add_subplot(*place, facecolor=theme.background)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.muted)
    axes.tick_params(which="both", colors=theme.muted, labelsize=ticks, length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=theme.muted, fontsize=8)
    return axes


def _annotate(axes: Axes, words: str, point: Point, offset: Point, color: str) -> None:
    axes.annotate(words, point, offset, textcoords="offset points", fontsize=7.5, color=color, parse_math=False)


def add_legend(owner: Axes | Figure, theme: Theme, **options: Any) -> None:
    """A legend in the style of all of them, whose labels are drawn as they are: in a name, "$" begins no formula."""
    for text in owner.legend(**{"frameon": False, "fontsize": 7.5, "labelcolor": theme.ink, **options}).get_texts():
        text.set_parse_math(False)


def axis_number(value: float, position: object = None) -> str:
    """A tick label, such as 10,000 or 0.5: thousands separated, and no zeros after the decimal point."""
    return f"{value:,.0f}" if value >= 1 or value == 0 else f"{value:g}"


class _Sheet:
    """A figure addressed in pixels from its top left corner."""

    def __init__(self, width: int, height: int, theme: Theme) -> None:
        self.height, self.width, self.theme = height, width, theme
        self.figure = new_figure(width / DPI, height / DPI, theme)

    def image(self, picture: Image.Image, left: int, top: int) -> None:
        pixels = np.asarray(picture.convert("RGBA"))
        self.figure.figimage(pixels, left, self.height - top - len(pixels), origin="upper")

    def text(self, words: str, x: float, y: float, size: int = LABEL, **style: Any) -> None:
        style.setdefault("color", self.theme.ink)
        # A density's name may hold "$", which would start matplotlib's formula mode.
        style |= {"va": "center", "fontsize": size * 72 / DPI, "parse_math": False}
        self.figure.text(x / self.width, 1 - y / self.height, words, **style)


def enlarged(images: Tensor, columns: int, side: int, pad: int) -> Image.Image:
    """Images (N, C, H, W) in rows, enlarged by a whole number to about `side` pixels, transparent between them."""
    scale = max(1, round(side / max(images.shape[-2:])))
    return image_grid(images, columns=columns, pad=pad, scale=scale, fill=None)


def reconstruction_pairs(originals: Tensor, reconstructions: Tensor, labels: Sequence[str], columns: int = 8) -> Figure:
    """Pairs of an original (left) and its reconstruction (right), (N, C, H, W) in [0, 1], each above its label."""
    pairs = [image_grid(pair, columns=2, pad=0) for pair in torch.stack([originals, reconstructions], dim=1)]
    return _tiles(pairs, [], labels, columns, gap=28)


def density_grids(grids: Mapping[str, Tensor], notes: Mapping[str, str]) -> Figure:
    """Grids of samples (N, C, H, W) of several densities side by side, each between its name and its note."""
    pictures = [enlarged(images, columns=8, side=56, pad=4) for images in grids.values()]
    return _tiles(pictures, list(grids), [notes[name] for name in grids], columns=4, gap=64)


def visualisation_matrix(
    images: Tensor, first: Sequence[float], second: Sequence[float], sigma: tuple[float, float], theme: Theme = LIGHT
) -> Figure:
    """Figure 1 of the paper, given what `VisualisationMatrix` holds."""
    if len(images) != len(first) * len(second) or not min(sigma) > 0:
        needs = f"a visualisation matrix of {len(first)} x {len(second)} values needs as many images"
        raise InputError(f"{needs} and two positive standard deviations, got {len(images)} images and {sigma}.")
    picture = enlarged(images, len(second), side=112, pad=GAP)
    left, top = 186, 146
    sheet = _Sheet(left + picture.width + MARGIN, top + picture.height + MARGIN, theme)
    sheet.image(picture, left, top)
    for index, value in enumerate(second):
        x = left + (index + 0.5) * ((picture.width + GAP) / len(second)) - GAP / 2
        sheet.text(signed(value), x, top - 52, size=24, ha="center")
        sheet.text(f"{signed(value / sigma[1])} σ", x, top - 24, color=theme.muted, ha="center")
    for index, value in enumerate(first):
        y = top + (index + 0.5) * ((picture.height + GAP) / len(first)) - GAP / 2
        sheet.text(signed(value), left - 18, y - 13, size=24, ha="right")
        sheet.text(f"{signed(value / sigma[0])} σ", left - 18, y + 15, color=theme.muted, ha="right")
    x, y = left + picture.width / 2, top + picture.height / 2
    sheet.text("second component  →", x, 40, color=theme.accent, ha="center")
    sheet.text("←  first component", 38, y, color=theme.accent, ha="center", rotation=90)
    return sheet.figure


def signed(value: float) -> str:
    """A number with its sign (a true minus), to three significant digits: −18.8, +0.532."""
    return f"{value:+.3g}".replace("-", "−")


def _tiles(
    pictures: Sequence[Image.Image], titles: Sequence[str], notes: Sequence[str], columns: int, gap: int
) -> Figure:
    """Pictures of one size in rows, with a title above and a note below each."""
    columns = min(columns, len(pictures))
    width, height = pictures[0].size
    above, below = 52 if titles else 0, 40 if any(notes) else 0
    rows = -(-len(pictures) // columns)
    step_y = above + height + below + gap
    sheet = _Sheet(2 * MARGIN + columns * (width + gap) - gap, 2 * MARGIN + rows * step_y - gap, LIGHT)
    for index, picture in enumerate(pictures):
        x, y = MARGIN + (index % columns) * (width + gap), MARGIN + (index // columns) * step_y
        if titles:
            sheet.text(titles[index], x, y + 20, size=TITLE)
        sheet.image(picture, x, y + above)
        sheet.text(notes[index], x, y + above + height + 22, color=LIGHT.muted)
    return sheet.figure
