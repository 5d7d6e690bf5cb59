"""Pages made of templates, which hold all of their markup and words, and the pictures that are embedded in them."""

import base64
import re
from collections.abc import Callable
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from torch import Tensor

from scattergen.datasets.image_files import png
from scattergen.display.words import duration, number, sample_size, setting, templates, visible
from scattergen.report.plots import DARK, LIGHT, TEST_NAMES, Theme, enlarged, figure_png


class Picture(NamedTuple):
    """A PNG file in a page, another one for dark mode, and the width in CSS pixels that it has where there is room."""

    png: bytes
    dark: bytes | None = None
    width: int | None = None


def themed(draw: Callable[[Theme], Figure]) -> Picture:
    """A figure drawn for readers in light and in dark mode, shown at 100 pixels to the inch."""
    light, dark = draw(LIGHT), draw(DARK)
    content = figure_png(light)
    if light.get_layout_engine() is not None:  # half of the work, and the same for both
        dark.set_layout_engine("none")
        for axes, found in zip(dark.axes, light.axes, strict=True):
            axes.set_position(found.get_position())
    return Picture(content, figure_png(dark), round(100 * light.get_figwidth()))


def grid(images: Tensor, columns: int, side: int = 56, pad: int = 4) -> Picture:
    """Images (N, C, H, W) in rows, enlarged by a whole number to about `side` pixels, transparent between them."""
    return Picture(png(enlarged(images, columns, side, pad)))


def render(template: str, **facts: object) -> str:
    """Fill a template of the folder "templates"; all text in the facts is escaped."""
    return _environment().get_template(template).render(figure_number=partial(next, count(1)), **facts)


@cache
def _environment() -> Any:
    from markupsafe import Markup  # of Jinja, only for who makes a page

    def shown(value: object) -> object:  # a name may hold what no encoding has, and what turns the page's text about
        return visible(value) if isinstance(value, str | Path) and not isinstance(value, Markup) else value

    environment = templates("scattergen.report").overlay(finalize=shown)
    functions = {f.__name__: f for f in (grid, number, sample_size, setting)}
    environment.globals.update(functions, tests=TEST_NAMES, zip=zip)
    environment.filters.update(
        functions,
        base64=lambda content: Markup(base64.b64encode(content).decode("ascii")),
        breakable=lambda name: Markup("<wbr>").join(re.split("(?<=[._])", visible(name))),
        duration=lambda seconds: duration(seconds).replace(" ", "\N{NO-BREAK SPACE}"),
    )
    return environment
