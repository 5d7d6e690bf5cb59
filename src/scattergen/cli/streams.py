"""Standard input, output and errors as people have them: in any encoding, full, closed or gone."""

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from scattergen.wording import Heedless

# Signs that an encoding may lack; letters, which names of files may hold, are escaped.
_SIGNS = dict(zip("×−–·“”‘’•\xa0", "x--.\"\"''* ", strict=True))
_SIGNS |= {"∞": "inf", "±": "+-", "→": "->", "…": "...", "σ": "sigma"}


def _spelled(error: Any) -> tuple[str, int]:
    lacking = error.object[error.start : error.end]
    return "".join(_SIGNS.get(c, c).encode("ascii", "backslashreplace").decode() for c in lacking), error.end


codecs.register_error("scattergen.spelled", _spelled)


@contextmanager
def usable() -> Iterator[None]:
    """Open what is closed, let every encoding show every text, and let no work fail because errors cannot be told."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # No file of ours shall get its number.  Writing to this output fails, as where a disk is full.
            descriptor = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            setattr(sys, name, os.fdopen(descriptor, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="scattergen.spelled")
    errors, sys.stderr = sys.stderr, Heedless(sys.stderr)
    try:
        yield
    finally:
        sys.stderr = errors
        refusal(errors)


def refusal(stream: TextIO) -> OSError | None:
    """Why a stream does not take what was printed, which is then dropped, lest Python try again when it ends."""
    try:
        stream.flush()
    except OSError as error:
        with suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        return error
    return None
