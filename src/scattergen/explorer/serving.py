"""The server of a page."""

import errno
import logging
import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from threading import Event

from scattergen.errors import InputError
from scattergen.explorer.page import Opening, build

_PORTS = range(7860, 7960)


def serve(open_run: Opening, *, host: str, port: int | None, browser: bool, tell: Callable[[str], None]) -> None:
    """Serve the page of a run, whose address is told, until it is interrupted; what visitors uploaded is deleted."""
    port = free_port(host, port)
    with tempfile.TemporaryDirectory(prefix="scattergen-") as folder, suppress(KeyboardInterrupt):
        os.environ["GRADIO_TEMP_DIR"] = folder
        # It asks whether it is there, and no proxy would know.
        os.environ["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy", os.environ.get("NO_PROXY")), host]))
        blocks = build(open_run)
        try:
            tell(blocks.launch(
                server_name=host, server_port=port, inbrowser=browser, share=False, ssr_mode=False,
                prevent_thread_lock=True,
            )[1])  # fmt: skip
            with open_run() as explorer:
                explorer.samples(explorer.density)
            Event().wait(0.2)  # so that whoever sees the page already goes first
            with open_run() as explorer:
                explorer.warm()
            Event().wait()
        finally:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it complains of what follows
            with suppress(AttributeError):  # if it has not come to a server
                blocks.server.force_exit = True  # which would wait for pages that are open
            blocks.close(verbose=False)


def free_port(host: str, port: int | None) -> int:
    """The port that is asked for, or the first one from 7860 on that is free."""
    for one in _PORTS if port is None else [port]:
        try:
            socket.create_server((host, one), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
            return one
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                what = f"The page cannot be served at {host}, port {one} ({error.strerror})"
                raise InputError(f"{what}: choose others by --host and --port.") from error
    ports = f"Port {port} is" if port is not None else f"The ports {_PORTS[0]} to {_PORTS[-1]} are all"
    raise InputError(f"{ports} in use: choose another by --port.")
