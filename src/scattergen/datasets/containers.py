"""What people hold numbers in: tensors, arrays of any library, in memory or on a disk, pictures, and lists of these."""

import os
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scattergen.datasets.decoding import picture_pixels
from scattergen.datasets.source import as_numpy
from scattergen.errors import InputError, one_line


class Stored:
    """An array on a disk, such as h5py's and zarr's, of which rows are read when they are used."""

    def __init__(self, array: Any) -> None:
        self._array, self.shape, self.dtype = array, tuple(map(int, array.shape)), np.dtype(array.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        there, places = np.unique(np.arange(len(self))[rows], return_inverse=True)
        # Runs of rows, since not all of these libraries read lists of numbers, and none in any order.
        runs = np.split(there, np.flatnonzero(np.diff(there) > 1) + 1) if len(there) else [there]
        ends = [(int(run[0]), int(run[-1]) + 1) if len(run) else (0, 0) for run in runs]
        return np.concatenate([np.asarray(self._array[start:stop]) for start, stop in ends])[places]


def holds_numbers(values: Any) -> bool:
    """Whether something is a container of numbers, as sources of images are not."""
    known = (Tensor, np.ndarray, Image.Image, memoryview, list, tuple)
    protocols = ("__array__", "__array_interface__", "__dlpack__", "dtype")
    return isinstance(values, known) or any(hasattr(values, name) for name in protocols)


def plain(values: Any, name: str) -> NDArray[Any] | Tensor | Stored:
    """The numbers of any container as an array or a dense tensor; what is none, or has none, is an `InputError`."""
    reason = ""
    try:
        if isinstance(values, Tensor) and not (values.is_meta or values.is_nested or values.is_quantized):
            return values if values.layout == torch.strided else values.to_dense()
        if not isinstance(values, Tensor) and not np.ma.is_masked(values) and holds_numbers(values):
            array = _array_of(values)
            if array.dtype.kind in "biufc":
                return array
            reason = f" (its values are {array.dtype})"
    except Exception as error:  # of whatever library the container is
        reason = f" ({one_line(error).split('. ')[0].rstrip('.')})"
    raise InputError(f"{type(values).__name__} cannot be used as {name}{reason}: {_remedy(values)}.")


def as_tensor(values: Any, name: str) -> Tensor:
    """The numbers of any container as a tensor, which shares its memory where it can."""
    found = plain(values, name)
    if isinstance(found, Tensor):
        return found
    array = found[:] if isinstance(found, Stored) else found
    longest = np.dtype(np.float64)  # of PyTorch
    dtype = longest if array.dtype == np.longdouble else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.require(array, dtype, ["C", "W"]))


def _array_of(values: Any) -> NDArray[Any] | Stored:
    if isinstance(values, Image.Image):
        values = [values]
    if isinstance(values, np.ndarray) and values.dtype == object:
        values = values.tolist()
    if isinstance(values, list | tuple):
        items = [picture_pixels(x) if isinstance(x, Image.Image) else x for x in values]
        items = [as_numpy(x) if isinstance(x, Tensor) else x for x in items]
        shapes = [*dict.fromkeys(np.shape(one) for one in items)]
        if len(shapes) > 1:
            raise ValueError(f"its items have the shapes {shapes[0]} and {shapes[1]}")
        return np.array(items)
    foreign = not hasattr(values, "__array__")
    if hasattr(values, "dtype") and (foreign or hasattr(values, "chunks")):
        return Stored(values)
    return np.from_dlpack(values) if foreign and hasattr(values, "__dlpack__") else np.asarray(values)


def _remedy(values: Any) -> str:
    if isinstance(values, Tensor) and values.is_quantized:
        return "turn it into floats first with dequantize()"
    first = values[0] if isinstance(values, list | tuple) and values else values
    if isinstance(first, str | bytes | os.PathLike):
        return "read the files first, images by scattergen.datasets.open_dataset(path).train"
    if isinstance(values, DataLoader | Dataset):
        parts = "torch.cat([x for x, _ in" if isinstance(values, DataLoader) else "torch.stack([x for x, _ in"
        return f"take the images out of it first, such as by {parts} data])"
    if hasattr(values, "__next__"):
        return "it can be gone over only once, so make it a list first"
    if isinstance(values, np.ma.MaskedArray):
        return "some of its values are masked, so fill them first, such as by filled(0)"
    if not hasattr(values, "__array__") and hasattr(values, "keys"):
        return f"choose one of its arrays, {', '.join(map(str, islice(values.keys(), 5)))}"
    return "give a tensor or an array of numbers, or a list of those of one shape and no labels"
