"""A folder of image files, decoded when they are used."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from scattergen.datasets.decoding import SUFFIXES, Mode, warn_of_foreign
from scattergen.datasets.reading import CACHE_BYTES, ImageReader
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress


class ImageFolder(ImageReader):
    """The images below a folder at any depth, sorted by their relative path.

    Files are JPEG, PNG, WebP, BMP, GIF (first frame), TIFF or PPM by their extension; others, and names that begin with
    a dot, are not looked at. Images are turned upright by their EXIF orientation and composited on white. Headers are
    read at once, pixels on access. If every image lies in a sub-folder and there are at least two, the first-level
    sub-folders are the classes.

    Args:
        root: the folder.
        size: resize the shorter side to this many pixels and keep the central square; by default all have one size.
        mode: "L" (grey) or "RGB"; by default grey if all images are, else RGB, with a warning if some are grey.
        strict: whether an unreadable file is an error; if not, all are decoded at the start, to leave such files out.
        classes: names of the classes in label order, as of training images; by default those of sub-folders, sorted.
        cache_bytes: largest size of all decoded images, as uint8, that is kept in memory.
        crop: cut the central square of this many pixels from the upright image, before any resizing.
        workers: processes that decode files; 0 for as many threads of this process as there are processors.
        progress: where to report the reading of many headers.

    Attributes:
        files: the image files, in order.
        file_sizes: the different sizes (width, height) that the upright files have.
        labels: the class of every image, (N,) int64, or None, as then is `classes`.
        skipped: one sentence for every file left out.

    Raises:
        InputError: if there is no image, or a file cannot be read, differs in size, or is smaller than the crop.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = tempfile.mkdtemp()
        >>> for name in "ab":
        ...     Image.new("RGB", (60, 40), "red").save(f"{folder}/{name}.png")
        >>> images = ImageFolder(folder, size=32)
        >>> len(images), images.shape, images[:1].amax(dim=(0, 2, 3))
        (2, (3, 32, 32), tensor([1., 0., 0.]))
    """

    def __init__(
        self,
        root: str | Path,
        *,
        size: int | None = None,
        mode: Mode | None = None,
        strict: bool = True,
        classes: Sequence[str] | None = None,
        cache_bytes: int = CACHE_BYTES,
        crop: int | None = None,
        workers: int = 0,
        progress: Progress = SILENT,
    ) -> None:
        self.root = Path(root).expanduser()
        found = list_images(self.root)
        super().__init__(
            ((file, file) for file in found), len(found), f"image files in {self.root}",
            lambda numbers: [found[number] for number in numbers], size=size, mode=mode, crop=crop, strict=strict,
            cache_bytes=cache_bytes, workers=workers, progress=progress,
        )  # fmt: skip
        self.files = tuple(found[number] for number in self.numbers)
        self.classes, self.labels = _label(self.root, self.files, classes)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of size, crop, mode and every file's relative name, length and time."""
        return self.fingerprint_of(range(len(self)))

    def fingerprint_of(self, numbers: Iterable[int]) -> str:
        """The fingerprint of some of the images, by their numbers, which changes of the others leave as it is."""
        # Without a crop as it was before there were any: runs know their images by it.
        cropped = "" if self.crop is None else f" crop {self.crop}"
        digest = hashlib.sha256(f"{self.size} {self.mode}{cropped}".encode())
        for number in numbers:
            file = self.files[number]
            try:
                status = file.stat()
            except OSError as error:
                remedy = "put it back, or start again without it"
                raise InputError(f"{file} cannot be read any more ({error.strerror}): {remedy}.") from error
            line = f"\n{file.relative_to(self.root).as_posix()} {status.st_size} {status.st_mtime_ns}"
            digest.update(line.encode("utf-8", "surrogateescape"))  # file names need not be valid Unicode
        return digest.hexdigest()


def list_images(root: Path) -> list[Path]:
    """The image files below a folder, at least one, sorted by their relative path."""
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise InputError(f"{root} {problem}: give a folder of images.")

    def refuse(error: OSError) -> None:
        problem = f"The folder {error.filename} cannot be read ({error.strerror})"
        raise InputError(f"{problem}: change its permissions or leave it out.") from error

    files: list[Path] = []
    top, seen = root.resolve(), set[Path]()
    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=True):
        subfolders[:] = filter(_is_shown, subfolders)
        for name in [name for name in subfolders if os.path.islink(os.path.join(folder, name))]:
            # Not to what is looked at anyway, nor to a folder above, which would never end.
            target, here = Path(folder, name).resolve(), Path(folder).resolve()
            if target in seen or target.is_relative_to(top) or here.is_relative_to(target):
                subfolders.remove(name)
            seen.add(target)
        files += [Path(folder, name) for name in filter(_is_shown, names)]
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    warn_of_foreign(root, files)
    if not images:
        rest = ""
        if files:
            count = "1 other file," if len(files) == 1 else f"{len(files)} other files such as"
            rest = f"; it holds {count} {files[0].name}"
        remedy = "give a folder with JPEG, PNG, WebP, BMP, GIF, TIFF or PPM files"
        raise InputError(f"There are no images in {root}{rest}: {remedy}.")
    return sorted(images, key=lambda path: path.relative_to(root).as_posix())


def _is_shown(name: str) -> bool:
    # __MACOSX: the resource forks that macOS adds to archives, named like the images.
    return not name.startswith(".") and name != "__MACOSX"


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
        problem = f"{root / unknown[0]} is not one of the classes {', '.join(names)}"
        raise InputError(f"{problem}: rename the sub-folder, or add it to the training images.")
    if len(names) < 2:
        return None, None
    number = {name: i for i, name in enumerate(names)}
    return names, torch.tensor([number[part[0]] for part in parts])
