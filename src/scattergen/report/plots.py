"""Curves of a fitted model and of a reproduction; each is a figure of one panel, without matplotlib's global state."""

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike
from torch import Tensor

from scattergen.diagnostics import RejectionRate
from scattergen.errors import InputError

DPI = 200  # two pixels of the file for each CSS pixel, at 100 CSS pixels to the inch
TEST_NAMES = {"K2": "D’Agostino K²", "JB": "Jarque–Bera"}
_SMALLEST_EFFECT = 0.01  # smaller effect sizes are drawn here, since a logarithm cannot show 0

Point = tuple[float, float]  # seconds and distance


@dataclass(frozen=True)
class Theme:
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
    """The content of a figure's PNG file, at the resolution it was made for."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def eigenvalue_spectrum(eigenvalues: Tensor | Sequence[float], theme: Theme = LIGHT) -> Figure:
    """Variance of each principal component, (d,) in decreasing order, on logarithmic axes."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    figure, axes = panel("Variance of each component", theme)
    (positive,) = np.nonzero(values > 0)  # a rank-deficient fit has zeros, which a logarithm cannot show
    axes.loglog(positive + 1, values[positive], color=theme.accent, linewidth=1.6)
    axes.set_xlabel("component")
    axes.xaxis.set_major_formatter(FuncFormatter(axis_number))
    return figure


