"""What starts the ranks of a fit, watches and ends them, which Fabric's launcher would kill before they say why."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from scattergen.errors import InputError, ScattergenError
from scattergen.processes.group import Layout, is_lost_connection

_POLL = 0.05  # seconds between two looks at the ranks
_AFTER_FAILURE = 1.0  # seconds in which other ranks may say what they know of a failure
_AFTER_SIGNAL = 5.0  # seconds in which ranks may end by themselves after Ctrl-C or SIGTERM
_AFTER_RANK_0 = 2.0  # seconds in which torchrun, which looks every 0.1 s, ends the others after rank 0 has failed
_MEETING_PLACE = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
_STORE_IS_THERE = "TORCHELASTIC_USE_AGENT_STORE"  # tells PyTorch that a store exists, as torchrun does
_LINK = "SCATTERGEN_SUPERVISOR_SOCKET"  # environment variable with the socket that the supervisor listens at
_LONGEST = 30_000  # characters of a report: fits the buffer of a socket, so that no rank waits to be read
# The kinds of failure, from the one that says most of what is wrong to the one that says least.
_KINDS = ("refused", "killed", "unexpected", "lost", "interrupted")


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
    """Run a command, which works inside `errors_reported`, to its end in processes that share the threads."""
    with _meeting_place(layout) as where:
        reports = _run(command, layout, {**os.environ, **where}, threads)
    if not reports:
        return
    # The connection to a process that was killed may break in a thread that can only abort.
    rows = [(_KINDS.index(kind), text == "SIGABRT", number) for number, (kind, text) in reports.items()]
    number = min(rows)[2]  # of the one that says most
    kind, text = reports[number]
    if kind == "refused":
        raise ScattergenError(text)
    if kind == "interrupted":
        raise KeyboardInterrupt
    if kind == "unexpected":
        print(text, end="", file=sys.stderr)
    hint = ", perhaps for lack of memory" if text == "SIGKILL" else ""
    again = "run the same command again; finished parts are kept"
    what = {
        "killed": f"was ended by the signal {text}{hint}, so the others were stopped: {again}",
        "unexpected": f"failed (see above), so the others were stopped: {again} once the cause is removed",
        "lost": f"lost its connection to the others: see what the other machines say, then {again}",
    }
    raise ScattergenError(f"Process {number} of {layout.world_size} {what[kind]}.")


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
                ours, theirs = socket.socketpair()
                with theirs:
                    own = {**environment, "LOCAL_RANK": str(i), _LINK: str(theirs.fileno())}
                    # In a session of its own: Ctrl-C on a terminal reaches this process alone, which passes it on.
                    process = subprocess.Popen(
                        list(command), env=own, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                        start_new_session=True,
                    )  # fmt: skip
                ranks.append(_Rank(first + i, process, ours))
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


@contextmanager
def _meeting_place(layout: Layout) -> Iterator[dict[str, str]]:
    """Where the ranks meet, as variables of the environment."""
    if layout.nodes == 1:
        # Made here, since rank 0's own would listen to other machines too, whatever its address.
        listening = socket.create_server(("127.0.0.1", 0))
        host, port = listening.getsockname()
        descriptor = listening.detach()  # of the socket, which the store closes
        store = TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor)
        yield {"NODE_RANK": "0", "MASTER_ADDR": host, "MASTER_PORT": str(port), _STORE_IS_THERE: "True"}
        del store
        return
    node, host, port = (os.environ.get(name, "") for name in _MEETING_PLACE)
    if not (node.isdecimal() and int(node) < layout.nodes and host and port):
        needs = f"--nodes {layout.nodes} needs {', '.join(_MEETING_PLACE)} in the environment"
        remedy = f"set the number of each machine, 0 to {layout.nodes - 1}, and address and free port of machine 0"
        raise InputError(f'{needs}, not "{node}", "{host}", "{port}": {remedy}; or start the processes by torchrun.')
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


@contextmanager
def errors_reported(layout: Layout, sentence_of: Callable[[BaseException], str | None]) -> Iterator[None]:
    """Let an error in several processes be printed once, as `sentence_of` words it, by our supervisor or rank 0."""
    supervisor = _supervisor()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        sentence = sentence_of(error)
        if supervisor is None:
            if layout.rank > 0 and sentence is not None:  # another launcher's: rank 0 shall have the time to say it
                time.sleep(_AFTER_RANK_0)
            raise
        if isinstance(error, KeyboardInterrupt):
            kind, text = "interrupted", ""
        elif is_lost_connection(error):
            kind, text = "lost", ""
        else:
            kind, text = ("unexpected", traceback.format_exc()) if sentence is None else ("refused", sentence)
        supervisor.sendall(json.dumps([kind, text[-_LONGEST:]]).encode())
        sys.stderr.flush()
        raise SystemExit(1) from None


def _supervisor() -> socket.socket | None:
    descriptor = os.environ.pop(_LINK, None)
    if descriptor is None:
        return None
    supervisor = socket.socket(fileno=int(descriptor))
    supervisor.set_inheritable(False)

    def end_with_supervisor() -> None:
        # It sends nothing: this returns when it is gone, even by SIGKILL.
        supervisor.recv(1)
        os.killpg(0, signal.SIGKILL)  # this process, which leads its group, and its children

    threading.Thread(target=end_with_supervisor, daemon=True).start()
    return supervisor
