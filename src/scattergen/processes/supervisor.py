"""The process that starts the ranks of a fit on one machine, watches them and ends them together.

Fabric's own launcher makes rank 0 the parent of the others and, when one of them dies, kills it
with SIGKILL, so that nothing could be said to the user.  This one computes nothing itself.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from scattergen.errors import InputError, ScattergenError
from scattergen.processes.layout import Layout
from scattergen.processes.reporting import KINDS, LINK

_POLL = 0.05  # seconds between two looks at the ranks
_AFTER_FAILURE = 1.0  # seconds in which other ranks may say what they know of a failure
_AFTER_SIGNAL = 5.0  # seconds in which ranks may end by themselves after Ctrl-C or SIGTERM
_MEETING_PLACE = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
_STORE_IS_THERE = "TORCHELASTIC_USE_AGENT_STORE"  # tells PyTorch that a store exists, as torchrun does


class _Stopped(BaseException):
    """This process was told to stop by a signal."""

    def __init__(self, number: int) -> None:
        self.number = number


@dataclass
class _Rank:
    number: int
    process: subprocess.Popen[bytes]
    socket: socket.socket

    def report(self) -> tuple[str, str]:
        """Kind and text of the failure of a process that has ended."""
        code = self.process.returncode
        if code < 0:
            return "killed", signal.Signals(-code).name
        try:
            self.socket.setblocking(False)
            kind, text = json.loads(self.socket.recv(2**20))
        except (ValueError, OSError):  # it said nothing
            kind, text = "unexpected", f"Process {self.number} ended with exit code {code}.\n"
        return kind, text


def this_program() -> list[str]:
    """The beginning of a command that starts the command line of this package once more."""
    # Python shall not look in the current folder (-P), where a file torch.py would be run in place of PyTorch,
    # unless the package is a checkout that is not installed, which is only found there.
    here = Path(__file__).parents[2] == Path.cwd()
    return [sys.executable, *([] if here else ["-P"]), "-m", "scattergen"]


def supervise(command: Sequence[str], layout: Layout, threads: int) -> None:
    """Run a command, which works inside `errors_reported`, in several processes that share the threads, to its end.

    They find their number in the environment, as below `torchrun` (see `Layout.of_environment`).  With
    several machines, every machine runs the same command, and the environment says which machine this
    is and where they meet.  If a process fails or is killed, the others are ended.
    """
    with _meeting_place(layout) as where:
        reports = _run(command, layout, {**os.environ, **where}, threads)
    if reports:
        _raise(reports, layout.world_size)


def _run(
    command: Sequence[str], layout: Layout, environment: dict[str, str], threads: int
) -> dict[int, tuple[str, str]]:
    """Reports of the ranks that failed, when all have ended."""
    environment["WORLD_SIZE"], environment["LOCAL_WORLD_SIZE"] = str(layout.world_size), str(layout.devices)
    environment["OMP_NUM_THREADS"] = str(max(1, threads // layout.devices))
    environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else each rank prints stacks of C++ when another dies
    environment.pop("GROUP_RANK", None)  # of another launcher
    first = int(environment["NODE_RANK"]) * layout.devices
    ranks: list[_Rank] = []
    with _raising_signals():
        try:
            for i in range(layout.devices):
                ranks.append(_start(first + i, command, {**environment, "LOCAL_RANK": str(i)}))
            reports = _wait(ranks)
        except _Stopped as stop:
            _end(ranks, stop.number)
            if stop.number == signal.SIGINT:
                raise KeyboardInterrupt from None
            # The convention: die of the signal, so that the caller knows.
            signal.signal(stop.number, signal.SIG_DFL)
            os.kill(os.getpid(), stop.number)
        finally:
            _end(ranks)
    return reports


def _start(number: int, command: Sequence[str], environment: dict[str, str]) -> _Rank:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            list(command),
            env={**environment, LINK: str(theirs.fileno())},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            # Ctrl-C on a terminal reaches this process alone, which passes it on once.
            start_new_session=True,
        )
    return _Rank(number, process, ours)


@contextmanager
def _meeting_place(layout: Layout) -> Iterator[dict[str, str]]:
    """Where the ranks meet, as variables of the environment."""
    if layout.nodes == 1:
        # Made here, since rank 0's own would listen to other machines too, whatever its address.
        listening = socket.create_server(("127.0.0.1", 0))
        host, port = listening.getsockname()
        store = TCPStore(  # which closes the socket
            host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
        )
        where = dict(zip(_MEETING_PLACE, ("0", host, str(port)), strict=True))
        yield {**where, _STORE_IS_THERE: "True"}
        del store
        return
    missing = [name for name in _MEETING_PLACE if not os.environ.get(name)]
    if missing:
        raise InputError(
            f"--nodes {layout.nodes} needs {', '.join(missing)} in the environment: set on every machine its number "
            "from 0, and the address and a free port of machine 0; or start the processes by torchrun."
        )
    node = os.environ["NODE_RANK"]
    if not node.isdecimal() or int(node) >= layout.nodes:
        raise InputError(
            f"NODE_RANK={node} is not the number of one of {layout.nodes} machines: give each a "
            f"number from 0 to {layout.nodes - 1}."
        )
    yield {_STORE_IS_THERE: "False"}


def _wait(ranks: Sequence[_Rank]) -> dict[int, tuple[str, str]]:
    """Reports of the ranks that failed by themselves; empty when all have ended well."""
    deadline: float | None = None
    while True:
        ended = [rank for rank in ranks if rank.process.poll() is not None]
        failed = [rank for rank in ended if rank.process.returncode != 0]
        if len(ended) == len(ranks):
            break
        if failed:
            # The first one seen is not always the cause: wait for what the others say.
            deadline = deadline or time.monotonic() + _AFTER_FAILURE
            if time.monotonic() > deadline:
                break
        time.sleep(_POLL)
    return {rank.number: rank.report() for rank in failed}


def _raise(reports: dict[int, tuple[str, str]], world_size: int) -> None:
    """Say once what went wrong, by the report that says most."""
    # The connection to a process that was killed may break in a thread that can only abort.
    rows = [(KINDS.index(kind), text == "SIGABRT", number) for number, (kind, text) in reports.items()]
    number = min(rows)[2]
    kind, text = reports[number]
    who, again = f"Process {number} of {world_size}", "run the same command again; finished parts are kept"
    if kind == "refused":
        raise ScattergenError(text)
    if kind == "killed":
        hint = ", perhaps for lack of memory" if text == "SIGKILL" else ""
        raise ScattergenError(f"{who} was ended by the signal {text}{hint}, so the others were stopped: {again}.")
    if kind == "unexpected":
        print(text, end="", file=sys.stderr)
        raise ScattergenError(
            f"{who} failed (see above), so the others were stopped: {again} once the cause is removed."
        )
    if kind == "lost":
        raise ScattergenError(
            f"{who} lost its connection to the others: see what the other machines say, then {again}."
        )
    raise KeyboardInterrupt


def _end(ranks: Sequence[_Rank], number: int | None = None) -> None:
    """End what still runs, with its children; after a signal, let it end by itself at first."""
    running = [rank.process for rank in ranks if rank.process.poll() is None]
    if number is not None:
        for process in running:
            process.send_signal(number)
        deadline = time.monotonic() + _AFTER_SIGNAL
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    for rank in ranks:
        with suppress(ProcessLookupError):
            os.killpg(rank.process.pid, signal.SIGKILL)
        rank.process.wait()
        rank.socket.close()


@contextmanager
def _raising_signals() -> Iterator[None]:
    """Raise `_Stopped` on the signals by which users and schedulers end a program."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, _: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)  # one is enough: nothing may interrupt ending the ranks
        raise _Stopped(number)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