def cumulative_variance(
    eigenvalues: Tensor | Sequence[float], explained_variance: float, theme: Theme = LIGHT
) -> Figure:
    """Share of the variance that the leading components keep; all d of them keep `explained_variance`, in [0, 1]."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    share = 100 * explained_variance * np.cumsum(values) / max(values.sum(), np.finfo(float).tiny)
    figure, axes = panel("Variance kept by the leading components, %", theme)
    axes.semilogx(np.arange(1, len(values) + 1), share, color=theme.accent, linewidth=1.6)
    for target in (50, 90, 99):
        if share[0] < target <= share[-1]:
            count = int(np.searchsorted(share, target)) + 1
            point = (count, share[count - 1])
            axes.plot(*point, "o", color=theme.accent, markersize=4)
            _annotate(axes, f"{target} % with {count}", point, (7, -11), theme.muted)
    axes.set_xlabel("components")
    axes.set_ylim(top=101)
    axes.xaxis.set_major_formatter(FuncFormatter(axis_number))
    return figure


def training_curve(
    history: Sequence[Mapping[str, float]], series: Mapping[str, str], title: str, theme: Theme = LIGHT
) -> Figure:
    """Quantities recorded during training, whose keys and labels are `series`, against the seconds that it took."""
    figure, axes = panel(title, theme)
    colors = itertools.cycle((theme.accent, theme.contrast, theme.muted))
    for (key, label), color in zip(series.items(), colors, strict=False):
        points = [(row["seconds"], row[key]) for row in history if row.get(key) is not None]
        if points:
            seconds, values = np.asarray(points, dtype=np.float64).T
            marker = "o" if len(points) < 25 else None
            axes.plot(seconds, values, marker=marker, markersize=3, color=color, label=label, lw=1.6)
    axes.set_xlabel("training time, s")
    axes.set_xlim(left=0)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    if len(axes.lines) > 1:
        add_legend(axes, theme, handlelength=2.2)
    return figure


def quality_by_time(densities: Mapping[str, Point], references: Mapping[str, float], title: str) -> Figure:
    """Distance, lower being better, against seconds of training; lines are of what was not trained."""
    figure, axes = panel(title, LIGHT, extra_height=0.6, log=True)
    _add_points(axes, densities, LIGHT)
    dashes = itertools.cycle(((0, ()), (0, (4, 2)), (0, (1, 1.5))))
    for (name, distance), dash in zip(references.items(), dashes, strict=False):
        axes.axhline(distance, color=LIGHT.contrast, linewidth=1.2, linestyle=dash, label=name)
    axes.set_xlabel("training time, s")
    axes.margins(x=0.18, y=0.08)
    if references:
        add_legend(axes, LIGHT, handlelength=2.2)
    return figure


def rejections_by_n(
    rates: Sequence[RejectionRate], test: str, d: int, paper: Mapping[float, int] | None = None, theme: Theme = LIGHT
) -> Figure:
    """Components, of d, that the test "K2" or "JB" rejects among n codes, beside the paper's counts as lines."""
    chosen = [rate for rate in rates if rate.test == test]
    if not chosen:
        raise InputError(f"there are no rejection counts of the test {test!r} to plot.")
    figure, axes = panel(f"{TEST_NAMES[test]}: components rejected, of {d}", theme, extra_height=0.55, log=True)
    axes.set_yscale("symlog", linthresh=1, linscale=0.4)  # linear below a count of 1
    levels = sorted({rate.level for rate in chosen}, reverse=True)
    for level, style in zip(levels, itertools.cycle(("-", "--", ":")), strict=False):
        rows = sorted((r for r in chosen if r.level == level), key=lambda rate: rate.n)
        n = [row.n for row in rows]
        for key, color in (("observed", theme.accent), ("simulated", theme.muted)):
            label = f"{'codes' if key == 'observed' else 'simulated normal'}, {level:g}"
            axes.plot(n, [getattr(row, key) for row in rows], style, color=color, lw=1.6, label=label)
        if paper is not None and level in paper:
            label = f"paper, {level:g}: {paper[level]}"
            axes.axhline(paper[level], ls=style, color=theme.contrast, lw=1, label=label)
    ticks = [tick for tick in (0, 1, 3, 10, 30, 100, 300, 1000) if tick < 0.75 * d]
    axes.yaxis.set_major_locator(FixedLocator([*ticks, d]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, d * 1.25)
    axes.yaxis.set_major_formatter(FuncFormatter(axis_number))
    axes.set_xlabel("n, codes tested")
    # A column for each level; below the panel, because lines fill all of it.
    add_legend(figure, theme, loc="outside lower left", ncols=len(levels), handlelength=2.6)
    return figure


def effect_sizes_by_component(skewness: ArrayLike, excess_kurtosis: ArrayLike, theme: Theme = LIGHT) -> Figure:
    """Absolute skewness and excess kurtosis of every component, (d,) in the order of decreasing variance.

    >>> figure = effect_sizes_by_component([0.0, -1.0], [2.0, 3.0])
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [0.01, 1.0]
    """
    figure, axes = panel("Effect size of each component", theme, extra_height=0.3, log=True)
    effects = (("|skewness|", skewness, theme.accent), ("|excess kurtosis|", excess_kurtosis, theme.contrast))
    for label, values, color in effects:
        sizes = np.maximum(np.abs(values), _SMALLEST_EFFECT)
        axes.plot(np.arange(1, len(sizes) + 1), sizes, "o", color=color, markersize=2, label=label)
    axes.set_xlabel("component")
    add_legend(figure, theme, loc="outside lower left", ncols=2, handlelength=3)
    return figure


def quality_curves(
    curves: Mapping[str, Sequence[Point]], points: Mapping[str, Point], title: str, theme: Theme = LIGHT
) -> Figure:
    """A distance, lower being better, against seconds of training; dots are what was measured at its end only."""
    figure, axes = panel(title, theme, extra_height=0.6, log=True)
    for (name, pairs), style in zip(curves.items(), ("-", "--", ":"), strict=False):
        seconds, distances = zip(*pairs, strict=True)
        axes.plot(seconds, distances, style, color=theme.contrast, marker="o", markersize=3, label=name)
    _add_points(axes, points, theme)
    axes.set_xlabel("seconds of generative training")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.minorticks_off()
    axes.margins(x=0.15, y=0.1)
    add_legend(figure, theme, loc="outside lower left", ncols=2, handlelength=3)
    return figure


def rate_curves(
    trials: Mapping[str, Mapping[float, Sequence[float | None]]], title: str, theme: Theme = LIGHT
) -> Figure:
    """Distances of each method's trainings, None of those that diverged, against the factors of its learning rate."""
    figure, axes = panel(title, theme, extra_height=0.6, log=True)
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
    axes.set_xlabel("learning rate, as a multiple of each method’s own")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.minorticks_off()
    add_legend(figure, theme, loc="outside lower left", ncols=3, handlelength=3)
    return figure


def rate_factor(factor: float) -> str:
    """A factor as a person would write it: a fraction if it is below 1.

    >>> [rate_factor(factor) for factor in (0.1, 1 / 3, 1, 10.0)]
    ['1/10', '1/3', '1', '10']
    """
    return f"1/{1 / factor:g}" if factor < 1 else f"{factor:g}"


def new_figure(width: float, height: float, theme: Theme) -> Figure:
    """An empty figure in inches that draws through Agg, whatever backend the user has."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=theme.background)
    FigureCanvasAgg(figure)
    return figure


def panel(title: str, theme: Theme, extra_height: float = 0, log: bool = False) -> tuple[Figure, Axes]:
    """A figure of one panel in the style of all of them, with so many inches for a legend below it."""
    figure = new_figure(4.0, 2.9 + extra_height, theme)
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.08)
    axes = figure.add_subplot(facecolor=theme.background)
    axes.set_title(title, loc="left", fontsize=9, color=theme.ink, pad=9, parse_math=False)
    style_axes(axes, theme, ticks=8)
    axes.grid(axis="y", color=theme.rule, linewidth=0.8)
    axes.set_axisbelow(True)
    if log:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(axis_number))
    return figure, axes


def style_axes(axes: Axes, theme: Theme, ticks: float) -> None:
    """No frame but the axis below, and labels in the muted colour, those of ticks of this size in points."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.muted)
    axes.tick_params(which="both", colors=theme.muted, labelsize=ticks, length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=theme.muted, fontsize=8)


def _add_points(axes: Axes, points: Mapping[str, Point], theme: Theme) -> None:
    """Dots with their names beside them."""
    for name, point in points.items():
        axes.plot(*point, "o", color=theme.accent, markersize=5)
        _annotate(axes, name, point, (5, 4), theme.ink)


def _annotate(axes: Axes, words: str, point: Point, offset: Point, color: str) -> None:
    axes.annotate(words, point, offset, textcoords="offset points", fontsize=7.5, color=color, parse_math=False)


def add_legend(owner: Axes | Figure, theme: Theme, **options: Any) -> None:
    """A legend in the style of all of them, whose labels are drawn as they are: in a name, "$" begins no formula."""
    legend = owner.legend(**{"frameon": False, "fontsize": 7.5, "labelcolor": theme.ink, **options})
    for text in legend.get_texts():
        text.set_parse_math(False)


def axis_number(value: float, position: object = None) -> str:
    """A tick label: thousands separated, and no zeros after the decimal point.

    >>> axis_number(10000), axis_number(0.5)
    ('10,000', '0.5')
    """
    return f"{value:,.0f}" if value >= 1 or value == 0 else f"{value:g}"
