"""Images to feature vectors, between which distances mean something; by scattering, and by Inception."""

import importlib
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from scattergen.calls.state import usual_state
from scattergen.datasets import ImageSource
from scattergen.datasets.containers import as_tensor, holds_numbers
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError
from scattergen.scattering import Scattering2D

_BATCH_FLOATS = 1 << 25  # scattering coefficients of one batch: 128 MiB


@runtime_checkable
class FeatureExtractor(Protocol):
    """Maps images to vectors; metrics are comparable only within one name and version.

    Example:
        >>> isinstance(ScatteringFeatures((1, 28, 28)), FeatureExtractor)
        True
    """

    @property
    def name(self) -> str:
        """What reports call the features."""

    @property
    def version(self) -> str:
        """Changes whenever the same images would give other features."""

    def __call__(self, images: ImageSource | Tensor, progress: Progress = SILENT) -> Tensor:
        """Features, (N, k) float32 on the CPU, of images (N, C, H, W) in [0, 1]; an `InputError` for others."""


def check_images(
    images: ImageSource | Tensor, shape: tuple[int, int, int] | None, who: str = ""
) -> ImageSource | Tensor:
    """A source or a tensor of images of a shape (C, H, W), or grey or in colour for `who`, all floats in [0, 1]."""
    if holds_numbers(images):
        images = as_tensor(images, "images")
    found = tuple(images.shape[1:]) if isinstance(images, Tensor) else images.shape
    if shape is None and (len(found) != 3 or found[0] not in (1, 3)):
        raise InputError(f"{who} looks at images (1 or 3, H, W), not at {found}.")
    if shape is not None and found != shape:
        problem = f"These features are of images {' × '.join(map(str, shape))}, not of {' × '.join(map(str, found))}"
        remedy = "resize or convert the images, or use other features (ScatteringFeatures take any)"
        raise InputError(f"{problem}: {remedy}.")
    if not isinstance(images, Tensor) or not len(images):
        return images
    # `not` around the comparison, since NaN makes every comparison false.
    if not images.is_floating_point() or not (images.min() >= 0 and images.max() <= 1):
        given = f"{images.dtype} from {images.min():g} to {images.max():g}"
        raise InputError(f"Features are of float images in [0, 1], but these are {given}: divide 8-bit values by 255.")
    return images


@usual_state(gradients=False)
def in_batches(
    images: ImageSource | Tensor, features: Callable[[Tensor], Tensor], dimension: int, size: int, progress: Progress
) -> Tensor:
    """Features (N, dimension), float32 on the CPU, of N images, by a function of batches of a size."""
    out = torch.empty(len(images), dimension)
    with progress.task("features", len(images)) as task:
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            out[start : start + len(batch)] = features(batch.float()).float().cpu()
            task.advance(len(batch))
    return out


class ScatteringFeatures:
    r"""Logarithms of scattering coefficients averaged over grid × grid regions; nothing is learned.

    $\log(1 + 255\, \bar S_p)$ for every path p, channel and region, with $\bar S_p$ the mean of the coefficients over
    the region: linear below one grey level, logarithmic above, so that weak ones count beside the few strong ones
    (Bruna, Mallat, "Invariant scattering convolution networks", 2013). Scale J is by default such that the low-pass has
    about seven positions along the shorter side. A Fréchet distance needs several times `dimension` images. An
    `InputError` if the transform does not fit images of `image_shape` (C, H, W), or the grid the transform.

    Example:
        >>> ScatteringFeatures((3, 32, 32))(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 243])
    """

    name = "scattering"

    def __init__(self, image_shape: tuple[int, int, int], *, J: int | None = None, L: int = 8, grid: int = 1) -> None:
        channels, height, width = image_shape
        if J is None:
            J = max(1, math.floor(math.log2(max(min(height, width), 1) / 7)))
        self.image_shape = (channels, height, width)
        self.scattering = Scattering2D(J, (height, width), L)
        K, *positions = self.scattering.output_shape
        if not 1 <= grid <= min(positions):
            problem = f"grid={grid}: the transform has {positions[0]} × {positions[1]} positions"
            raise InputError(f"{problem}; give 1 to {min(positions)} regions per side.")
        self.grid = grid
        self.dimension = channels * K * grid**2
        self.version = f"1 J={J} L={L} grid={grid} images={'x'.join(map(str, image_shape))}"

    def __call__(self, images: ImageSource | Tensor, progress: Progress = SILENT) -> Tensor:
        """Features (N, k), float32, of images of the shape (C, H, W) and in [0, 1]; an `InputError` for others."""
        images = check_images(images, self.image_shape)
        coefficients = self.image_shape[0] * math.prod(self.scattering.output_shape)
        batch = max(1, min(256, _BATCH_FLOATS // coefficients))
        return in_batches(images, self._features, self.dimension, batch, progress)

    def _features(self, batch: Tensor) -> Tensor:
        coefficients = self.scattering(batch).flatten(1, 2)  # (N, C·K, H', W')
        means = functional.adaptive_avg_pool2d(coefficients, self.grid).flatten(1)
        # Means of moduli; the low-pass rounds a zero to a hair below it.
        return torch.log1p(255 * means.clamp(min=0))


class InceptionFeatures:
    """2,048 pooled activations of the InceptionV3 that FID is defined by, through torch-fidelity.

    It downloads the weights on first use (91 MB); an `InputError` if it is not installed or they cannot be had. Grey
    images are repeated in three channels; values are rounded to 8 bits, as FID prescribes (see `frechet_distance`).

    Example:
        >>> InceptionFeatures.version
        '2015-12-05'
    """

    name = "inception"
    version = "2015-12-05"

    def __init__(self, device: str = "cpu") -> None:
        # Imported here, since it needs torchvision, which the package does not.
        try:
            module: Any = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
        except ImportError as error:
            remedy = "install it with 'pip install torch-fidelity', or use ScatteringFeatures, which need nothing"
            raise InputError(f"Features of Inception need torch-fidelity ({error}): {remedy}.") from error
        try:
            network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        except OSError as error:
            remedy = "connect to the network once, or use ScatteringFeatures, which need no weights"
            raise InputError(f"The weights of Inception cannot be downloaded ({error}): {remedy}.") from error
        self.device, self._network = device, network.to(device).eval()

    def __call__(self, images: ImageSource | Tensor, progress: Progress = SILENT) -> Tensor:
        """Features (N, 2048), float32, of images (N, 1 or 3, H, W) in [0, 1]; an `InputError` for others."""
        return in_batches(check_images(images, None, "Inception"), self._features, 2048, 64, progress)

    def _features(self, batch: Tensor) -> Tensor:
        return self._network((batch * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).to(self.device))[0]
