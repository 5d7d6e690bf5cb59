"""The MNIST handwritten digits that ship with the package."""

import functools
import hashlib
import io
from importlib.resources import files

import numpy as np

from scattergen.datasets.arrays import ImageArray
from scattergen.datasets.source import Dataset
from scattergen.errors import InputError

SHA256 = "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"


@functools.cache
def mnist() -> Dataset:
    """The 60,000 training and 10,000 test digits of MNIST, with their labels.

    The file is part of the package and its SHA-256 is checked on load. It is licensed CC BY-SA 3.0 by LeCun, Cortes and
    Burges; its origin and licence lie beside it.

    Returns:
        A `Dataset` of 1×28×28 images, 0 for paper and 1 for ink, in the canonical split.

    Raises:
        InputError: if the installed file is missing or is not the file that was shipped.

    References:
        LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition", 1998.

    Example:
        >>> digits = mnist()
        >>> len(digits.train), len(digits.test), digits.train.shape
        (60000, 10000, (1, 28, 28))
        >>> digits.train.labels[:8].tolist()
        [5, 0, 4, 1, 9, 2, 1, 3]
    """
    file = files("scattergen.datasets") / "data" / "mnist.npz"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): reinstall scattergen.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise InputError(f"{file} is damaged: its SHA-256 is {found}, expected {SHA256}. Reinstall scattergen.")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        train, test = (
            ImageArray(
                arrays[f"x_{split}"],
                arrays[f"y_{split}"],
                classes=tuple("0123456789"),
                name=f"mnist[{split}]",
                fingerprint=hashlib.sha256(f"{SHA256} {split}".encode()).hexdigest(),
            )
            for split in ("train", "test")
        )
    return Dataset("mnist", train, test)
