"""Standard input, output and errors as people have them: in any encoding, full, closed or gone."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from scattergen.display.words import Heedless


@contextmanager
def usable() -> Iterator[None]:
    """Open what is closed, let every encoding show every text, and let no work fail because errors cannot be told."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # No file of ours shall get its number. Writing to this output fails, as where a disk is full.
            descriptor = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            setattr(sys, name, os.fdopen(descriptor, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(raw := getattr(sys.stdout, "buffer", None), io.RawIOBase):  # PYTHONUNBUFFERED: it forgets refusals
        kept = io.BufferedWriter(raw)
        sys.stdout = io.TextIOWrapper(kept, sys.stdout.encoding, "backslashreplace", line_buffering=True)
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
