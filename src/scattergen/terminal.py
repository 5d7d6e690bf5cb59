"""Text on the terminal: whatever names hold, they are shown and do nothing."""

import unicodedata
from typing import TextIO

# Control characters, among them the beginnings of commands to a terminal and the ends of lines;
# formats, among them those that turn the direction of writing; halves of characters, which stand
# for bytes of file names that are no text; separators of lines and paragraphs.
_ACTIVE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


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
