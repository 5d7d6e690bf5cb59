"""How numbers, times, settings and templates read; text that a terminal shows, whatever names hold."""

import logging
import unicodedata
from contextlib import suppress
from functools import cache
from typing import Any, TextIO

# Control characters, among them the beginnings of commands to a terminal and the ends of lines;
# formats, among them those that turn the direction of writing; halves of characters, which stand
# for bytes of file names that are no text; separators of lines and paragraphs.
_ACTIVE = {"Cc", "Cf", "Cs", "Zl", "Zp"}

# Others tell their insides, such as Numba 60,000 lines of compiling, only when asked by name, not with all of DEBUG.
for _logger in map(logging.getLogger, ("matplotlib", "numba", "PIL")):
    if _logger.level == logging.NOTSET:
        _logger.setLevel(logging.WARNING)


def visible(text: object) -> str:
    """One line of text that a terminal only shows, with Python's escapes in place of what acts."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _ACTIVE else character
        for character in str(text)
    )


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print lines harmlessly."""
    for line in lines:
        print(visible(line), file=file)


class Heedless:
    """A stream that may be full or closed: what it does not take is lost, and no work is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        """Write at once."""
        with suppress(OSError, ValueError):  # the second once it is closed
            self._stream.write(text)
            self._stream.flush()

    def flush(self) -> None:
        """Nothing waits."""


def duration(seconds: float) -> str:
    """A time span as a person would say it."""
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
    """A number with thousands separated, a true minus but of 0, and ∞ where it is infinite."""
    return f"{value:z,.{digits}f}".replace("-", "−").replace("inf", "∞")


def sample_size(n: int) -> str:
    """The statement of a sample size, with spaces that do not break."""
    return f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n:,}"


def setting(value: object) -> str:
    """A value of a configuration: sequences without their brackets, floats without noise."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(setting(item) for item in value)
    return str(value)


@cache
def templates(package: str, autoescape: bool = True) -> Any:
    """The templates in the folder "templates" of a package, a `jinja2.Environment` without anything of its own."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only for who makes a page

    return Environment(
        loader=PackageLoader(package), autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
