"""Features of Inception, with which a Fréchet distance may be called FID."""

import importlib
from typing import Any

import torch
from torch import Tensor

from scattergen.datasets import ImageSource
from scattergen.errors import InputError
from scattergen.evaluation.features import check_grey_or_colour, in_batches
from scattergen.progress import SILENT, Progress

_BATCH = 64


class InceptionFeatures:
    """2,048 pooled activations of the InceptionV3 that FID is defined by, through torch-fidelity.

    The weights are downloaded by torch-fidelity on first use (91 MB). Grey images are repeated in three channels;
    values are rounded to 8 bits, as FID prescribes.

    Args:
        device: Where to compute.

    Raises:
        InputError: If torch-fidelity is not installed or the weights cannot be had.

    References:
        Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs trained by a two time-scale update rule converge to a
        local Nash equilibrium", 2017.

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
            raise InputError(
                f"Features of Inception need torch-fidelity ({error}): install it with 'pip "
                "install torch-fidelity', or use ScatteringFeatures, which need nothing."
            ) from error
        try:
            network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        except OSError as error:
            raise InputError(
                f"The weights of Inception cannot be downloaded ({error}): connect to the network "
                "once, or use ScatteringFeatures, which need no weights."
            ) from error
        self.device = device
        self._network = network.to(device).eval()

    def __call__(self, images: ImageSource | Tensor, progress: Progress = SILENT) -> Tensor:
        """Features (N, 2048), float32, of images (N, 1 or 3, H, W) in [0, 1]; an `InputError` for others."""
        check_grey_or_colour(images, "Inception")
        return in_batches(images, self._features, 2048, _BATCH, progress)

    def _features(self, batch: Tensor) -> Tensor:
        rounded = (batch * 255).round().to(torch.uint8)
        return self._network(rounded.expand(-1, 3, -1, -1).to(self.device))[0]
