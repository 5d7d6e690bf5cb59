"""Reading what anybody may have put there: regular files alone, JSON within bounds, content of a known hash."""

import errno
import hashlib
import json
import os
import stat
from importlib.resources.abc import Traversable
from itertools import chain
from pathlib import Path
from typing import IO, Any

from scattergen.errors import InputError, RunFolderError

_LONGEST_TEXT = 1 << 24  # of JSON in one file; that of real runs has some thousand letters
_DEEPEST = 50  # objects and lists within each other


def open_regular(path: Path, mode: str = "rb") -> IO[Any]:
    """Open a file, but not what it links to, nor a device or pipe, which might never end."""
    remedy = "put the file itself there, or delete it and copy the run folder again as a whole"
    refusal = RunFolderError(f"{path} is a link, a device or a pipe where a file is needed: {remedy}.")

    def opener(name: str, flags: int) -> int:
        # Without waiting for the other end of a pipe.
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        kind = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # of a folder `open` tells
            os.close(descriptor)
            raise refusal
        return descriptor

    try:
        return open(path, mode, opener=opener)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a pipe or socket without reader
            raise refusal from error
        raise


def read_known(file: Traversable, sha256: str, remedy: str) -> bytes:
    """The content of a file that comes in a package, if it is the one that is known; else an `InputError`."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): {remedy}.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        what = f"its SHA-256 is {found}, expected {sha256}"
        raise InputError(f"{file} is damaged or of another version: {what}; {remedy}.")
    return content


def read_json(path: Path) -> Any:
    """Content of a JSON file of at most 16 MiB, whoever wrote it; ValueError if it is none."""
    with open_regular(path) as file:
        return parse_json(file.read(_LONGEST_TEXT + 1).decode())


def parse_json(text: str) -> Any:
    """Content of JSON that is not too long, nor nested so deeply that nobody could go through it; else a ValueError."""
    if len(text) > _LONGEST_TEXT:
        raise ValueError("it is too long")
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level = [content]
    for _ in range(_DEEPEST):
        nested = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = list(chain.from_iterable(nested))
    if level:
        raise ValueError("it is nested too deeply")
    return content


def sha256(path: Path) -> str:
    """Hash of a file's content, 64 hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
