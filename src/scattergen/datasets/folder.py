"""A folder of image files, decoded when they are used."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.datasets.decoding import (
    SUFFIXES,
    Header,
    Mode,
    check_crop,
    decode,
    read_header,
)
from scattergen.datasets.source import Index, positions
from scattergen.errors import InputError


class ImageFolder:
    """The images below a folder at any depth, sorted by their relative path.

    Files are JPEG, PNG, WebP, BMP, GIF (first frame), TIFF or PPM by their extension; others, and
    names that begin with a dot, are not looked at. Images are turned upright by their EXIF
    orientation and transparency is composited on white. Headers are read at once, pixels on
    access; decoded pixels are kept as uint8 when all together take less than `cache_bytes`.

    If every image lies in a sub-folder and there are at least two, the first-level sub-folders
    are the classes.

    Args:
        root: the folder.
        size: resize the shorter side to this many pixels and keep the central square; by default
            all images must have one size already, or a `crop`.
        mode: "L" (grey) or "RGB"; by default that of the first image, which all must share.
        strict: whether an unreadable file is an error. Otherwise every file is decoded once at
            the start, and unreadable ones are left out and listed in `skipped`.
        classes: names of the classes in label order, to label a test folder like its training
            folder; by default the sub-folders' names, sorted.
        cache_bytes: largest decoded size in bytes that is kept in memory.
        crop: cut the central square of this many pixels from the upright image, without resizing;
            with `size`, the square is then resized.

    Attributes:
        files: the image files, in order.
        size: as given.
        crop: as given.
        file_sizes: the different sizes (width, height) that the upright files have.
        mode: "L" or "RGB".
        classes: names of the classes in label order, or None.
        labels: the class of every image, (N,) int64, or None.
        skipped: one sentence for every file left out.

    Raises:
        InputError: if there is no image, or a file cannot be read, differs in size or mode, or is
            smaller than the crop.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> for name in "ab":
        ...     Image.new("RGB", (60, 40), "red").save(f"{folder.name}/{name}.png")
        >>> images = ImageFolder(folder.name, size=32)
        >>> len(images), images.shape, images[:1].amax(dim=(0, 2, 3))
        (2, (3, 32, 32), tensor([1., 0., 0.]))
        >>> folder.cleanup()
    """

    def __init__(
        self,
        root: str | Path,
        *,
        size: int | None = None,
        mode: Mode | None = None,
        strict: bool = True,
        classes: Sequence[str] | None = None,
        cache_bytes: int = 1 << 30,
        crop: int | None = None,
    ) -> None:
        for name, pixels in (("size", size), ("crop", crop)):
            if pixels is not None and pixels < 1:
                raise InputError(f"{name}={pixels} is not a number of pixels: give at least 1.")
        if mode not in (None, "L", "RGB"):
            raise InputError(f"mode={mode!r} is unknown: give 'L' (grey) or 'RGB'.")
        self.root = Path(root).expanduser()
        found = list_images(self.root)
        headers, self.skipped = _read_headers(found, strict)
        if not headers:
            raise InputError(
                f"None of the {len(found)} image files in {self.root} can be read; "
                f"the first: {self.skipped[0]}"
            )
        self.files = tuple(headers)
        self.size, self.crop = size, crop
        self.file_sizes = frozenset((header.width, header.height) for header in headers.values())
        if crop is not None:
            for file, header in headers.items():
                check_crop(file, header.width, header.height, crop)
        self.mode = _common_mode(headers) if mode is None else mode
        side = size or crop
        width, height = (side, side) if side else _common_size(headers)
        self._shape = (1 if self.mode == "L" else 3, height, width)
        self.classes, self.labels = _label(self.root, self.files, classes)
        total = len(self.files) * int(np.prod(self._shape))
        # numpy.empty takes no memory until an image is written.
        self._cache: NDArray[np.uint8] | None = (
            np.empty((len(self.files), *self._shape), np.uint8) if total < cache_bytes else None
        )
        self._cached = np.zeros(len(self.files), dtype=bool)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Index) -> Tensor:
        numbers = positions(index, len(self))
        if self._cache is None:
            pixels = self._decode(numbers)
        else:
            missing = np.unique(numbers[~self._cached[numbers]])
            self._cache[missing] = self._decode(missing)
            self._cached[missing] = True
            pixels = self._cache[numbers]
        return torch.from_numpy(pixels).float().div_(255)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width (C, H, W) of every image."""
        return self._shape

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of size, crop, mode and every file's relative name, length and time."""
        # Without a crop as it was before there were any: runs know their images by it.
        cropped = "" if self.crop is None else f" crop {self.crop}"
        digest = hashlib.sha256(f"{self.size} {self.mode}{cropped}".encode())
        for file in self.files:
            name = file.relative_to(self.root).as_posix()
            try:
                status = file.stat()
            except OSError as error:
                raise InputError(
                    f"{file} cannot be read any more ({error.strerror}): put it back, or start "
                    "again without it."
                ) from error
            line = f"\n{name} {status.st_size} {status.st_mtime_ns}"
            # File names need not be valid Unicode.
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _decode(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode some files in parallel (Pillow releases the interpreter lock)."""
        pixels = np.empty((len(numbers), *self._shape), np.uint8)
        if not len(numbers):
            return pixels
        with ThreadPoolExecutor(min(len(numbers), os.cpu_count() or 1)) as pool:
            for row, image in enumerate(pool.map(self._decode_one, numbers)):
                pixels[row] = image
        return pixels

    def _decode_one(self, number: int) -> NDArray[np.uint8]:
        pixels = decode(self.files[number], self.mode, self.size, self.crop)
        if pixels.shape != self._shape:
            raise InputError(
                f"{self.files[number]} decodes to {pixels.shape[2]}×{pixels.shape[1]} pixels, not "
                f"the {self._shape[2]}×{self._shape[1]} of the other images: replace it, "
                "or pass size=N (--size N)."
            )
        return pixels


def list_images(root: Path) -> list[Path]:
    """The image files below a folder, sorted by their relative path.

    Args:
        root: the folder.

    Returns:
        At least one path.

    Raises:
        InputError: if it is not a folder, cannot be read, or holds no images.
    """
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise InputError(f"{root} {problem}: give a folder of images.")

    def refuse(error: OSError) -> None:
        raise InputError(
            f"The folder {error.filename} cannot be read ({error.strerror}): "
            "change its permissions or leave it out."
        ) from error

    images: list[Path] = []
    others: list[Path] = []
    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not _is_hidden(name)]
        for name in names:
            if not _is_hidden(name):
                is_image = Path(name).suffix.lower() in SUFFIXES
                (images if is_image else others).append(Path(folder, name))
    if not images:
        rest = ""
        if others:
            count = "1 other file," if len(others) == 1 else f"{len(others)} other files such as"
            rest = f"; it holds {count} {others[0].name}"
        raise InputError(
            f"There are no images in {root}{rest}: give a folder with JPEG, PNG, WebP, BMP, GIF, "
            "TIFF or PPM files."
        )
    return sorted(images, key=lambda path: path.relative_to(root).as_posix())


def _is_hidden(name: str) -> bool:
    # __MACOSX: the resource forks that macOS adds to archives, named like the images.
    return name.startswith(".") or name == "__MACOSX"


def _read_headers(files: list[Path], strict: bool) -> tuple[dict[Path, Header], tuple[str, ...]]:
    headers: dict[Path, Header] = {}
    skipped: list[str] = []
    for file in files:
        try:
            header = read_header(file)
            if not strict:
                decode(file, header.mode)  # a truncated file has a good header
            headers[file] = header
        except InputError as error:
            if strict:
                raise
            skipped.append(str(error))
    return headers, tuple(skipped)


def _common_mode(headers: dict[Path, Header]) -> Mode:
    (first, header), *rest = headers.items()
    for file, other in rest:
        if other.mode != header.mode:
            grey, colour = (first, file) if header.mode == "L" else (file, first)
            raise InputError(
                f"{grey} is grey but {colour} is in colour: convert all images by mode='RGB' or "
                "mode='L' (--mode RGB or --mode L)."
            )
    return header.mode


def _common_size(headers: dict[Path, Header]) -> tuple[int, int]:
    (first, header), *rest = headers.items()
    for file, other in rest:
        if (other.width, other.height) != (header.width, header.height):
            raise InputError(
                f"{first} has {header.width}×{header.height} pixels but {file} has "
                f"{other.width}×{other.height}: make all images N×N by size=N (--size N), which "
                "resizes the shorter side and keeps the central square."
            )
    return header.width, header.height


def _label(
    root: Path, files: tuple[Path, ...], classes: Sequence[str] | None
) -> tuple[tuple[str, ...] | None, Tensor | None]:
    parts = [file.relative_to(root).parts for file in files]
    if any(len(part) == 1 for part in parts):
        return None, None
    found = sorted({part[0] for part in parts})
    names = tuple(found if classes is None else classes)
    unknown = [name for name in found if name not in names]
    if unknown:
        raise InputError(
            f"{root / unknown[0]} is not one of the classes {', '.join(names)}: "
            "rename the sub-folder, or add it to the training images."
        )
    if len(names) < 2:
        return None, None
    number = {name: i for i, name in enumerate(names)}
    return names, torch.tensor([number[part[0]] for part in parts])
