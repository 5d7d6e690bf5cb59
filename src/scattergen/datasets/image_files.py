"""Images as pictures in grids, and images and codes as files: a picture, a folder of pictures, or arrays."""

import hashlib
import io
import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from scattergen.calls.keywords import whole_number
from scattergen.datasets.arrays import ArrayFile, load_npz
from scattergen.datasets.containers import as_tensor
from scattergen.datasets.source import ClassLabels
from scattergen.errors import InputError
from scattergen.files import atomic_path, flush, is_temporary, lock, temporary_path

_AT_ONCE = 500  # pictures that reach the disk together, which is faster than one by one
COMFORTABLE_SIDE = 64  # smaller images are enlarged by default, so that digits can be seen without a magnifying glass
FORMS = "a grid.png (or .jpg, .webp), an animation .gif, a folder/ of PNG files, or arrays in images.npz or images.npy"

# Endings of pictures, and how Pillow writes them.
_FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"}, ".jpg": {"format": "JPEG", "quality": 95}, ".jpeg": {"format": "JPEG", "quality": 95},
    ".webp": {"format": "WEBP", "lossless": True},
}  # fmt: skip
_FRAME_MILLISECONDS = 100  # of an animation


def check_output(path: Path, n: int | None = None) -> None:
    """Refuse a path for images, n of them where that is known, before any work is done for it."""
    if path.suffix.lower() not in ("", ".gif", ".npz", ".npy", *_FORMATS):
        raise InputError(f"{path} has an unknown ending: name {FORMS}.")
    if path.suffix == "" and path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: name {FORMS}.")
    if path.suffix != "" and path.is_dir():
        raise InputError(f"{path} is a folder: name a file, or a folder without an ending.")
    check_place(path)
    if path.suffix == "" and path.is_dir():
        ours = re.compile(r"\d+\.png").fullmatch if n is None else set(_names(n)).__contains__
        others = [file.name for file in path.iterdir() if not (ours(file.name) or _is_left_over_picture(file))]
        if others:
            problem = f"{path} holds {min(others)} and so on, with which the images would be mixed"
            raise InputError(f"{problem}: name a new folder.")


def check_place(path: Path) -> None:
    """Refuse a path at which nothing can be written, whether anything is there or not."""
    there = next(one for one in (path.absolute(), *path.absolute().parents) if os.path.lexists(one))
    try:
        with suppress(FileNotFoundError):
            path.lstat()  # which tells of names that are too long
        with tempfile.TemporaryFile(dir=there if there.is_dir() else there.parent):
            pass
    except OSError as error:
        raise InputError(f"Cannot write {path} ({error.strerror}): choose another place.") from error


def write_images(
    path: Path, images: Tensor, codes: Tensor | None = None, columns: int | None = None,
    classes: ClassLabels | None = None,
) -> None:  # fmt: skip
    """Write images (N, C, H, W) in the form that the path's ending names; codes (N, d) and classes in ".npz" only.

    A ".gif" shows them one after the other.
    """
    check_output(path, len(images))
    if is_grid(path) or is_animation(path):
        frames = images.split(1) if is_animation(path) else [images]
        content = _encoded(path, [image_grid(frame, columns=columns if is_grid(path) else 1) for frame in frames])
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


def write_series(path: Path, images: Tensor) -> None:
    """Write images (N, C, H, W), of which each follows from the one before, in a row; an animation also goes back."""
    back = images[1:-1].flip(0) if is_animation(path) else images[:0]
    write_images(path, torch.cat([images, back]), columns=len(images))


def is_grid(path: Path) -> bool:
    """Whether images are written as one picture to this path."""
    return path.suffix.lower() in _FORMATS


def is_animation(path: Path) -> bool:
    """Whether images are written one after the other to this path."""
    return path.suffix.lower() == ".gif"


def _encoded(path: Path, pictures: Sequence[Image.Image]) -> bytes:
    """The content of a picture's file, or of an animation's; a PNG unless the path ends otherwise."""
    first, *others = pictures
    how = _FORMATS.get(path.suffix.lower(), _FORMATS[".png"])
    if is_animation(path):
        how = {"format": "GIF", "save_all": True, "append_images": others, "duration": _FRAME_MILLISECONDS, "loop": 0}
    buffer = io.BytesIO()
    try:
        first.save(buffer, **how)
    except (OSError, ValueError) as error:  # of pictures that are too large for it
        what = f"A picture of {first.width:,}×{first.height:,} pixels cannot be a {how['format']} file ({error})"
        raise InputError(f"{what}: name a .png, or make fewer images.") from error
    return buffer.getvalue()


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write the first array as "….npy", or all as "….npz"."""
    with _replacing(path) as temporary:
        if path.suffix.lower() == ".npy":
            np.save(temporary, next(iter(arrays.values())))
        else:
            np.savez(temporary, **arrays)


def _write_folder(path: Path, images: Tensor) -> None:
    path.mkdir(parents=True, exist_ok=True)
    pixels = (images * 255).round().to(torch.uint8).movedim(1, -1).numpy()
    with _locked(path) as alone:
        if alone:  # so that what is half written there belongs to nobody any more
            for file in filter(_is_left_over_picture, path.iterdir()):
                file.unlink(missing_ok=True)
        names = _names(len(images))
        for start in range(0, len(names), _AT_ONCE):
            with ExitStack() as files:  # written one after the other, then named, the first one last
                for i, name in enumerate(names[start : start + _AT_ONCE], start):
                    temporary = files.enter_context(atomic_path(path / name, last=i == start))
                    Image.fromarray(pixels[i].squeeze(-1) if pixels.shape[-1] == 1 else pixels[i]).save(temporary)


def _names(n: int) -> list[str]:
    """What the files of n images in a folder are called."""
    digits = len(str(max(n - 1, 0)))
    return [f"{i:0{digits}d}.png" for i in range(n)]


def _is_left_over_picture(file: Path) -> bool:
    return is_temporary(file) and file.suffix == ".png"


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """As `atomic_path`, but what a killed process left is deleted when its output is written again."""
    # The name of the temporary file says which output it is for, its lock that its writer lives.
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
            flush(temporary)  # which may take long, and so a kill come meanwhile
            temporary.rename(unmarked)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Try to lock a file or folder until the block or this process ends; whether it worked."""
    # Network drives lock only what is open for writing, and so no folders.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        locked = None
        with suppress(OSError):
            locked = lock(descriptor)
        yield bool(locked)
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
    check_place(path)


