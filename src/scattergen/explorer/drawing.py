"""Pictures as HTML and SVG in the page's own colours, so that they are light or dark as it is."""

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scattergen.image_files import image_grid, png

_SIDE, _CELL = 200, 10  # of a panel and of one pair of components, in units of the drawing
_POINTS = 500
_RANGE = 4.0  # standard deviations
_SMALLEST = 0.05  # top of the colours of dependence: below it, everything is noise


def coefficient_table(maps: Tensor) -> str:
    """First-order coefficients (J, L, H', W'): a map for each scale and orientation, and its share of the energy."""
    J, L = maps.shape[:2]
    energy = maps.square().sum((2, 3))
    shares = 100 * energy / energy.sum().clamp(min=1e-12)
    # Orientation θ answers to lines at (⌊L - L/2 - 1⌋ - θ) π/L above the horizontal.
    angles = [(int(L - L / 2 - 1) - theta) * 180 / L % 180 for theta in range(L)]
    order = sorted(range(L), key=lambda theta: angles[theta])
    line = '<td><i style="transform:rotate(-{:g}deg)" title="lines at {:g}°"></i></td>'
    rows = ["<tr><th></th>" + "".join(line.format(angles[theta], angles[theta]) for theta in order) + "</tr>"]
    for j in range(J):
        shown = maps[j] / maps[j].max().clamp(min=1e-12)
        cells = [f"<tr><th>{2**j} px</th>"]
        for theta in order:
            content = base64.b64encode(png(image_grid(shown[theta][None, None], scale=1))).decode()
            alt = f"lines of {2**j} pixels at {angles[theta]:g}°"
            picture = f'<img src="data:image/png;base64,{content}" alt="{alt}">'
            cells.append(f"<td>{picture}<small>{shares[j, theta]:.0f}</small></td>")
        rows.append("".join(cells) + "</tr>")
    return f'<table class="coefficients">{"".join(rows)}</table>'


def heat_map(of_codes: NDArray[np.float64], of_samples: NDArray[np.float64], name: str) -> str:
    """Distance correlations (m, m) of codes, above the diagonal, and of a density's samples, below it; 0 is blank."""
    m = len(of_codes)
    shown = np.triu(of_codes, 1) + np.tril(of_samples, -1)
    top = max(float(shown.max()), _SMALLEST)
    cells = []
    for i, j in np.argwhere(~np.eye(m, dtype=bool)).tolist():
        title = f"components {i + 1} and {j + 1}, {'codes' if j > i else name}: {shown[i, j]:.2f}"
        place = f'x="{j * _CELL}" y="{i * _CELL}" width="{_CELL}" height="{_CELL}"'
        cells.append(f'<rect {place} class="m" fill-opacity="{shown[i, j] / top:.2f}"><title>{title}</title></rect>')
    side = m * _CELL
    ends = f'<text x="0" y="-4">1</text><text x="{side}" y="-4" text-anchor="end">component {m}</text>'
    words = f'<text x="0" y="{side + 11}">below: {name}</text>'
    words += f'<text x="{side}" y="{side + 11}" text-anchor="end">above: codes; darkest {top:.2f}</text>'
    frame = f'<rect width="{side}" height="{side}" class="f"/>'
    return _svg(f"-1 -14 {side + 2} {side + 30}", "Dependence of components", frame + "".join(cells) + ends + words)


def scatter(tables: Sequence[tuple[str, Tensor]], pair: tuple[int, int]) -> str:
    """Two components of 500 codes at most of each table, (n, m), side by side."""
    panels = []
    for k, (name, table) in enumerate(tables):
        points = (table[:_POINTS, pair] / _RANGE).clamp(-1, 1) * (_SIDE / 2) + _SIDE / 2
        dots = "".join(f'<circle cx="{x:.0f}" cy="{_SIDE - y:.0f}" r="1.6"/>' for x, y in points.tolist())
        words = f'<text x="0" y="-5">{name}</text><text x="{_SIDE}" y="{_SIDE + 11}" text-anchor="end">'
        words += f'→ component {pair[0] + 1}, ↑ {pair[1] + 1}</text>'
        frame = f'<rect width="{_SIDE}" height="{_SIDE}" class="f"/>'
        panels.append(f'<g transform="translate({k * (_SIDE + 16)} 0)" class="s{k}">{frame}{dots}{words}</g>')
    width = len(tables) * (_SIDE + 16) - 14
    return _svg(f"-1 -16 {width} {_SIDE + 32}", f"Components {pair[0] + 1} and {pair[1] + 1}", "".join(panels))


def _svg(box: str, label: str, content: str) -> str:
    return f'<svg class="drawing" viewBox="{box}" role="img" aria-label="{label}">{content}</svg>'
