"""Images in arrays, in memory or read from a file, and what takes tensors as well as sources of images."""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.datasets.containers import Stored, holds_numbers, plain
from scattergen.datasets.source import Dataset, DisplayedImages, ImageSource, Index, as_numpy, check_labels, positions
from scattergen.errors import InputError, one_line

Layout = Literal["NHW", "NHWC", "NCHW"]

_PIECE_BYTES = 1 << 24  # that checks and hashes read at once, since a memory-mapped file may be larger than memory


class ArrayFile:
    """A .npy file whose rows are read when asked for; not mapped, as reading a map of a file that shrank is fatal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with _opened(path) as file:
                first = np.lib.format.read_magic(file) == (1, 0)
                read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                self.shape, self._by_columns, self.dtype = read(file)
                self._start, self._state = file.tell(), _state(file)
            there, wanted = self._state[0] - self._start, self.dtype.itemsize * math.prod(self.shape)
            if self.dtype.hasobject or not self.shape:
                raise ValueError("it holds " + ("Python objects" if self.dtype.hasobject else "a single number"))
            if there < wanted:
                raise ValueError(f"it is cut off: {there:,} of {wanted:,} bytes are there")
        except (OSError, ValueError, EOFError) as error:
            remedy = "save a plain array of numbers again with numpy.save"
            raise InputError(f"{path} cannot be read as a .npy file ({one_line(error)}): {remedy}.") from error

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Rows that follow each other; an InputError if the file has changed."""
        start, stop, _ = rows.indices(self.shape[0])
        n, size, problem = stop - start, math.prod(self.shape[1:]), "has been changed or cut off since it was opened"
        try:
            with open(self._path, "rb", buffering=0) as file:
                if self._by_columns:  # the first values of all rows lie together, then the second …
                    columns = [self._read(file, i * self.shape[0] + start, n) for i in range(size)]
                    found = np.stack(columns, 1).reshape(n, *self.shape[1:], order="F")
                else:
                    found = self._read(file, start * size, n * size).reshape(n, *self.shape[1:])
                if _state(file) == self._state:
                    return found
        except EOFError:
            pass
        except OSError as error:
            problem = f"cannot be read any more ({error.strerror})"
        raise InputError(f"{self._path} {problem}: leave it as it is while it is used, and start again.")

    def _read(self, file: IO[bytes], start: int, count: int) -> NDArray[Any]:
        file.seek(self._start + start * self.dtype.itemsize)
        values = np.fromfile(file, self.dtype, count)
        if len(values) < count:
            raise EOFError
        return values


def _opened(path: Path) -> IO[bytes]:
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise ValueError("it is no regular file")  # a pipe would be waited for
    return open(path, "rb")


