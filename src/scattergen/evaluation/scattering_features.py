"""Features of any images: their scattering coefficients, averaged over regions."""

from math import floor, log2

import torch
from torch import Tensor
from torch.nn import functional

from scattergen.datasets import ImageSource
from scattergen.errors import InputError
from scattergen.evaluation.features import check_images, in_batches
from scattergen.progress import SILENT, Progress
from scattergen.scattering import Scattering2D

VERSION = "1"
_GREY_LEVELS = 255
_BATCH_FLOATS = 1 << 25  # coefficients of one batch: 128 MiB


class ScatteringFeatures:
    r"""Logarithms of scattering coefficients averaged over regions; nothing is learned.

    $\log(1 + 255\, \bar S_p)$ for every path p, channel and region, where $\bar S_p$ is the mean of the coefficients
    over the region: linear below one grey level, logarithmic above, so that weak coefficients count beside the few
    strong ones, and of one scale for the kernel distance.

    Args:
        image_shape: (C, H, W) of the images.
        J: Scale of the transform; by default the low-pass has about seven positions along the shorter side.
        L: Its number of orientations.
        grid: The image is divided into grid × grid regions. A Fréchet distance needs several times as many images as
            features.

    Attributes:
        version: Of the method, with everything that the numbers depend on.
        dimension: Number k of features.

    Raises:
        InputError: If the transform does not fit the images, or the grid the transform.

    References:
        Bruna, Mallat, "Invariant scattering convolution networks", 2013.

    Example:
        >>> ScatteringFeatures((3, 32, 32))(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 243])
    """

    name = "scattering"

    def __init__(self, image_shape: tuple[int, int, int], *, J: int | None = None, L: int = 8, grid: int = 1) -> None:
        channels, height, width = image_shape
        if J is None:
            J = max(1, floor(log2(max(min(height, width), 1) / 7)))
        self.image_shape = (channels, height, width)
        self.scattering = Scattering2D(J, (height, width), L)
        K, *positions = self.scattering.output_shape
        if not 1 <= grid <= min(positions):
            raise InputError(
                f"grid={grid}: the transform has {positions[0]} × {positions[1]} positions; give 1 "
                f"to {min(positions)} regions per side."
            )
        self.grid = grid
        self.dimension = channels * K * grid**2
        shape = "x".join(map(str, image_shape))
        self.version = f"{VERSION} J={J} L={L} grid={grid} images={shape}"

    def __call__(self, images: ImageSource | Tensor, progress: Progress = SILENT) -> Tensor:
        """Features (N, k), float32, of images of the shape (C, H, W) and in [0, 1]; an `InputError` for others."""
        check_images(images, self.image_shape)
        K, rows, columns = self.scattering.output_shape
        coefficients = self.image_shape[0] * K * rows * columns
        batch = max(1, min(256, _BATCH_FLOATS // coefficients))
        return in_batches(images, self._features, self.dimension, batch, progress)

    def _features(self, batch: Tensor) -> Tensor:
        coefficients = self.scattering(batch).flatten(1, 2)  # (N, C·K, H', W')
        means = functional.adaptive_avg_pool2d(coefficients, self.grid).flatten(1)
        # Means of moduli; the low-pass rounds a zero to a hair below it.
        return torch.log1p(_GREY_LEVELS * means.clamp(min=0))
