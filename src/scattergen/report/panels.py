"""Images, copied without resampling, with words around them: pairs, grids side by side, the visualisation matrix."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from scattergen.errors import InputError
from scattergen.image_files import image_grid
from scattergen.report.plots import DPI, LIGHT, Theme, new_figure

MARGIN, GAP = 48, 8
LABEL, TITLE = 19, 27  # pixels of letters


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
    if originals.shape != reconstructions.shape or len(labels) != len(originals):
        raise InputError(
            f"pairs need as many reconstructions and labels as originals, got "
            f"{tuple(originals.shape)}, {tuple(reconstructions.shape)} and {len(labels)} labels."
        )
    pairs = [image_grid(pair, columns=2, pad=0) for pair in torch.stack([originals, reconstructions], dim=1)]
    return _tiles(pairs, [], labels, columns, gap=28, theme=LIGHT)


def density_grids(
    grids: Mapping[str, Tensor], notes: Mapping[str, str] | None = None, columns: int = 8, theme: Theme = LIGHT
) -> Figure:
    """Grids of samples (N, C, H, W) of several densities side by side, each between its name and a note."""
    if not grids:
        raise InputError("there are no samples to show: pass at least one density.")
    pictures = [enlarged(images, columns, side=56, pad=4) for images in grids.values()]
    lines = [(notes or {}).get(name, "") for name in grids]
    return _tiles(pictures, list(grids), lines, columns=4, gap=64, theme=theme)


def visualisation_matrix(
    images: Tensor, first: Sequence[float], second: Sequence[float], sigma: tuple[float, float], theme: Theme = LIGHT
) -> Figure:
    """Figure 1 of the paper, given what `VisualisationMatrix` holds."""
    if len(images) != len(first) * len(second) or not min(sigma) > 0:
        raise InputError(
            f"a visualisation matrix of {len(first)} x {len(second)} values needs as many images "
            f"and two positive standard deviations, got {len(images)} images and {sigma}."
        )
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
    """A number with its sign (a true minus), to three significant digits.

    >>> signed(-18.796), signed(0.5319)
    ('−18.8', '+0.532')
    """
    return f"{value:+.3g}".replace("-", "−")


def _tiles(
    pictures: Sequence[Image.Image], titles: Sequence[str], notes: Sequence[str], columns: int, gap: int, theme: Theme
) -> Figure:
    """Pictures of one size in rows, with a title above and a note below each."""
    columns = min(columns, len(pictures))
    width, height = pictures[0].size
    above, below = 52 if titles else 0, 40 if any(notes) else 0
    rows = -(-len(pictures) // columns)
    step_y = above + height + below + gap
    sheet = _Sheet(2 * MARGIN + columns * (width + gap) - gap, 2 * MARGIN + rows * step_y - gap, theme)
    for index, picture in enumerate(pictures):
        x, y = MARGIN + (index % columns) * (width + gap), MARGIN + (index // columns) * step_y
        if titles:
            sheet.text(titles[index], x, y + 20, size=TITLE)
        sheet.image(picture, x, y + above)
        sheet.text(notes[index], x, y + above + height + 22, color=theme.muted)
    return sheet.figure
