"""Text on the terminal: whatever names hold, they are shown and do nothing."""

import unicodedata
from typing import TextIO

# Control characters, among them the beginnings of commands to a terminal and the ends of lines;
# formats, among them those that turn the direction of writing; halves of characters, which stand
# for bytes of file names that are no text; separators of lines and paragraphs.
_ACTIVE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def visible(text: object) -> str:
    r"""Text that a terminal only shows, in one line.

    Args:
        text: Perhaps from a file, or a name that somebody chose.

    Returns:
        It, with escapes as Python writes them in place of what is not shown but acts.

    Example:
        >>> print(visible("a\x1b[2Jb\nc\u202e"))
        a\x1b[2Jb\nc\u202e
    """
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _ACTIVE else character
        for character in str(text)
    )


def say(*lines: object, file: TextIO | None = None) -> None:
    r"""Print lines harmlessly.

    Args:
        *lines: Each becomes one line of its own.
        file: Standard output by default.

    Example:
        >>> say("a\tb", 3)
        a\tb
        3
    """
    for line in lines:
        print(visible(line), file=file)
