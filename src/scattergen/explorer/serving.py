"""A run that the threads of a page share, and the server of that page."""

import errno
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock
from types import TracebackType
from typing import TYPE_CHECKING

from scattergen.errors import InputError
from scattergen.explorer.page import build

if TYPE_CHECKING:
    from scattergen.datasets import Dataset
    from scattergen.explorer.session import Explorer

_PORTS = range(7860, 7960)


class Shared:
    """A run to be explored by one thread at a time; PyTorch, which takes seconds to import, waits for the first."""

    def __init__(self, run: Path | str, images: "Dataset | None" = None, device: str = "cpu") -> None:
        self._given, self._lock = (run, images, device), Lock()
        self._explorer: Explorer | None = None

    def __enter__(self) -> "Explorer":
        self._lock.acquire()
        try:
            if self._explorer is None:
                from scattergen.explorer.session import Explorer

                self._explorer = Explorer(*self._given)
            return self._explorer
        except BaseException:
            self._lock.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()


def serve(shared: Shared, *, host: str, port: int | None, browser: bool, tell: Callable[[str], None]) -> None:
    """Serve the page of a run, whose address is told, until it is interrupted; what visitors uploaded is deleted."""
    port = free_port(host, port)
    with tempfile.TemporaryDirectory(prefix="scattergen-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        # It asks its own address whether it is there, which no proxy can know.
        os.environ["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy", os.environ.get("NO_PROXY")), host]))
        blocks = build(shared)
        try:
            address = blocks.launch(
                server_name=host, server_port=port, inbrowser=browser, share=False, ssr_mode=False,
                prevent_thread_lock=True,
            )[1]  # fmt: skip
            tell(address)
            with shared as explorer:
                explorer.warm()
            Event().wait()
        except KeyboardInterrupt:
            pass
        finally:
            blocks.close(verbose=False)


def free_port(host: str, port: int | None) -> int:
    """The port that is asked for, or the first one from 7860 on that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for one in _PORTS if port is None else [port]:
        try:
            socket.create_server((host, one), family=family).close()
            return one
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                what = f"The page cannot be served at {host}, port {one} ({error.strerror})"
                raise InputError(f"{what}: choose others by --host and --port.") from error
    ports = f"Port {port} is" if port is not None else f"The ports {_PORTS[0]} to {_PORTS[-1]} are all"
    raise InputError(f"{ports} in use: choose another by --port.")
