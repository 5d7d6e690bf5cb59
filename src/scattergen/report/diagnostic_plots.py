"""Pictures of codes (n, d), and of samples of a density in the contrast colour: marginals, quantiles, dependence."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import stats

from scattergen.report.plots import LIGHT, Theme, add_legend, new_figure, styled_axes

Floats = NDArray[np.float64]
_COLUMNS, _SHOWN = 4, 12  # panels of marginals and quantiles
_POINTS = 1500  # of a scatter plot; more hide each other
_RANGE = 4.0  # standard deviations
_SMALLEST_RANGE = 0.05  # of the heat map: below it, everything is noise
_LABEL: dict[str, Any] = {"fontsize": 8, "color": LIGHT.muted}  # of the axes of all panels


def marginal_histograms(codes: Floats, samples: Floats | None, name: str) -> Figure:
    """Histograms of the 12 leading components beside N(0, 1); values beyond ±4 are counted in the outer bins."""
    bins, x = np.linspace(-_RANGE, _RANGE, 41), np.linspace(-_RANGE, _RANGE, 161)

    def heights(values: Floats) -> Floats:
        return np.histogram(values.clip(-_RANGE, _RANGE), bins)[0] / len(values) / (bins[1] - bins[0])

    figure, components = _by_component(codes, samples, name)
    for axes, column, other in components:
        axes.stairs(heights(column), bins, fill=True, color=LIGHT.accent, alpha=0.55)
        axes.plot(x, stats.norm.pdf(x), color=LIGHT.ink, lw=1, ls="--")
        if other is not None:
            axes.stairs(heights(other), bins, color=LIGHT.contrast, lw=1.2)
        axes.set(xticks=[-3, 0, 3], yticks=[])
    figure.supxlabel("code", **_LABEL)
    return figure


def normal_quantiles(codes: Floats, samples: Floats | None, name: str) -> Figure:
    """QQ plots of the 12 leading components: points of a normal one lie on the dashed line."""
    figure, components = _by_component(codes, samples, name)
    for axes, column, other in components:
        axes.plot([-_RANGE, _RANGE], [-_RANGE, _RANGE], color=LIGHT.ink, lw=1, ls="--")
        for values, color in ((other, LIGHT.contrast), (column, LIGHT.accent)):
            if values is not None:
                expected = stats.norm.ppf((np.arange(len(values)) + 0.5) / len(values))
                axes.plot(expected, np.sort(values), color=color, lw=1.4)
        axes.set_xticks([-3, 0, 3])
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlim(-_RANGE, _RANGE)
    figure.supxlabel("quantile of N(0, 1)", **_LABEL)
    figure.supylabel("quantile of the component", **_LABEL)
    return figure


def component_pairs(codes: Floats, pairs: Sequence[tuple[int, int]], samples: Floats | None, name: str) -> Figure:
    """Scatter plots of pairs of components, given by their numbers, of 1,500 codes at most."""
    figure, panels = _panels(len(pairs), min(3, len(pairs)), 2.5, 2.5)
    for axes, (i, j) in zip(panels, pairs, strict=True):
        for table, color in ((codes, LIGHT.accent), (samples, LIGHT.contrast)):
            if table is not None:
                shown = table[:_POINTS]
                axes.plot(shown[:, i], shown[:, j], ".", color=color, ms=2.2, alpha=0.45, mew=0, rasterized=True)
        limit = max(_RANGE, float(np.quantile(np.abs(codes[:, [i, j]]), 0.999)))
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        axes.set_xlabel(f"component {i + 1}", labelpad=1)
        axes.set_ylabel(f"component {j + 1}", labelpad=1)
    _legend(figure, None if samples is None else name, dots=True)
    return figure


def dependence_heat_map(correlation: Floats, of_samples: Floats | None, name: str, theme: Theme = LIGHT) -> Figure:
    """Distance correlation (d, d) of every pair of components; that of samples fills the half below the diagonal."""
    shown = correlation.copy()
    title = "Distance correlation of ranks"
    if of_samples is not None:
        lower = np.tril_indices(len(shown), k=-1)
        shown[lower] = of_samples[lower]
        title += f"\nabove the diagonal: codes; below: {name}"
    np.fill_diagonal(shown, np.nan)
    top = float(np.max(shown, initial=_SMALLEST_RANGE, where=np.isfinite(shown)))
    figure = new_figure(5.0, 4.6, theme)
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.08)
    axes = styled_axes(figure, theme, 7)
    colors = LinearSegmentedColormap.from_list("dependence", [theme.background, theme.accent])
    edge = len(shown) + 0.5
    image = axes.imshow(shown, cmap=colors, vmin=0, vmax=top, extent=(0.5, edge, edge, 0.5), interpolation="nearest")
    axes.set_title(title, loc="left", fontsize=9, color=theme.ink, pad=9, parse_math=False)
    axes.set(xlabel="component", ylabel="component")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    scale = figure.colorbar(image, ax=axes, shrink=0.85)
    scale.outline.set_visible(False)
    scale.ax.tick_params(colors=theme.muted, labelsize=8, length=0)
    return figure


def _by_component(
    codes: Floats, samples: Floats | None, name: str
) -> tuple[Figure, list[tuple[Axes, Floats, Floats | None]]]:
    """A figure with a panel for each leading component of codes and, if there are any, of samples."""
    count = min(_SHOWN, codes.shape[1])
    figure, panels = _panels(count, min(_COLUMNS, count), 1.75, 1.5)
    for k, axes in enumerate(panels):
        axes.set_title(f"component {k + 1}", loc="left", fontsize=8, color=LIGHT.ink, pad=3)
    _legend(figure, None if samples is None else name)
    return figure, [(axes, codes[:, k], None if samples is None else samples[:, k]) for k, axes in enumerate(panels)]


def _panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Panels of so many inches, row by row, below a strip for the legend."""
    rows = math.ceil(count / columns)
    figure = new_figure(max(width * columns + 0.2, 3.6), height * rows + 0.45, LIGHT)
    figure.set_layout_engine("constrained", h_pad=0.06, w_pad=0.06)
    return figure, [styled_axes(figure, LIGHT, 7, rows, columns, k + 1) for k in range(count)]


def _legend(figure: Figure, name: str | None, *, dots: bool = False) -> None:
    """Say what is codes and what samples, as dots, or else as lines, beside that of N(0, 1)."""
    lines = [("codes", LIGHT.accent, "-")]
    lines += [] if name is None else [(name, LIGHT.contrast, "-")]
    lines += [] if dots else [("N(0, 1)", LIGHT.ink, "--")]
    style: dict[str, Any] = {"marker": "o", "ms": 4, "lw": 0} if dots else {"lw": 2}
    handles = [Line2D([], [], color=color, ls=ls, label=label, **style) for label, color, ls in lines]
    add_legend(figure, LIGHT, fontsize=8, handles=handles, loc="outside upper left", ncols=len(lines))
