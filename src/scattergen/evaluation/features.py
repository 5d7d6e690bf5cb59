"""Images to feature vectors, between which distances mean something."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from scattergen.datasets import ImageSource
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress


@runtime_checkable
class FeatureExtractor(Protocol):
    """Maps images to vectors; metrics are comparable only within one name and version.

    Example:
        >>> from scattergen.evaluation import DigitFeatures
        >>> isinstance(DigitFeatures(), FeatureExtractor)
        True
    """

    @property
    def name(self) -> str:
        """What reports call the features."""
        ...

    @property
    def version(self) -> str:
        """Changes whenever the same images would give other features."""
        ...

    def __call__(self, images: ImageSource | Tensor, progress: Progress = SILENT) -> Tensor:
        """Features, (N, k) float32 on the CPU, of images (N, C, H, W) in [0, 1]; an `InputError` for others."""
        ...


def check_images(images: ImageSource | Tensor, shape: tuple[int, int, int]) -> None:
    """Refuse images that have another shape (C, H, W) than an extractor needs, or are no floats in [0, 1]."""
    found = tuple(images.shape[1:]) if isinstance(images, Tensor) else images.shape
    if found != shape:
        wanted = " × ".join(map(str, shape))
        raise InputError(
            f"These features are of images {wanted}, not of {' × '.join(map(str, found))}: "
            "resize or convert the images, or use other features (ScatteringFeatures take any)."
        )
    if not isinstance(images, Tensor) or not len(images):
        return
    # `not` around the comparison, since NaN makes every comparison false.
    if not images.is_floating_point() or not (images.min() >= 0 and images.max() <= 1):
        raise InputError(
            f"Features are of float images in [0, 1], but these are {images.dtype} from "
            f"{images.min():g} to {images.max():g}: divide 8-bit values by 255."
        )


def check_grey_or_colour(images: ImageSource | Tensor, who: str) -> None:
    """Refuse images that a network of photographs, `who`, cannot look at, whatever their size."""
    shape = tuple(images.shape[1:]) if isinstance(images, Tensor) else images.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(f"{who} looks at images (1 or 3, H, W), not at {shape}.")
    check_images(images, (shape[0], shape[1], shape[2]))


@torch.no_grad()
def in_batches(
    images: ImageSource | Tensor,
    features: Callable[[Tensor], Tensor],
    dimension: int,
    batch_size: int,
    progress: Progress = SILENT,
) -> Tensor:
    """Features (N, dimension), float32 on the CPU, of N images, by a function of a batch."""
    out = torch.empty(len(images), dimension)
    with progress.task("features", len(images)) as task:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            out[start : start + len(batch)] = features(batch).float().cpu()
            task.advance(len(batch))
    return out
