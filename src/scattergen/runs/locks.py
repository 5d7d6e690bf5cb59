"""Locks between processes; a lock ends with the process that holds it."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scattergen.errors import RunFolderError
from scattergen.files import open_regular


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Say in a sentence why nothing can be written to a folder."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"Cannot write to {folder} ({error.strerror}): choose another place or change its permissions."
        ) from error


@contextmanager
def locked(path: Path, busy: str, patience: float = 0.0) -> Iterator[None]:
    """Make and lock a file; raise `busy` if another process still holds it after `patience` seconds."""
    with writing_to(path.parent):
        file = open_regular(path, "ab")
    with file:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise RunFolderError(busy) from error
                time.sleep(0.01)
        yield


def is_free(path: Path) -> bool:
    """Whether no process holds the lock of a file, which need not exist."""
    try:
        with open_regular(path, "rb+") as file:  # network drives lock only what can be written
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except (OSError, RunFolderError):
        return False
    return True
