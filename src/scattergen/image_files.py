"""Images and codes as files: one picture of a grid, a folder of pictures, or arrays."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scattergen.datasets.arrays import load_npy, load_npz
from scattergen.datasets.classes import ClassLabels
from scattergen.errors import InputError
from scattergen.image_grid import save_image_grid
from scattergen.storage import atomic_path

FORMS = "a grid.png, a folder/ of PNG files, or arrays in images.npz or images.npy"


def check_output(path: Path) -> None:
    """Refuse an output path before any work is done for it.

    Args:
        path: Where images shall go.

    Raises:
        InputError: If its ending says nothing about the form, or a file stands where a folder must
            be.

    Example:
        >>> check_output(Path("samples.png"))
    """
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
    """Write images in the form that the path's ending names.

    Args:
        path: A grid in "….png", single files in a folder, or arrays in "….npz" (with the codes) or
            "….npy".
        images: (N, C, H, W) in [0, 1].
        codes: Their codes, (N, d), kept in ".npz".
        columns: Of a grid.
        classes: Their classes, kept in ".npz" as "labels" and, by name, "classes".

    Raises:
        InputError: If the ending is unknown, or the folder holds other files.
        ScattergenError: If the files cannot be written.
    """
    check_output(path)
    if path.suffix.lower() == ".png":
        save_image_grid(images, path, columns=columns)
    elif path.suffix == "":
        _write_folder(path, images)
    elif path.suffix.lower() == ".npy":
        with atomic_path(path) as temporary:
            np.save(temporary, images.numpy())
    else:
        arrays = {"images": images.numpy()}
        if codes is not None:
            arrays["codes"] = codes.numpy()
        if classes is not None:
            arrays |= {"labels": classes.labels.numpy(), "classes": np.array(classes.classes)}
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]


def _write_folder(path: Path, images: Tensor) -> None:
    digits = len(str(max(len(images) - 1, 0)))
    names = [f"{i:0{digits}d}.png" for i in range(len(images))]
    if path.is_dir():
        others = sorted({file.name for file in path.iterdir()} - set(names))
        if others:
            raise InputError(
                f"{path} holds {others[0]} and so on, with which the images would be mixed: name a "
                "new folder."
            )
    path.mkdir(parents=True, exist_ok=True)
    pixels = (images * 255).round().to(torch.uint8).movedim(1, -1).numpy()
    for name, image in zip(names, pixels, strict=True):
        with atomic_path(path / name) as temporary:
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(temporary)


def write_codes(path: Path, codes: Tensor) -> None:
    """Write codes as "….npy" or as "codes" in "….npz".

    Args:
        path: Destination.
        codes: (N, d).

    Raises:
        InputError: If the ending is another one.
        ScattergenError: If the file cannot be written.
    """
    check_codes_path(path)
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".npy":
            np.save(temporary, codes.numpy())
        else:
            np.savez(temporary, codes=codes.numpy())


def check_codes_path(path: Path) -> None:
    """Refuse a path that is not that of an array file.

    Args:
        path: Where codes shall go.

    Raises:
        InputError: If it does not end in .npy or .npz, or its folder cannot be written to.
    """
    _check_codes_suffix(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file for the codes.")
    _check_parents(path)


def _check_codes_suffix(path: Path) -> None:
    if path.suffix.lower() not in (".npy", ".npz"):
        raise InputError(f"{path} cannot hold codes: name a file that ends in .npz or .npy.")


def read_codes(path: Path) -> Tensor:
    """Codes from "….npy", or from "codes" or the only array of "….npz".

    Args:
        path: An array file.

    Returns:
        Codes, (N, d) float32.

    Raises:
        InputError: If the file is missing, damaged, or holds no table of finite numbers.
    """
    _check_codes_suffix(path)
    if path.suffix.lower() == ".npy":
        array = load_npy(path)
    else:
        arrays = load_npz(path)
        if "codes" not in arrays and len(arrays) != 1:
            raise InputError(
                f'{path} holds {", ".join(arrays)}, but no "codes": name the array "codes".'
            )
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
