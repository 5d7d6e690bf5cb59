"""Pages made of templates, which hold all of their markup and words, and the pictures in them.

A template escapes whatever it is given, so text from a user (file names, options, a command line)
can never become markup. Pictures are embedded; a page declares a content security policy under
which a browser refuses to load anything from elsewhere.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from torch import Tensor

from scattergen.image_grid import image_grid, png
from scattergen.report.plots import DARK, LIGHT, TEST_NAMES, Theme, figure_png
from scattergen.wording import duration, number, sample_size, setting

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Picture:
    """A picture in a page.

    Attributes:
        png: the content of a PNG file.
        dark: another version for readers whose system is in dark mode.
        width: the width to show it at, in CSS pixels; it shrinks where there is less room.
    """

    png: bytes
    dark: bytes | None = None
    width: int | None = None


def themed(draw: Callable[[Theme], Figure]) -> Picture:
    """Draw a figure for readers in light and in dark mode.

    Args:
        draw: makes the figure in the colours of a theme.

    Returns:
        The picture, as wide as the figure at 100 pixels to the inch.
    """
    light = draw(LIGHT)
    return Picture(figure_png(light), figure_png(draw(DARK)), round(100 * light.get_figwidth()))


def grid(images: Tensor, columns: int, side: int = 56, pad: int = 4) -> Picture:
    """Images in rows, enlarged by a whole number to about a number of pixels a side.

    Args:
        images: in [0, 1], shape (N, C, H, W).
        columns: images in a row.
        side: length that the longer side of an image comes close to.
        pad: gap between images, in pixels.

    Returns:
        The picture, transparent between images.
    """
    scale = max(1, round(side / max(images.shape[-2:])))
    return Picture(png(image_grid(images, columns=columns, pad=pad, scale=scale, fill=None)))


def render(template: str, **facts: object) -> str:
    """Fill a template.

    Args:
        template: its name in the folder "templates".
        facts: what it shows; all text in them is escaped.

    Returns:
        HTML text.

    Example:
        >>> render("base.html.j2", title="a < b").count("a &lt; b")
        2
    """
    return _environment().get_template(template).render(figure_number=partial(next, count(1)), **facts)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only for who makes a page

    environment = Environment(
        loader=PackageLoader("scattergen.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = {f.__name__: f for f in (grid, number, sample_size, setting)}
    environment.globals.update(functions, tests=TEST_NAMES)
    environment.filters.update(functions, base64=_base64, duration=_on_one_line)
    return environment


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _on_one_line(seconds: float) -> str:
    """A time span with spaces that do not break."""
    return duration(seconds).replace(" ", "\N{NO-BREAK SPACE}")
