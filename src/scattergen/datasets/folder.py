"""A folder of image files, decoded when they are used."""

import hashlib
import os
import re
import stat
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from scattergen.datasets.decoding import SUFFIXES, Mode, warn_of_foreign
from scattergen.datasets.reading import CACHE_BYTES, MANY, ImageReader
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError

# What file servers, systems and programs keep beside photos: deleted ones, thumbnails, previews, earlier versions.
_KEPT_BY_PROGRAMS = re.compile(
    r"\..*|@(eadir|tmp|recycle|__thumb|recently-snapshot|sharebin|appstore)|#(recycle|snapshot|sharesnap)|~snapshot|"
    r"\$recycle\.bin|(?-i:RECYCLE[RD])|system volume information|found\.\d{3}|lost\+found|lost\.dir|__macosx|thmbnl|"
    r"network trash folder|temporary items|files_(trashbin|versions)|\[originals\]|.*\.lrdata|"
    r"syno(photo|file)_thumb.*", re.IGNORECASE | re.DOTALL,
)  # fmt: skip
_KEPT, _ODD, _OTHER, _IMAGE = "files that programs keep there", "pipes, sockets or devices", "other files", "images"


class ImageFolder(ImageReader):
    """The images below a folder at any depth, sorted by their relative path.

    Files are JPEG, PNG, WebP, BMP, GIF (first frame), TIFF or PPM by their extension; others are not looked at. What
    programs keep there (thumbnails, recycle bins, names that begin with a dot) and pipes are left out with a warning.
    Images are turned upright by their EXIF orientation and composited on white. Headers are read at once, pixels on
    access. If every image lies in a sub-folder and there are at least two, the first-level sub-folders are the classes.

    Args:
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
        >>> Image.new("RGB", (60, 40), "red").save(f"{folder}/red.png")
        >>> images = ImageFolder(folder, size=32)
        >>> len(images), images.shape, images[:].amax(dim=(0, 2, 3))
        (1, (3, 32, 32), tensor([1., 0., 0.]))
    """

    def __init__(
        self, root: str | Path, *, size: int | None = None, mode: Mode | None = None, strict: bool = True,
        classes: Sequence[str] | None = None, cache_bytes: int = CACHE_BYTES, crop: int | None = None,
        workers: int = 0, progress: Progress = SILENT,
    ) -> None:  # fmt: skip
        root = Path(root).expanduser()
        found, left_out = list_images(root)
        self.root = root if root.is_dir() else root.parent
        if left_out:
            warnings.warn(f"Left out of {self.root}: {left_out}.", stacklevel=2)
        super().__init__(
            ((file, file) for file in found), len(found), f"image files in {self.root}",
            lambda numbers: [found[number] for number in numbers], size=size, mode=mode, crop=crop, strict=strict,
            cache_bytes=cache_bytes, workers=workers, progress=progress,
        )  # fmt: skip
        self.files = tuple(found[number] for number in self.numbers)
        self.classes, self.labels = _label(self.root, self.files, classes)
        self._digests, self._progress = dict[int, str](), progress

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of size, crop, mode and every file's relative name and content."""
        return self.fingerprint_of(range(len(self)))

    def fingerprint_of(self, numbers: Iterable[int]) -> str:
        """The fingerprint of some of the images, by their numbers, which changes of the others leave as it is."""
        # Without a crop as it was before there were any: runs know their images by it.
        cropped = "" if self.crop is None else f" crop {self.crop}"
        start = f"{self.size} {self.mode}{cropped}".encode()
        return hashlib.sha256(start + b"".join(self.marks(numbers))).hexdigest()

    def marks(self, numbers: Iterable[int]) -> list[bytes]:
        """What tells files, by their numbers, from others: name and SHA-256 of the content, which is read once."""
        asked = list(numbers)
        unknown = len(set(asked) - self._digests.keys())
        progress = self._progress if unknown > MANY else SILENT
        with progress.task("know files by content", len(asked)) as task, ThreadPoolExecutor(os.cpu_count()) as threads:
            marks = []
            for mark in threads.map(self._mark, asked):
                marks.append(mark)
                task.advance()
        return marks

    def _mark(self, number: int) -> bytes:
        file = self.files[number]
        try:
            if number not in self._digests:
                with file.open("rb") as opened:
                    self._digests[number] = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            remedy = "put it back, or start again without it"
            raise InputError(f"{file} cannot be read any more ({error.strerror}): {remedy}.") from error
        # File names need not be valid Unicode.
        return f"\n{file.relative_to(self.root).as_posix()} {self._digests[number]}".encode("utf-8", "surrogateescape")


def list_images(root: Path) -> tuple[list[Path], str]:
    """The image files below a folder, at least one, sorted by their relative path, and in words what is left out.

    A file is the only one of its folder.
    """
    if root.suffix.lower() in SUFFIXES and root.is_file():
        return [root], ""
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise InputError(f"{root} {problem}: give a folder of images.")

    def refuse(error: OSError) -> None:
        problem = f"The folder {error.filename} cannot be read ({error.strerror})"
        raise InputError(f"{problem}: change its permissions or leave it out.") from error

    found = defaultdict[str, list[Path]](list)
    top, seen = root.resolve(), set[Path]()
    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=True):
        for name in filter(_KEPT_BY_PROGRAMS.fullmatch, [*subfolders]):
            subfolders.remove(name)
            inside = [Path(inner, one) for inner, _, ones in os.walk(Path(folder, name)) for one in ones]
            found[_KEPT] += [file for file in inside if _kind(file) != _OTHER]
        for name in [name for name in subfolders if os.path.islink(os.path.join(folder, name))]:
            # Not to what is looked at anyway, nor to a folder above, which would never end.
            target, here = Path(folder, name).resolve(), Path(folder).resolve()
            if target in seen or target.is_relative_to(top) or here.is_relative_to(target):
                subfolders.remove(name)
            seen.add(target)
        for path in (Path(folder, name) for name in names):
            found[_kind(path)].append(path)
    kinds = [kind for kind in (_KEPT, _ODD) if found[kind]]
    left_out = "; ".join(f"{one}: {len(found[one]):,}, such as {min(found[one]).relative_to(root)}" for one in kinds)
    warn_of_foreign(root, found[_OTHER] + found[_IMAGE])
    if not found[_IMAGE]:
        rest, files = f"; left out are {left_out}" if left_out else "", found[_OTHER]
        if files:
            count = "1 other file," if len(files) == 1 else f"{len(files)} other files such as"
            rest += f"; it holds {count} {files[0].name}"
        remedy = "give a folder with JPEG, PNG, WebP, BMP, GIF, TIFF or PPM files"
        raise InputError(f"There are no images in {root}{rest}: {remedy}.")
    return sorted(found[_IMAGE], key=lambda path: path.relative_to(root).as_posix()), left_out


def _kind(path: Path) -> str:
    if path.suffix.lower() not in SUFFIXES:
        return _OTHER
    try:
        regular = stat.S_ISREG(path.stat().st_mode)  # or a link to such a file; of a pipe reading might never end
    except OSError:  # such as a link to nothing: whoever reads it says why
        regular = True
    return _KEPT if _KEPT_BY_PROGRAMS.fullmatch(path.name) else _IMAGE if regular else _ODD


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
