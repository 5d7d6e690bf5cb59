"""Images and codes as files: one picture of a grid, a folder of pictures, or arrays."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scattergen.datasets.arrays import load_npy, load_npz
from scattergen.datasets.source import ClassLabels
from scattergen.errors import InputError
from scattergen.files import atomic_path, is_temporary, temporary_path
from scattergen.image_grid import image_grid, png

FORMS = "a grid.png, a folder/ of PNG files, or arrays in images.npz or images.npy"


def check_output(path: Path) -> None:
    """Refuse a path for images before any work is done for it."""
    if path.suffix.lower() not in ("", ".png", ".npz", ".npy"):
        raise InputError(f"{path} has an unknown ending: name {FORMS}.")
    if path.suffix == "" and path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: name {FORMS}.")
    if path.suffix != "" and path.is_dir():
        raise InputError(f"{path} is a folder: name a file, or a folder without an ending.")
    _check_parents(path)


def _check_parents(path: Path) -> None:
    parent = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        reason = "cannot be written to" if parent.is_dir() else "is a file"
        raise InputError(f"Cannot write {path}, since {parent} {reason}: choose another place.")


def write_images(
    path: Path,
    images: Tensor,
    codes: Tensor | None = None,
    columns: int | None = None,
    classes: ClassLabels | None = None,
) -> None:
    """Write images (N, C, H, W) in the form that the path's ending names: a grid, single files or arrays.

    Codes (N, d) and classes are kept in ".npz" only.
    """
    check_output(path)
    if path.suffix.lower() == ".png":
        content = png(image_grid(images, columns=columns))
        with _replacing(path) as temporary:
            temporary.write_bytes(content)
    elif path.suffix == "":
        _write_folder(path, images)
    else:
        arrays = {"images": images.numpy()}
        if codes is not None:
            arrays["codes"] = codes.numpy()
        if classes is not None:
            arrays |= {"labels": classes.labels.numpy(), "classes": np.array(classes.classes)}
        _write_arrays(path, arrays)


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write the first array as "….npy", or all as "….npz"."""
    with _replacing(path) as temporary:
        if path.suffix.lower() == ".npy":
            np.save(temporary, next(iter(arrays.values())))
        else:
            np.savez(temporary, **arrays)


def _write_folder(path: Path, images: Tensor) -> None:
    digits = len(str(max(len(images) - 1, 0)))
    names = [f"{i:0{digits}d}.png" for i in range(len(images))]
    if path.is_dir():
        others = sorted({file.name for file in path.iterdir() if not _is_left_over_picture(file)} - set(names))
        if others:
            raise InputError(
                f"{path} holds {others[0]} and so on, with which the images would be mixed: name a new folder."
            )
    path.mkdir(parents=True, exist_ok=True)
    pixels = (images * 255).round().to(torch.uint8).movedim(1, -1).numpy()
    with _locked(path) as alone:
        if alone:  # so that what is half written there belongs to nobody any more
            for file in filter(_is_left_over_picture, path.iterdir()):
                file.unlink(missing_ok=True)
        for name, image in zip(names, pixels, strict=True):
            with atomic_path(path / name) as temporary:
                Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(temporary)


def _is_left_over_picture(file: Path) -> bool:
    return is_temporary(file) and file.suffix == ".png"


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """As `atomic_path`, but what a killed process left is deleted when its output is written again.

    The name of the temporary file says which output it is for, its lock that its writer lives.
    """
    mark = temporary_path(Path(hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16])).name
    for left_over in path.parent.glob(f"{mark}*"):
        with suppress(OSError), _locked(left_over) as free:
            if free:
                left_over.unlink()
    with atomic_path(path) as unmarked, _locked(unmarked):
        temporary = unmarked.with_name(mark + unmarked.name)
        unmarked.rename(temporary)
        try:
            yield temporary
            with temporary.open("rb+") as file:  # which may take long, and so a kill come meanwhile
                os.fsync(file.fileno())
            temporary.rename(unmarked)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Try to lock a file or folder until the block or this process ends; whether it worked."""
    # Network drives lock only what is open for writing, and so no folders.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        locked = False
        with suppress(OSError):  # of another process, or of a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        yield locked
    finally:
        os.close(descriptor)


def write_codes(path: Path, codes: Tensor) -> None:
    """Write codes (N, d) as "….npy" or as "codes" in "….npz"."""
    check_codes_path(path)
    _write_arrays(path, {"codes": codes.numpy()})


def check_codes_path(path: Path) -> None:
    """Refuse a path for codes before any work is done for it."""
    _check_codes_suffix(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file for the codes.")
    _check_parents(path)


def _check_codes_suffix(path: Path) -> None:
    if path.suffix.lower() not in (".npy", ".npz"):
        raise InputError(f"{path} cannot hold codes: name a file that ends in .npz or .npy.")


def read_codes(path: Path) -> Tensor:
    """Codes (N, d), float32 and finite, from "….npy", or from "codes" or the only array of "….npz"."""
    _check_codes_suffix(path)
    arrays = {"codes": load_npy(path)} if path.suffix.lower() == ".npy" else load_npz(path)
    if "codes" not in arrays and len(arrays) != 1:
        raise InputError(f'{path} holds {", ".join(arrays)}, but no "codes": name the array "codes".')
    array = arrays["codes"] if "codes" in arrays else next(iter(arrays.values()))
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"{path} holds {array.dtype} numbers of shape {array.shape}: give codes, floats (N, d),"
            " as `scattergen encode` writes them."
        )
    codes = torch.from_numpy(np.array(array, dtype=np.float32))
    if not torch.isfinite(codes).all():
        raise InputError(f"{path} holds NaN or infinite codes: check where they come from.")
    return codes
