"""Images with words around them: pairs, grids side by side, the visualisation matrix.

Everything is placed in whole pixels and images are copied without resampling, so that an image of
28 x 28 stays as crisp as it is.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from scattergen.errors import InputError
from scattergen.image_grid import image_grid
from scattergen.report.plots import DPI, LIGHT, Theme, new_figure

MARGIN = 48
GAP = 8
LABEL = 19
TITLE = 27


class _Sheet:
    """A figure addressed in pixels from its top left corner."""

    def __init__(self, width: int, height: int, theme: Theme) -> None:
        self.height, self.width, self.theme = height, width, theme
        self.figure = new_figure(width / DPI, height / DPI, theme)

    def image(self, picture: Image.Image, left: int, top: int) -> None:
        pixels = np.asarray(picture.convert("RGBA"))
        self.figure.figimage(pixels, left, self.height - top - len(pixels), origin="upper")

    def text(
        self,
        words: str,
        x: float,
        y: float,
        size: int = LABEL,
        color: str | None = None,
        align: str = "left",
        rotation: int = 0,
    ) -> None:
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            words,
            fontsize=size * 72 / DPI,
            color=color or self.theme.ink,
            ha=align,
            va="center",
            rotation=rotation,
            # A density's name may hold "$", which would start matplotlib's formula mode.
            parse_math=False,
        )


def reconstruction_pairs(
    originals: Tensor, reconstructions: Tensor, labels: Sequence[str], columns: int = 8, theme: Theme = LIGHT
) -> Figure:
    """Pairs of an original (left) and its reconstruction (right), each with a line below it.

    Args:
        originals: images in [0, 1], shape (N, C, H, W).
        reconstructions: images of the same shape.
        labels: one line per pair, such as its PSNR and SSIM.
        columns: pairs in a row.
        theme: colours.

    Returns:
        A figure.

    Raises:
        InputError: the shapes differ, or there is not one label per pair.

    Example:
        >>> x = torch.zeros(2, 1, 28, 28)
        >>> figure = reconstruction_pairs(x, x, ["30 dB", "28 dB"])
    """
    if originals.shape != reconstructions.shape or len(labels) != len(originals):
        raise InputError(
            f"pairs need as many reconstructions and labels as originals, got "
            f"{tuple(originals.shape)}, {tuple(reconstructions.shape)} and {len(labels)} labels."
        )
    stacked = torch.stack([originals, reconstructions], dim=1)
    pairs = [image_grid(pair, columns=2, pad=0) for pair in stacked]
    return _tiles(pairs, None, labels, columns, gap=28, theme=theme)


def density_grids(
    grids: Mapping[str, Tensor],
    notes: Mapping[str, str] | None = None,
    columns: int = 8,
    per_row: int = 4,
    theme: Theme = LIGHT,
) -> Figure:
    """Sample grids of several densities side by side, each under its name.

    Args:
        grids: name -> decoded samples in [0, 1], shape (N, C, H, W).
        notes: name -> a line below its grid, such as how long its training took.
        columns: images in a row of each grid.
        per_row: grids in a row of the figure.
        theme: colours.

    Returns:
        A figure.

    Raises:
        InputError: there is no grid.

    Example:
        >>> figure = density_grids({"gaussian": torch.zeros(16, 1, 28, 28)}, columns=4)
    """
    if not grids:
        raise InputError("there are no samples to show: pass at least one density.")
    pictures = [
        image_grid(x, columns=columns, pad=4, scale=max(1, round(56 / max(x.shape[-2:]))), fill=None)
        for x in grids.values()
    ]
    lines = [(notes or {}).get(name, "") for name in grids]
    return _tiles(pictures, list(grids), lines, per_row, gap=64, theme=theme)


def visualisation_matrix(
    images: Tensor, first: Sequence[float], second: Sequence[float], sigma: tuple[float, float], theme: Theme = LIGHT
) -> Figure:
    """Decoded codes of which only the two leading components differ from zero.

    Args:
        images: shape (len(first) * len(second), C, H, W); the second component varies fastest.
        first: values of the first component, unwhitened, from the top row to the bottom one.
        second: values of the second component, unwhitened, from left to right.
        sigma: standard deviations of the two components, unwhitened; tick labels give each value
            in its own units and in these.
        theme: colours.

    Returns:
        A figure.

    Raises:
        InputError: the number of images does not fit, or a standard deviation is not positive.

    References:
        Ziomek & Farrahi, Modelling nonlinear dependencies in the latent space of inverse
        scattering, figure 1.

    Example:
        >>> x = torch.zeros(4, 1, 28, 28)
        >>> figure = visualisation_matrix(x, [-1, 1], [-2, 2], sigma=(0.5, 0.4))
    """
    if len(images) != len(first) * len(second) or not min(sigma) > 0:
        raise InputError(
            f"a visualisation matrix of {len(first)} x {len(second)} values needs as many images "
            f"and two positive standard deviations, got {len(images)} images and {sigma}."
        )
    scale = max(1, round(112 / max(images.shape[-2:])))
    picture = image_grid(images, columns=len(second), pad=GAP, scale=scale, fill=None)
    left, top = 186, 146
    sheet = _Sheet(left + picture.width + MARGIN, top + picture.height + MARGIN, theme)
    sheet.image(picture, left, top)
    step_x = (picture.width + GAP) / len(second)
    step_y = (picture.height + GAP) / len(first)
    for index, value in enumerate(second):
        x = left + (index + 0.5) * step_x - GAP / 2
        sheet.text(signed(value), x, top - 52, size=24, align="center")
        sheet.text(f"{signed(value / sigma[1])} σ", x, top - 24, color=theme.muted, align="center")
    for index, value in enumerate(first):
        y = top + (index + 0.5) * step_y - GAP / 2
        sheet.text(signed(value), left - 18, y - 13, size=24, align="right")
        sheet.text(f"{signed(value / sigma[0])} σ", left - 18, y + 15, color=theme.muted, align="right")
    x, y = left + picture.width / 2, top + picture.height / 2
    sheet.text("second component  →", x, 40, color=theme.accent, align="center")
    sheet.text("←  first component", 38, y, color=theme.accent, align="center", rotation=90)
    return sheet.figure


def signed(value: float) -> str:
    """A number with its sign (a true minus), to three significant digits.

    Args:
        value: any number.

    Returns:
        Its text.

    Example:
        >>> signed(-18.796), signed(0.5319)
        ('−18.8', '+0.532')
    """
    return f"{value:+.3g}".replace("-", "−")


def _tiles(
    pictures: Sequence[Image.Image],
    titles: Sequence[str] | None,
    notes: Sequence[str],
    columns: int,
    gap: int,
    theme: Theme,
) -> Figure:
    """Pictures of one size in rows, with a title above and a note below each."""
    columns = min(columns, len(pictures))
    width, height = pictures[0].size
    above = 52 if titles else 0
    below = 40 if any(notes) else 0
    rows = -(-len(pictures) // columns)
    step_y = above + height + below + gap
    sheet = _Sheet(2 * MARGIN + columns * (width + gap) - gap, 2 * MARGIN + rows * step_y - gap, theme)
    for index, picture in enumerate(pictures):
        x = MARGIN + (index % columns) * (width + gap)
        y = MARGIN + (index // columns) * step_y
        if titles:
            sheet.text(titles[index], x, y + 20, size=TITLE)
        sheet.image(picture, x, y + above)
        sheet.text(notes[index], x, y + above + height + 22, color=theme.muted)
    return sheet.figure
