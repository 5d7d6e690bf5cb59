"""How a run begins: in an empty place, in place of another run, or where it was left."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scattergen.errors import RunFolderError, ScattergenError
from scattergen.runs import layout
from scattergen.runs.index import Index, OtherFormatError, Record, read_index
from scattergen.runs.layout import INDEX, METRICS
from scattergen.runs.locks import writing_to
from scattergen.runs.options import differences, refuse_differences
from scattergen.runs.remains import DRAFTS, changing, forsake, is_empty, refuse_if_busy
from scattergen.version import __version__


def begin(
    path: Path, wanted: dict[str, Any], may_keep: Callable[[Record, str], bool], *, overwrite: bool, afresh: bool
) -> tuple[Record, bool]:
    """Do what `RunFolder.start` says: the run, and whether it shall take the place of another one."""
    layout.refuse_foreign(path)
    with writing_to(path):
        path.mkdir(parents=True, exist_ok=True)
    new = Record(__version__, wanted)
    with changing(path):
        was = _known_index(path, overwrite)
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
            elif index.next is None and not now.finished and now.has_keys:
                index.current = new  # stages that still fit are found by their keys
            elif index.next is None or differences(index.next.options, wanted):
                index.next = new
            if index.current != was.current or was.next not in (None, index.next):
                refuse_if_busy(path)  # whose work would be lost
            if was.next not in (None, index.next):
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


def _known_index(path: Path, overwrite: bool) -> Index | None:
    """What run.json holds; None if there is none, or a damaged one that shall be overwritten."""
    try:
        return read_index(path) if os.path.lexists(path / INDEX) else None
    except RunFolderError as error:
        whole = isinstance(error, OtherFormatError) or isinstance(error.__cause__, OSError)
        if overwrite and not whole:  # a newer version or a mended disk may yet read it
            return None
        raise