def _state(file: IO[bytes]) -> tuple[int, int]:
    """The length of a file and when it was changed."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


class ImageArray(DisplayedImages):
    """Images in an array, converted to float32 in [0, 1] batch by batch.

    Args:
        images: an array of any library, in memory or on a disk (as of h5py and zarr), a tensor, or a list of these or
            of PIL pictures: (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3, of uint8 (divided by 255 on
            access), floats in [0, 1], or bool.
        labels: the class of every image, (N,) integers.
        classes: names of the classes in the order of their labels 0, 1 …; the labels by default.
        layout: "NHW", "NHWC" or "NCHW"; by default it follows from the shape, if that is clear.
        name: what error messages call the array.
        fingerprint: SHA-256 of the content where it is already known.

    Raises:
        InputError: for other shapes and dtypes, floats outside [0, 1], NaN, no images, or labels that do not match.

    Example:
        >>> images = ImageArray(np.full((10, 32, 32, 3), 51, dtype=np.uint8))
        >>> images[:4].shape, round(images[:4].max().item(), 6)
        (torch.Size([4, 3, 32, 32]), 0.2)
    """

    def __init__(
        self, images: Any, labels: NDArray[Any] | Tensor | None = None, *, classes: Sequence[str] | None = None,
        layout: Layout | None = None, name: str = "the image array", fingerprint: str | None = None,
    ) -> None:  # fmt: skip
        images = plain(images, name)
        self._images: NDArray[Any] | Stored = as_numpy(images) if isinstance(images, Tensor) else images
        self._layout, self.shape = _layout_and_shape(self._images.shape, layout, name)
        _check_values(self._images, self._layout, name)
        self.labels: Tensor | None = None
        if labels is not None:
            labels = as_numpy(labels)
            if labels.shape == (len(self), 1):  # as Keras and MedMNIST have them
                labels = labels[:, 0]
            check_labels(labels, len(self), name)
            self.labels = torch.from_numpy(labels.astype(np.int64))
        self.classes = None if classes is None else tuple(classes)
        if fingerprint is not None:
            self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Index) -> Tensor:
        # A slice of a memory map stays one contiguous read; everything else is a gather.
        selected = index if isinstance(index, slice) else positions(index, len(self))
        # The copy makes a tensor of its own out of read-only and byte-swapped arrays.
        batch = np.array(_channels_first(self._images[selected], self._layout), order="C")
        if batch.dtype == np.uint8:
            # By NumPy, as in `ImageReader`: this may run in a thread that reads ahead.
            return torch.from_numpy(np.divide(batch, np.float32(255), dtype=np.float32))
        return torch.from_numpy(batch.astype(np.float32, copy=False))

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of dtype, shape, pixels in (N, C, H, W) order, and labels."""
        digest = hashlib.sha256(f"{self._images.dtype.name} {(len(self), *self.shape)}".encode())
        for _, piece in _pieces(self._images, self._layout):
            digest.update(np.ascontiguousarray(piece, dtype=self._images.dtype.newbyteorder("=")).data)
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()


def as_images(images: Any) -> ImageSource | Tensor:
    """A source as it is, a tensor of floats as float32 (N, C, H, W) on the CPU, all else as `ImageArray` takes it.

    What holds no images is an `InputError`, as far as that is cheap to see.

    Example:
        >>> as_images(np.zeros((10, 28, 28), dtype=np.uint8)).shape
        (1, 28, 28)
    """
    if isinstance(images, Dataset):
        problem = f"{images.name} is a dataset with training and test images"
        raise InputError(f"{problem}: give one part, such as data.train.")
    if not holds_numbers(images) and len(getattr(images, "shape", ())) == 3:
        return cast(ImageSource, images)
    images = plain(images, "images")
    if isinstance(images, Tensor) and images.is_complex():  # of which NumPy has neither half precision nor conjugates
        images = images.to(torch.complex64).resolve_conj()
    if isinstance(images, Tensor) and images.is_floating_point():
        images = images.detach().cpu()
        if images.ndim != 4 or (images.shape[1] not in (1, 3) and images.shape[3] in (1, 3)):
            layout, _ = _layout_and_shape(tuple(images.shape), None, "the tensor of images")
            images = torch.from_numpy(_channels_first(as_numpy(images), layout))
        images = images.float()
        _check_values(images.numpy(), "NCHW", "the tensor of images")
        return images
    return ImageArray(images)


def fingerprint_of(images: ImageSource | Tensor) -> str:
    """A SHA-256 of a source, or of a tensor's type, shape and values, by which work on images is found again.

    Example:
        >>> images = torch.zeros(2, 1, 8, 8)
        >>> fingerprint_of(images) == fingerprint_of(images + 1)
        False
    """
    if not isinstance(images, Tensor):
        return images.fingerprint
    digest = hashlib.sha256(f"{images.dtype} {tuple(images.shape)}".encode())
    for image in images:
        digest.update(image.contiguous().numpy().data)
    return digest.hexdigest()


class WithMirrored(DisplayedImages):
    """Images to fit to, the same mirrored left to right, then the last `n_held_out` of the source and these mirrored.

    The source may be a tensor, (N, C, H, W). The first `n_fit` images here are not held out; `times` is 2, or 1 if
    nothing is `mirrored`.

    Example:
        >>> x = torch.arange(6.0).view(3, 1, 1, 2)
        >>> WithMirrored(x, n_held_out=1)[:].flatten(1).tolist()
        [[0.0, 1.0], [2.0, 3.0], [1.0, 0.0], [3.0, 2.0], [4.0, 5.0], [5.0, 4.0]]
    """

    labels = None

    def __init__(self, source: ImageSource | Tensor, n_held_out: int = 0, mirrored: bool = True) -> None:
        self.source, self.times = source, 2 if mirrored else 1
        channels, height, width = source.shape[-3:]
        self.shape = (channels, height, width)
        parts = torch.arange(len(source)).split([len(source) - n_held_out, n_held_out])
        self.numbers = torch.cat([part.repeat(self.times) for part in parts])
        self._flipped = torch.cat([torch.arange(self.times).repeat_interleave(len(part)) == 1 for part in parts])
        self.n_fit = len(parts[0]) * self.times

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Index) -> Tensor:
        chosen = torch.from_numpy(positions(index, len(self)))
        images, flipped = self.source[self.numbers[chosen]], self._flipped[chosen]
        if flipped.any():
            images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        return images

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Of one row for each of these images, those of the images and, if there are any, of the mirrored, (N, k)."""
        return rows[~self._flipped], rows[self._flipped] if self.times == 2 else None

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the source's fingerprint and of what is done to it."""
        base = fingerprint_of(self.source)
        if self.times == 1 and self.n_fit == len(self):  # the images as they are
            return base
        return hashlib.sha256(f"{base} held out from {self.n_fit} times {self.times}".encode()).hexdigest()