def _check_codes_suffix(path: Path) -> None:
    if path.suffix.lower() not in (".npy", ".npz"):
        raise InputError(f"{path} cannot hold codes: name a file that ends in .npz or .npy.")


def read_codes(path: Path) -> Tensor:
    """Codes (N, d), float32 and finite, from "….npy", or from "codes" or the only array of "….npz"."""
    _check_codes_suffix(path)
    if not os.path.exists(path):
        raise InputError(f"There is no file {path}: check its name.")
    arrays = {"codes": ArrayFile(path)[:]} if path.suffix.lower() == ".npy" else load_npz(path)
    if "codes" not in arrays and len(arrays) != 1:
        raise InputError(f'{path} holds {", ".join(arrays)}, but no "codes": name the array "codes".')
    array = arrays["codes"] if "codes" in arrays else next(iter(arrays.values()))
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        remedy = "give codes, floats (N, d), as `scattergen encode` writes them"
        raise InputError(f"{path} holds {array.dtype} numbers of shape {array.shape}: {remedy}.")
    codes = torch.from_numpy(np.array(array, dtype=np.float32))
    if not torch.isfinite(codes).all():
        raise InputError(f"{path} holds NaN or infinite codes: check where they come from.")
    return codes


def image_grid(
    x: Tensor, columns: int | None = None, pad: int = 2, scale: int | None = None, fill: int | None = 255
) -> Image.Image:
    """Arrange images in a grid, row by row: a picture of mode "L" or "RGB"; every pixel value is kept exactly.

    Args:
        x: images in [0, 1], (N, C, H, W) with one (grey) or three (RGB) channels; values outside are clipped.
        columns: images in a row; by default the grid is as square as it can be.
        pad: gap between images, in pixels of the result; there is no outer border.
        scale: every pixel becomes a block of scale x scale; by default the longer side has at least 64 pixels.
        fill: grey value from 0 to 255 of gaps and of empty cells; None leaves them transparent (mode "LA" or "RGBA").

    Raises:
        InputError: if x is not of this form, is empty or holds NaN, or columns, pad or scale is out of range.

    Example:
        >>> image_grid(torch.zeros(6, 1, 28, 28), columns=3, pad=2, scale=1).size
        (88, 58)
    """
    pixels = _to_bytes(x)
    count, height, width, _ = pixels.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else whole_number("columns", columns, least=1)
    scale = -(-COMFORTABLE_SIDE // max(height, width)) if scale is None else scale
    if columns < 1 or pad < 0 or scale < 1:
        wanted, got = "columns >= 1, pad >= 0 and scale >= 1", f"columns={columns}, pad={pad}, scale={scale}"
        raise InputError(f"an image grid needs {wanted}, got {got}.")
    if fill is None:
        pixels = np.pad(pixels, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=255)  # opaque
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    _, height, width, channels = pixels.shape
    rows = -(-count // columns)
    canvas = np.full((rows * (height + pad) - pad, columns * (width + pad) - pad, channels), fill or 0, np.uint8)
    for index, picture in enumerate(pixels):
        top, left = (index // columns) * (height + pad), (index % columns) * (width + pad)
        canvas[top : top + height, left : left + width] = picture
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def png(picture: Image.Image) -> bytes:
    """The content of a picture's PNG file."""
    return _encoded(Path(), [picture])


def save_image_grid(x: Tensor, path: str | Path, columns: int | None = None, scale: int | None = None) -> Path:
    """Write an `image_grid`, atomically, in the place of an existing file, and return the path.

    It is a PNG file, unless the path ends in .jpg, .jpeg or .webp. Its errors are those of `image_grid`, and a
    `ScattergenError` if the file cannot be written.

    Example:
        >>> import tempfile
        >>> save_image_grid(torch.zeros(4, 1, 28, 28), Path(tempfile.mkdtemp()) / "samples.png").name
        'samples.png'
    """
    content = _encoded(Path(path), [image_grid(x, columns=columns, scale=scale)])
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def _to_bytes(x: Tensor) -> NDArray[np.uint8]:
    """(N, C, H, W) in [0, 1] -> (N, H, W, C) in 0..255, rounded to nearest."""
    x = as_tensor(x, "images")
    if x.ndim != 4 or x.shape[1] not in (1, 3) or x.numel() == 0 or not x.is_floating_point():
        wanted = "float images of shape (N, C, H, W) with 1 or 3 channels and at least one image"
        raise InputError(f"a picture needs {wanted}, got shape {tuple(x.shape)} of {x.dtype}.")
    if torch.isnan(x).any():
        raise InputError("a picture cannot be made of images that hold NaN values.")
    levels = x.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.cpu().permute(0, 2, 3, 1).numpy())
