"""Curves that only a reproduction has."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from scattergen.report.plots import LIGHT, Theme, axis_number, panel

SMALLEST_EFFECT = 0.01
"""Smaller effect sizes are drawn here, since a logarithm cannot show 0."""


def effect_sizes_by_component(
    skewness: NDArray[np.float64], excess_kurtosis: NDArray[np.float64], theme: Theme = LIGHT
) -> Figure:
    """Absolute skewness and excess kurtosis of every component.

    Args:
        skewness: (d,), components in the order of decreasing variance.
        excess_kurtosis: (d,).
        theme: Colours.

    Returns:
        A figure of one panel with logarithmic axes.

    Example:
        >>> figure = effect_sizes_by_component(np.array([0.0, -1.0]), np.array([2.0, 3.0]))
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [0.01, 1.0]
    """
    figure, axes = panel("Effect size of each component", theme, extra_height=0.3)
    component = np.arange(1, len(skewness) + 1)
    for values, label, color in (
        (skewness, "|skewness|", theme.accent),
        (excess_kurtosis, "|excess kurtosis|", theme.contrast),
    ):
        sizes = np.maximum(np.abs(values), SMALLEST_EFFECT)
        axes.loglog(component, sizes, "o", color=color, markersize=2, label=label)
    axes.set_xlabel("component")
    axes.xaxis.set_major_formatter(FuncFormatter(axis_number))
    axes.yaxis.set_major_formatter(FuncFormatter(axis_number))
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=7.5, labelcolor=theme.ink, handlelength=3)
    return figure


def quality_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    points: Mapping[str, tuple[float, float]],
    title: str,
    theme: Theme = LIGHT,
) -> Figure:
    """A distance, lower being better, against seconds of training.

    Args:
        curves: Name to (seconds, distance) pairs of one training.
        points: Name to (seconds, distance) of what was measured at its end only.
        title: What the vertical axis shows.
        theme: Colours.

    Returns:
        A figure of one panel with logarithmic axes.

    Example:
        >>> figure = quality_curves({"a": [(1, 9), (2, 4)]}, {"b": (3, 1)}, "distance")
        >>> len(figure.axes[0].lines)
        2
    """
    figure, axes = panel(title, theme, extra_height=0.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for (name, pairs), style in zip(curves.items(), ("-", "--", ":"), strict=False):
        seconds, distances = zip(*pairs, strict=True)
        axes.plot(seconds, distances, style, color=theme.contrast, marker="o", markersize=3, label=name)
    for name, (at, distance) in points.items():
        axes.plot(at, distance, "o", color=theme.accent, markersize=5)
        axes.annotate(name, (at, distance), xytext=(5, 4), textcoords="offset points", fontsize=7.5, color=theme.ink)
    axes.set_xlabel("seconds of generative training")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(axis_number))
        axis.set_minor_locator(NullLocator())
    axes.margins(x=0.15, y=0.1)
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=7.5, labelcolor=theme.ink, handlelength=3)
    return figure


def rate_curves(
    trials: Mapping[str, Mapping[float, Sequence[float | None]]], title: str, theme: Theme = LIGHT
) -> Figure:
    """A distance, lower being better, against the factor of the learning rate.

    A line through the geometric means over seeds, a band from the best seed to the worst, and a
    cross at the upper edge for every training that diverged.

    Args:
        trials: Name of a method to factor to the distance of every seed; None if it diverged.
        title: What the vertical axis shows.
        theme: Colours.

    Returns:
        A figure of one panel with logarithmic axes.

    Example:
        >>> figure = rate_curves({"a": {0.1: [9.0, 4.0], 1: [2.0, None]}}, "distance")
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [6.0, 2.0]
    """
    figure, axes = panel(title, theme, extra_height=0.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    styles = zip(("-", "--", ":"), (theme.accent, theme.contrast, theme.ink), strict=True)
    for (name, by_factor), (style, color) in zip(trials.items(), styles, strict=False):
        found = {k: [d for d in by_factor[k] if d is not None] for k in sorted(by_factor)}
        found = {factor: distances for factor, distances in found.items() if distances}
        means = [float(np.exp(np.mean(np.log(d)))) for d in found.values()]
        axes.plot(list(found), means, style, color=color, marker="o", markersize=3, label=name, lw=1.6)
        low, high = ([f(d) for d in found.values()] for f in (min, max))
        axes.fill_between(list(found), low, high, color=color, alpha=0.18, linewidth=0)
        lost = [k for k, distances in by_factor.items() for d in distances if d is None]
        axes.plot(
            lost, [0.97] * len(lost), "x", color=color, markersize=6, label="_", transform=axes.get_xaxis_transform()
        )
    factors = sorted({factor for by_factor in trials.values() for factor in by_factor})
    axes.set_xticks(factors, [rate_factor(factor) for factor in factors])
    axes.set_xlabel("learning rate, as a multiple of each method’s own")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(axis_number))
    axes.yaxis.set_minor_locator(NullLocator())
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=7.5, labelcolor=theme.ink, handlelength=3)
    return figure


def rate_factor(factor: float) -> str:
    """A factor as a person would write it.

    Args:
        factor: Above 0.

    Returns:
        Its text: a fraction if it is below 1.

    Example:
        >>> [rate_factor(factor) for factor in (0.1, 1 / 3, 1, 10.0)]
        ['1/10', '1/3', '1', '10']
    """
    return f"1/{1 / factor:g}" if factor < 1 else f"{factor:g}"
