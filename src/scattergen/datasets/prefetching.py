"""Reading the next batches of images while the current one is computed with."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetched(values: Iterable[T], ahead: int = 2) -> Iterator[T]:
    """The same values in the same order, taken from their iterator by a thread of its own.

    Wrap batches that are decoded from files, so that decoding goes on while the caller computes. The thread ends when
    the values do, when one cannot be made (the caller gets that exception in its place), and when the caller stops
    asking.

    Args:
        values: what to read; not used by anyone else meanwhile.
        ahead: how many values may wait for the caller; memory holds one more that is in the making.

    Returns:
        An iterator.

    Example:
        >>> list(prefetched(number**2 for number in range(4)))
        [0, 1, 4, 9]
    """
    waiting: queue.Queue[list[T]] = queue.Queue(max(1, ahead))
    failures: list[BaseException] = []
    stopped = threading.Event()

    def put(value: list[T]) -> None:
        """Hand over unless the caller has gone."""
        while not stopped.is_set():
            try:
                return waiting.put(value, timeout=0.1)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for value in values:
                put([value])
                if stopped.is_set():
                    return
        except BaseException as error:  # for the caller, whoever of its callers is to see it
            failures.append(error)
        put([])

    thread = threading.Thread(target=read, name="prefetched", daemon=True)
    thread.start()
    try:
        while value := waiting.get():
            yield value[0]
        if failures:
            raise failures[0]
    finally:
        stopped.set()
        thread.join()
