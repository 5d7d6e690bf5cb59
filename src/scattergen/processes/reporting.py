"""How a rank reports to the supervisor that started it, and ends with it."""

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from scattergen.processes.group import is_lost_connection
from scattergen.processes.layout import Layout

LINK = "SCATTERGEN_SUPERVISOR_SOCKET"  # environment variable with the socket that the supervisor listens at
# The kinds of failure, from the one that says most of what is wrong to the one that says least.
KINDS = ("refused", "killed", "unexpected", "lost", "interrupted")
_LONGEST = 30_000  # characters: fits the buffer of a socket, so that no rank waits to be read
_AFTER_RANK_0 = 2.0  # seconds in which torchrun, which looks every 0.1 s, ends the others after rank 0 has failed


@contextmanager
def errors_reported(layout: Layout, sentence_of: Callable[[BaseException], str | None]) -> Iterator[None]:
    """Let an error that occurs in several processes be printed once, as `sentence_of` words it.

    Below our supervisor, a process hands its error over and exits.  Below another launcher, it
    raises the error, and those of rank 1 and above do so after rank 0 had the time to.
    """
    supervisor = _supervisor()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        sentence = sentence_of(error)
        if supervisor is None:
            if layout.rank > 0 and sentence is not None:
                time.sleep(_AFTER_RANK_0)
            raise
        if isinstance(error, KeyboardInterrupt):
            kind, sentence = "interrupted", ""
        elif is_lost_connection(error):
            kind, sentence = "lost", ""
        elif sentence is not None:
            kind = "refused"
        else:
            kind, sentence = "unexpected", traceback.format_exc()
        supervisor.sendall(json.dumps([kind, sentence[-_LONGEST:]]).encode())
        sys.stderr.flush()
        raise SystemExit(1) from None


def _supervisor() -> socket.socket | None:
    descriptor = os.environ.pop(LINK, None)
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
