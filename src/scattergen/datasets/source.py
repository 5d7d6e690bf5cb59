"""What every dataset offers, images by number, in batches, as float32 in [0, 1]; parts of it, and its classes."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from scattergen.display.notebook import Card, Displayed, strip
from scattergen.errors import InputError

Index = slice | Tensor
MNIST = "mnist"  # the source, and the name, of the digits that are part of the package
_SHOWN, _NAMED = 8, 10  # images, and classes, that a notebook shows


@runtime_checkable
class ImageSource(Protocol):
    """Images of one size, read in batches, that need not fit in memory: anything with these members is one.

    Example:
        >>> from scattergen.datasets import mnist
        >>> isinstance(mnist().train, ImageSource)
        True
    """

    def __len__(self) -> int:
        """The number of images N."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width (C, H, W) of every image."""

    @property
    def labels(self) -> Tensor | None:
        """The class of every image, (N,) int64, or None."""

    @property
    def fingerprint(self) -> str:
        """A SHA-256, in hexadecimal, that changes when the images do."""

    def __getitem__(self, index: Index) -> Tensor:
        """The images of a slice or of a 1-D LongTensor, (n, C, H, W) float32 in [0, 1]."""


def card_of(images: ImageSource) -> Card:
    """What a notebook shows of images: how many of which shape, their classes, and a few of them."""
    n, names, facts = len(images), getattr(images, "classes", None) or (), dict[str, object]()
    if names:
        facts["classes"] = ", ".join(names[:_NAMED]) + (f" … ({len(names)})" if len(names) > _NAMED else "")
    for name in ("root", "crop", "size"):
        if getattr(images, name, None) is not None:
            facts[name] = getattr(images, name)
    if skipped := len(getattr(images, "skipped", ())):
        facts["left out"] = f"{skipped:,} that cannot be read"

    def few() -> Iterator[Tensor]:
        for i in dict.fromkeys(np.linspace(0, n - 1, _SHOWN).astype(int).tolist()):
            with suppress(Exception):  # of an image that is damaged or gone
                yield images[i : i + 1][0]

    title = f"{type(images).__name__}: {n:,} images of {'×'.join(map(str, images.shape))}"
    return Card(title, facts, "some of the images", lambda: strip(few()))


class DisplayedImages(Displayed):
    """Images that tell of themselves in notebooks."""

    def _card(self: ImageSource) -> Card:
        return card_of(self)


@dataclass(frozen=True, repr=False)
class Dataset(Displayed):
    """Images to fit to and, where there are any, held-out test images of the same shape; `name` is for reports.

    `skipped` has a sentence for every file that was left out because it could not be read; `crop` is the side of the
    central square that was cut from every file, and `limit` the number of training images that were chosen of more.
    """

    name: str
    train: ImageSource
    test: ImageSource | None = None
    skipped: tuple[str, ...] = ()
    crop: int | None = None
    limit: int | None = None

    def _card(self) -> Card:
        train = card_of(self.train)
        parts = {"train": self.train, "test": self.test}
        counts = {name: f"{len(part):,} images" for name, part in parts.items() if part is not None}
        title = f"Dataset {self.name}: images of {'×'.join(map(str, self.train.shape))}"
        return train._replace(title=title, facts={**counts, **train.facts})

    @property
    def is_mnist(self) -> bool:
        """Whether these are the embedded digits, which have a preset, features and published numbers of their own."""
        return self.name == MNIST


def positions(index: Index, n: int) -> NDArray[np.int64]:
    """The numbers, from 0 to n - 1, that a slice or a 1-D LongTensor selects among n images, in order."""
    if isinstance(index, slice):
        return np.arange(n)[index].copy()  # since torch takes no array with a negative stride
    if not isinstance(index, Tensor) or index.ndim != 1 or index.dtype != torch.int64:
        wanted = "images are indexed by a slice or a 1-D LongTensor"
        raise TypeError(f"{wanted}, not by {index!r}; image i alone is images[i : i + 1]")
    return np.arange(n)[index.cpu().numpy()]


