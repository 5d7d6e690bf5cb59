"""Published datasets in the layout of their authors: the embedded MNIST, CIFAR and CelebA."""

import functools
import hashlib
import io
from contextlib import nullcontext, suppress
from importlib.resources import files
from pathlib import Path

import numpy as np

from scattergen.datasets.arrays import ImageArray
from scattergen.datasets.decoding import Header, read_header
from scattergen.datasets.folder import ImageFolder, list_images
from scattergen.datasets.source import MNIST, Dataset, Subset
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError
from scattergen.files import read_known

SHA256 = "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"  # of MNIST's file

_CIFAR_SHAPE = (3, 32, 32)
# Training and test files, the bytes in front of each image (the last is the class), and where the classes' names are.
_CIFAR_LAYOUTS = (
    ("data_batch_*.bin", "test_batch.bin", 1, "batches.meta.txt"),
    ("train.bin", "test.bin", 2, "fine_label_names.txt"),
)
_PICKLED_CIFAR = (("data_batch_1", "batches.meta"), ("train", "test", "meta"))  # files of the Python version of either

# (width, height) of CelebA's files to the side of the square that is cut from their centre.
CROPS = {(178, 218): 128, (89, 109): 64}
N_TRAIN, N_TEST = 65_536, 8_192  # of CelebA
_TEST_SHARE = 8  # one in so many, of fewer images than these


@functools.cache
def mnist() -> Dataset:
    """The 60,000 training and 10,000 test digits of MNIST, 1×28×28, 0 for paper and 1 for ink, with their labels.

    The file in the package is licensed CC BY-SA 3.0 by LeCun, Cortes and Burges; origin and licence lie beside it. If
    it is missing, or not the file that was shipped, by its SHA-256, that is an `InputError`.

    References:
        LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition", 1998.

    Example:
        >>> digits = mnist()
        >>> len(digits.train), len(digits.test), digits.train.labels[:8].tolist()
        (60000, 10000, [5, 0, 4, 1, 9, 2, 1, 3])
    """
    content = read_known(files("scattergen.datasets") / "data" / "mnist.npz", SHA256, "reinstall scattergen")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:

        def part(split: str) -> ImageArray:
            known = hashlib.sha256(f"{SHA256} {split}".encode()).hexdigest()
            images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
            return ImageArray(images, labels, classes=[*"0123456789"], name=f"mnist[{split}]", fingerprint=known)

        return Dataset(MNIST, part("train"), part("test"))


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds CIFAR's binary version; the pickled Python version is refused."""
    if any(all((folder / name).is_file() for name in names) for names in _PICKLED_CIFAR):
        problem = f"{folder} holds CIFAR's Python version, whose files are pickled and can run code"
        raise InputError(f"{problem}: give the folder of the binary version, or an .npz file with x_train and x_test.")
    return _cifar_layout(folder) is not None


