"""Numbered image files to batches of one size and mode, decoded in parallel on access."""

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.datasets.decoding import File, Header, Mode, check_crop, decode, read_header
from scattergen.datasets.worker_processes import WorkerProcesses
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress

CACHE_BYTES = 1 << 30
"""Largest size of all decoded images in bytes that is kept in memory."""

_MANY = 2000  # files, whose headers take a second or two
_AT_ONCE = 32  # files that one thread or process is given, so that handing over costs little

Key = TypeVar("Key")
Headers = Mapping[Path, Header] | Mapping[str, Header]


class ImageReader:
    """Batches of images from numbered files; decoded pixels are kept while they all fit into `cache_bytes`.

    `files` gives those of some numbers; `headers` are of all, by what messages call them. The other arguments are those
    of `ImageFolder`.
    """

    def __init__(
        self,
        files: Callable[[NDArray[np.int64]], Sequence[File]],
        headers: Headers,
        *,
        mode: Mode | None,
        size: int | None,
        crop: int | None,
        cache_bytes: int,
        workers: int,
    ) -> None:
        if crop is not None:
            for name, header in headers.items():
                check_crop(name, header.width, header.height, crop)
        self.mode = _common_mode(headers) if mode is None else mode
        side = size or crop
        width, height = (side, side) if side else _common_size(headers)
        self.shape = (1 if self.mode == "L" else 3, height, width)
        self._files, self._size, self._crop = files, size, crop
        n = len(headers)
        # numpy.empty takes no memory until an image is written.
        self._cache: NDArray[np.uint8] | None = (
            np.empty((n, *self.shape), np.uint8) if n * np.prod(self.shape) < cache_bytes else None
        )
        self._cached = np.zeros(n, dtype=bool)
        self._workers = WorkerProcesses(workers) if workers else None

    def read(self, numbers: NDArray[np.int64]) -> Tensor:
        """Images by their numbers (n,), as (n, C, H, W) float32 in [0, 1]."""
        if self._cache is None:
            pixels = self._decode(numbers)
        else:
            missing = np.unique(numbers[~self._cached[numbers]])
            self._cache[missing] = self._decode(missing)
            self._cached[missing] = True
            pixels = self._cache[numbers]
        # By NumPy, since this may run in a thread that reads ahead: in PyTorch it would bring a
        # second team of OpenMP threads, whose presence slows the trainer's down by a half.
        return torch.from_numpy(np.divide(pixels, np.float32(255), dtype=np.float32))

    def _decode(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        pixels = np.empty((len(numbers), *self.shape), np.uint8)
        if not len(numbers):
            return pixels
        n_workers = self._workers.count if self._workers else os.cpu_count() or 1
        step = min(_AT_ONCE, -(-len(numbers) // n_workers))
        parts = [numbers[i : i + step] for i in range(0, len(numbers), step)]
        files = (self._files(part) for part in parts)
        decode_part = partial(decode_all, shape=self.shape, mode=self.mode, size=self._size, crop=self._crop)
        with ThreadPoolExecutor(min(len(parts), n_workers)) as threads:  # Pillow releases the interpreter lock
            decoded = (self._workers or threads).map(decode_part, files)
            for i, images in enumerate(decoded):
                pixels[i * step : i * step + len(images)] = images
        return pixels


def decode_all(
    files: Sequence[File], *, shape: tuple[int, int, int], mode: Mode, size: int | None, crop: int | None
) -> NDArray[np.uint8]:
    """Decode several files, all of which must come out in one shape (C, H, W), to (n, C, H, W) uint8."""
    pixels = np.empty((len(files), *shape), np.uint8)
    for row, file in enumerate(files):
        image = decode(file, mode, size, crop)
        if image.shape != shape:
            raise InputError(
                f"{file} decodes to {image.shape[2]}×{image.shape[1]} pixels, not the {shape[2]}×{shape[1]} of the "
                "other images: replace it, or pass size=N (--size N)."
            )
        pixels[row] = image
    return pixels


def check_reading(size: int | None, crop: int | None, mode: str | None, workers: int) -> None:
    """Refuse settings of a source of image files that are out of range."""
    for name, pixels in (("size", size), ("crop", crop)):
        if pixels is not None and pixels < 1:
            raise InputError(f"{name}={pixels} is not a number of pixels: give at least 1.")
    if mode not in (None, "L", "RGB"):
        raise InputError(f"mode={mode!r} is unknown: give 'L' (grey) or 'RGB'.")
    if workers < 0:
        raise InputError(f"workers={workers}: give a number of processes, or 0 for threads.")


def readable(
    files: Iterable[tuple[Key, File]], n: int, what: str, *, strict: bool, progress: Progress
) -> tuple[dict[Key, Header], tuple[str, ...]]:
    """Headers of n files by key, at least one, and a sentence for every file left out, if that is not an error.

    Unless `strict`, every file is decoded once.
    """
    headers: dict[Key, Header] = {}
    skipped: list[str] = []
    with (progress if n > _MANY else SILENT).task("look at files", n) as task:
        for key, file in files:
            try:
                header = read_header(file)
                if not strict:
                    decode(file, header.mode)  # a truncated file has a good header
                headers[key] = header
            except InputError as error:
                if strict:
                    raise
                skipped.append(str(error))
            task.advance()
    if not headers:
        reason = f"; the first: {skipped[0]}" if skipped else "."
        raise InputError(f"None of the {n} {what} can be read{reason}")
    return headers, tuple(skipped)


def _common_mode(headers: Headers) -> Mode:
    """The mode in which no image loses anything: colour if any image has it."""
    grey = [file for file, header in headers.items() if header.mode == "L"]
    if len(grey) == len(headers):
        return "L"
    if grey:
        warnings.warn(
            f"{len(grey):,} of {len(headers):,} images are grey, such as {grey[0]}: all are taken as RGB "
            "(--mode L makes all of them grey).",
            stacklevel=2,
        )
    return "RGB"


def _common_size(headers: Headers) -> tuple[int, int]:
    (first, header), *rest = headers.items()
    for file, other in rest:
        if (other.width, other.height) != (header.width, header.height):
            raise InputError(
                f"{first} has {header.width}×{header.height} pixels but {file} has {other.width}×{other.height}: make "
                "all images N×N by size=N (--size N), which resizes the shorter side and keeps the central square."
            )
    return header.width, header.height
