"""CIFAR-10 and CIFAR-100 in the layout of their binary version."""

from pathlib import Path

import numpy as np

from scattergen.datasets.arrays import ImageArray
from scattergen.datasets.source import Dataset
from scattergen.errors import InputError

_SHAPE = (3, 32, 32)

# Training and test files, the bytes in front of each image (the last is the class), and where the classes' names are.
_LAYOUTS = (
    ("data_batch_*.bin", "test_batch.bin", 1, "batches.meta.txt"),
    ("train.bin", "test.bin", 2, "fine_label_names.txt"),
)
_PICKLED = (("data_batch_1", "batches.meta"), ("train", "test", "meta"))  # files of the Python version of either


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds CIFAR's binary version; the pickled Python version is refused."""
    if any(all((folder / name).is_file() for name in names) for names in _PICKLED):
        raise InputError(
            f"{folder} holds CIFAR's Python version, whose files are pickled and can run code: "
            "give the folder of the binary version, or an .npz file with x_train and x_test."
        )
    return _layout(folder) is not None


def cifar(folder: Path) -> Dataset:
    """CIFAR-10 (`data_batch_1.bin` … `test_batch.bin`) or CIFAR-100 (`train.bin`, `test.bin`).

    Args:
        folder: of the unpacked binary version; for CIFAR-100 the classes are the fine ones.

    Returns:
        3×32×32 images in the published split, with their classes; as many as the files hold.

    Raises:
        InputError: if a file is cut off or cannot be read.

    References:
        Krizhevsky, "Learning multiple layers of features from tiny images", 2009.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("data_batch_1.bin", "test_batch.bin"):
        ...     _ = (folder / name).write_bytes(bytes([7]) + bytes(range(256)) * 12)
        >>> images = cifar(folder).train
        >>> images.shape, images.labels
        ((3, 32, 32), tensor([7]))
    """
    layout = _layout(folder)
    if layout is None:
        raise InputError(f"{folder} does not hold CIFAR's binary version: name its folder.")
    pattern, test_file, n_labels, names = layout
    classes = None
    if (folder / names).is_file():
        classes = (folder / names).read_text(encoding="utf-8").split()
    train = _read(sorted(folder.glob(pattern)), n_labels, classes, f"{folder} (training)")
    test = _read([folder / test_file], n_labels, classes, f"{folder} (test)")
    return Dataset(folder.resolve().name, train, test)


def _layout(folder: Path) -> tuple[str, str, int, str] | None:
    for pattern, test_file, n_labels, names in _LAYOUTS:
        if (folder / test_file).is_file() and any(folder.glob(pattern)):
            return pattern, test_file, n_labels, names
    return None


def _read(files: list[Path], n_labels: int, classes: list[str] | None, name: str) -> ImageArray:
    row = n_labels + int(np.prod(_SHAPE))
    parts = []
    for file in files:
        try:
            content = np.fromfile(file, np.uint8)
        except OSError as error:
            raise InputError(f"{file} cannot be read ({error.strerror}): check its permissions.") from error
        if len(content) == 0 or len(content) % row:
            raise InputError(
                f"{file} has {len(content)} bytes, which is no multiple of CIFAR's {row} per image:"
                " unpack the archive again."
            )
        parts.append(content.reshape(-1, row))
    rows = np.concatenate(parts)
    labels = rows[:, n_labels - 1].astype(np.int64)
    if classes is not None and labels.max() >= len(classes):
        classes = None
    return ImageArray(rows[:, n_labels:].reshape(-1, *_SHAPE), labels, classes=classes, name=name)
