"""What lies in a run folder besides finished stages: unfinished work, metrics, old files."""

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from scattergen.errors import RunFolderError, ScattergenError
from scattergen.files import is_temporary, move_file, open_regular
from scattergen.runs import layout
from scattergen.runs.index import Record
from scattergen.runs.layout import INDEX, LOCK, METRICS, WORK
from scattergen.runs.locks import is_free, locked

# Metrics and preview of a run that will take another one's place.
DRAFTS = (f"{WORK}/{METRICS}", f"{WORK}/preview.png")
_PATIENCE = 30.0  # seconds; a change of run.json by another process takes less


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Keep others from changing run.json, and delete what killed writers left beside it."""
    with locked(path / LOCK, busy(path), _PATIENCE):
        layout.refuse_links(path)
        for file in path.glob("*.json"):
            if is_temporary(file):
                file.unlink(missing_ok=True)
        yield


def busy(path: Path, what: str = "") -> str:
    """What to tell whoever comes second."""
    return f"Another process is writing to {path}{what}: wait for it to finish, or stop it."


def refuse_if_busy(path: Path) -> None:
    """Refuse to go on while another process is making a stage."""
    if not all(is_free(lock) for lock in (path / WORK).glob("*/lock")):
        raise RunFolderError(busy(path))


def collect(path: Path, record: Record, before: Collection[str]) -> None:
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


def _stage_of(folder: Path) -> str:
    """Name of the stage whose unfinished work a folder holds, as far as is known."""
    try:
        with open_regular(folder / "lock") as file:
            return str(file.read(300), "utf-8", "replace")
    except (OSError, RunFolderError):
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


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, after its last complete one."""
    try:
        path.parent.mkdir(exist_ok=True)
        with open_regular(path, "ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
            end_last_line(file)
            file.write(line.encode() + b"\n")
    except OSError as error:
        raise ScattergenError(
            f"Cannot write {path}: {error.strerror}. Free some space, then run the same command again; "
            "it continues where it stopped."
        ) from error


def end_last_line(file: IO[bytes]) -> None:
    """Cut off a line that a full disk or a kill left incomplete."""
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def place_metrics(path: Path) -> None:
    """Move the metrics of a run that has taken another one's place to where they belong."""
    if (path / DRAFTS[0]).exists():
        move_file(path / DRAFTS[0], path / METRICS)


def is_empty(path: Path, record: Record) -> bool:
    """Whether a run holds nothing that could be lost."""
    files = any(map(layout.is_stage_file, layout.own_files(path)))
    return not (record.stages or files or has_work(path))


def has_work(path: Path) -> bool:
    """Whether there is unfinished work to go on with, or another process at it."""
    return any(has_progress(one) or not is_free(one / "lock") for one in _work_folders(path))


def _work_folders(path: Path) -> list[Path]:
    return [one for one in (path / WORK).glob("*") if layout.is_key(one.name)]


def has_progress(folder: Path) -> bool:
    """Whether a folder of unfinished work has something to go on with."""
    files = (Path(name) for _, _, names in os.walk(folder) for name in names)
    return any(one.name != "lock" and not is_temporary(one) for one in files)
