"""One way to open all the data that a user can name."""

import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scattergen.datasets.arrays import ArrayFile, ImageArray, load_npz
from scattergen.datasets.decoding import SUFFIXES, Mode
from scattergen.datasets.folder import ImageFolder
from scattergen.datasets.huggingface import PREFIX, HuggingFaceImages, HuggingFaceName, load_tables
from scattergen.datasets.published import cifar, is_cifar, mnist
from scattergen.datasets.source import MNIST, Dataset, ImageSource, Subset
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError

MAX_TEST_IMAGES = 10_000
_FEWEST_TEST_IMAGES = 100  # of a limited dataset
_TEST_SPLITS = ("test", "validation", "valid", "val")  # of Hugging Face datasets, by preference
_TRAIN_FOLDERS = ("train", "training")  # in any case, as are those of tests, by preference
_TEST_FOLDERS = (*_TEST_SPLITS, "testing", "dev", "eval", "evaluation")


def open_dataset(
    source: str | Path, *, size: int | None = None, mode: Mode | None = None, strict: bool = True,
    test_fraction: float = 0.1, crop: int | None = None, workers: int = 0, progress: Progress = SILENT,
) -> Dataset:  # fmt: skip
    """Open the embedded digits, an array file, a folder of images or a Hugging Face dataset.

    | source | what is read | train and test |
    |---|---|---|
    | "mnist" | the embedded digits | canonical |
    | .npy | one array, read as needed | the last are the test set |
    | .npz | `x_train`, `x_test` (`y_…`), or `train_images`, `test_images` (`…_labels`) | as named |
    | .npz | else `x_train` alone, `images`, `x` or the only array (`labels` or `y`) | the last |
    | folder | `train/` and `test/`, else `val/`, if both are there; nothing beside them is read | as named |
    | folder | the binary version of CIFAR-10 or CIFAR-100 | canonical |
    | folder | all images below it | a fixed choice by file name |
    | "hf:…" | a name on the Hub, or a path of `save_to_disk` or .parquet | its splits, or a fixed choice by row |

    Labels are whole numbers; an array `classes` of a .npz file names them, from 0 on. `hf:` takes the options
    `,config=…`, `,split=…`, `,image=…` and `,label=…`; test images are those of the split "test", or else "validation".

    Where there is no split, `test_fraction` of the images is the test set: at least 1 unless it is 0, at most 10,000,
    none of a single image. Of arrays it is the last ones, so shuffle what is sorted by class. A fixed choice is that of
    the smallest SHA-256 of relative file names or row numbers: all classes take part, and adding files moves few others
    to the other side.

    The other arguments are those of `ImageFolder`, for encoded images (folders, Hugging Face); arrays must have the
    size and mode already, where they are given. A folder called mnist is "./mnist".

    Raises:
        InputError: if there is no such data or it cannot be used.

    Example:
        >>> open_dataset("mnist").train.shape
        (1, 28, 28)
    """
    if not 0 <= test_fraction < 1:
        raise InputError(f"test_fraction={test_fraction} is not a share: give 0 ≤ share < 1.")
    if not str(source):
        raise InputError("The source of images is empty: give 'mnist', an array file or a folder.")
    path = Path(source).expanduser()
    how = dict[str, Any](size=size, mode=mode, strict=strict, crop=crop, workers=workers, progress=progress)
    if source == MNIST:
        dataset = mnist()
    elif str(source).startswith(PREFIX):
        dataset = _open_hugging_face(str(source), test_fraction, how)
    # os.path: unlike Path's methods, it answers False for places that may not be looked at.
    elif os.path.isdir(path):
        dataset = cifar(path) if is_cifar(path) else _open_folder(path, test_fraction, how)
    elif path.suffix.lower() in (".npy", ".npz") and os.path.isfile(path):
        dataset = _open_arrays(path, test_fraction)
    elif _is_picture(path):
        dataset = Dataset(path.name, ImageFolder(path, **how))
    else:
        raise InputError(_cannot_open(path))
    if source != MNIST and dataset.is_mnist:  # only by its name
        dataset = replace(dataset, name="mnist (a file or folder)")
    if crop is not None and not holds_files(str(source)):
        remedy = "leave --crop out, or crop the array"
        raise InputError(f"{source} is no folder of images, and only files of images are cropped: {remedy}.")
    _check_shape(dataset, source, size, mode)
    return dataset if crop is None else replace(dataset, crop=crop)


