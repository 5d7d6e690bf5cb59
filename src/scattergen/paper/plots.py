"""Curves that only a reproduction has, each on logarithmic axes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from scattergen.report.plots import LIGHT, Theme, add_legend, add_points, axis_number, panel

Point = tuple[float, float]  # seconds and distance
SMALLEST_EFFECT = 0.01  # smaller effect sizes are drawn here, since a logarithm cannot show 0


def effect_sizes_by_component(
    skewness: NDArray[np.float64], excess_kurtosis: NDArray[np.float64], theme: Theme = LIGHT
) -> Figure:
    """Absolute skewness and excess kurtosis of every component, (d,) in the order of decreasing variance.

    >>> figure = effect_sizes_by_component(np.array([0.0, -1.0]), np.array([2.0, 3.0]))
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [0.01, 1.0]
    """
    figure, axes = panel("Effect size of each component", theme, extra_height=0.3)
    component = np.arange(1, len(skewness) + 1)
    effects = {"|skewness|": skewness, "|excess kurtosis|": excess_kurtosis}
    for (label, values), color in zip(effects.items(), (theme.accent, theme.contrast), strict=True):
        sizes = np.maximum(np.abs(values), SMALLEST_EFFECT)
        axes.loglog(component, sizes, "o", color=color, markersize=2, label=label)
    axes.set_xlabel("component")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(axis_number))
    add_legend(figure, theme, loc="outside lower left", ncols=2, handlelength=3)
    return figure


def quality_curves(
    curves: Mapping[str, Sequence[Point]], points: Mapping[str, Point], title: str, theme: Theme = LIGHT
) -> Figure:
    """A distance, lower being better, against seconds of training; dots are what was measured at its end only."""
    figure, axes = panel(title, theme, extra_height=0.6)
    axes.set(xscale="log", yscale="log")
    for (name, pairs), style in zip(curves.items(), ("-", "--", ":"), strict=False):
        seconds, distances = zip(*pairs, strict=True)
        axes.plot(seconds, distances, style, color=theme.contrast, marker="o", markersize=3, label=name)
    add_points(axes, points, theme)
    axes.set_xlabel("seconds of generative training")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(axis_number))
        axis.set_minor_locator(NullLocator())
    axes.margins(x=0.15, y=0.1)
    add_legend(figure, theme, loc="outside lower left", ncols=2, handlelength=3)
    return figure


def rate_curves(
    trials: Mapping[str, Mapping[float, Sequence[float | None]]], title: str, theme: Theme = LIGHT
) -> Figure:
    """A distance, lower being better, of each method's trainings against the factor of its learning rate.

    A line through the geometric means over seeds, a band from the best seed to the worst, and a cross at the upper edge
    for every training that diverged, whose distance is None.
    """
    figure, axes = panel(title, theme, extra_height=0.6)
    axes.set(xscale="log", yscale="log")
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
    axes.yaxis.set_major_formatter(FuncFormatter(axis_number))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    add_legend(figure, theme, loc="outside lower left", ncols=3, handlelength=3)
    return figure


def rate_factor(factor: float) -> str:
    """A factor as a person would write it: a fraction if it is below 1.

    >>> [rate_factor(factor) for factor in (0.1, 1 / 3, 1, 10.0)]
    ['1/10', '1/3', '1', '10']
    """
    return f"1/{1 / factor:g}" if factor < 1 else f"{factor:g}"
