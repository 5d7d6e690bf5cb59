"""A report while it is being put together: the page, its picture files, and how numbers read."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from scattergen.report.facts import FitReport
from scattergen.report.html import Html, Page, image
from scattergen.report.plots import DARK, LIGHT, Theme, figure_png


@dataclass
class Draft:
    """What the sections add to.

    Args:
        facts: what the report says.
        page: the HTML page.
        pictures: file name -> content of each PNG file that goes beside the page.
    """

    facts: FitReport
    page: Page
    pictures: dict[str, bytes] = field(default_factory=dict)

    def keep(self, name: str, content: bytes) -> None:
        """Add a picture file; the name may hold anything and is made fit for a file system."""
        stem = re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "picture"
        free, count = f"{stem}.png", 1
        while free in self.pictures:
            count += 1
            free = f"{stem}-{count}.png"
        self.pictures[free] = content

    def themed(self, name: str, alt: str, draw: Callable[[Theme], Figure]) -> Html:
        """Draw a figure for readers in light and in dark mode; the light one becomes a file."""
        light, dark = draw(LIGHT), draw(DARK)
        content = figure_png(light)
        self.keep(name, content)
        return image(content, alt, dark=figure_png(dark), width=round(100 * light.get_figwidth()))

    def beside(self, reference: str) -> str | None:
        """The reference to a table or figure of the paper, where the paper has this data set."""
        return reference if self.facts.beside_paper else None


def duration(seconds: float) -> str:
    """A time span as a person would say it.

    Args:
        seconds: at least 0.

    Returns:
        Its text.

    Example:
        >>> [duration(s) for s in (0.001, 0.042, 8.94, 134, 3780)]
        ['< 0.01 s', '0.04 s', '8.9 s', '2 min 14 s', '1 h 03 min']
    """
    if seconds < 0.005:
        return "< 0.01 s"
    if seconds < 9.95:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number(value: float, digits: int = 0) -> str:
    """A number with thousands separated, a true minus, and ∞ where it is infinite.

    Args:
        value: any number.
        digits: after the decimal point.

    Returns:
        Its text.

    Example:
        >>> number(60000), number(-1.5, 1), number(float("inf"))
        ('60,000', '−1.5', '∞')
    """
    text = "∞" if math.isinf(value) else f"{abs(value):,.{digits}f}"
    return f"−{text}" if value < 0 else text


def sample_size(n: int) -> str:
    """The statement of a sample size, kept on one line.

    Args:
        n: the size.

    Returns:
        Its text, with spaces that do not break.

    Example:
        >>> sample_size(5000).split()
        ['n', '=', '5,000']
    """
    return f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n:,}"


def setting(value: object) -> str:
    """A value of a configuration: sequences without their brackets, floats without noise.

    Args:
        value: anything.

    Returns:
        Its text.

    Example:
        >>> setting((512, 256)), setting(0.001), setting(None)
        ('512, 256', '0.001', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(setting(item) for item in value)
    return str(value)
