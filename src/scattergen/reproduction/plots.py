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
    figure.legend(
        loc="outside lower left", ncols=2, frameon=False, fontsize=7.5, labelcolor=theme.ink,
        handlelength=3,
    )  # fmt: skip
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
        axes.plot(
            seconds, distances, style, color=theme.contrast, marker="o", markersize=3, label=name
        )
    for name, (at, distance) in points.items():
        axes.plot(at, distance, "o", color=theme.accent, markersize=5)
        axes.annotate(
            name, (at, distance), xytext=(5, 4), textcoords="offset points", fontsize=7.5,
            color=theme.ink,
        )  # fmt: skip
    axes.set_xlabel("seconds of generative training")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(axis_number))
        axis.set_minor_locator(NullLocator())
    axes.margins(x=0.15, y=0.1)
    figure.legend(
        loc="outside lower left", ncols=2, frameon=False, fontsize=7.5, labelcolor=theme.ink,
        handlelength=3,
    )  # fmt: skip
    return figure
