"""What a model needs of an encoder, the package's or one's own."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from scattergen.datasets import ImageSource
from scattergen.progress import SILENT, Progress


@runtime_checkable
class EncoderLike(Protocol):
    """Maps images to codes, as a plain class, without a base class (`examples/own_encoder.py`).

    Codes should be white, or nearly so: of mean 0 and variance 1, as the densities and the limits of `decode` assume.

    Example:
        >>> from scattergen import ScatteringEncoder
        >>> isinstance(ScatteringEncoder((1, 8, 8), J=1, n_components=4), EncoderLike)
        True
    """

    def transform(self, images: ImageSource | Tensor, progress: Progress = SILENT) -> Tensor:
        """Codes (N, d), float32 on the CPU, of N images, as `images[i:j]` gives them, (n, C, H, W) in [0, 1]."""