def cifar(folder: Path) -> Dataset:
    """CIFAR-10 or CIFAR-100 with its fine classes: 3×32×32 images in the published split, as many as the files hold.

    The folder is that of the binary version: `data_batch_1.bin` … `test_batch.bin`, or `train.bin` and `test.bin`. A
    file that is cut off or cannot be read is an `InputError`.

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
    layout = _cifar_layout(folder)
    if layout is None:
        raise InputError(f"{folder} does not hold CIFAR's binary version: name its folder.")
    pattern, test_file, n_labels, names = layout
    file = folder / names
    classes = file.read_text(encoding="utf-8", errors="replace").split() if file.is_file() else None
    train = _read_cifar(sorted(folder.glob(pattern)), n_labels, classes, f"{folder} (training)")
    test = _read_cifar([folder / test_file], n_labels, classes, f"{folder} (test)")
    return Dataset(folder.resolve().name, train, test)


def _cifar_layout(folder: Path) -> tuple[str, str, int, str] | None:
    there = (layout for layout in _CIFAR_LAYOUTS if (folder / layout[1]).is_file() and any(folder.glob(layout[0])))
    return next(there, None)


def _read_cifar(files: list[Path], n_labels: int, classes: list[str] | None, name: str) -> ImageArray:
    row = n_labels + int(np.prod(_CIFAR_SHAPE))
    parts = []
    for file in files:
        try:
            content = np.fromfile(file, np.uint8)
        except OSError as error:
            raise InputError(f"{file} cannot be read ({error.strerror}): check its permissions.") from error
        if len(content) == 0 or len(content) % row:
            problem = f"{file} has {len(content)} bytes, which is no multiple of CIFAR's {row} per image"
            raise InputError(f"{problem}: unpack the archive again.")
        parts.append(content.reshape(-1, row))
    rows = np.concatenate(parts)
    labels = rows[:, n_labels - 1].astype(np.int64)
    if classes is not None and labels.max() >= len(classes):
        classes = None
    return ImageArray(rows[:, n_labels:].reshape(-1, *_CIFAR_SHAPE), labels, classes=classes, name=name)


def celeba(
    folder: str | Path, *, size: int | None = None, strict: bool = True, workers: int = 0, progress: Progress = SILENT
) -> Dataset:
    """Faces of CelebA: the central 128×128 pixels of aligned images, or 64×64 of halved ones.

    The files are those of `img_align_celeba`, 178×218 pixels, or the same at half resolution, 89×109. Of at least
    73,728 images, sorted by name, the first 65,536 are the training set and the last 8,192 the test set, the sizes of
    Angles and Mallat, and within the official partitions. Of fewer images the last eighth is the test set.

    The folder may also be one that holds `img_align_celeba`. The cropped squares are resized to `size`, if it is given;
    the other arguments are those of `ImageFolder`. No images, fewer than 8, grey ones, and those of another size are an
    `InputError`.

    References:
        Liu, Luo, Wang, Tang, "Deep learning face attributes in the wild", 2015.
        Angles, Mallat, "Generative networks as inverse problems with scattering transforms", 2018.

    Example:
        >>> celeba("no/such/folder")
        Traceback (most recent call last):
        ...
        scattergen.errors.InputError: no/such/folder does not exist: give a folder of images.
    """
    root = Path(folder).expanduser()
    if (root / "img_align_celeba").is_dir():
        root = root / "img_align_celeba"
    first, header = _first_readable(list_images(root)[0], strict)
    crop = CROPS.get((header.width, header.height))
    remedy = "give the folder img_align_celeba, or fit other images without --preset celeba"
    if crop is None:
        wanted = "CelebA's aligned images have 178×218, or 89×109 at half resolution"
        raise InputError(f"{first} has {header.width}×{header.height} pixels, but {wanted}: {remedy}.")
    if header.mode != "RGB":
        raise InputError(f"{first} is grey, but CelebA is in colour: {remedy}.")
    size = None if size == crop else size
    images = ImageFolder(root, crop=crop, size=size, mode="RGB", strict=strict, workers=workers, progress=progress)
    if len(images.file_sizes) > 1:
        found = " and ".join(f"{width}×{height}" for width, height in sorted(images.file_sizes)[:2])
        problem = f"{root} holds images of different sizes, such as {found} pixels"
        raise InputError(f"{problem}: give CelebA's aligned images of one size alone.")
    n = len(images)
    if n < _TEST_SHARE:
        problem = f"{root} holds {n} images, too few to hold out one in {_TEST_SHARE} for tests"
        raise InputError(f"{problem}: give at least {_TEST_SHARE}.")
    n_train, n_test = (N_TRAIN, N_TEST) if n >= N_TRAIN + N_TEST else (n - n // _TEST_SHARE, n // _TEST_SHARE)
    train, test = Subset(images, slice(n_train)), Subset(images, slice(n - n_test, None))
    return Dataset("celeba", train, test, images.skipped, crop)


def _first_readable(files: list[Path], strict: bool) -> tuple[Path, Header]:
    """The first file that is an image, with what it says of itself."""
    for file in files[:-1]:
        with nullcontext() if strict else suppress(InputError):
            return file, read_header(file)
    return files[-1], read_header(files[-1])
