"""Standard input, output and errors as people have them: in any encoding, full, closed or gone."""

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from scattergen.wording import heedless

# What an encoding may lack of our words; letters, which names of files may hold, are escaped.
_PLAIN = {
    "×": "x", "±": "+-", "−": "-", "–": "-", "…": "...", "→": "->", "·": ".", "∞": "inf", "σ": "sigma", "β": "beta",
    "²": "^2", "“": '"', "”": '"', "‘": "'", "’": "'", "\N{NO-BREAK SPACE}": " ", "•": "*", "│": "|", "─": "-",
}  # fmt: skip
_SPELLED = "scattergen.spelled"


def _spell(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c, c).encode("ascii", "backslashreplace").decode() for c in missing), error.end


codecs.register_error(_SPELLED, _spell)


@contextmanager
def usable() -> Iterator[None]:
    """Open what is closed, let every encoding show every text, and let nothing fail because errors cannot be told."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # So that no file of ours gets its number.  What is written to this output fails, as where a disk is full.
            descriptor = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            setattr(sys, name, os.fdopen(descriptor, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_SPELLED)
    errors, sys.stderr = sys.stderr, heedless(sys.stderr)
    try:
        yield
    finally:
        sys.stderr = errors
        refusal(errors)


def refusal(stream: TextIO | None = None) -> OSError | None:
    """Why a stream, by default the output, does not take what was printed, which is then dropped."""
    stream = stream or sys.stdout
    try:
        stream.flush()
    except OSError as error:
        with suppress(OSError):  # Python would try once more when it ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return error
    return None


def said_of(error: OSError) -> str:
    """The sentence about an output that takes nothing."""
    reason = "it is closed" if error.errno == errno.EBADF else error.strerror
    return f"What was to be printed is lost, since the output cannot be written to ({reason})"
