"""Commands of scattergen called in this process, watched: how they end, what they say, and where they write."""

import contextlib
import ctypes
import io
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scattergen import cli

_CHANGES = ("os.remove", "os.mkdir", "os.rmdir", "os.chmod")
_LINKS = ("os.link", "os.symlink")
_CODE = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
_seen: list[str] = []
_allowed: list[str] = []  # folders; nothing is watched while there are none


class Said(NamedTuple):
    """How a command ended, and what is wrong with that."""

    code: int
    out: str
    err: str
    faults: list[str]


class TimeUp(BaseException):
    """A command takes longer than it may."""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: note what is changed outside the folders where something may be."""
    if not _allowed:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = mode is None and isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        writes = writes or (isinstance(mode, str) and set(mode) & set("wax+"))
        places = [(path, -1)] if writes else []
    elif event in _CHANGES:  # the last argument is the folder that a name is relative to, if it is open
        places = [(arguments[0], arguments[-1])]
    elif event == "os.rename":
        places = [(arguments[0], arguments[2]), (arguments[1], arguments[3])]
    elif event in _LINKS:
        places = [(arguments[1], arguments[-1])]
    else:
        if event in _CODE:
            _seen.append(f"{event} {arguments[0]!r}")
        return
    for one, folder in places:
        if not isinstance(one, str | bytes | os.PathLike):
            continue
        opened = isinstance(folder, int) and folder >= 0
        start = os.readlink(f"/proc/self/fd/{folder}") if opened else os.getcwd()
        # What the name itself links to is not followed: the user's files are compared as well.
        parent, name = os.path.split(os.path.join(start, os.fsdecode(one)))
        real = os.path.join(os.path.realpath(parent), name)
        if not any(real == place or real.startswith(place + "/") for place in _allowed) and real != "/dev/null":
            _seen.append(f"{event} {real}")


def begin_watching() -> None:
    """Watch this process for good, whenever it runs a command."""
    sys.addaudithook(_watch)


def drop_privileges() -> None:
    """As root, heed permissions as others have to: give up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) == 0:
        for part in (0, 1):  # effective, permitted
            data[part] &= ~0b110
        libc.capset(header, data)


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def call(arguments: Sequence[object], writable: Sequence[Path], seconds: float = 60) -> Said:
    """Run `scattergen ARGUMENTS`, which may write below these folders only."""
    out, err = io.StringIO(), io.StringIO()
    argv, code, faults = sys.argv, 0, []
    sys.argv = ["scattergen", *map(str, arguments)]
    _seen.clear()
    _allowed[:] = [os.path.realpath(one) for one in writable]
    try:
        with (
            _limited(seconds), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):  # fmt: skip
            warnings.simplefilter("default")
            cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except TimeUp:
        faults.append(f"still running after {seconds:.0f} s")
    except BaseException:
        faults.append("traceback: " + " | ".join(traceback.format_exc().splitlines()[-4:]))
    finally:
        _allowed.clear()
        sys.argv = argv
    faults += [f"outside: {one}" for one in _seen]
    return Said(code, out.getvalue(), err.getvalue(), faults + ([] if faults else _odd_words(code, err.getvalue())))


def _odd_words(code: int, err: str) -> list[str]:
    """What is wrong with a command's last words: success, or one sentence and exit code 2."""
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    other = [line for line in lines if not line.startswith(("error: ", "warning: "))]
    found = [f"exit code {code}"] if code not in (0, 2) else []
    found += [f"said {other[0]!r}"] if other else []
    if len(errors) != (code == 2):
        found.append(f"{len(errors)} sentences at exit code {code}")
    return found + [f"no sentence: {one!r}" for one in errors if not one.endswith((".", ")", "?")) or len(one) > 1500]


def in_child(work: Callable[[], Any], kill_after: float | None = None, seconds: float = 600) -> Any:
    """What `work` returns in a process of its own, as JSON; a text if it ended otherwise, None if it was killed."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        try:
            answer = json.dumps(work()).encode()
            with os.fdopen(sending, "wb") as pipe:
                pipe.write(answer)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(sending)
    until = time.monotonic() + (seconds if kill_after is None else kill_after)
    with os.fdopen(receiving, "rb") as pipe:
        os.set_blocking(receiving, False)
        answer = b""
        while True:
            answer += pipe.read() or b""
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                answer += pipe.read() or b""
                break
            if time.monotonic() >= until:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return None if kill_after is not None else f"still running after {seconds:.0f} s"
            time.sleep(0.001)
    if status == 0 and answer:
        return json.loads(answer)
    return f"ended with status {status}"
