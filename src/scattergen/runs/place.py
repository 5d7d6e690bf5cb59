"""The place of a run: whose folder it is, who may write there, and how a new run replaces an old.

A new run is made in a hidden folder inside the old one, which stays usable, and takes its place
once it is finished.  Only what a run consists of is ever deleted.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scattergen.errors import RunFolderError
from scattergen.runs.options import is_name
from scattergen.storage import is_temporary, remove_temporaries, write_json

INDEX = "run.json"
REPLACEMENT = ".replacement"
"""Folder in which a run that shall replace another is made."""

_LOCK = ".scattergen-lock"
_READY = ".ready"  # lists the entries of a finished replacement
_PRODUCTS = (
    "checkpoints", "densities", "pictures", "metrics.jsonl", "report.html", "evaluation.json",
    "benchmark.jsonl", "reproduction", "reproduction.html", "reproduction-quick.html",
)  # fmt: skip
_MARKS = {"format", "scattergen", "digest"}  # keys by which our run.json is told from others


def refuse_foreign(path: Path) -> None:
    """Refuse a place that holds anything but a run.

    Args:
        path: Where a run shall be made; it need not exist.

    Raises:
        RunFolderError: If it is a file, or a folder with other things in it.
    """
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file: name a folder for the run.")
    if not path.is_dir():
        return
    index = path / INDEX
    if index.exists():
        try:
            ours = json.loads(index.read_text()).keys() >= _MARKS
        except (ValueError, AttributeError, OSError):
            ours = False
        if not ours:
            raise RunFolderError(
                f"{index} is damaged or not one that scattergen wrote: name another folder, or "
                "copy the run folder again as a whole; nothing in it has been changed."
            )
        return
    others = [file.name for file in path.iterdir() if file.name != _LOCK and not is_temporary(file)]
    if others:
        raise RunFolderError(
            f"{path} is not a run folder, since {INDEX} is missing, but holds {min(others)}: name "
            "another folder, or copy the run folder again as a whole; nothing in it has been "
            "changed."
        )


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Make a folder if there is none, and keep other processes out of it meanwhile.

    Args:
        path: The place of a run.

    Raises:
        RunFolderError: If another process is writing to it, or nobody may.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / _LOCK).open("w")
    except OSError as error:
        raise RunFolderError(
            f"Cannot write to {path} ({error.strerror}): choose another place or change its "
            "permissions."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(
                f"Another process is writing to {path}: wait for it to finish, or stop it."
            ) from error
        yield


def clear(path: Path) -> None:
    """Delete a run in which nothing is stored, and its folder unless other things are in it.

    Args:
        path: Folder of the run, in a place that this process has locked.
    """
    if not path.is_dir():
        return
    remove_temporaries(path)
    for name in _entries(path):
        _remove(path / name)
    _remove(path / INDEX)
    if {file.name for file in path.iterdir()} <= {_LOCK}:
        _remove(path / _LOCK)
        with suppress(OSError):  # "." and links to folders cannot be removed
            path.rmdir()


def promote(path: Path) -> bool:
    """Let a finished replacement take the place of the run, or go on after a kill in between.

    Args:
        path: The place of a run, locked by this process.

    Returns:
        Whether there was one.

    Raises:
        RunFolderError: If the replacement is not whole.
    """
    new = path / REPLACEMENT
    if not has_finished_replacement(path):
        return False
    replacing = _ready_entries(path)
    for name in _entries(path) - replacing:
        _remove(path / name)
    # What has been moved is no longer in `new`.  The index goes last: until then the same steps
    # are found and done again.
    for name in sorted(replacing, key=lambda name: name == INDEX):
        if (new / name).exists():
            if name != INDEX:
                _remove(path / name)
            os.replace(new / name, path / name)
    shutil.rmtree(new)
    return True


def _ready_entries(path: Path) -> set[str]:
    """Entries of a finished replacement, each still there or in its new place already."""
    new = path / REPLACEMENT
    try:
        listed = json.loads((new / _READY).read_text())
        whole = INDEX in listed and all(
            is_name(name) and "/" not in name and any((at / name).exists() for at in (new, path))
            for name in listed
        )
        index = new / INDEX if (new / INDEX).exists() else path / INDEX
        whole = whole and json.loads(index.read_text()).keys() >= _MARKS
    except (ValueError, TypeError, AttributeError, OSError):
        whole = False
    if not whole:
        raise RunFolderError(f"{new} is damaged: delete that folder; the run beside it is left.")
    return set(listed)


def mark_ready(path: Path) -> None:
    """State that the replacement of a run is finished.

    Args:
        path: The place of the run.
    """
    new = path / REPLACEMENT
    write_json(new / _READY, sorted(file.name for file in new.iterdir() if not is_temporary(file)))


def has_finished_replacement(path: Path) -> bool:
    """Whether `promote` has something to do.

    Args:
        path: The place of a run.

    Returns:
        True after `mark_ready`.
    """
    return (path / REPLACEMENT / _READY).exists()


def _entries(path: Path) -> set[str]:
    """Names of what the run in a folder consists of, without its index."""
    try:
        listed = json.loads((path / INDEX).read_text())["files"]
        # An index that somebody edited must not name files elsewhere.
        names = {Path(file).parts[0] for file in listed if is_name(file)}
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        names = set()
    return {name for name in names.union(_PRODUCTS) if os.path.lexists(path / name)}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
