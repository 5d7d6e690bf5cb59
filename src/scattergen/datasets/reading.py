"""Numbered image files to batches of 8-bit pixels, decoded in parallel on access, and read ahead."""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.datasets.decoding import File, Header, Mode, check_crop, decode, read_header
from scattergen.datasets.source import DisplayedImages, Index, positions
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import BadImageError, InputError, ScattergenError

CACHE_BYTES = 1 << 30  # largest size of all decoded images that is kept in memory
MANY = 2000  # files, whose headers, or hashes, take a second or two; decoding takes twenty times that
_AT_ONCE = 32  # files that one thread or process is given, so that handing over costs little

_GUARD = """The processes that decode images could not start, since each imports the script that asks for them: write \
it to a file and begin its work below the line `if __name__ == "__main__":`, or leave out workers (--workers 0)."""

Value = TypeVar("Value")
Result = TypeVar("Result")


class ImageReader(DisplayedImages):
    """Those of n image files that can be read; decoded pixels are kept while all fit into `cache_bytes`.

    `files` gives each once, and its name in messages; `fetch` some again by their numbers. Else as for `ImageFolder`.
    """

    def __init__(
        self, files: Iterable[tuple[Path | str, File]], n: int, what: str,
        fetch: Callable[[list[int]], Sequence[File]], *, size: int | None, mode: Mode | None, crop: int | None,
        strict: bool, cache_bytes: int, workers: int, progress: Progress,
    ) -> None:  # fmt: skip
        for option, pixels in (("size", size), ("crop", crop)):
            if pixels is not None and pixels < 1:
                raise InputError(f"{option}={pixels} is not a number of pixels: give at least 1.")
        if mode not in (None, "L", "RGB"):
            raise InputError(f"mode={mode!r} is unknown: give 'L' (grey) or 'RGB'.")
        if workers < 0:
            raise InputError(f"workers={workers}: give a number of processes, or 0 for threads.")
        headers, numbers, skipped = dict[Path | str, Header](), list[int](), list[str]()
        with (progress if n > (MANY if strict else MANY // 20) else SILENT).task("look at files", n) as task:
            for number, (name, file) in enumerate(files):
                try:
                    header = read_header(file)
                    if not strict:
                        decode(file, header.mode)  # a truncated file has a good header
                    headers[name] = header
                    numbers.append(number)
                except InputError as error:
                    if strict:
                        raise
                    skipped.append(str(error))
                task.advance()
        if not numbers:
            reason = f"; the first: {skipped[0]}" if skipped else "."
            raise InputError(f"None of the {n} {what} can be read{reason}")
        self.numbers, self.skipped = np.array(numbers), tuple(skipped)
        self.file_sizes = frozenset((header.width, header.height) for header in headers.values())
        if crop is not None:
            for name, header in headers.items():
                check_crop(name, header.width, header.height, crop)
        self.mode = _common_mode(headers) if mode is None else mode
        side = size or crop
        width, height = (side, side) if side else _common_size(headers)
        self.shape = (1 if self.mode == "L" else 3, height, width)
        self.file_modes = frozenset(header.mode for header in headers.values())
        changes = {"size": {(width, height)} != self.file_sizes, "mode": {self.mode} != self.file_modes}
        self.converted = [change for change, made in changes.items() if made]  # of what some files are
        self.size, self.crop, self._fetch = size, crop, fetch
        # numpy.empty takes no memory until an image is written.
        kept = len(numbers) * np.prod(self.shape) < cache_bytes
        self._cache: NDArray[np.uint8] | None = np.empty((len(numbers), *self.shape), np.uint8) if kept else None
        self._cached = np.zeros(len(numbers), dtype=bool)
        self._workers = WorkerProcesses(workers) if workers else None

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Index) -> Tensor:
        rows = positions(index, len(self))
        if self._cache is None:
            pixels = self._decode(rows)
        else:
            missing = np.unique(rows[~self._cached[rows]])
            self._cache[missing] = self._decode(missing)
            self._cached[missing] = True
            pixels = self._cache[rows]
        # By NumPy, since this may run in a thread that reads ahead: in PyTorch it would bring a second team of OpenMP
        # threads, whose presence slows the trainer's down by a half.
        return torch.from_numpy(np.divide(pixels, np.float32(255), dtype=np.float32))

    def _decode(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        pixels = np.empty((len(rows), *self.shape), np.uint8)
        if not len(rows):
            return pixels
        n_workers = self._workers.count if self._workers else os.cpu_count() or 1
        step = min(_AT_ONCE, -(-len(rows) // n_workers))
        parts = [rows[i : i + step] for i in range(0, len(rows), step)]
        files = (self._fetch(self.numbers[part].tolist()) for part in parts)
        decode_part = partial(_decode_all, shape=self.shape, mode=self.mode, size=self.size, crop=self.crop)
        with ThreadPoolExecutor(min(len(parts), n_workers)) as threads:  # Pillow releases the interpreter lock
            for i, images in enumerate((self._workers or threads).map(decode_part, files)):
                pixels[i * step : i * step + len(images)] = images
        return pixels


def _decode_all(
    files: Sequence[File], *, shape: tuple[int, int, int], mode: Mode, size: int | None, crop: int | None
) -> NDArray[np.uint8]:
    """Decode several files, all of which must come out in one shape (C, H, W), to (n, C, H, W) uint8."""
    pixels = np.empty((len(files), *shape), np.uint8)
    for row, file in enumerate(files):
        image = decode(file, mode, size, crop)
        if image.shape != shape:
            problem = f"{image.shape[2]}×{image.shape[1]} pixels, not the {shape[2]}×{shape[1]} of the other images"
            raise BadImageError(f"{file} decodes to {problem}: replace it, or pass size=N (--size N).")
        pixels[row] = image
    return pixels


def _common_mode(headers: Mapping[Path | str, Header]) -> Mode:
    """The mode in which no image loses anything: colour if any image has it."""
    grey = [file for file, header in headers.items() if header.mode == "L"]
    if len(grey) == len(headers):
        return "L"
    if grey:
        found = f"{len(grey):,} of {len(headers):,} images are grey, such as {grey[0]}"
        warnings.warn(f"{found}: all are taken as RGB (--mode L makes all of them grey).", stacklevel=2)
    return "RGB"


def _common_size(headers: Mapping[Path | str, Header]) -> tuple[int, int]:
    (first, header), *rest = headers.items()
    for file, other in rest:
        if (other.width, other.height) != (header.width, header.height):
            found = f"{first} has {header.width}×{header.height} pixels but {file} has {other.width}×{other.height}"
            remedy = "by size=N (--size N), which resizes the shorter side and keeps the central square"
            raise InputError(f"{found}: make all images N×N {remedy}.")
    return header.width, header.height


class WorkerProcesses:
    """New processes, since copies would inherit threads and accelerator; they end with this object and this process."""

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
            if not self._ready.is_set():
                raise ScattergenError(_GUARD) from error
            what = "A process that decodes images was killed, perhaps for want of memory"
            raise ScattergenError(f"{what}: run the command again, with fewer of them (--workers).") from error

    def close(self) -> None:
        """End the processes; the next use starts others."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                if getattr(multiprocessing.current_process(), "_inheriting", False):
                    raise SystemExit(1)  # it runs a script without a guard again, as the main process will say
                main = sys.modules["__main__"]
                if main.__spec__ is None and not os.path.isfile(getattr(main, "__file__", __file__)):
                    raise ScattergenError(_GUARD)
                context = _forkserver()
                self._ready = context.Event()
                self._pool = ProcessPoolExecutor(self.count, context, _serve, (self._ready,))
                weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
            return self._pool


def _forkserver() -> BaseContext:
    """Where worker processes come from: a common parent that imports PyTorch, which takes seconds, once for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    # These Python programs shall not look for modules, such as a torch.py, in the current folder first.
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONSAFEPATH"]
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before
    return context


def _serve(ready: Event) -> None:
    """Prepare a worker: Ctrl-C is for the main process, and without that one there is no work."""
    ready.set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # a killed one leaves its workers waiting for work for ever
        os._exit(1)


def prefetched(values: Iterable[Value], ahead: int = 2) -> Iterator[Value]:
    """The same values in the same order, taken from their iterator by a thread of its own.

    Wrap batches that are decoded from files, so that decoding goes on while the caller computes. The thread ends with
    the values, with an exception, which the caller gets at its place, and when the caller stops asking. As many values
    as `ahead` may wait for the caller; memory holds one more that is in the making.

    Example:
        >>> list(prefetched(number**2 for number in range(4)))
        [0, 1, 4, 9]
    """
    iterator = iter(values)
    reader = ThreadPoolExecutor(1, "prefetched")
    try:
        waiting = deque(reader.submit(list, islice(iterator, 1)) for _ in range(max(1, ahead) + 1))
        while value := waiting.popleft().result():  # an empty list at the end
            waiting.append(reader.submit(list, islice(iterator, 1)))
            yield value[0]
    finally:
        reader.shutdown(cancel_futures=True)
