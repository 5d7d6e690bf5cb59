"""A run that the threads of a page share."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scattergen.datasets import Dataset
    from scattergen.explorer.session import Explorer

Opening = Callable[[], "AbstractContextManager[Explorer]"]


def opening(run: Path | str, images: "Dataset | None" = None, device: str = "cpu") -> Opening:
    """Opens a run for one thread at a time; PyTorch, which takes seconds to import, waits for the first."""
    lock = Lock()
    made: list[Explorer] = []

    @contextmanager
    def open_run() -> "Iterator[Explorer]":
        from scattergen.explorer.session import Explorer

        with lock:
            if not made:
                made.append(Explorer(run, images, device))
            yield made[0]

    return open_run
