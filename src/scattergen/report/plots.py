"""Curves of a fitted model.

Each function returns a figure of one panel, so that a page can set panels side by side or below
each other; nothing touches matplotlib's global state.
"""

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from torch import Tensor

from scattergen.diagnostics import RejectionRate
from scattergen.errors import InputError

# Two pixels of the file for each CSS pixel, at 100 CSS pixels to the inch.
DPI = 200
PANEL_INCHES = (4.0, 2.9)
TEST_NAMES = {"K2": "D’Agostino K²", "JB": "Jarque–Bera"}
"""What figures and pages call the tests of normality."""


@dataclass(frozen=True)
class Theme:
    """Colours of a figure; the page has the same in its style sheet.

    Attributes:
        background: of the figure.
        ink: text and main lines.
        muted: ticks, secondary text and lines that are only there for comparison.
        rule: grid lines.
        accent: the quantity that a figure is about.
        contrast: what it is compared with.
    """

    background: str
    ink: str
    muted: str
    rule: str
    accent: str
    contrast: str


LIGHT = Theme("#fdfcf9", "#1d1f23", "#6d6c67", "#e6e2d8", "#0b6470", "#c2482b")
DARK = Theme("#15171a", "#e9e6df", "#9c9990", "#2e3135", "#63bcc4", "#f0896b")


def figure_png(figure: Figure) -> bytes:
    """The PNG file of a figure, at the resolution it was made for.

    Args:
        figure: from a function of this package.

    Returns:
        The content of the file.

    Example:
        >>> figure_png(eigenvalue_spectrum([0.3, 0.1]))[1:4]
        b'PNG'
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def eigenvalue_spectrum(eigenvalues: Tensor | Sequence[float], theme: Theme = LIGHT) -> Figure:
    """Variance of each principal component, on logarithmic axes.

    Args:
        eigenvalues: in decreasing order, shape (d,).
        theme: colours.

    Returns:
        A figure of one panel.

    Example:
        >>> eigenvalue_spectrum([0.3, 0.1, 0.05]).axes[0].get_xscale()
        'log'
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    figure, axes = panel("Variance of each component", theme)
    positive = values > 0  # a rank-deficient fit has zeros, which a logarithm cannot show
    index = np.arange(1, len(values) + 1)
    axes.loglog(index[positive], values[positive], color=theme.accent, linewidth=1.6)
    axes.set_xlabel("component")
    axes.xaxis.set_major_formatter(FuncFormatter(axis_number))
    return figure


