"""Processes that decode image files beside the one that computes."""

import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from typing import TypeVar

from scattergen.errors import ScattergenError

Value = TypeVar("Value")
Result = TypeVar("Result")


class WorkerProcesses:
    """Processes that apply functions to values, started when first needed.

    They are new processes, not copies of this one, which would inherit its threads and its accelerator. They end when
    the object is no longer used, and also when this process ends in any way.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def map(self, function: Callable[[Value], Result], values: Iterable[Value]) -> Iterator[Result]:
        """Results of a function, importable by its name, in the order of the values."""
        try:
            yield from self._started().map(function, values)
        except BrokenProcessPool as error:
            self.close()
            raise ScattergenError(
                "A process that decodes images was killed, perhaps for want of memory: run the "
                "command again, with fewer of them (--workers)."
            ) from error

    def close(self) -> None:
        """End the processes; the next use starts others."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                context = multiprocessing.get_context("forkserver")
                # Their common parent imports PyTorch, which takes seconds, once for all of them.
                context.set_forkserver_preload(["scattergen.datasets.reading"])
                with _safe_path():
                    resource_tracker.ensure_running()
                    forkserver.ensure_running()
                self._pool = ProcessPoolExecutor(self.count, context, _serve)
                weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
            return self._pool


@contextmanager
def _safe_path() -> Iterator[None]:
    """Let Python programs that start now not look for modules, such as a torch.py, in the current folder first."""
    name = "PYTHONSAFEPATH"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _serve() -> None:
    """Prepare a worker: Ctrl-C is for the main process, and without that one there is no work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # a killed one leaves its workers waiting for work for ever
        os._exit(1)