def limit(dataset: Dataset, n: int) -> Dataset:
    """A dataset of at most n training images, chosen by n and their number, and of a tenth as many test images or 100.

    An n below 3 is an `InputError`.

    Example:
        >>> small = limit(mnist(), 500)
        >>> len(small.train), len(small.test)
        (500, 100)
    """
    if n < 3:
        raise InputError(f"limit={n}: take at least 3 images (--limit).")
    if len(dataset.train) <= n:
        return dataset
    test = None if dataset.test is None else _some(dataset.test, max(_FEWEST_TEST_IMAGES, n // 10))
    return replace(dataset, train=_some(dataset.train, n), test=test, limit=n)


def _some(images: ImageSource, n: int) -> ImageSource:
    if len(images) <= n:
        return images
    # Evenly spread would miss classes of a sorted array; the first ones of a permutation do not.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return Subset(images, order[:n].sort().values)


def holds_files(source: str) -> bool:
    """Whether a source is of image files (one, a folder, of Hugging Face), which can be resized and converted."""
    path = Path(source).expanduser()
    folder = source != MNIST and os.path.isdir(path) and not is_cifar(path)
    return source.startswith(PREFIX) or folder or _is_picture(path)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and os.path.isfile(path)


def _cannot_open(path: Path) -> str:
    wanted = "give 'mnist', a .npy or .npz file, an image or a folder of images, or 'hf:' and a dataset's name."
    if not os.path.exists(path):
        return f"{path} does not exist or cannot be reached: {wanted}"
    unknown = f"has an unknown type (extension {path.suffix or 'none'})"
    return f"{path} {unknown if os.path.isfile(path) else 'is a pipe, a socket or a device'}: {wanted}"


def _open_folder(path: Path, test_fraction: float, how: dict[str, Any]) -> Dataset:
    name = path.resolve().name
    parts = _parts(path)
    if parts is not None:
        train = ImageFolder(parts[0], **how)
        test = ImageFolder(parts[1], **how | {"mode": train.mode}, classes=train.classes)
        return Dataset(name, train, test, train.skipped + test.skipped)
    folder = ImageFolder(path, **how)
    files = [file.relative_to(path) for file in folder.files]
    below = {part.name: None for file in files for part in reversed(file.parents[:-1])}
    pairs = ("|".join(_TRAIN_FOLDERS), "|".join((*_TEST_FOLDERS, "holdout")))  # words of names such as testset_2
    words = {one: re.sub("(?<=[a-z])(?=[A-Z])", " ", one) for one in below}  # of TrainImages
    alike = [[a for a, b in words.items() if re.search(rf"(?i)(?<![a-z])({one})(set)?(?![a-z])", b)] for one in pairs]
    found = dict.fromkeys(alike[0] + alike[1])
    if all(alike) and len(found) > 1:
        problem = f"{', '.join(found)} look like parts of a dataset, not classes, but are mixed in {path}"
        warnings.warn(f"{problem}: name them train and test, and give the folder that holds them.", stacklevel=3)
    return _hold_out(name, folder, _shuffled(file.as_posix() for file in files), test_fraction)


def _parts(path: Path) -> tuple[Path, Path] | None:
    """The sub-folders of training and of test images, if a folder has both."""
    there = sorted(one for one in os.listdir(path) if (path / one).is_dir()) if os.access(path, os.R_OK) else []
    trains = [one for one in there if one.lower() in _TRAIN_FOLDERS]
    tests = sorted((n for n in there if n.lower() in _TEST_FOLDERS), key=lambda n: _TEST_FOLDERS.index(n.lower()))
    if len(trains) + len(tests) < 2:
        return None
    if len(trains) != 1 or len({one.lower() for one in tests}) < len(tests):
        problem = f"{path} holds {', '.join(trains + tests)}, but expected one folder train and one folder test or val"
        raise InputError(f"{problem}: rename them, or give one of them alone.")
    if tests[1:]:
        warnings.warn(f"{path}: test images are those in {tests[0]}; not used: {', '.join(tests[1:])}.", stacklevel=4)
    return path / trains[0], path / tests[0]


def _open_hugging_face(source: str, test_fraction: float, how: dict[str, Any]) -> Dataset:
    named = HuggingFaceName.parse(source)
    tables = load_tables(named)
    train_split = "train" if "train" in tables or len(tables) > 1 else next(iter(tables))
    if train_split not in tables:
        raise InputError(f"{source} has no split train but {', '.join(tables)}: choose one by ,split=NAME.")

    def images(split: str, **how: Any) -> HuggingFaceImages:
        name = f"{PREFIX}{named.name} ({split})"
        return HuggingFaceImages(tables[split], image=named.image, label=named.label, name=name, **how)

    train = images(train_split, **how)
    test_split = next((split for split in _TEST_SPLITS if split in tables and len(tables) > 1), "")
    name = PREFIX + (named.name if "/" in named.name else Path(named.name).name)
    if test_split:
        test = images(test_split, **how | {"mode": train.mode})
        return Dataset(name, train, test, train.skipped + test.skipped)
    return _hold_out(name, train, _shuffled(map(str, range(len(train)))), test_fraction)


def _shuffled(names: Iterable[str]) -> list[int]:
    """Numbers of the names, by their SHA-256 from the largest to the smallest."""
    digests = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    return sorted(range(len(digests)), key=digests.__getitem__, reverse=True)


def _open_arrays(path: Path, test_fraction: float) -> Dataset:
    if path.suffix.lower() == ".npy":
        images = ImageArray(ArrayFile(path), name=str(path))
        return _hold_out(path.stem, images, range(len(images)), test_fraction)
    arrays = load_npz(path)
    classes = arrays.get("classes")
    if classes is not None and classes.ndim != 1:
        raise InputError(f"{path}[classes] has shape {classes.shape}: give one name for each class, as a list.")
    if classes is not None and classes.dtype.kind == "S":
        classes = np.char.decode(classes, "utf-8", "replace")
    names = None if classes is None else [str(name) for name in classes]

    def part(images: str, labels: str) -> ImageArray:
        return ImageArray(arrays[images], arrays.get(labels), classes=names, name=f"{path}[{images}]")

    if "train_images" in arrays and "test_images" in arrays:
        return Dataset(path.stem, part("train_images", "train_labels"), part("test_images", "test_labels"))
    if "x_train" in arrays and "x_test" in arrays:
        return Dataset(path.stem, part("x_train", "y_train"), part("x_test", "y_test"))
    others = [key for key in arrays if key not in ("labels", "y", "classes")]
    known = ("x_train", "images", "x", *(others if len(others) == 1 else ()))
    key = next((key for key in known if key in arrays), None)
    if key is None:
        wanted = "x_train and x_test (with y_train and y_test), train_images and test_images, images or x"
        found = f"{path} holds {', '.join(arrays) or 'no arrays'}"
        raise InputError(f"{found}: expected {wanted} (with labels or y), or one array only.")
    images = part(key, "y_train" if key == "x_train" else "labels" if "labels" in arrays else "y")
    return _hold_out(path.stem, images, range(len(images)), test_fraction)


def _hold_out(name: str, images: ImageSource, order: Sequence[int], test_fraction: float) -> Dataset:
    """The last images in an order as test images; both parts keep the order of the source."""
    n, skipped = len(order), getattr(images, "skipped", ())
    if test_fraction == 0 or n < 2:
        return Dataset(name, images, skipped=skipped)
    n_train = n - min(max(1, int(n * test_fraction)), MAX_TEST_IMAGES)
    train, test = (Subset(images, torch.tensor(sorted(part))) for part in (order[:n_train], order[n_train:]))
    return Dataset(name, train, test, skipped)


def _check_shape(dataset: Dataset, source: str | Path, size: int | None, mode: Mode | None) -> None:
    channels, height, width = dataset.train.shape
    if dataset.test is not None and dataset.test.shape != dataset.train.shape:
        problem = f"training images have shape {dataset.train.shape} but test images {dataset.test.shape}"
        remedy = "make them equal; folders can be resized by size=N (--size N)"
        raise InputError(f"{source}: {problem} (channels, height, width): {remedy}.")
    if size is not None and (height, width) != (size, size):
        problem = f"{source} holds {width}×{height} images, which size={size} cannot change"
        raise InputError(f"{problem}: only files of images are resized. Leave --size out or resize the array.")
    if mode is not None and channels != len(mode):
        problem = f"{source} holds images with {channels} channels, which mode={mode!r} cannot change"
        raise InputError(f"{problem}: only files of images are converted. Leave --mode out or convert the array.")