def cumulative_variance(
    eigenvalues: Tensor | Sequence[float], explained_variance: float, theme: Theme = LIGHT
) -> Figure:
    """Share of the variance that the leading components keep.

    Args:
        eigenvalues: in decreasing order, shape (d,).
        explained_variance: share of the total variance that all d keep, in [0, 1].
        theme: colours.

    Returns:
        A figure of one panel.

    Example:
        >>> cumulative_variance([0.3, 0.1], 0.8).axes[0].lines[0].get_ydata().tolist()
        [60.0, 80.0]
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    share = 100 * explained_variance * np.cumsum(values) / max(values.sum(), np.finfo(float).tiny)
    figure, axes = panel("Variance kept by the leading components, %", theme)
    axes.semilogx(np.arange(1, len(values) + 1), share, color=theme.accent, linewidth=1.6)
    for target in (50, 90, 99):
        if share[0] < target <= share[-1]:
            count = int(np.searchsorted(share, target)) + 1
            axes.plot([count], [share[count - 1]], "o", color=theme.accent, markersize=4)
            axes.annotate(
                f"{target} % with {count}",
                (count, share[count - 1]),
                (7, -11),
                textcoords="offset points",
                fontsize=7.5,
                color=theme.muted,
            )
    axes.set_xlabel("components")
    axes.set_ylim(top=101)
    axes.xaxis.set_major_formatter(FuncFormatter(axis_number))
    return figure


def training_curve(
    history: Sequence[Mapping[str, float]], series: Mapping[str, str], title: str, theme: Theme = LIGHT
) -> Figure:
    """Quantities recorded during training against the seconds that it took.

    Args:
        history: one mapping per record, each with "seconds" and any of the keys of series.
        series: key -> label of each line; the first is drawn as the main one.
        title: what the vertical axis shows, with its unit.
        theme: colours.

    Returns:
        A figure of one panel; keys that no record has are left out.

    Example:
        >>> history = [{"seconds": 1.0, "loss": 0.5}, {"seconds": 2.0, "loss": 0.4}]
        >>> len(training_curve(history, {"loss": "L1", "absent": "?"}, "loss").axes[0].lines)
        1
    """
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
        legend = axes.legend(frameon=False, fontsize=7.5, labelcolor=theme.ink, handlelength=2.2)
        without_formulas(legend)
    return figure


def quality_by_time(
    densities: Mapping[str, tuple[float, float]], references: Mapping[str, float], title: str, theme: Theme = LIGHT
) -> Figure:
    """A distance, lower being better, against the seconds of training that it took.

    Args:
        densities: name -> (seconds, distance).
        references: name -> distance of what was not trained, drawn as a horizontal line.
        title: what the vertical axis shows.
        theme: colours.

    Returns:
        A figure of one panel with logarithmic axes.

    Example:
        >>> figure = quality_by_time({"gaussian": (0.4, 43)}, {"training images": 0.2}, "distance")
        >>> figure.axes[0].get_yscale()
        'log'
    """
    figure, axes = panel(title, theme, extra_height=0.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for name, (seconds, distance) in densities.items():
        axes.plot(seconds, distance, "o", color=theme.accent, markersize=5)
        axes.annotate(
            name, (seconds, distance), xytext=(5, 4), textcoords="offset points", fontsize=7.5,
            color=theme.ink, parse_math=False,
        )  # fmt: skip
    dashes = itertools.cycle(((0, ()), (0, (4, 2)), (0, (1, 1.5))))
    for (name, distance), dash in zip(references.items(), dashes, strict=False):
        axes.axhline(distance, color=theme.contrast, linewidth=1.2, linestyle=dash, label=name)
    axes.set_xlabel("training time, s")
    axes.xaxis.set_major_formatter(FuncFormatter(axis_number))
    axes.yaxis.set_major_formatter(FuncFormatter(axis_number))
    axes.margins(x=0.18, y=0.08)
    if references:
        legend = axes.legend(frameon=False, fontsize=7.5, labelcolor=theme.ink, handlelength=2.2)
        without_formulas(legend)
    return figure


def rejections_by_n(
    rates: Sequence[RejectionRate], test: str, d: int, paper: Mapping[float, int] | None = None, theme: Theme = LIGHT
) -> Figure:
    """Rejections of one normality test against the sample size.

    Args:
        rates: from :func:`scattergen.diagnostics.rejections_by_sample_size`.
        test: "K2" or "JB".
        d: number of components.
        paper: level -> the paper's count, drawn as a horizontal line.
        theme: colours.

    Returns:
        A figure of one panel; counts are on a logarithmic axis above 1 and a linear one below.

    Raises:
        InputError: rates has no entry for the test.

    Example:
        >>> rates = [RejectionRate(n, "K2", 0.05, n / 10, 5.0) for n in (20, 200)]
        >>> len(rejections_by_n(rates, "K2", d=100).axes[0].lines)
        2
    """
    chosen = [rate for rate in rates if rate.test == test]
    if not chosen:
        raise InputError(f"there are no rejection counts of the test {test!r} to plot.")
    figure, axes = panel(f"{TEST_NAMES[test]}: components rejected, of {d}", theme, extra_height=0.55)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1, linscale=0.4)
    levels = sorted({rate.level for rate in chosen}, reverse=True)
    for level, style in zip(levels, itertools.cycle(("-", "--", ":")), strict=False):
        rows = sorted((r for r in chosen if r.level == level), key=lambda rate: rate.n)
        n = [row.n for row in rows]
        for key, color in (("observed", theme.accent), ("simulated", theme.muted)):
            label = f"{'codes' if key == 'observed' else 'simulated normal'}, {level:g}"
            values = [getattr(row, key) for row in rows]
            axes.plot(n, values, style, color=color, lw=1.6, label=label)
        if paper is not None and level in paper:
            label = f"paper, {level:g}: {paper[level]}"
            axes.axhline(paper[level], ls=style, color=theme.contrast, lw=1, label=label)
    ticks = [tick for tick in (0, 1, 3, 10, 30, 100, 300, 1000) if tick < 0.75 * d]
    axes.yaxis.set_major_locator(FixedLocator([*ticks, d]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, d * 1.25)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(axis_number))
    axes.set_xlabel("n, codes tested")
    # One column of the legend for each level; below the panel, because lines fill all of it.
    legend = figure.legend(
        loc="outside lower left", ncols=len(levels), frameon=False, fontsize=7.5, labelcolor=theme.ink, handlelength=2.6
    )
    without_formulas(legend)
    return figure


def new_figure(width: float, height: float, theme: Theme) -> Figure:
    """An empty figure in inches that draws through Agg, whatever backend the user has."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=theme.background)
    FigureCanvasAgg(figure)
    return figure


def panel(title: str, theme: Theme, extra_height: float = 0) -> tuple[Figure, Axes]:
    """A figure of one panel in the style of all of them.

    Args:
        title: what the panel shows.
        theme: colours.
        extra_height: inches below the panel, as for a legend.

    Returns:
        The figure and its axes.

    Example:
        >>> panel("loss", LIGHT)[1].get_title(loc="left")
        'loss'
    """
    figure = new_figure(PANEL_INCHES[0], PANEL_INCHES[1] + extra_height, theme)
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.08)
    axes = figure.add_subplot(facecolor=theme.background)
    axes.set_title(title, loc="left", fontsize=9, color=theme.ink, pad=9, parse_math=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.muted)
    axes.tick_params(which="both", colors=theme.muted, labelsize=8, length=0)
    axes.xaxis.label.set(color=theme.muted, fontsize=8)
    axes.grid(axis="y", color=theme.rule, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def without_formulas(legend: Legend) -> None:
    """Draw the labels of a legend as they are: in a name, "$" begins no formula.

    Args:
        legend: of a figure.

    Example:
        >>> axes = panel("loss", LIGHT)[1]
        >>> _ = axes.plot([1, 2], label="$b$")
        >>> without_formulas(axes.legend())
        >>> axes.get_legend().get_texts()[0].get_parse_math()
        False
    """
    for text in legend.get_texts():
        text.set_parse_math(False)


def axis_number(value: float, position: object = None) -> str:
    """A tick label: thousands separated, and no zeros after the decimal point.

    Args:
        value: of the tick.
        position: of the tick, which matplotlib passes too.

    Returns:
        Its text.

    Example:
        >>> axis_number(10000), axis_number(0.5)
        ('10,000', '0.5')
    """
    return f"{value:,.0f}" if value >= 1 or value == 0 else f"{value:g}"
