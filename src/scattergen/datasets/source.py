"""What every dataset offers: images by number, in batches, as float32 in [0, 1]."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Index = slice | Tensor


@runtime_checkable
class ImageSource(Protocol):
    """A numbered collection of equally sized images that are read in batches.

    Anything with these members can be passed wherever images are expected; the images need not
    fit in memory.

    Example:
        >>> from scattergen.datasets import ImageSource, mnist
        >>> isinstance(mnist().train, ImageSource)
        True
    """

    def __len__(self) -> int:
        """The number of images N."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width (C, H, W) of every image."""
        ...

    @property
    def labels(self) -> Tensor | None:
        """The class of every image, (N,) int64, or None."""
        ...

    @property
    def fingerprint(self) -> str:
        """A SHA-256, in hexadecimal, that changes when the images do."""
        ...

    def __getitem__(self, index: Index) -> Tensor:
        """The images of a slice or of a 1-D LongTensor, (n, C, H, W) float32 in [0, 1]."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Training images and, where there are any, test images of the same shape.

    Args:
        name: what reports call the data.
        train: the images that models are fitted to.
        test: images held out for evaluation, or None.
        skipped: one sentence for every file that was left out because it could not be read.
        crop: side of the central square that was cut from every file of a folder, or None.
        limit: number of training images that were chosen of more, or None.
    """

    name: str
    train: ImageSource
    test: ImageSource | None = None
    skipped: tuple[str, ...] = ()
    crop: int | None = None
    limit: int | None = None


def positions(index: Index, n: int) -> NDArray[np.int64]:
    """The image numbers that an index into `n` images selects, in order.

    Args:
        index: a slice, or a 1-D LongTensor whose negative entries count from the end.
        n: the number of images.

    Returns:
        Numbers in 0 … n − 1, shape (selected,).

    Raises:
        TypeError: for any other kind of index.
        IndexError: for a number outside −n … n − 1.

    Example:
        >>> positions(slice(None, None, 2), 5)
        array([0, 2, 4])
        >>> positions(torch.tensor([-1, 0]), 5)
        array([4, 0])
    """
    if isinstance(index, slice):
        # A copy, since torch takes no array with a negative stride.
        return np.arange(n)[index].copy()
    if not isinstance(index, Tensor) or index.ndim != 1 or index.dtype != torch.int64:
        raise TypeError(
            f"images are indexed by a slice or a 1-D LongTensor, not by {index!r}; image i alone is images[i : i + 1]"
        )
    return np.arange(n)[index.cpu().numpy()]


class Subset:
    """Some images of a source, in a given order, read from it on access.

    Args:
        source: the images to choose from.
        index: which of them: a slice or a 1-D LongTensor.

    Raises:
        TypeError: for any other kind of index.
        IndexError: for an image number that the source does not have.

    Example:
        >>> from scattergen.datasets import Subset, mnist
        >>> validation = Subset(mnist().train, slice(-5000, None))
        >>> len(validation), validation.shape
        (5000, (1, 28, 28))
    """

    def __init__(self, source: ImageSource, index: Index) -> None:
        self.source = source
        self._positions = torch.from_numpy(positions(index, len(source)))

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: Index) -> Tensor:
        return self.source[self._positions[torch.from_numpy(positions(index, len(self)))]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width (C, H, W) of every image."""
        return self.source.shape

    @property
    def labels(self) -> Tensor | None:
        """The class of every image, (N,) int64, or None."""
        labels = self.source.labels
        return None if labels is None else labels[self._positions]

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the source's classes in the order of their labels, if it has them."""
        return getattr(self.source, "classes", None)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the image numbers and of the source's fingerprint, or of the part's.

        A source with a method `fingerprint_of` has one for any part, which is not concerned by
        changes of other images.
        """
        of_part = getattr(self.source, "fingerprint_of", None)
        base = self.source.fingerprint if of_part is None else of_part(self._positions.tolist())
        digest = hashlib.sha256(base.encode())
        digest.update(self._positions.numpy().astype("<i8").tobytes())
        return digest.hexdigest()


def some_of(source: ImageSource, n: int, seed: int) -> ImageSource:
    """Some n images of a source, or all of fewer.

    Args:
        source: Of images.
        n: How many.
        seed: Of the choice.

    Returns:
        In the order of the source.
    """
    return source if n >= len(source) else Subset(source, random_rows(len(source), n, seed))


def random_rows(N: int, n: int, seed: int | Sequence[int]) -> Tensor:
    """Numbers of n of N things, all if there are fewer; without order, neighbours being alike.

    Args:
        N: Number of things.
        n: How many to choose.
        seed: Of the choice; several numbers for one of several choices of the same seed.

    Returns:
        Sorted, (min(n, N),).

    Example:
        >>> random_rows(3, 5, 0)
        tensor([0, 1, 2])
    """
    if n >= N:
        return torch.arange(N)
    return torch.from_numpy(np.random.default_rng(seed).choice(N, n, replace=False)).sort().values
