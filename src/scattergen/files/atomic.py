"""Files that are complete or absent: atomic writes, locks and room on the disk."""

import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from scattergen.errors import ScattergenError

_TEMPORARY = ".writing-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what disks say that have no room for a file
# What file systems say of calls that they do not know, or allow to others only.
_UNSUPPORTED = ["EACCES", "EBADF", "EINVAL", "EISDIR", "ENOLCK", "ENOSYS", "ENOTSUP", "ENOTTY", "EOPNOTSUPP", "EPERM"]


@contextmanager
def writing(path: Path, kept: str = "nothing that was there before has been changed") -> Iterator[None]:
    """Say in a sentence why a file cannot be written."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        remedy = "Check the disk and its permissions or choose another place"
        if error.errno in FULL:
            remedy = "Free some space or choose another place, then run the same command again"
        raise ScattergenError(f"Cannot write {path}: {reason}. {remedy}; {kept}.") from error


@contextmanager
def atomic_path(path: Path, *, last: bool = True) -> Iterator[Path]:
    """A temporary path that replaces `path`, in its mode, after the block.

    The folder is flushed to the disk, too, unless this is not the `last` file of several in it.
    """
    # The data reach the disk before the name does, so that neither a kill nor a power cut leaves a partial file.
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays, since some writers choose the format by it; they know small letters.
        temporary = path.parent / (_TEMPORARY + secrets.token_hex(8) + path.suffix.lower())
        before = _mode_of(path)
        # What others cannot read they cannot read meanwhile, either.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666 if before is None else before | 0o600))
        mode = _mode_of(temporary) if before is None else before
        try:
            yield temporary
            flush(temporary)
            if mode is not None and mode != _mode_of(temporary):  # some writers make the file anew
                with _if_supported():
                    os.chmod(temporary, mode)
            move_file(temporary, path, last=last)
        finally:
            temporary.unlink(missing_ok=True)


def _mode_of(path: Path) -> int | None:
    """Who may read and write a file; None if it is not there."""
    try:
        return stat.S_IMODE(path.stat().st_mode) & 0o777
    except OSError:
        return None


def move_file(source: Path, path: Path, *, last: bool = True) -> None:
    """Give a file whose content has reached the disk another name; the folder is flushed if it is the `last` there."""
    with writing(path):
        os.replace(source, path)
    if last:
        with writing(path, "the file is there, but may be lost in a power cut"):
            flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file or folder has reached the disk, where the file system can tell."""
    with _if_supported():
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _if_supported() -> Iterator[None]:
    """Do without what only makes files safer, where the file system (of a network, a USB stick) has no such thing."""
    try:
        yield
    except OSError as error:
        if errno.errorcode.get(error.errno or 0) not in _UNSUPPORTED:
            raise


def lock(file: IO[Any] | int, *, wait: bool = False) -> bool | None:
    """Lock an open file until it is closed; False if another process has it, None on file systems without locks."""
    with _if_supported():
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True
    return None


def temporary_path(path: Path) -> Path:
    """A name beside a file that `is_temporary` knows."""
    return path.with_name(_TEMPORARY + path.name)


def is_temporary(path: Path) -> bool:
    """Whether a file is one that an interrupted write left."""
    return path.name.startswith(_TEMPORARY)


def free_bytes(path: Path) -> int:
    """Free space where a file or folder is, or would be made."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def gigabytes(size: int) -> str:
    """A size in bytes as messages have it."""
    return f"{size / 1e9:.2f} GB"


def check_space(path: Path, needed: int) -> None:
    """Refuse to begin writing what a disk has no room for."""
    free = free_bytes(path)
    if free < needed:
        problem = f"{path} will take {gigabytes(needed)} or more, but {gigabytes(free)} are free"
        raise ScattergenError(f"{problem}: free some space, or choose another place (--out).")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically, indented for people; NaN and infinities are refused."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
