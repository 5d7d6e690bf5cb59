"""The place of a run: whose folder it is, who may write there, and how a new run replaces an old.

A new run is made in a hidden folder inside the old one, which stays usable, and takes its place
once it is finished.  Only files that scattergen made are ever deleted, whatever a folder holds.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from scattergen.errors import RunFolderError
from scattergen.files import (
    is_temporary,
    move_file,
    open_regular,
    read_json,
    remove_temporaries,
    sync_folder,
    write_json,
)
from scattergen.runs.options import is_name
from scattergen.runs.schema import DENSITIES, is_file

INDEX = "run.json"
REPLACEMENT = ".replacement"
"""Folder in which a run that shall replace another is made."""

_LOCK = ".scattergen-lock"
_READY = ".ready"  # lists the files of a finished replacement
_FOLDERS = ("checkpoints", DENSITIES, "pictures", "reproduction")
# Files besides those that run.json lists; NAME is what `is_name` allows.
_PRODUCTS = re.compile(
    r"""
    metrics\.jsonl | report\.html | evaluation\.json | diagnosis(-NAME)?\.json | benchmark\.jsonl |
    reproduction(-quick)?\.html |
    reproduction/\w+/NAME\.safetensors |
    reproduction/\w+/unfinished/(NAME/)+NAME\.(safetensors|json) |
    checkpoints/(NAME/){1,2}([0-9a-f]{16}[\w.-]*(/NAME)? | mirrored\.safetensors) |
    pictures/(
        preview | evaluation | density-NAME | diagnosis-NAME | densities | samples-NAME |
        reconstructions | eigenvalues | explained-variance | rejections-\w+ | training-loss |
        validation-psnr | visualisation-matrix-\w+
    )(-\d+)?\.png
    """.replace("NAME", r"\w[\w.-]*"),
    re.VERBOSE,
)
_MARKS = {"format", "scattergen", "digest"}  # keys by which our run.json is told from others


def read_index(path: Path) -> Any:
    """What the run.json of a folder holds, unchecked.

    Args:
        path: The folder.

    Returns:
        Its JSON.

    Raises:
        ValueError: If it is none.
        RunFolderError: If it cannot be read.
    """
    try:
        return read_json(path / INDEX)
    except OSError as error:
        raise RunFolderError(
            f"{path / INDEX} cannot be read ({error.strerror}): check its permissions and the "
            "disk, then run the same command again; the run need not be damaged."
        ) from error


def refuse_links(path: Path) -> None:
    """Refuse a run with links to other folders in it, whose files it would change.

    Args:
        path: The place of a run; it may itself be a link.

    Raises:
        RunFolderError: If there is one.
    """
    for one in _below(path, REPLACEMENT, *_FOLDERS):
        if one.is_symlink() and one.is_dir():
            raise RunFolderError(
                f"{one} is a link to another folder, whose files are not the run's: put the folder "
                "itself there, or delete the link."
            )


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
    if os.path.lexists(path / INDEX):
        try:
            ours = read_index(path).keys() >= _MARKS
        except (ValueError, AttributeError):
            ours = False
        if not ours:
            raise RunFolderError(
                f"{path / INDEX} is damaged or not one that scattergen wrote: name another folder, "
                "or copy the run folder again as a whole; nothing in it has been changed."
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
        RunFolderError: If another process is writing to it, nobody may, or links in it lead
            elsewhere.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open_regular(path / _LOCK, "ab")
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
        refuse_links(path)
        yield


def clear(path: Path) -> None:
    """Delete a run in which nothing is stored, and its folder unless other things are in it.

    Args:
        path: Folder of the run, in a place that this process has locked.
    """
    if not path.is_dir():
        return
    remove_temporaries(path)
    remove(path, own_files(path), *_folders(path))
    (path / INDEX).unlink(missing_ok=True)
    if {file.name for file in path.iterdir()} <= {_LOCK}:
        (path / _LOCK).unlink(missing_ok=True)
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
    # Version 0.1 listed folders instead of the files in them.
    remove(
        path,
        [
            name
            for name in own_files(path)
            if replacing.isdisjoint([name, *map(str, Path(name).parents)])
        ],
        *_folders(path),
    )
    # What has been moved is no longer in `new`.  The index goes last, when the names of all others
    # have reached the disk: until then the same steps are found and done again.
    moved = own_files(new)
    for name in moved:
        (path / name).parent.mkdir(exist_ok=True, parents=True)
        os.replace(new / name, path / name)
    for folder in {(path / name).parent for name in moved}:
        sync_folder(folder)
    if (new / INDEX).exists():
        move_file(new / INDEX, path / INDEX)
    shutil.rmtree(new)
    return True


def _ready_entries(path: Path) -> set[str]:
    """Entries of a finished replacement, each still there or in its new place already."""
    new = path / REPLACEMENT
    try:
        listed = read_json(new / _READY)
        whole = INDEX in listed and all(
            all(map(is_name, name.split("/"))) and any((at / name).exists() for at in (new, path))
            for name in listed
        )
        whole = whole and read_index(new if (new / INDEX).exists() else path).keys() >= _MARKS
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
    write_json(new / _READY, sorted([INDEX, *own_files(new)]))


def has_finished_replacement(path: Path) -> bool:
    """Whether `promote` has something to do.

    Args:
        path: The place of a run.

    Returns:
        True after `mark_ready`.
    """
    return (path / REPLACEMENT / _READY).exists()


def own_files(path: Path, folder: str = "") -> list[str]:
    """Files that scattergen made in the place of a run, without run.json.

    Args:
        path: The place.
        folder: Look into this sub-folder only.

    Returns:
        Names relative to the place: those that run.json lists, and those that only scattergen
        gives.
    """
    try:
        listed = {name for name in read_index(path)["files"] if is_file(name)}
    except (ValueError, KeyError, TypeError, AttributeError, RunFolderError):
        listed = set()
    found = _below(path, folder) if folder else chain(path.iterdir(), _below(path, *_FOLDERS))
    names = (file.relative_to(path).as_posix() for file in found if not file.is_dir())
    return sorted(name for name in names if name in listed or _PRODUCTS.fullmatch(name))


def _folders(path: Path) -> list[str]:
    """Folders in the place of a run, which go with it if they are empty."""
    return [str(one.relative_to(path)) for one in _below(path, *_FOLDERS) if one.is_dir()]


def remove(path: Path, names: Iterable[str], *folders: str) -> None:
    """Delete files of a run, and the folders that are empty without them.

    Args:
        path: The place of the run.
        names: Relative to it.
        *folders: Others that go if they are empty, likewise.
    """
    emptied = {Path(folder) for folder in folders}
    for name in names:
        (path / name).unlink(missing_ok=True)
        emptied.add(Path(name).parent)
    emptied |= {parent for folder in emptied for parent in folder.parents}
    for folder in sorted(emptied - {Path()}, reverse=True):
        with suppress(OSError):  # it is not empty, or not there
            (path / folder).rmdir()


def _below(path: Path, *tops: str) -> Iterator[Path]:
    """Sub-folders and all that is in them."""
    for top in tops:
        yield path / top
        yield from (path / top).rglob("*")