class Subset(DisplayedImages):
    """Some images of a source, in the order of a slice or 1-D LongTensor, kept as `numbers` (N,), read on access.

    Raises:
        TypeError: for any other kind of index.
        IndexError: for an image number that the source does not have.

    Example:
        >>> from scattergen.datasets import mnist
        >>> validation = Subset(mnist().train, slice(-5000, None))
        >>> len(validation), validation.shape
        (5000, (1, 28, 28))
    """

    def __init__(self, source: ImageSource, index: Index) -> None:
        self.source, self.shape = source, source.shape
        self.classes: tuple[str, ...] | None = getattr(source, "classes", None)
        self.numbers = torch.from_numpy(positions(index, len(source)))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Index) -> Tensor:
        return self.source[self.numbers[torch.from_numpy(positions(index, len(self)))]]

    @property
    def labels(self) -> Tensor | None:
        """The class of every image, (N,) int64, or None."""
        labels = self.source.labels
        return None if labels is None else labels[self.numbers]

    @property
    def fingerprint(self) -> str:
        """A SHA-256, of these images alone if the source has a method `fingerprint_of` for parts."""
        of_part = getattr(self.source, "fingerprint_of", None)
        base = self.source.fingerprint if of_part is None else of_part(self.numbers.tolist())
        return hashlib.sha256(base.encode() + self.numbers.numpy().astype("<i8").tobytes()).hexdigest()


class ClassLabels(NamedTuple):
    """Classes of images: a label of every image, (N,) int64 from 0 to C - 1, each of which occurs, and C names."""

    labels: Tensor
    classes: tuple[str, ...]


def class_labels(images: ImageSource | Tensor) -> ClassLabels | None:
    """The classes that occur among images; None for images without labels.

    The attribute `classes` of a source names them in the order of their labels; without it the labels are the names.
    Labels that are not one integer per image, or have no name, are an `InputError`.

    Example:
        >>> from scattergen.datasets import mnist
        >>> class_labels(mnist().train).classes[:3]
        ('0', '1', '2')
    """
    labels = getattr(images, "labels", None)
    if labels is None:
        return None
    values = as_numpy(labels)
    check_labels(values, len(images), "the images")
    there, numbers = np.unique(values, return_inverse=True)
    found = there.tolist()
    names = getattr(images, "classes", None)
    if names is not None:
        unnamed = [value for value in found if not 0 <= value < len(names)]
        if unnamed:
            problem = f"Label {unnamed[0]} of the images has no name, since there are {len(names)} classes"
            raise InputError(f"{problem}: name them all, in the order of their labels from 0.")
        found = [names[value] for value in found]
    return ClassLabels(torch.from_numpy(numbers), tuple(map(str, found)))


def as_numpy(values: ArrayLike | Tensor) -> NDArray[Any]:
    """An array of the same values; bfloat16, which NumPy does not have, as float32."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def check_dataset(data: Dataset) -> None:
    """Refuse what is no dataset, or one of other things than sources of images."""
    if not isinstance(getattr(data, "train", None), ImageSource):
        remedy = "give what open_dataset opens, or Dataset(name, ImageArray(x))"
        raise InputError(f"{type(data).__name__} holds no source of images: {remedy}.")


def check_labels(labels: NDArray[Any], n: int, name: str) -> None:
    """Refuse labels that are not one integer for each of n images."""
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        found = f"{labels.dtype} of shape {labels.shape}"
        raise InputError(f"The labels of {name} are {found}: expected one integer for each, shape ({n},).")
    largest = np.iinfo(np.int64).max
    if n and labels.max() > largest:
        problem = f"The labels of {name} reach {labels.max()}, more than the largest, {largest}"
        raise InputError(f"{problem}: number the classes from 0.")


def some_of(source: ImageSource, n: int, seed: int) -> ImageSource:
    """A part of a source, n random images in its order, or all if there are no more."""
    return source if n >= len(source) else Subset(source, random_rows(len(source), n, seed))


def random_rows(N: int, n: int, seed: int | Sequence[int]) -> Tensor:
    """Random numbers of n of N things, sorted, or all if there are fewer; `seed` may be several numbers."""
    if n >= N:
        return torch.arange(N)
    return torch.from_numpy(np.random.default_rng(seed).choice(N, n, replace=False)).sort().values