def load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file by name, in memory, since compressed files cannot be memory-mapped."""
    try:
        # Opened here: numpy leaves the file open when the archive is damaged.
        with _opened(path) as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    # A damaged archive fails in zipfile, zlib, numpy's header parser or, when the file is a .npy under another name,
    # because an array has no `files`: there is no common base class.
    except Exception as error:
        remedy = "save plain arrays of numbers again with numpy.savez_compressed"
        raise InputError(f"{path} cannot be read as a .npz file ({one_line(error)}): {remedy}.") from error


def _layout_and_shape(shape: tuple[int, ...], layout: Layout | None, name: str) -> tuple[Layout, tuple[int, int, int]]:
    """The layout of an array of images and the shape (C, H, W) of each, if they can be used."""
    layout = _layout_of(shape, name) if layout is None else layout
    if layout not in ("NHW", "NHWC", "NCHW") or len(shape) != len(layout):
        problem = f"{name} has shape {shape}, which does not fit layout={layout!r}"
        raise InputError(f"{problem}: use 'NHW', 'NHWC' or 'NCHW' with as many axes.")
    sizes = {"C": 1, **dict(zip(layout, shape, strict=True))}
    if sizes["C"] not in (1, 3):
        expected = "expected 1 (grey) or 3 (RGB); remove an alpha channel first"
        raise InputError(f"{name} has {sizes['C']} channels: {expected}.")
    if 0 in shape:
        raise InputError(f"{name} has shape {shape} and so no pixels: give at least one image.")
    return layout, (sizes["C"], sizes["H"], sizes["W"])


def _channels_first(images: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """A view of shape (N, C, H, W)."""
    return images[:, None] if layout == "NHW" else images.transpose(0, 3, 1, 2) if layout == "NHWC" else images


def _layout_of(shape: tuple[int, ...], name: str) -> Layout:
    if len(shape) == 3 and shape[2] not in (1, 3):
        return "NHW"
    channels = [axis for axis in (1, 3) if len(shape) == 4 and shape[axis] in (1, 3)]
    if len(channels) == 1:
        return "NCHW" if channels == [1] else "NHWC"
    if channels:
        problem = f"{name} has shape {shape}, in which axis 1 or axis 3 could be the channels"
        raise InputError(f"{problem}: say which by ImageArray(..., layout='NCHW') or layout='NHWC'.")
    expected = "expected (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3"
    if len(shape) in (2, 3):
        problem = f"{name} has shape {shape}, which looks like a single image, or images as rows of a table"
        remedy = "add the axis N in front with images[None], or give rows their sides with reshape(N, H, W)"
        raise InputError(f"{problem}: {expected}; {remedy}.")
    raise InputError(f"{name} has shape {shape}: {expected}.")


def _pieces(images: NDArray[Any] | Stored, layout: Layout) -> Iterator[tuple[int, NDArray[Any]]]:
    step = max(1, _PIECE_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), step):
        yield start, _channels_first(images[start : start + step], layout)


def _check_values(images: NDArray[Any] | Stored, layout: Layout, name: str) -> None:
    if images.dtype in (np.uint8, np.bool_):
        return
    if not np.issubdtype(images.dtype, np.floating):
        problem = f"{name} holds {images.dtype} values: expected uint8 in 0…255 or floats in [0, 1]"
        remedy = "convert grey levels 0…255 with numpy.asarray(images).astype('uint8')"
        raise InputError(f"{problem}; {remedy}, other ranges to floats by dividing by their maximum.")
    for start, piece in _pieces(images, layout):
        # A NaN makes both extremes NaN, and every comparison with it false.
        low, high = piece.min(axis=(1, 2, 3)), piece.max(axis=(1, 2, 3))
        for row in np.flatnonzero(~((low >= 0) & (high <= 1))):
            problem, remedy = "holds NaN or infinite values", "remove or repair that image"
            if np.isfinite([low[row], high[row]]).all():
                problem = f"has values from {low[row]:g} to {high[row]:g}"
                remedy = "divide grey levels 0…255 by 255, others by the largest of all, map [-1, 1] by (x + 1) / 2"
            raise InputError(f"Image {start + row} of {name} {problem}: expected floats in [0, 1]; {remedy}.")
