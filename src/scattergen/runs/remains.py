"""What is done in a run folder around its stages: locks, a run's beginning, unfinished work, metrics, old files."""

import os
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from scattergen.display.machine import __version__
from scattergen.errors import RunFolderError, ScattergenError
from scattergen.files import is_temporary, lock, move_file, open_regular, writing
from scattergen.runs import layout
from scattergen.runs.index import Index, OtherFormatError, Record, differences, read_index, refuse_differences
from scattergen.runs.layout import INDEX, LOCK, METRICS, WORK

# Metrics and preview of a run that will take another one's place.
DRAFTS = (f"{WORK}/{METRICS}", f"{WORK}/preview.png")
_PATIENCE = 30.0  # seconds; a change of run.json by another process takes less


@contextmanager
def locked(path: Path, busy: str, patience: float = 0.0) -> Iterator[bool]:
    """Make and lock a file, where locks exist; raise `busy` if another process has it after `patience` seconds."""
    with writing(path.parent):
        file = open_regular(path, "ab")
    with file:  # the lock ends with the process, too
        until = time.monotonic() + patience
        with writing(path.parent):
            while (ours := lock(file)) is False:
                if time.monotonic() >= until:
                    raise RunFolderError(busy)
                time.sleep(0.01)
        yield bool(ours)


def is_free(path: Path) -> bool:
    """Whether no process holds the lock of a file, which need not exist."""
    try:
        with open_regular(path, "rb+") as file:  # network drives lock only what can be written
            return lock(file) is not False
    except (OSError, RunFolderError) as error:
        return isinstance(error, FileNotFoundError)


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Keep others from changing run.json, and delete what killed writers left beside it."""
    with locked(path / LOCK, busy(path), _PATIENCE) as alone:
        if not alone:
            _warn_of_missing_locks(path)
        layout.refuse_links(path)
        for file in path.glob("*.json"):
            if is_temporary(file):
                file.unlink(missing_ok=True)
        yield


@cache
def _warn_of_missing_locks(path: Path) -> None:
    problem = f"The file system of {path} has no locks, which keep several processes from writing to the run at once"
    warnings.warn(f"{problem}: see to it that only one does, or choose another disk.", stacklevel=2)


def busy(path: Path, what: str = "") -> str:
    """What to tell whoever comes second."""
    return f"Another process is writing to {path}{what}: wait for it to finish, or stop it."


def begin(
    path: Path, wanted: dict[str, Any], may_keep: Callable[[Record, str], bool], *, overwrite: bool, afresh: bool
) -> tuple[Record, bool]:
    """Do what `RunFolder.start` says: the run, and whether it shall take the place of another one."""
    layout.refuse_foreign(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    new = Record(__version__, wanted)
    with changing(path):
        try:
            was = read_index(path) if os.path.lexists(path / INDEX) else None
        except RunFolderError as error:
            whole = isinstance(error, OtherFormatError) or isinstance(error.__cause__, OSError)
            if whole or not overwrite:  # a newer version or a mended disk may yet read it
                raise
            was = None
        if was is None:
            index = Index(new)
        else:
            index = read_index(path)
            now = index.current
            other = differences(now.options, wanted)
            if overwrite and afresh:
                index.next = new
            elif not other:
                if not overwrite:
                    return now, False
                index.next = None  # given up
            elif not now.finished and (is_empty(path, now) or all(may_keep(now, option) for option in other)):
                now.options = wanted
            elif not overwrite:
                refuse_differences(path, now.options, wanted)
            elif index.next is None and not now.finished:
                index.current = new  # stages that still fit are found by their keys
            elif index.next is None or differences(index.next.options, wanted):
                index.next = new
            given_up = was.next not in (None, index.next)
            if (given_up or index.current != was.current) and not all(map(is_free, (path / WORK).glob("*/lock"))):
                raise RunFolderError(busy(path))  # whose work would be lost
            if given_up:
                layout.remove(path, DRAFTS)
        try:
            if index != was:
                index.write(path)
        except ScattergenError:
            if not os.path.lexists(path / INDEX):
                forsake(path)
            raise
        if was is None:  # of a run whose run.json is damaged
            layout.remove(path, [METRICS])
        if index.next is not None and not differences(index.next.options, wanted):
            return index.next, True
        return index.current, False


def collect(path: Path, record: Record, before: Iterable[str]) -> None:
    """Delete what run.json no longer names: files that it named before, and those of stages."""
    kept = {INDEX, METRICS, *record.named()}
    found = [name for name in layout.own_files(path) if layout.is_stage_file(name)]
    layout.remove(path, {*before, *found, *DRAFTS} - kept)


def end_work(path: Path, record: Record, names: Collection[str] | None = None) -> None:
    """Delete idle work: empty folders, and work on finished stages and on stages of some names, or on all."""
    keys = {entry.key for entry in record.stages.values()}
    for folder in _work_folders(path):
        ended = names is None or folder.name in keys or _stage_of(folder) in names
        if is_free(folder / "lock") and (ended or not has_progress(folder)):
            layout.remove_work(path, folder.name)


def settle(path: Path, record: Record, before: Iterable[str]) -> None:
    """Put the metrics of a run that has taken another one's place where they belong, and delete what nobody needs."""
    if (path / DRAFTS[0]).exists():
        move_file(path / DRAFTS[0], path / METRICS)
    collect(path, record, before)
    end_work(path, record, ())


def _stage_of(folder: Path) -> str:
    """Name of the stage whose unfinished work a folder holds, as far as is known."""
    with suppress(OSError, RunFolderError), open_regular(folder / "lock") as file:
        return str(file.read(300), "utf-8", "replace")
    return ""


def forsake(path: Path) -> None:
    """Delete a run in which nothing is stored, and its folder unless other things are in it."""
    layout.remove(path, [*layout.own_files(path)])
    for folder in _work_folders(path):
        layout.remove_work(path, folder.name)
    (path / INDEX).unlink(missing_ok=True)
    if {file.name for file in path.iterdir()} <= {LOCK}:
        (path / LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # "." and links to folders cannot be removed
            path.rmdir()


def end_last_line(file: IO[bytes]) -> None:
    """Cut off a line that a full disk or a kill left incomplete."""
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def is_empty(path: Path, record: Record) -> bool:
    """Whether a run holds nothing that could be lost."""
    return not (record.stages or any(map(layout.is_stage_file, layout.own_files(path))) or has_work(path))


def has_work(path: Path) -> bool:
    """Whether there is unfinished work to go on with, or another process at it."""
    return any(has_progress(one) or not is_free(one / "lock") for one in _work_folders(path))


def _work_folders(path: Path) -> list[Path]:
    return [one for one in (path / WORK).glob("*") if layout.is_key(one.name)]


def has_progress(folder: Path) -> bool:
    """Whether a folder of unfinished work has something to go on with."""
    files = (Path(name) for _, _, names in os.walk(folder) for name in names)
    return any(one.name != "lock" and not is_temporary(one) for one in files)
